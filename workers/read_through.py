"""Pure: up to which moment a topic's partitions have been read, by Kafka's timestamps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workers.batch import Extent

UNKNOWN = 0


class ReadThrough:
    """Remembers the timestamp of the last message read of each partition."""

    def __init__(self) -> None:
        self._stamps: dict[int, int] = {}

    def saw(self, extents: Iterable[Extent]) -> None:
        """Take note of a batch."""
        for part in extents:
            if part.last_timestamp_ms is not None:
                self._stamps[part.partition] = part.last_timestamp_ms

    def forget(self) -> None:
        """Positions have gone back: what was read behind them does not count."""
        self._stamps = {}

    def moment(
        self, partitions: Iterable[int], read: Mapping[int, int], ends: Mapping[int, int],
        at_ms: int,
    ) -> int:
        """Unix milliseconds up to which all `partitions` have been read, UNKNOWN if one is not.

        read: next_offset by partition; ends: the broker's, where known, as they were at `at_ms`.
        A partition read to its end has been read up to that very moment; another one up to its
        last message.
        """
        moments = [at_ms if partition in ends and read.get(partition, -1) >= ends[partition]
                   else min(self._stamps.get(partition, UNKNOWN), at_ms)
                   for partition in partitions]
        return min(moments, default=UNKNOWN)
