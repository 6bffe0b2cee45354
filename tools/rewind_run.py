"""Reads a rewind's offsets into its tables, each exactly once, whenever it is killed.

    read a chunk -> files in the store, invisible -> record -> dead letter table -> bronze table

It is the service's own commit (workers/tables.py), with a record of the rewind's in the place of
a cycle's.  After any error, and at every beginning, the newest record is brought into the tables
first, and reading goes on at the position that they then have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from shared.backoff import Backoff
from shared.clock import SystemClock
from shared.errors import KafkaUnavailable, RecoverableError, TopicRecreated
from shared.memory import KIB, MIB, need
from shared.object_store import ObjectStore
from shared.records import Manifest
from shared.version import SERVICE_VERSION
from tools.rewind_log import RewindLog
from tools.rewind_plan import (
    Part, Plan, beyond, gaps_of, refuse_beyond, refuse_gaps,
)
from workers.appetite import Appetite
from workers.batch import Batch
from workers.decoder import decode
from workers.draft import Draft, FileLimits, Prepared
from workers.kafka_source import Polled, Watermarks
from workers.tables import TopicTables

CHUNK_S = 30.0
"""A commit comes after this at the latest: what a run that is killed has to read again."""
FILE_BYTES = 8 * MIB
"""Encoded size at which a file is sent: few files, for nobody waits for these rows."""
ROW_GROUP_BYTES = MIB
"""Raw bytes of a row group; also about a batch."""
BATCH_MESSAGES = 2_000
QUEUE_KILOBYTES = 4_096
"""Held ready by the Kafka client."""
MEMORY_BYTES = need((FILE_BYTES, 0), ROW_GROUP_BYTES, ROW_GROUP_BYTES) \
    + QUEUE_KILOBYTES * KIB
"""What reading takes at most beside the libraries, messages below a megabyte provided; of larger
ones one at a time is taken."""
POLL_S = 0.25
PATIENCE_S = 120.0
"""Without any progress for so long a run gives up; the next one goes on."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 5.0
GAP_CAUSE = "retention"

T = TypeVar("T")


