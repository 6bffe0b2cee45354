"""Imported once by the forkserver: what every worker needs.  Imports only, no client is made."""

from __future__ import annotations

import gc

import workers.assembly  # noqa: F401
from workers.pages import forget_clean_pages

# What was made so far stays: a worker's collector would otherwise touch, and so copy, all of it.
gc.collect()
gc.freeze()
forget_clean_pages()
