"""What the service's health page says, read over HTTP and checked before use.

A page that cannot be had or understood is a value too (`Report.status` is "unreachable"),
because the demo has to go on showing something while the service starts or stops.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

UNREACHABLE = "unreachable"
_REQUEST_SECONDS = 1.0
_BODY_LIMIT_BYTES = 1_000_000


@dataclass(frozen=True)
class TopicReport:
    """One topic as the service sees it; None where it has not said."""

    state: str
    rows: int = 0
    dead_letters: int = 0
    lag: int | None = None
    restarts: int = 0
    last_commit: datetime | None = None
    table_version: int | None = None
    error: str | None = None
    what_to_do: str | None = None


@dataclass(frozen=True)
class Report:
    """One reading of the health page."""

    status: str
    reasons: tuple[str, ...] = ()
    cycle_id: int | None = None
    phase: str | None = None
    topics: Mapping[str, TopicReport] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows over all bronze tables."""
        return sum(topic.rows for topic in self.topics.values())

    def landed(self) -> dict[str, int]:
        """Per topic, messages that are in a table, the dead letters' included."""
        return {name: topic.rows + topic.dead_letters for name, topic in self.topics.items()}

    def lag(self) -> dict[str, int]:
        """Per topic, messages that the service has not read, where known."""
        return {name: topic.lag for name, topic in self.topics.items() if topic.lag is not None}


def fetch(host: str, port: int) -> Report:
    """Read GET /health once, within a second per step; never raises for a sick service."""
    connection = http.client.HTTPConnection(host, port, timeout=_REQUEST_SECONDS)
    try:
        # An unhealthy service answers 503 with the same body, so the code is not looked at.
        connection.request("GET", "/health")
        body = connection.getresponse().read(_BODY_LIMIT_BYTES)
        return parse(body)
    except (OSError, http.client.HTTPException) as error:
        return Report(UNREACHABLE, (f"the health page does not answer: {error}",))
    finally:
        connection.close()


def parse(body: bytes) -> Report:
    """The report in the body of a health page; "unreachable" with a reason if it is none."""
    try:
        page = json.loads(body)
        cycle = page.get("cycle") or {}
        return Report(
            status=str(page["status"]),
            reasons=tuple(str(reason) for reason in page.get("reasons") or ()),
            cycle_id=cycle.get("id"),
            phase=cycle.get("phase"),
            topics={name: _topic(entry) for name, entry in (page.get("topics") or {}).items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Report(
            UNREACHABLE, (f"the health page is not understood: {type(error).__name__}: {error}",)
        )


def _topic(entry: Mapping[str, Any]) -> TopicReport:
    error = entry.get("last_error") or {}
    committed = entry.get("last_commit")
    return TopicReport(
        state=str(entry.get("state", "?")),
        rows=int(entry.get("rows") or 0),
        dead_letters=int(entry.get("dead_letters") or 0),
        lag=entry.get("lag"),
        restarts=int(entry.get("restarts") or 0),
        last_commit=datetime.fromisoformat(committed) if committed else None,
        table_version=entry.get("table_version"),
        error=f"{error.get('name')}: {error.get('message')}" if error else None,
        what_to_do=error.get("what_to_do"),
    )
