"""Counts what the demo's tables hold, by their own logs rather than by what anyone reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deltalake import DeltaTable

from demo.view import TableCount


def count_rows(lake: Path, topics: Sequence[str]) -> list[TableCount]:
    """Rows per topic in its bronze table and its dead letter table; None where there is none."""
    return [
        TableCount(
            topic, _rows(lake / f"bronze_{topic}"), _rows(lake / f"dlq_bronze_{topic}")
        )
        for topic in topics
    ]


def _rows(table: Path) -> int | None:
    if not DeltaTable.is_deltatable(str(table)):
        return None
    return int(DeltaTable(str(table)).count())
