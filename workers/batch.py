"""Messages as Arrow columns, the form in which they leave the Kafka client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from workers.schemas import HEADERS

Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one partition's messages of a batch begin and end: offsets first to last."""

    partition: int
    first: int
    last: int
    count: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Messages of one topic, column by column, in the order they were read.

    partitions: int32.  offsets: int64.  timestamps_ms: int64, milliseconds since 1970 as the
    broker gives them, null where there is none.  keys, values: binary.  headers: `HEADERS`, null
    where a message has none.  unreadable_headers: indexes of messages whose headers are not what
    Kafka allows (their `headers` entry is null).
    """

    partitions: pa.Array
    offsets: pa.Array
    timestamps_ms: pa.Array
    keys: pa.Array
    values: pa.Array
    headers: pa.Array
    unreadable_headers: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls, partitions: Sequence[int] = (), offsets: Sequence[int] = (),
        timestamps_ms: Sequence[int | None] | None = None,
        keys: Sequence[bytes | None] | None = None, values: Sequence[bytes | None] | None = None,
        headers: Sequence[Sequence[Header] | None] | None = None,
        unreadable_headers: frozenset[int] = frozenset(),
    ) -> Batch:
        """The same from Python's lists; a column that is not given is all null."""
        nothing = [None] * len(offsets)
        return cls(
            pa.array(partitions, pa.int32()), pa.array(offsets, pa.int64()),
            pa.array(nothing if timestamps_ms is None else timestamps_ms, pa.int64()),
            pa.array(nothing if keys is None else keys, pa.binary()),
            pa.array(nothing if values is None else values, pa.binary()),
            header_column(nothing if headers is None else headers), unreadable_headers)

    @cached_property
    def extents(self) -> tuple[Extent, ...]:
        """One per partition in the batch: messages come in runs of a partition."""
        return tuple(_extents(self.partitions, self.offsets))

    def __len__(self) -> int:
        return len(self.offsets)


def header_column(headers: Sequence[Sequence[Header] | None]) -> pa.Array:
    """Headers, one list or nothing per message, as a column."""
    if not any(headers):
        return pa.nulls(len(headers), HEADERS)
    return pa.array(
        [[{"key": name, "value": value} for name, value in row] if row else None
         for row in headers], HEADERS)


def _extents(partitions: pa.Array, offsets: pa.Array) -> Iterator[Extent]:
    found: dict[int, Extent] = {}
    start = 0
    runs = pc.run_end_encode(partitions)
    for partition, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        before = found.get(partition)
        first, count = ((offsets[start].as_py(), 0) if before is None
                        else (before.first, before.count))
        found[partition] = Extent(partition, first, offsets[end - 1].as_py(), count + end - start)
        start = end
    yield from found.values()
