"""Renders the figures of docs/reliability.md from the kept runs in docs/evidence.

    kept     the runs: lines of evidence, tables of mutants, and which tests show which rows
    render   the page's generated parts

`python -m tests.reliability` writes the page anew; a test checks that it is up to date.
"""
