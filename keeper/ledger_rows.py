"""Pure: rows of the ledger out of a decided record and what the tables' logs tell of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from shared.naming import bronze_table, dlq_table
from shared.records import BRONZE, CycleRecord, Manifest, Range
from workers.log_entry import Commit

History = Mapping[str, Sequence[Commit]]
"""A table's folder -> its newest commits, newest first."""


class RowStatus(StrEnum):
    """What a row says: its topic's part of the cycle is in the tables; its topic was left out of
    the cycle; records up to this one were deleted before anybody entered them."""

    COMMITTED = "committed"
    EXCLUDED = "excluded"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Entry:
    """The rows of one record, and the day (ISO) they belong to; `values` have LEDGER_FILE's names.

    Times are Unix milliseconds.
    """

    date: str
    values: tuple[Mapping[str, Any], ...]


def folders_of(record: CycleRecord) -> list[str]:
    """The tables whose logs tell when the record was brought into them."""
    return [folder for manifest in record.manifests for folder in _folders(manifest)]


def _folders(manifest: Manifest) -> Iterable[str]:
    yield bronze_table(manifest.topic)
    if manifest.dead_letter_spans:
        yield dlq_table(manifest.topic)


def enter(
    number: int, record: CycleRecord, history: History, *, is_complete: bool
) -> Entry | None:
    """The rows of record `number`, None while a topic in it has still to commit.

    is_complete: a later record claims that all of it is in the tables.  Then a commit that is not
    in a table's log any more leaves the row's versions and its time empty.
    """
    found = {folder: _find(history[folder], number) for folder in folders_of(record)}
    owing = [manifest.topic for manifest in record.manifests
             if found[bronze_table(manifest.topic)] is None]
    if owing and not is_complete:
        return None
    moments = [commit.at_ms if commit is not None else None for commit in found.values()]
    known = [moment for moment in moments if moment is not None]
    completed_ms = max(known) if known and len(known) == len(moments) else None
    head = _head(number, record)
    rows = [{**head, **_committed(manifest, found), "completed_at": completed_ms}
            for manifest in record.manifests]
    rows += [{**head, "topic": topic, "status": RowStatus.EXCLUDED.value, "reason": reason}
             for topic, reason in record.excluded.items()]
    return Entry(record.written_at[:len("2026-01-31")], tuple(rows))


def missing(first: int, last: int, noticed_at: str) -> Entry:
    """The one row that stands for records `first` to `last`, which are gone.

    noticed_at: RFC 3339.
    """
    return Entry(noticed_at[:len("2026-01-31")], ({
        "record": last, "status": RowStatus.MISSING.value,
        "reason": f"records {first} to {last} were deleted before they were entered",
        "decided_at": unix_ms(noticed_at)},))


def _find(commits: Iterable[Commit], number: int) -> Commit | None:
    return next((commit for commit in commits if commit.record == number), None)


def _head(number: int, record: CycleRecord) -> dict[str, Any]:
    return {"record": number, "cycle_id": record.cycle_id, "instance": record.instance,
            "decided_at": unix_ms(record.written_at)}


def _committed(manifest: Manifest, found: Mapping[str, Commit | None]) -> dict[str, Any]:
    bronze = found[bronze_table(manifest.topic)]
    dlq = found.get(dlq_table(manifest.topic))
    return {
        "topic": manifest.topic,
        "status": RowStatus.COMMITTED.value,
        "committed_at": bronze.at_ms if bronze is not None else None,
        "valid_through": manifest.valid_through_ms or None,
        "table_version_before": bronze.version - 1 if bronze is not None else None,
        "table_version": bronze.version if bronze is not None else None,
        "dlq_table_version_before": dlq.version - 1 if dlq is not None else None,
        "dlq_table_version": dlq.version if dlq is not None else None,
        "rows": sum(part.rows for part in manifest.ranges),
        "dead_letters": sum(part.dead_letters for part in manifest.ranges),
        "value_bytes": manifest.value_bytes,
        "file_bytes": sum(file.size for file in manifest.files),
        "error_classes": [{"error_class": kind, "count": count}
                          for kind, count in sorted(manifest.flaws.items())],
        "ranges": [_range(part) for part in manifest.ranges],
        "files": [{"table": file.table, "path": file.path, "rows": file.rows, "bytes": file.size}
                  for file in sorted(manifest.files, key=lambda file: file.table != BRONZE)],
    }


def _range(part: Range) -> dict[str, Any]:
    return {"partition": part.partition, "start": part.start, "end": part.end, "rows": part.rows,
            "dead_letters": part.dead_letters, "skipped": part.skipped, "absent": part.absent,
            "lost": [{"start": gap.start, "end": gap.end, "cause": gap.cause}
                     for gap in part.lost]}


def unix_ms(moment: str) -> int:
    """RFC 3339 as Unix milliseconds; raises ValueError."""
    return round(datetime.fromisoformat(moment).timestamp() * 1000)
