"""Imported once by the forkserver: what every worker needs.  Imports only, no client is made."""

from __future__ import annotations

import workers.assembly  # noqa: F401
