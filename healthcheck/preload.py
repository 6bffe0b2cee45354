"""Imported once by the forkserver: the health page, which then has answered already.

What a first answer makes (routes, expressions, caches) is there before the page's process is, so
that it has 1.4 MB less of its own.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import healthcheck.__main__  # noqa: F401
from healthcheck.app import create_app
from shared.block import Block
from shared.layout import block_bytes


def answer() -> bytes:
    """The answer to `/`, which looks at no block; nothing listens here."""
    app = create_app(Block(Path(os.devnull), mmap.mmap(-1, block_bytes(1)), 1))
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    return b"".join(app(environ, lambda _status, _headers: lambda _data: None))


answer()
