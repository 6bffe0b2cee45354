"""Kafka as this service uses it: the only place of the service that imports the Kafka client.

One consumer per topic, a static member of the group, so that a restarted worker gets its
partitions back at once and nobody else's reading is disturbed.  The service owns the offsets:
nothing is stored or committed by the client, reading starts where the table says, and an offset
that is not there is an event, never a silent jump.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from shared.config import KafkaConfig, Limits
from shared.errors import (
    AssignmentFailed, Fenced, IngestError, KafkaAuthenticationFailed, KafkaUnavailable,
    RecoverableError, TopicMissing, TopicStopped,
)
from shared.layout import Retention
from workers.batch import Batch

REQUEST_TIMEOUT_S = 5.0
"""One metadata, watermark or committed-offsets request; well below any heartbeat limit."""
LATEST_TIMEOUT_S = 1.0
"""Of a question that a vote asks and can do without."""
RETENTION_INTERVAL_S = 300.0
"""Between two questions how long Kafka keeps a topic; nobody waits for the answer."""
CLOSE_LIMIT_S = 3.0
LEAVE_POLL_S = 0.05
METADATA_REFRESH_MS = 5_000
"""New partitions are noticed within this; the promise is 30 s."""
SESSION_TIMEOUT_MS = 10_000
"""A member that died without a successor is waited for this long by those who join later.  Far
above a restart, well below a cycle's deadline."""
HEARTBEAT_INTERVAL_MS = 2_000
"""Members learn of a rebalance with their next heartbeat; each costs an idle service some CPU."""
SOCKET_TIMEOUT_MS = 10_000
"""A request without an answer for this long gives its connection up: the other side may be gone
without a word.  The client's own 60 s would keep all topics waiting."""
GROUP_INSTANCE_CHARS_MAX = 249
FETCH_BACKOFF_MS = 5
"""How long the fetcher sleeps on a full queue; the default of 1000 ms starves small queues."""
FETCH_WAIT_MS = 1_000
"""How long the broker may hold a fetch while there is nothing; new messages end it at once."""
PARTITION_FETCH_BYTES = 128 * 1024

_MEMBERSHIP_LOST = (KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED, KafkaError._FATAL)
"""Errors after which a client delivers nothing any more.  A message's error knows only its code,
and `_FATAL` is the one under which a fatal error arrives: it must not look like an outage."""

OnAssign = Callable[[tuple[int, ...]], Mapping[int, int]]
OnRevoke = Callable[[tuple[int, ...]], None]


class Problem(IntEnum):
    """What the brokers' side suffers from, by the client's own account."""

    NONE = 0
    UNREACHABLE = 1
    AUTHENTICATION = 2


@dataclass(frozen=True, slots=True)
class OutOfRange:
    """A position Kafka holds nothing for: retention overtook it, or it lies behind the end."""

    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought.

    An error stands beside the messages, not in their place: they were delivered, will not be
    delivered again, and must be taken before the error is raised.
    """

    batch: Batch
    out_of_range: tuple[OutOfRange, ...] = ()
    error: IngestError | None = None


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Offsets Kafka holds for a partition: [low, high)."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Kept:
    """How long Kafka keeps a topic's messages; milliseconds has a meaning for kinds with a time."""

    kind: Retention = Retention.UNKNOWN
    milliseconds: int = 0


class Complaints:
    """What clients tell beside their answers: it decides what a failed request is called."""

    def __init__(self) -> None:
        self.problem = Problem.NONE
        self.text = ""

    def hear(self, error: KafkaError) -> None:
        """Take note; a client's `error_cb`."""
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL,
                            KafkaError.SASL_AUTHENTICATION_FAILED):
            self.problem, self.text = Problem.AUTHENTICATION, error.str()
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and self.problem is Problem.NONE:
            self.problem, self.text = Problem.UNREACHABLE, error.str()

    def forget(self) -> None:
        """A broker has served us: what was told before is over."""
        self.problem = Problem.NONE

    def named(self, operation: str, error: KafkaException | None) -> RecoverableError:
        """The error to raise for a failed request; None when there was no answer at all."""
        if self.problem is Problem.AUTHENTICATION:
            return KafkaAuthenticationFailed(f"{operation}: {self.text}")
        return KafkaUnavailable(operation, error.args[0].str() if error else "no answer")


