"""Worked examples: other people's engines on the tables, at one completed cycle.

Each stands by itself beside `bronze_reader`; nothing here imports the service. README.md says
how to run them, tests/examples runs them.
"""
