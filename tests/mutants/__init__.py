"""Deliberate breaks of the product, one at a time, each of which some test must notice.

    catalogue   what is broken, and which tests are to see it
    run         breaks a scratch copy and runs them

Never collected by pytest and never done in place: `make mutants`, or `python -m tests.mutants`.
"""
