"""The release, as rows, records, logs and /health name it."""

from __future__ import annotations

SERVICE_VERSION = "0.1.0"
