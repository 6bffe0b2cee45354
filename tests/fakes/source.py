"""One Kafka topic in memory, and a consumer of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from shared.errors import IngestError, KafkaUnavailable, TopicMissing, TopicStopped
from tests.fakes.faults import Faults
from workers.batch import Batch, Header
from workers.kafka_source import (
    AssignmentFailed, Kept, OnAssign, OnRevoke, OutOfRange, Polled, Watermarks,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at one offset; a control record is passed over and never delivered."""

    value: bytes | None = b"{}"
    key: bytes | None = None
    timestamp_ms: int | None = 1_770_000_000_000
    headers: tuple[Header, ...] = ()
    control: bool = False


@dataclass
class MemoryTopic:
    """The topic as the brokers hold it: entries by partition and offset, and group offsets.

    firsts: partition -> lowest offset held; entries below it were removed by retention.
    """

    partition_count: int = 1
    topic_id: str | None = "id-1"
    kept: Kept = field(default_factory=Kept)
    entries: dict[int, list[Entry]] = field(default_factory=dict)
    firsts: dict[int, int] = field(default_factory=dict)
    group_offsets: dict[int, int] = field(default_factory=dict)

    def add(self, partition: int, *values: bytes | None) -> None:
        """Append messages with these values."""
        self.append(partition, *(Entry(value) for value in values))

    def append(self, partition: int, *entries: Entry) -> None:
        """Append whole entries."""
        self.entries.setdefault(partition, []).extend(entries)

    def low(self, partition: int) -> int:
        """The first offset held."""
        return self.firsts.get(partition, 0)

    def high(self, partition: int) -> int:
        """The next offset to be written."""
        return len(self.entries.get(partition, ()))


class MemorySource:
    """`Source` on a `MemoryTopic`.

    The group is played by the test: `assign` and `revoke` take effect inside the next `poll`, as
    with a real consumer; the first poll after `subscribe` assigns every partition unless
    `assigns_all` is off.
    """

    def __init__(self, topic: MemoryTopic, assigns_all: bool = True) -> None:
        self.topic = topic
        self.faults = Faults(lambda operation, path: KafkaUnavailable(operation, "the twin"))
        self.assigns_all = assigns_all
        self.on_commit_failure: Callable[[str], None] = lambda cause: None
        self.beside: list[IngestError] = []
        self.polls = 0
        self.closed = False
        self.left = False
        self.paused = False
        self.committed_calls: list[dict[int, int]] = []
        self._callbacks: tuple[OnAssign, OnRevoke] | None = None
        self._rebalances: list[tuple[str, tuple[int, ...]]] = []
        self._next: dict[int, int] = {}
        self._delivered: dict[int, int] = {}
        self._stuck: set[int] = set()

    def topic_id(self) -> str:
        """See `Source`."""
        with self.faults.around("topic_id"):
            if self.topic.topic_id is None:
                raise TopicMissing("twin")
            return self.topic.topic_id

    def partitions(self) -> tuple[int, ...]:
        """See `Source`."""
        with self.faults.around("partitions"):
            return tuple(range(self.topic.partition_count))

    def watermarks(self, partition: int) -> Watermarks:
        """See `Source`."""
        with self.faults.around("watermarks"):
            return Watermarks(self.topic.low(partition), self.topic.high(partition))

    def committed(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """See `Source`."""
        with self.faults.around("committed"):
            return {partition: self.topic.group_offsets.get(partition) for partition in partitions}

    def subscribe(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See `Source`."""
        self._callbacks = on_assign, on_revoke
        if self.assigns_all:
            self.assign(*range(self.topic.partition_count))

    @property
    def has_settled(self) -> bool:
        """Whether it has joined, and no rebalance waits for the next poll."""
        return self._callbacks is not None and not self._rebalances

    @property
    def assigned(self) -> frozenset[int]:
        """The partitions it has now."""
        return frozenset(self._next)

    def assign(self, *partitions: int) -> None:
        """Give partitions at the next poll."""
        self._rebalances.append(("assign", partitions))

    def revoke(self, *partitions: int) -> None:
        """Take partitions away at the next poll."""
        self._rebalances.append(("revoke", partitions))

    def poll(self, messages_max: int, timeout_s: float) -> Polled:
        """See `Source`; never waits."""
        self.polls += 1
        with self.faults.around("poll"):
            self._rebalance()
            batch, gaps = self._fetch(messages_max)
            error = self.beside.pop(0) if self.beside else None
            return Polled(batch, gaps, error)

    def _rebalance(self) -> None:
        pending, self._rebalances = self._rebalances, []
        if self._callbacks is None:
            return
        on_assign, on_revoke = self._callbacks
        for kind, partitions in pending:
            try:
                if kind == "revoke":
                    for partition in partitions:
                        self._next.pop(partition, None)
                        self._delivered.pop(partition, None)
                        self._stuck.discard(partition)
                    on_revoke(partitions)
                else:
                    self._next.update(on_assign(partitions))
            except TopicStopped:
                raise
            except Exception as error:
                raise AssignmentFailed(str(error)) from error

    def _fetch(self, messages_max: int) -> tuple[Batch, tuple[OutOfRange, ...]]:
        batch, gaps = Batch(), []
        for partition in sorted(self._next.keys() - self._stuck):
            offset = self._next[partition]
            if not self.topic.low(partition) <= offset <= self.topic.high(partition):
                self._stuck.add(partition)
                gaps.append(OutOfRange(partition, offset))
                continue
            while not self.paused and offset < self.topic.high(partition):
                entry = self.topic.entries[partition][offset]
                if not entry.control:
                    if len(batch) >= messages_max:
                        break
                    _put(batch, partition, offset, entry)
                offset += 1
                self._delivered[partition] = offset
            self._next[partition] = offset
        return batch, tuple(gaps)

    def positions(self) -> dict[int, int]:
        """See `Source`."""
        return dict(self._delivered)

    def ends(self) -> dict[int, int]:
        """See `Source`."""
        return {partition: self.topic.high(partition) for partition in self._next}

    def latest(self) -> dict[int, int]:
        """See `Source`; a fault leaves the question without an answer."""
        try:
            with self.faults.around("latest"):
                return self.ends()
        except KafkaUnavailable:
            return {}

    def retention(self) -> Kept:
        """See `Source`."""
        return self.topic.kept

    def rewind(self, offsets: Mapping[int, int]) -> None:
        """See `Source`; like the client it forgets the position until it delivers again."""
        with self.faults.around("rewind"):
            for partition, offset in offsets.items():
                if partition in self._next:
                    self._next[partition] = offset
                    self._delivered.pop(partition, None)
                    self._stuck.discard(partition)

    def pause(self) -> None:
        """See `Source`."""
        self.paused = True

    def resume(self) -> None:
        """See `Source`."""
        self.paused = False

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """See `Source`."""
        self.committed_calls.append(dict(offsets))
        try:
            with self.faults.around("commit"):
                self.topic.group_offsets.update(offsets)
        except KafkaUnavailable as error:
            self.on_commit_failure(str(error))

    def leave(self) -> None:
        """See `Source`."""
        self.left = self.closed = True

    def close(self) -> None:
        """See `Source`."""
        self.closed = True


def _put(batch: Batch, partition: int, offset: int, entry: Entry) -> None:
    batch.partitions.append(partition)
    batch.offsets.append(offset)
    batch.timestamps_ms.append(entry.timestamp_ms)
    batch.keys.append(entry.key)
    batch.values.append(entry.value)
    batch.headers.append(list(entry.headers) or None)
