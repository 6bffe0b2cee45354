"""Asks Kafka what a start needs to know: the only place of the tools that imports its client.

It joins no group and reads no message, so a service that runs does not notice.  Properties and
names of errors are those of workers/kafka_source.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from shared.config import Config
from shared.errors import TopicMissing
from tools.findings import (
    Brokers, Failure, Finding, Group, Key, NoRight, Retention, Topic, failure,
)
from workers.kafka_source import (
    REQUEST_TIMEOUT_S, Complaints, Problem, connection_properties, group_instance_id,
)

ANSWER_LIMIT_S = REQUEST_TIMEOUT_S + 1.0
"""The margin lets the request's own time-out speak first."""
CONFIGS = ("retention.ms", "retention.bytes", "cleanup.policy")

Note = Callable[[Key, Finding], None]


class KafkaProbe:
    """One administration client; each look notes what it finds and raises nothing."""

    def __init__(self, config: Config, note: Note) -> None:
        self._config, self._note = config, note
        self._complaints = Complaints()
        self._last_words = ""
        self._admin: AdminClient | None = None

    def look(self) -> None:
        """Everything, or the brokers alone when they do not answer."""
        if not self._noted(Key("broker"), self._brokers):
            return
        self._topics()
        self._noted(Key("group"), self._group)
        self._retention()

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

    def _failure(self, key: Key, error: Exception) -> Failure | NoRight:
        code = error.args[0].code() if isinstance(error, KafkaException) else None
        if code in _REFUSED:
            return NoRight(_NEEDED[key.check], key.subject or self._config.kafka.group_id)
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

        self._of_each_topic("topic", ask, _topic)

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

    def _client(self) -> AdminClient:
        if self._admin is None:
            raise RuntimeError("the brokers were not asked first")
        return self._admin


_REFUSED = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_NEEDED = {"broker": "Describe", "topic": "Describe", "group": "Read",
           "retention": "DescribeConfigs"}
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
