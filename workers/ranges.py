"""Pure: which offsets an open file covers, and how ranges join.

A `RangeBook` begins at the positions reading begins at.  What is read moves a partition's end
forward; an end never moves back, and a partition never jumps over offsets it has not seen unless
Kafka delivered something behind them (control records, aborted, compacted) or they are named lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shared.records import Lost, Range
from workers.batch import Extent


class OffsetRegression(Exception):
    """The client delivered an offset again, or one before the position: a defect, never a row."""

    def __init__(self, partition: int, expected: int, found: int) -> None:
        super().__init__(f"partition {partition}: expected {expected} or later, got {found}")


class RangeBook:
    """Ranges [start, end) per partition with the fates in them."""

    def __init__(self, positions: Mapping[int, int]) -> None:
        self._starts = dict(positions)
        self._ends = dict(positions)
        self._fates: dict[int, list[int]] = {}
        self._lost: dict[int, list[Lost]] = {}

    @property
    def ends(self) -> dict[int, int]:
        """Partition -> next_offset to read."""
        return dict(self._ends)

    @property
    def moved(self) -> bool:
        """Whether any position moved since the book began."""
        return self._ends != self._starts

    def add(self, positions: Mapping[int, int]) -> None:
        """Begin further partitions."""
        self._starts.update(positions)
        self._ends.update(positions)

    def check(self, extents: Iterable[Extent]) -> None:
        """Refuse a batch that does not lie behind the positions, or holds more messages than its
        offsets can tell apart; raises `OffsetRegression`."""
        for part in extents:
            if part.first < self._ends[part.partition]:
                raise OffsetRegression(part.partition, self._ends[part.partition], part.first)
            if part.last < part.first + part.count - 1:
                raise OffsetRegression(
                    part.partition, part.first + part.count - 1, part.last)

    def advance(
        self, ends: Mapping[int, int], rows: Mapping[int, int], dead_letters: Mapping[int, int],
        skipped: Mapping[int, int],
    ) -> None:
        """Count a batch; each mapping is by partition, `ends` holds last offset + 1."""
        for partition, end in ends.items():
            self.reach(partition, end)
            fates = self._fates.setdefault(partition, [0, 0, 0])
            fates[0] += rows.get(partition, 0)
            fates[1] += dead_letters.get(partition, 0)
            fates[2] += skipped.get(partition, 0)

    def reach(self, partition: int, end: int) -> None:
        """Move a position without a message: what was passed over had no row to give."""
        if end < self._ends[partition]:
            raise OffsetRegression(partition, self._ends[partition], end)
        self._ends[partition] = end

    def lose(self, partition: int, end: int, cause: str) -> None:
        """Name offsets from the position to `end` as lost upstream, and pass over them."""
        start = self._ends[partition]
        self.reach(partition, end)
        self._lost.setdefault(partition, []).append(Lost(start, end, cause))

    def ranges(self) -> tuple[Range, ...]:
        """The ranges of partitions that moved, by partition."""
        return tuple(
            Range(partition, self._starts[partition], end,
                  *self._fates.get(partition, (0, 0, 0)), tuple(self._lost.get(partition, ())))
            for partition, end in sorted(self._ends.items()) if end > self._starts[partition])


def join(parts: Iterable[tuple[Range, ...]]) -> tuple[Range, ...]:
    """Ranges of consecutive files as one range per partition; raises ValueError at a hole."""
    joined: dict[int, Range] = {}
    for ranges in parts:
        for part in ranges:
            before = joined.get(part.partition)
            joined[part.partition] = part if before is None else _join_two(before, part)
    return tuple(joined[partition] for partition in sorted(joined))


def _join_two(first: Range, second: Range) -> Range:
    if first.end != second.start:
        raise ValueError(f"partition {first.partition}: {first.end} is not {second.start}")
    return Range(
        first.partition, first.start, second.end, first.rows + second.rows,
        first.dead_letters + second.dead_letters, first.skipped + second.skipped,
        first.lost + second.lost)
