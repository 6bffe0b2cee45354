"""A health page as tools read it, made of a few words."""

from __future__ import annotations

import copy
import json
from typing import Any

UNIX_S = 1_772_366_461.0
"""2026-03-01T12:01:01Z, a second after the commits of the page."""

_TOPIC: dict[str, Any] = {
    "state": "active", "pid": 4713, "incarnation": 1, "restarts": 0, "lag": 0,
    "retention": "time", "time_to_loss_seconds": 604796.2, "rows": 1234,
    "dead_letters": 3, "partitions": 4, "paused": None, "last_commit": "2026-03-01T12:01:00.000Z",
    "table_version": 12, "failures": 0, "last_error": None}


def error(name: str) -> dict[str, str]:
    """A last error of this name."""
    return {"at": "2026-03-01T12:00:59.000Z", "name": name, "message": f"{name} happened",
            "what_to_do": f"mend {name}"}


def topic_page(**changed: Any) -> dict[str, Any]:
    """A topic that is well, but for what is given."""
    return {**copy.deepcopy(_TOPIC), **changed}


def health_page(topics: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    """The body of /health of a service that is well, but for what is given."""
    return {
        "status": "healthy", "reasons": [],
        "service": {"instance": "0", "version": "1.0.0", "started_at": "2026-03-01T12:00:00.000Z",
                    "uptime_seconds": 61.2, "pid": 4711, "lake": "/nonexistent/lake"},
        "cycle": {"id": 12, "phase": "consuming", "last_completed_at": "2026-03-01T12:01:00.000Z",
                  "last_duration_seconds": 0.2, "last_record": 7, "completed": 7, "aborted": 0},
        "topics": {"orders": topic_page()} if topics is None else topics,
        **changed}


def body_of(page: Any) -> bytes:
    """As it is sent."""
    return json.dumps(page, ensure_ascii=False).encode()


def metrics_body(**samples: float) -> bytes:
    """A page of /metrics with these samples of the topic `orders`."""
    lines = ["# HELP bronze_up 1 while the supervisor's loop runs.", "# TYPE bronze_up gauge",
             "bronze_up 1.0"]
    lines += [f'{name}{{topic="orders"}} {value}' for name, value in samples.items()]
    return ("\n".join(lines) + "\n").encode()
