"""Counts offsets in the tables against what the broker holds: no number before this is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

DAY = "_ingestion_date"
PLACE = ("_kafka_partition", "_kafka_offset")
_SUMMARY = [("_kafka_offset", kind) for kind in ("count", "count_distinct", "min", "max")]

OffsetRanges = Mapping[int, tuple[int, int]]
"""Partition -> [first, end)."""


@dataclass(slots=True)
class Counted:
    """Rows found, by table kind, and everything that is not as it must be."""

    rows: int = 0
    dead_letters: int = 0
    faults: list[str] = field(default_factory=list)


def count_offsets(
    lake_uri: str, options: Mapping[str, str], ranges: Mapping[str, OffsetRanges],
    malformed: Mapping[str, int] | None, since: date | None = None,
) -> Counted:
    """Hold both tables of every topic against the offsets of the broker.

    Args:
        ranges: topic -> what the broker holds.
        malformed: topic -> dead letters there must be; None where there is no such table.
        since: files of earlier days are not the service's and are left out.
    """
    counted = Counted()
    for topic, expected in ranges.items():
        rows = _places(f"{lake_uri}/bronze_{topic}", options, since)
        dead = rows.slice(0, 0)
        if malformed is not None:
            dead = _places(f"{lake_uri}/dlq_bronze_{topic}", options, since)
            if dead.num_rows != malformed[topic]:
                counted.faults.append(
                    f"{topic}: {dead.num_rows} dead letters, {malformed[topic]} were sent")
        counted.rows += rows.num_rows
        counted.dead_letters += dead.num_rows
        counted.faults += faults_of(topic, expected, pa.concat_tables([rows, dead]))
    return counted


def faults_of(topic: str, expected: OffsetRanges, places: pa.Table) -> Iterable[str]:
    """Every partition whose offsets are not each there exactly once."""
    found = {row["_kafka_partition"]: row
             for row in places.group_by("_kafka_partition").aggregate(_SUMMARY).to_pylist()}
    wanted = {partition: (end - first, end - first, first, end - 1)
              for partition, (first, end) in expected.items() if end > first}
    for partition in sorted(wanted.keys() | found.keys()):
        row = found.get(partition)
        seen = None if row is None else tuple(
            row[f"_kafka_offset_{kind}"] for _, kind in _SUMMARY)
        if seen != wanted.get(partition):
            yield (f"{topic}/{partition}: (rows, distinct offsets, first, last) are {seen}, "
                   f"the broker holds {wanted.get(partition)}")


def _places(uri: str, options: Mapping[str, str], since: date | None) -> pa.Table:
    schema = pa.schema([(PLACE[0], pa.int32()), (PLACE[1], pa.int64())])
    try:
        table = DeltaTable(uri, storage_options=dict(options))
    except TableNotFoundError:
        return schema.empty_table()
    days = [(DAY, ">=", since.isoformat())] if since is not None else None
    return table.to_pyarrow_dataset(partitions=days).to_table(columns=list(PLACE)).cast(schema)
