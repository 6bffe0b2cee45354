"""Imported once by the forkserver: the health page, which then has answered already.

What a first answer makes (routes, expressions, caches) is there before the page's process is, so
that it has 1.4 MB less of its own.
"""

from __future__ import annotations

import json
from typing import Any
from wsgiref.util import setup_testing_defaults

import healthcheck.__main__  # noqa: F401
from healthcheck.app import create_app
from shared.block import Block

_ABOUT = {
    "topics": ["-"], "instance": "-", "service_version": "-", "lake": "-",
    "batch_interval_seconds": 1, "cycle_deadline_seconds": 1, "heartbeat_limit_seconds": 1,
    "memory_limit_mb": 1, "loan_budget_bytes": 1,
}


def answer() -> bytes:
    """The answer to `/` of a service that does not exist; nothing listens here."""
    app = create_app(Block.unshared(1, json.dumps(_ABOUT).encode()))
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    return b"".join(app(environ, lambda _status, _headers: lambda _data: None))


answer()
