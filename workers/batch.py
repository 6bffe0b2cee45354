"""Messages as columns, the form in which they leave the Kafka client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

Header = tuple[str, bytes | None]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where one partition's messages of a batch begin and end: offsets first to last.

    last_timestamp_ms: Kafka's timestamp of the last of them that has one, None when none has.
    """

    partition: int
    first: int
    last: int
    count: int
    last_timestamp_ms: int | None = None


@dataclass(slots=True)
class Batch:
    """Messages of one topic, column by column, in the order they were read.

    timestamps_ms: milliseconds since 1970 as the broker gives them, None where there is none.
    headers: None where a message has none.  unreadable_headers: offsets by partition of messages
    whose headers the client could not decode (their `headers` entry is None).
    """

    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    timestamps_ms: list[int | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[list[Header] | None] = field(default_factory=list)
    unreadable_headers: frozenset[tuple[int, int]] = frozenset()
    _extents: tuple[Extent, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def extents(self) -> tuple[Extent, ...]:
        """One per partition in the batch, computed once: messages come in runs of a partition."""
        if self._extents is None:
            self._extents = tuple(
                _extents(self.partitions, self.offsets, self.timestamps_ms))
        return self._extents

    def __len__(self) -> int:
        return len(self.offsets)


def _extents(
    partitions: list[int], offsets: list[int], timestamps_ms: list[int | None]
) -> Iterator[Extent]:
    found: dict[int, Extent] = {}
    start = 0
    for partition, run in groupby(partitions):
        end = start + len(list(run))
        before = found.get(partition)
        first, count, stamp = ((offsets[start], 0, None) if before is None
                               else (before.first, before.count, before.last_timestamp_ms))
        stamp = next(filter(None, reversed(timestamps_ms[start:end])), stamp)
        found[partition] = Extent(partition, first, offsets[end - 1], count + end - start, stamp)
        start = end
    yield from found.values()