class Source(Protocol):
    """Of `workers.kafka_source.Source` and tools/rewind_source.py, what a run needs."""

    def topic_id(self) -> str:
        """The id of the topic's present creation."""

    def watermarks(self, partition: int) -> Watermarks:
        """What Kafka holds."""

    def read(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets, and no others."""

    def release(self, partitions: tuple[int, ...]) -> None:
        """Read these no more."""

    def poll(self, messages_max: int, timeout_s: float) -> Polled:
        """Up to `messages_max` messages."""

    def positions(self) -> dict[int, int]:
        """Partition -> next_offset behind what was delivered."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a run works with.

    chunk_bytes: raw bytes of values after which a commit comes; advanced: told how many offsets
    are read, of all partitions.
    """

    plan: Plan
    log: RewindLog
    source: Source
    tables: TopicTables
    store: ObjectStore
    clock: SystemClock
    allow_gaps: bool
    chunk_bytes: int
    advanced: Callable[[int], None]


class Run:
    """See the module."""

    def __init__(self, work: Work) -> None:
        self._w, self._plan = work, work.plan
        self._ends = work.plan.ends
        self._starts = {part.partition: part.start for part in work.plan.parts}
        self._done: dict[int, int] = {}
        self._draft = self._new_draft({})
        self._next_number = 0
        self._appetite = Appetite(BATCH_MESSAGES, ROW_GROUP_BYTES)
        self._moved_at = work.clock.monotonic()

    def run(self) -> None:
        """Until all of the plan is in the tables.

        Raises `Refused`, `TopicStopped`, or the last `RecoverableError` when nothing moved for
        PATIENCE_S; it may be run again after any of them.
        """
        backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        while True:
            moved_at = self._moved_at
            try:
                self._settle()
                while self._left():
                    self._read_chunk()
                    self._commit()
                return
            except RecoverableError:
                if self._clock_s() - self._moved_at > PATIENCE_S:
                    raise
                backoff = (backoff.reset() if self._moved_at > moved_at else backoff).failed()
                self._w.clock.sleep(backoff.delay_s())

    def _clock_s(self) -> float:
        return self._w.clock.monotonic()

    def _left(self) -> dict[int, int]:
        """Partition -> where it is to be read on."""
        return {partition: end for partition, end in self._draft.book.ends.items()
                if end < self._ends[partition]}

    # -- beginning, and after errors ---------------------------------------------------------

    def _settle(self) -> None:
        """Bring what is decided into the tables, and read on behind it."""
        tables, plan = self._w.tables, self._plan
        tables.ensure()
        tables.begin(self._starts, plan.topic_id)
        numbers = self._w.log.numbers()
        if numbers:
            tables.roll_forward(numbers[-1], self._w.log.read(numbers[-1]))
        self._next_number = numbers[-1] + 1 if numbers else 0
        positions = tables.positions(self._starts)
        self._draft = self._new_draft(
            {partition: position for partition, position in positions.items()
             if position is not None})
        self._tell()
        self._pass_gaps()
        self._w.source.read(self._left())

    def _new_draft(self, positions: Mapping[int, int]) -> Draft:
        return Draft(self._w.store, self._plan.topic, FileLimits(ROW_GROUP_BYTES, FILE_BYTES),
                     positions, dlq_enabled=True, prefix=self._plan.prefix)

    def _pass_gaps(self) -> None:
        """Name what Kafka has deleted, and pass over it if that was allowed."""
        left = self._left()
        marks = {partition: self._w.source.watermarks(partition) for partition in left}
        ends = {partition: self._ends[partition] for partition in left}
        missing = beyond(ends, {partition: mark.high for partition, mark in marks.items()})
        if missing:
            raise refuse_beyond(missing)
        gaps = gaps_of(left, ends, {partition: mark.low for partition, mark in marks.items()})
        if gaps and not self._w.allow_gaps:
            raise refuse_gaps(gaps)
        for gap in gaps:
            self._draft.book.lose(gap.partition, gap.end, GAP_CAUSE)

    # -- reading -----------------------------------------------------------------------------

    def _read_chunk(self) -> None:
        """Read until a commit is worth it, or all is read."""
        until = self._clock_s() + CHUNK_S
        while (self._left() and self._draft.bytes < self._w.chunk_bytes
               and (self._clock_s() < until or not self._draft.book.moved)):
            polled = self._w.source.poll(self._appetite.messages(), POLL_S)
            batch = clipped(polled.batch, self._ends)
            if len(batch):
                self._take(batch)
            if polled.error is not None:
                raise polled.error
            if polled.out_of_range:
                self._pass_gaps()
                self._w.source.read(self._left())
            self._follow()

    def _take(self, batch: Batch) -> None:
        now_ms = self._w.clock.unix_ms()
        self._draft.book.check(batch.extents)
        decoded = decode(batch, now_ms, self._plan.topic, SERVICE_VERSION)
        self._appetite.saw(len(batch), decoded.bytes)
        self._draft.take(batch, decoded, now_ms)

    def _follow(self) -> None:
        """Take note of how far the client is: it passes over what is never delivered."""
        before = self._draft.book.ends
        for partition, position in self._w.source.positions().items():
            reached = min(position, self._ends[partition])
            if reached > before.get(partition, reached):
                self._draft.book.reach(partition, reached)
        left = self._left()
        self._w.source.release(tuple(self._ends.keys() - left.keys()))
        now = self._clock_s()
        if self._tell():
            self._moved_at = now
        elif now - self._moved_at > PATIENCE_S:
            raise KafkaUnavailable("consume", f"no message came for {PATIENCE_S:.0f} s, "
                                              f"{sorted(left.items())} are awaited")

    def _tell(self) -> bool:
        """Show how much is read; whether that is more than was shown before."""
        ends = self._draft.book.ends
        has_moved = any(end > self._done.get(partition, -1) for partition, end in ends.items())
        self._done = ends
        self._w.advanced(sum(end - self._starts[partition] for partition, end in ends.items()))
        return has_moved

    # -- committing --------------------------------------------------------------------------

    def _commit(self) -> None:
        """Decide what was read, then make it visible."""
        if not self._draft.book.moved:
            return
        prepared = self._draft.close(self._w.clock.unix_ms())
        if self._w.source.topic_id() != self._plan.topic_id:
            raise TopicRecreated(self._plan.topic)
        manifest = self._manifest(prepared)
        self._w.log.put(self._next_number, manifest)
        self._w.tables.roll_forward(self._next_number, manifest)
        self._next_number += 1
        self._draft = self._new_draft(self._draft.book.ends)

    def _manifest(self, prepared: Prepared) -> Manifest:
        return Manifest(self._plan.topic, self._plan.topic_id, 0, prepared.files, prepared.ranges,
                        dict(prepared.flaws), prepared.value_bytes)


def clipped(batch: Batch, ends: Mapping[int, int]) -> Batch:
    """The messages of a batch that lie before their partition's end."""
    if all(part.last < ends.get(part.partition, 0) for part in batch.extents):
        return batch
    wanted = [index for index, (partition, offset) in enumerate(
        zip(batch.partitions, batch.offsets, strict=True)) if offset < ends.get(partition, 0)]

    def picked(column: list[T]) -> list[T]:
        return [column[index] for index in wanted]

    return Batch(
        picked(batch.partitions), picked(batch.offsets), picked(batch.timestamps_ms),
        picked(batch.keys), picked(batch.values), picked(batch.headers),
        batch.unreadable_headers)


def left_of(plan: Plan, positions: Mapping[int, int | None]) -> tuple[Part, ...]:
    """What of the plan is not in tables with these positions."""
    found = (Part(part.partition, max(part.start, positions.get(part.partition) or 0), part.end)
             for part in plan.parts)
    return tuple(part for part in found if part.start < part.end)
