"""Asks Kafka what a start needs to know: the only place of the tools that imports its client.

It joins no group, so a service that runs does not notice.  Messages are read only when backlogs
are asked for, one in each partition that has unread ones.  Properties and names of errors are
those of workers/kafka_source.py.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, NamedTuple

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from shared.config import Config
from shared.errors import TopicMissing
from tools.findings import (
    Backlog, Brokers, Failure, Finding, Group, Key, NoRight, NotTold, Retention, Topic, Unread,
    failure,
)
from workers.kafka_source import (
    REQUEST_TIMEOUT_S, Complaints, Problem, connection_properties, group_instance_id,
)

ANSWER_LIMIT_S = REQUEST_TIMEOUT_S + 1.0
"""The margin lets the request's own time-out speak first."""
CONFIGS = ("retention.ms", "retention.bytes", "cleanup.policy")
OLDEST_LIMIT_S = 5.0
"""For all partitions together to hand out their oldest unread message."""
OLDEST_STEP_S = 0.2
OLDEST_AT_ONCE = 64
OLDEST_QUEUE_KILOBYTES = 4096
OLDEST_FETCH_BYTES = 16 * 1024
"""Of one partition: one message is wanted; a larger one comes all the same."""

Note = Callable[[Key, Finding], None]


class Part(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class KafkaProbe:
    """One administration client; each look notes what it finds and raises nothing."""

    def __init__(self, config: Config, note: Note) -> None:
        self._config, self._note = config, note
        self._complaints = Complaints()
        self._last_words = ""
        self._admin: AdminClient | None = None
        self._partitions: dict[str, int] = {}

    def look(self) -> None:
        """Everything, or the brokers alone when they do not answer."""
        if not self._noted(Key("broker"), self._brokers):
            return
        self._topics()
        self._noted(Key("group"), self._group)
        self._retention()

    def look_at_backlogs(self) -> None:
        """After `look`: what the group has not committed of the topics that were found."""
        parts = [Part(topic, number) for topic, count in self._partitions.items()
                 for number in range(count)]
        try:
            unread = self._unread(parts)
        except Exception as error:
            for topic in self._partitions:
                self._note(Key("loss", topic), self._failure(Key("loss", topic), error))
            return
        for topic in self._partitions:
            known = [unread[part] for part in parts if part.topic == topic and part in unread]
            self._note(Key("loss", topic), Backlog(
                tuple(found for found in known if found is not None),
                self._partitions[topic] - len(known)))

    def _hear(self, error: KafkaError) -> None:
        self._complaints.hear(error)
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_words = error.str()

    def _noted(self, key: Key, look: Callable[[], Finding]) -> bool:
        """Note what `look` finds, or how it failed; whether it found anything."""
        try:
            self._note(key, look())
        except Exception as error:
            self._note(key, self._failure(key, error))
            return False
        return True

    def _failure(self, key: Key, error: Exception) -> Failure | NoRight | NotTold:
        code = error.args[0].code() if isinstance(error, KafkaException) else None
        if code in _REFUSED:
            is_group = code == KafkaError.GROUP_AUTHORIZATION_FAILED or not key.subject
            return NoRight(_NEEDED[key.check],
                           self._config.kafka.group_id if is_group else key.subject)
        if code in _UNSUPPORTED and key.check in _NOT_NEEDED:
            return NotTold()
        if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return failure(TopicMissing(key.subject))
        if not isinstance(error, KafkaException | TimeoutError):
            return failure(error)
        if self._admin is not None:
            self._admin.poll(0)
        named = failure(self._complaints.named(
            key.check, error if isinstance(error, KafkaException) else None))
        if self._complaints.problem is Problem.AUTHENTICATION or not self._last_words:
            return named
        return Failure(named.name, self._last_words, named.what_to_do)

    def _brokers(self) -> Brokers:
        self._admin = AdminClient({
            **connection_properties(self._config.kafka, self._hear),
            "client.id": "bronze-check"})
        # Not by listing a topic: this client's question may be what makes it.
        found = self._admin.describe_cluster(
            request_timeout=REQUEST_TIMEOUT_S).result(ANSWER_LIMIT_S)
        return Brokers(len(found.nodes), str(found.cluster_id))

    def _topics(self) -> None:
        def ask(topics: list[str]) -> dict[str, Future[Any]]:
            return self._client().describe_topics(
                TopicCollection(topics), include_authorized_operations=True,
                request_timeout=REQUEST_TIMEOUT_S)

        def judge(found: Any) -> Topic:
            topic = _topic(found)
            self._partitions[found.name] = topic.partitions
            return topic

        self._of_each_topic("topic", ask, judge)

    def _retention(self) -> None:
        def ask(topics: list[str]) -> dict[str, Future[Any]]:
            answers = self._client().describe_configs(
                [ConfigResource(ResourceType.TOPIC, topic) for topic in topics],
                request_timeout=REQUEST_TIMEOUT_S)
            return {resource.name: answer for resource, answer in answers.items()}

        self._of_each_topic("retention", ask, _kept)

    def _of_each_topic(
        self, check: str, ask: Callable[[list[str]], dict[str, Future[Any]]],
        judge: Callable[[Any], Finding],
    ) -> None:
        """One request for all topics; a refused or missing one spoils no other's answer."""
        topics = list(self._config.topics)
        try:
            answers = ask(topics)
        except Exception as error:
            for topic in topics:
                self._note(Key(check, topic), self._failure(Key(check, topic), error))
            return
        for topic in topics:
            self._noted(Key(check, topic),
                        lambda topic=topic: judge(answers[topic].result(ANSWER_LIMIT_S)))

    def _group(self) -> Group:
        group = self._config.kafka.group_id
        found = self._client().describe_consumer_groups(
            [group], include_authorized_operations=True,
            request_timeout=REQUEST_TIMEOUT_S)[group].result(ANSWER_LIMIT_S)
        names = {group_instance_id(self._config.instance_id, topic)
                 for topic in self._config.topics}
        return Group(_operations(found.authorized_operations), len(found.members),
                     sum(member.group_instance_id in names for member in found.members))

    def _unread(self, parts: list[Part]) -> dict[Part, Unread | None]:
        """Where the group stands and what Kafka holds; None where all is committed.

        A partition for which one of these is not known is left out.
        """
        committed = self._committed(parts)
        low = self._offsets(committed, OffsetSpec.earliest())
        high = self._offsets(committed, OffsetSpec.latest())
        found: dict[Part, Unread | None] = {
            part: Unread(part.partition, offset, low[part], high[part], None)
            if offset < high[part] or offset < low[part] else None
            for part, offset in committed.items() if part in low and part in high}
        starts = {part: max(each.committed, each.low) for part, each in found.items()
                  if each is not None and each.low < each.high}
        for part, oldest_ms in self._oldest(starts).items():
            each = found[part]
            if each is not None:
                found[part] = replace(each, oldest_ms=oldest_ms)
        return found

    def _committed(self, parts: list[Part]) -> dict[Part, int]:
        """The group's offsets.  Asked as a member would, which joins nothing: the administrative
        question for the same brings the process down while the broker still loads the group."""
        with self._consumer(self._config.kafka.group_id) as consumer:
            answers = consumer.committed(
                [TopicPartition(*part) for part in parts], timeout=REQUEST_TIMEOUT_S)
        return {Part(found.topic, found.partition): found.offset for found in answers
                if found.error is None and found.offset >= 0}

    def _offsets(self, parts: Iterable[Part], which: OffsetSpec) -> dict[Part, int]:
        asked = {TopicPartition(*part): which for part in parts}
        answers = self._client().list_offsets(
            asked, request_timeout=REQUEST_TIMEOUT_S) if asked else {}
        found = {}
        for part, answer in answers.items():
            with contextlib.suppress(KafkaException):
                found[Part(part.topic, part.partition)] = answer.result(ANSWER_LIMIT_S).offset
        return found

    def _oldest(self, starts: Mapping[Part, int]) -> dict[Part, int]:
        """The first message's Unix time in ms at or behind each start, where one came in time."""
        found: dict[Part, int] = {}
        waiting, give_up_at = set(starts), time.monotonic() + OLDEST_LIMIT_S
        with self._consumer(f"bronze-doctor-{uuid.uuid4()}") as consumer:
            consumer.assign([TopicPartition(*part, offset) for part, offset in starts.items()])
            while waiting and time.monotonic() < give_up_at:
                for message in consumer.consume(OLDEST_AT_ONCE, OLDEST_STEP_S):
                    part = Part(str(message.topic()), message.partition())
                    if part not in waiting:
                        continue
                    kind, milliseconds = message.timestamp()
                    if message.error() is None and kind != TIMESTAMP_NOT_AVAILABLE:
                        found[part] = milliseconds
                    waiting.discard(part)
                    consumer.pause([TopicPartition(*part)])
        return found

    @contextlib.contextmanager
    def _consumer(self, group: str) -> Iterator[Consumer]:
        """A client that subscribes to nothing, so it is no member of the group."""
        consumer = Consumer({
            **connection_properties(self._config.kafka, self._hear), **_READER,
            "group.id": group})
        try:
            yield consumer
        finally:
            consumer.close()

    def _client(self) -> AdminClient:
        if self._admin is None:
            raise RuntimeError("the brokers were not asked first")
        return self._admin


_READER = {
    "client.id": "bronze-doctor",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "allow.auto.create.topics": False,
    # What was aborted is deleted with the rest, and an open transaction must not hide the time.
    "isolation.level": "read_uncommitted",
    "enable.partition.eof": True,
    "queued.max.messages.kbytes": OLDEST_QUEUE_KILOBYTES,
    "fetch.message.max.bytes": OLDEST_FETCH_BYTES,
}

_REFUSED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_UNSUPPORTED = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)
_NOT_NEEDED = ("group", "retention", "loss")
"""What is asked for and no start needs: a broker may lack the request."""
_NEEDED = {"broker": "Describe", "topic": "Describe", "group": "Read",
           "retention": "DescribeConfigs", "loss": "Read"}
"""What is asked for -> the right that a refusal means is missing."""


def _topic(found: Any) -> Topic:
    leaderless = tuple(sorted(
        part.id for part in found.partitions if part.leader is None or part.leader.id < 0))
    return Topic(len(found.partitions), leaderless, _operations(found.authorized_operations))


def _kept(found: Any) -> Retention:
    milliseconds, size, policy = (found[name].value for name in CONFIGS)
    return Retention(int(milliseconds), int(size), str(policy))


def _operations(found: Iterable[Any] | None) -> frozenset[str] | None:
    """Names as the tools for ACLs write them; brokers before 2.3 tell nothing."""
    return frozenset(operation.name for operation in found) if found else None