class Source(Protocol):
    """One topic's messages.  All calls from one thread; requests raise a `RecoverableError`."""

    def topic_id(self) -> str:
        """The id of the topic's present creation; raises `TopicMissing`."""

    def partitions(self) -> tuple[int, ...]:
        """The topic's partitions."""

    def watermarks(self, partition: int) -> Watermarks:
        """What Kafka holds, asked of the broker."""

    def committed(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """The group's committed next_offset per partition."""

    def subscribe(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """Join the group.  `on_assign` gives the start per partition; both run inside `poll`."""

    def poll(self, messages_max: int, timeout_s: float) -> Polled:
        """Up to `messages_max` messages.

        Raises `AssignmentFailed` and `TopicStopped` out of the callbacks, and `KafkaUnavailable`
        when what was delivered is unknown: reading must then be rewound.
        """

    def positions(self) -> dict[int, int]:
        """Assigned partition -> next_offset behind what was delivered, control records too."""

    def ends(self) -> dict[int, int]:
        """Assigned partition -> high watermark, where known; cheap while reading."""

    def latest(self) -> dict[int, int]:
        """The same, asked of the brokers now; without those that do not answer soon."""

    def retention(self) -> Kept:
        """How long messages are kept, as far as is known by now; never waits, never raises."""

    def rewind(self, offsets: Mapping[int, int]) -> None:
        """Read on from `offsets`; nothing already fetched is delivered."""

    def pause(self) -> None:
        """Deliver nothing until `resume`; the membership stays alive through `poll`."""

    def resume(self) -> None:
        """Deliver again."""

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """Tell the group; best effort.  With `wait` it is bounded by the request timeout."""

    def leave(self) -> None:
        """Give the membership up for good, so that nobody who joins later waits for it."""

    def close(self) -> None:
        """End quietly; as a static member the partitions stay ours for a session."""


class KafkaSource:
    """`Source` on confluent-kafka."""

    def __init__(
        self, config: KafkaConfig, limits: Limits, topic: str, instance_id: str,
        on_commit_failure: Callable[[str], None],
    ) -> None:
        self._topic = topic
        self._complaints = Complaints()
        self._on_commit_failure = on_commit_failure
        self._assigned: tuple[int, ...] = ()
        self._paused = False
        self._callback_error: BaseException | None = None
        self._kept = Kept()
        self._kept_due_at = 0.0
        self._kept_answer: Future[Any] | None = None
        connection = connection_properties(config, self._complaints.hear)
        self._admin = AdminClient({**connection, "client.id": f"bronze-{topic}-admin"})
        self._consumer = Consumer(
            {**_consumer_properties(limits), **connection,
             "group.id": config.group_id,
             "group.instance.id": group_instance_id(instance_id, topic),
             "client.id": f"bronze-{topic}",
             "on_commit": self._on_commit})

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        failures = [part.error.str() for part in partitions if part.error is not None]
        if error is not None or failures:
            self._on_commit_failure(error.str() if error is not None else failures[0])

    def _named(self, operation: str, error: KafkaException | None) -> RecoverableError:
        """The error to raise for a failed request: what the client told us beside it decides."""
        # The admin client tells its errors only when asked; the consumer, whenever it is polled.
        self._admin.poll(0)
        return self._complaints.named(operation, error)

    def topic_id(self) -> str:
        """See `Source`."""
        try:
            future = self._admin.describe_topics(
                TopicCollection([self._topic]), request_timeout=REQUEST_TIMEOUT_S)[self._topic]
            found = str(future.result(timeout=2 * REQUEST_TIMEOUT_S).topic_id)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError.UNKNOWN_TOPIC_OR_PART,
                                        KafkaError.TOPIC_AUTHORIZATION_FAILED):
                raise TopicMissing(self._topic) from error
            raise self._named("describe topic", error) from error
        except TimeoutError as error:
            raise self._named("describe topic", None) from error
        self._complaints.forget()
        return found

    def partitions(self) -> tuple[int, ...]:
        """See `Source`."""
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise self._named("list partitions", error) from error
        found = metadata.topics[self._topic]
        if found.error is not None or not found.partitions:
            raise TopicMissing(self._topic)
        return tuple(sorted(found.partitions))

    def watermarks(self, partition: int) -> Watermarks:
        """See `Source`."""
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise self._named("watermarks", error) from error
        return Watermarks(low, high)

    def committed(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """See `Source`."""
        wanted = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            found = self._consumer.committed(wanted, timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise self._named("committed offsets", error) from error
        return {part.partition: part.offset if part.offset >= 0 else None for part in found}

    def subscribe(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See `Source`."""
        def assigned(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            indexes = tuple(part.partition for part in partitions)
            try:
                starts = on_assign(indexes)
            except BaseException as error:
                # The client would swallow it and read from anywhere: keep it for `poll` to raise.
                self._callback_error = error
                consumer.incremental_assign([])
                return
            consumer.incremental_assign(
                [TopicPartition(self._topic, index, starts[index]) for index in indexes])
            self._assigned = tuple(sorted({*self._assigned, *indexes}))
            self._pause_as_wanted(partitions)

        def revoked(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            gone = {part.partition for part in partitions}
            self._assigned = tuple(index for index in self._assigned if index not in gone)
            consumer.incremental_unassign(partitions)
            try:
                on_revoke(tuple(sorted(gone)))
            except BaseException as error:
                self._callback_error = error

        self._consumer.subscribe(
            [self._topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)

    def poll(self, messages_max: int, timeout_s: float) -> Polled:
        """See `Source`."""
        try:
            messages = self._consumer.consume(messages_max, timeout_s)
        except KafkaException as error:
            raise self._named("consume", error) from error
        if self._callback_error is not None:
            error, self._callback_error = self._callback_error, None
            if isinstance(error, TopicStopped):
                raise error
            raise AssignmentFailed(f"topic {self._topic}: {error}") from error
        failed = [message for message in messages if message.error() is not None]
        if failed:
            messages = [message for message in messages if message.error() is None]
        judged = [self._judge_error(message) for message in failed]
        if messages:
            self._complaints.forget()
        return Polled(
            _batch(messages), tuple(found for found in judged if isinstance(found, OutOfRange)),
            next((found for found in judged if isinstance(found, IngestError)), None))

    def _judge_error(self, message: Any) -> OutOfRange | IngestError | None:
        error = message.error()
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            return OutOfRange(message.partition(), message.offset())
        if error.fatal() or error.code() in _MEMBERSHIP_LOST:
            return Fenced(f"the client of topic {self._topic} cannot go on: {error.str()}")
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART,
                            KafkaError.TOPIC_AUTHORIZATION_FAILED):
            return TopicMissing(self._topic)
        if error.code() == KafkaError._PARTITION_EOF or error.retriable():
            return None
        return self._named("consume", KafkaException(error))

    def positions(self) -> dict[int, int]:
        """See `Source`."""
        asked = [TopicPartition(self._topic, index) for index in self._assigned]
        found = self._consumer.position(asked) if asked else []
        return {part.partition: part.offset for part in found if part.offset >= 0}

    def ends(self) -> dict[int, int]:
        """See `Source`; a paused partition is not fetched, so its end must be asked for.

        The first question without an answer is the last: one time-out per partition would add up
        to more than a heartbeat may take.
        """
        found = {}
        for index in self._assigned:
            try:
                _, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, index), cached=not self._paused,
                    timeout=REQUEST_TIMEOUT_S)
            except KafkaException:
                break
            if high >= 0:
                found[index] = high
        return found

    def latest(self) -> dict[int, int]:
        """See `Source`."""
        asked = {TopicPartition(self._topic, index): OffsetSpec.latest()
                 for index in self._assigned}
        if not asked:
            return {}
        answers = self._admin.list_offsets(asked, request_timeout=LATEST_TIMEOUT_S)
        give_up_at = time.monotonic() + LATEST_TIMEOUT_S
        found = {}
        for part, answer in answers.items():
            try:
                left_s = max(0.0, give_up_at - time.monotonic())
                found[part.partition] = answer.result(timeout=left_s).offset
            except (KafkaException, TimeoutError):
                continue
        return found

    def retention(self) -> Kept:
        """See `Source`.  It takes a right that nothing else here needs: a refusal is no error."""
        now = time.monotonic()
        if self._kept_answer is None and now >= self._kept_due_at:
            self._kept_due_at = now + RETENTION_INTERVAL_S
            asked = ConfigResource(ResourceType.TOPIC, self._topic)
            try:
                self._kept_answer = self._admin.describe_configs(
                    [asked], request_timeout=REQUEST_TIMEOUT_S)[asked]
            except KafkaException:
                return self._kept
        if self._kept_answer is not None and self._kept_answer.done():
            answer, self._kept_answer = self._kept_answer, None
            try:
                self._kept = _kept({name: entry.value for name, entry in answer.result().items()})
            except KafkaException as error:
                # A broker that is away has not changed what it told before.
                if error.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    self._kept = Kept()
        return self._kept

    def rewind(self, offsets: Mapping[int, int]) -> None:
        """See `Source`."""
        try:
            for partition, offset in offsets.items():
                self._rewind(TopicPartition(self._topic, partition, offset))
        except KafkaException as error:
            raise self._named("seek", error) from error

    def _rewind(self, target: TopicPartition) -> None:
        try:
            self._consumer.seek(target)
        except KafkaException as error:
            if (error.args[0].code() != KafkaError._STATE
                    or target.partition not in self._assigned):
                raise
            # After an offset out of range the client has given up fetching the partition and
            # refuses to seek in it for good; assigned anew it is fetched again.
            self._consumer.incremental_unassign([target])
            self._consumer.incremental_assign([target])
            self._pause_as_wanted([target])

    def _pause_as_wanted(self, partitions: list[TopicPartition]) -> None:
        """Pause or resume what was just assigned.

        The client remembers a pause beyond the assignment: a partition taken away while we were
        paused, and given back when we were not, would stay silent for ever.
        """
        if self._paused:
            self._consumer.pause(partitions)
        else:
            self._consumer.resume(partitions)

    def pause(self) -> None:
        """See `Source`."""
        self._paused = True
        self._consumer.pause([TopicPartition(self._topic, index) for index in self._assigned])

    def resume(self) -> None:
        """See `Source`."""
        self._paused = False
        self._consumer.resume([TopicPartition(self._topic, index) for index in self._assigned])

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """See `Source`."""
        parts = [TopicPartition(self._topic, partition, offset)
                 for partition, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=parts, asynchronous=not wait)
        except KafkaException as error:
            self._on_commit_failure(error.args[0].str())

    def leave(self) -> None:
        """See `Source`.  Only `unsubscribe` tells the group: closing alone keeps a static member,
        and whoever joins then waits until its session ends (measured: 0.1 s against 10 s)."""
        self._consumer.unsubscribe()
        give_up_at = time.monotonic() + CLOSE_LIMIT_S
        while self._assigned and time.monotonic() < give_up_at:
            self._consumer.poll(LEAVE_POLL_S)
        self.close()

    def close(self) -> None:
        """See `Source`; a broker that is away must not hold up a stop."""
        closing = threading.Thread(target=self._consumer.close, name="close", daemon=True)
        closing.start()
        closing.join(CLOSE_LIMIT_S)


def _kept(settings: Mapping[str, str]) -> Kept:
    """What a topic's settings mean for its messages; settings we cannot read tell nothing."""
    try:
        milliseconds, size = int(settings["retention.ms"]), int(settings["retention.bytes"])
        if "delete" not in settings["cleanup.policy"]:
            return Kept(Retention.FOREVER)
    except (KeyError, TypeError, ValueError):
        return Kept()
    if milliseconds < 0:
        return Kept(Retention.SIZE if size >= 0 else Retention.FOREVER)
    return Kept(Retention.TIME_OR_SIZE if size >= 0 else Retention.TIME, milliseconds)


def connection_properties(
    config: KafkaConfig, on_error: Callable[[KafkaError], None]
) -> dict[str, Any]:
    """What every client of ours gets: addresses, security, time-outs, and whom it tells."""
    return {
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        # Also for admin clients: they ask the controller, and must learn when that moves.
        "topic.metadata.refresh.interval.ms": METADATA_REFRESH_MS,
        **config.client_properties(),
        "error_cb": on_error, "logger": _quiet_logger()}


def _consumer_properties(limits: Limits) -> dict[str, Any]:
    return {
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        "allow.auto.create.topics": False,
        "session.timeout.ms": SESSION_TIMEOUT_MS,
        "heartbeat.interval.ms": HEARTBEAT_INTERVAL_MS,
        "check.crcs": True,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 5_000,
        "queued.max.messages.kbytes": limits.kafka_queue_kilobytes,
        "queued.min.messages": max(1000, limits.consume_batch_messages),
        "fetch.queue.backoff.ms": FETCH_BACKOFF_MS,
        "fetch.wait.max.ms": FETCH_WAIT_MS,
        "fetch.message.max.bytes": PARTITION_FETCH_BYTES,
    }


def group_instance_id(instance_id: str, topic: str) -> str:
    """The static member's name: the same for every incarnation, another for every instance."""
    name = f"bronze-{instance_id}-{topic}"
    if len(name) <= GROUP_INSTANCE_CHARS_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name[:GROUP_INSTANCE_CHARS_MAX - 33]}-{digest}"


def _batch(messages: list[Message]) -> Batch:
    unreadable = frozenset()
    try:
        # Through `map`, which looks whether a call left an error behind: where the interpreter
        # has specialised a call of this method, it does not, and the error comes up anywhere.
        headers = list(map(Message.headers, messages))
    except SystemError:
        headers, unreadable = _headers_one_by_one(messages)
    # `map` of a method costs half of a comprehension, and every message pays for six of them.
    return Batch(
        list(map(Message.partition, messages)), list(map(Message.offset, messages)),
        [None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds
         for kind, milliseconds in map(Message.timestamp, messages)],
        list(map(Message.key, messages)), list(map(Message.value, messages)), headers, unreadable)


def _headers_one_by_one(messages: list[Message]) -> tuple[list, frozenset[tuple[int, int]]]:
    headers, unreadable = [], set()
    for message in messages:
        found = _readable_headers(message)
        if found is _UNREADABLE:
            unreadable.add((message.partition(), message.offset()))
            found = None
        headers.append(found)
    return headers, frozenset(unreadable)


_UNREADABLE = object()


def _readable_headers(message: Message) -> Any:
    """A message's headers, or _UNREADABLE when one of the names is not UTF-8.

    The client then gives an error the first time and, every further time, a list with holes:
    tuples whose first place is NULL, which end the process when they are touched.  Asking the
    garbage collector what a tuple refers to leaves holes out, and touches none.
    """
    try:
        found = next(map(Message.headers, [message]))
    except SystemError:
        return _UNREADABLE
    if found and len(gc.get_referents(*found)) != 2 * len(found):
        return _UNREADABLE
    return found


def _quiet_logger() -> logging.Logger:
    """The client's own lines, which repeat for ever while a broker is away, only at debug level.

    What matters of them is told as a named error of ours.
    """
    logger = logging.getLogger("librdkafka")
    debugging = logging.getLogger().isEnabledFor(logging.DEBUG)
    logger.setLevel(logging.DEBUG if debugging else logging.CRITICAL + 1)
    return logger
