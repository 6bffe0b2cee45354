"""The environment of a service under test or measurement, without its user's own settings."""

from __future__ import annotations

import os

FOREIGN_PREFIXES = (
    "KAFKA_", "AWS_", "LAKE_", "HEALTH_", "LOG_", "BATCH_", "CYCLE_", "STOP_", "START_", "DLQ_",
    "STORE_", "GAP_", "HEARTBEAT_", "CARRY_OVER_", "ISOLATE_", "MEMORY_",
)
FOREIGN_NAMES = ("INSTANCE_ID", "ON_MALFORMED", "NOTIFY_SOCKET")
"""Settings that the shell of whoever runs this may hold; they must not reach the service."""


def clean_environment() -> dict[str, str]:
    """This process' environment without anything the service or a store's client would read."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(FOREIGN_PREFIXES) and name not in FOREIGN_NAMES}
