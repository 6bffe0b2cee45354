"""A brute-force model of the commit protocol; `python -m tests.model` searches and counts."""
