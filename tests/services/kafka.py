"""A real Apache Kafka broker for tests, and the administration that tests ask of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from tests.services.errors import ServiceError
from tests.services.instances import Instance
from tests.services.kafka_config import USERS, KafkaPorts
from tests.waiting import wait_until

START_TIMEOUT_S = 90
"""About three seconds on a quiet machine; a restart after a kill waits for the old session."""
REQUEST_TIMEOUT_S = 30
METADATA_TIMEOUT_S = 2
PROBE_INTERVAL_S = 0.1
COORDINATOR_IS_MOVING = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
"""Answers of a broker that has just started, or just created what it keeps of groups."""
SCRAM_ITERATIONS = 4096
"""The fewest that the broker accepts: log-ins are part of many tests."""


@dataclass(frozen=True, slots=True)
class ManagedKafka:
    """What is known of a broker that runs under our control."""

    instance: Instance
    ports: KafkaPorts
    ca_path: Path


class KafkaService:
    """One broker: its addresses, its topics and, where it is ours, its life.

    Attributes:
        bootstrap: ``host:port`` without encryption or log-in.
        is_managed: whether it was started here, so that it may be killed and has the listeners
            below; they are None for a broker that was given.
        sasl_bootstrap: ``host:port`` for SASL_PLAINTEXT, with PLAIN and SCRAM-SHA-512.
        ssl_bootstrap: ``host:port`` for SSL; its certificate is signed by ``ca_path``.
        proxied_bootstrap: ``host:port`` where a test may listen with a proxy of its own; clients
            that come through it stay on it, because the broker advertises it to them.
        proxy_upstream: ``host:port`` of the broker, to which such a proxy has to forward.
        users: name to password, for the SASL listener.
        instance: the runner, for a test that looks at the process itself.

    One thread at a time may use an object of this class.
    """

    users: Mapping[str, str] = USERS

    def __init__(self, bootstrap: str, managed: ManagedKafka | None = None) -> None:
        self.bootstrap = bootstrap
        self.is_managed = managed is not None
        self.instance = managed.instance if managed else None
        self.ca_path = managed.ca_path if managed else None
        self.sasl_bootstrap = _address(managed.ports.sasl) if managed else None
        self.ssl_bootstrap = _address(managed.ports.ssl) if managed else None
        self.proxied_bootstrap = _address(managed.ports.proxy) if managed else None
        self.proxy_upstream = _address(managed.ports.proxied) if managed else None
        self._admin: AdminClient | None = None
        self._has_users = False

    # Life

    def start(self) -> None:
        """Start the broker where it is not running, and return once it serves requests.

        Data, ports and users are those of the last run. A given broker is only asked.

        Raises:
            ServiceError: it ended, or did not answer within ``START_TIMEOUT_S``.
        """
        if self.instance is not None:
            self.instance.start()
        self._wait_until_ready()
        # The first question about a group makes the broker create or load what it keeps of
        # groups. Here it is waited for; in a test it would look like a slow or failed request.
        self._committed("tests-warm-up", [TopicPartition("tests-warm-up", 0)])
        if self.is_managed and not self._has_users:
            self._create_users()
            self._has_users = True

    def stop(self) -> None:
        """Have the broker shut down in good order, and wait for its end."""
        self._own().stop()
        self._admin = None

    def kill(self) -> None:
        """End the broker with SIGKILL, and wait for its end."""
        self._own().kill()
        self._admin = None

    def pause(self) -> None:
        """Freeze the broker; connections stay open and are not served."""
        self._own().pause()

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._own().resume()

    def close(self) -> None:
        """Remove the broker and its data; a given broker is left as it is."""
        self._admin = None
        if self.instance is not None:
            self.instance.remove()

    # Topics

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, object] | None = None
    ) -> None:
        """Create a topic and return once every partition of it has a leader."""
        settings = {key: str(value) for key, value in (config or {}).items()}
        topic = NewTopic(
            name, num_partitions=partitions, replication_factor=1, config=settings
        )
        _result(self.admin().create_topics([topic], request_timeout=REQUEST_TIMEOUT_S)[name])
        self._wait_for_partitions(name, partitions)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and return once the broker no longer lists it."""
        _result(self.admin().delete_topics([name], request_timeout=REQUEST_TIMEOUT_S)[name])
        wait_until(
            lambda: name not in self.admin().list_topics(timeout=REQUEST_TIMEOUT_S).topics,
            REQUEST_TIMEOUT_S,
            f"topic {name} is no longer listed",
        )

    def create_partitions(self, name: str, total: int) -> None:
        """Grow a topic to ``total`` partitions and return once each has a leader."""
        grown = NewPartitions(name, total)
        _result(self.admin().create_partitions([grown], request_timeout=REQUEST_TIMEOUT_S)[name])
        self._wait_for_partitions(name, total)

    def alter_topic_config(self, name: str, config: Mapping[str, object]) -> None:
        """Set the given settings of a topic and leave its other ones alone."""
        entries = [
            ConfigEntry(key, str(value), incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        answers = self.admin().incremental_alter_configs(
            [resource], request_timeout=REQUEST_TIMEOUT_S
        )
        _result(answers[resource])

    def delete_records(self, name: str, before: Mapping[int, int]) -> dict[int, int]:
        """Delete records below an offset per partition; return each partition's new first offset.

        Args:
            name: the topic.
            before: partition to the first offset that stays.
        """
        positions = [TopicPartition(name, number, offset) for number, offset in before.items()]
        answers = self.admin().delete_records(positions, request_timeout=REQUEST_TIMEOUT_S)
        return {where.partition: _result(future).low_watermark for where, future in answers.items()}

    def offset_ranges(self, name: str) -> dict[int, tuple[int, int]]:
        """Return per partition the first offset kept and the next one to be written."""
        topic = self.admin().list_topics(name, timeout=REQUEST_TIMEOUT_S).topics[name]
        first = self._list_offsets(name, topic.partitions, OffsetSpec.earliest())
        end = self._list_offsets(name, topic.partitions, OffsetSpec.latest())
        return {number: (first[number], end[number]) for number in sorted(topic.partitions)}

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """Return per partition the offset that a group committed; none committed, no entry.

        It joins no group. The client's administrative call for the same is avoided: asked while
        the broker still loads the group's partition, it brings the whole process down.
        """
        metadata = self.admin().list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
        wanted = [TopicPartition(topic, number) for number in sorted(metadata.partitions)]
        answers = self._committed(group, wanted)
        for position in answers:
            if position.error is not None:
                raise KafkaException(position.error)
        return {where.partition: where.offset for where in answers if where.offset >= 0}

    def admin(self) -> AdminClient:
        """Return the administration client, for what this class has no method for.

        Do not keep it across ``stop`` and ``kill``.
        """
        if self._admin is None:
            self._admin = AdminClient(self._client_settings(), logger=_silent_logger())
        return self._admin

    def _client_settings(self) -> dict[str, str | int | float | bool]:
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": "tests-admin",
            "reconnect.backoff.max.ms": 500,
        }

    def _committed(self, group: str, wanted: list[TopicPartition]) -> list[TopicPartition]:
        deadline_s = time.monotonic() + REQUEST_TIMEOUT_S
        settings = {**self._client_settings(), "group.id": group}
        consumer = Consumer(settings, logger=_silent_logger())
        try:
            while True:
                try:
                    return consumer.committed(wanted, timeout=REQUEST_TIMEOUT_S)
                except KafkaException as error:
                    is_passing = error.args[0].code() in COORDINATOR_IS_MOVING
                    if not is_passing or time.monotonic() > deadline_s:
                        raise
                time.sleep(PROBE_INTERVAL_S)
        finally:
            consumer.close()

    def _own(self) -> Instance:
        if self.instance is None:
            raise ServiceError(
                f"the Kafka at {self.bootstrap} was given, not started here, so no test may stop "
                "it; ask for own_kafka"
            )
        return self.instance

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        last = "no answer yet"
        while time.monotonic() < deadline_s:
            if self.instance is not None and not self.instance.is_running():
                raise ServiceError(
                    f"Kafka ended while starting; its last lines:\n{self.instance.log_tail()}"
                )
            try:
                if self.admin().list_topics(timeout=METADATA_TIMEOUT_S).brokers:
                    return
                last = "it knows of no broker"
            except KafkaException as error:
                last = str(error)
            time.sleep(PROBE_INTERVAL_S)
        log = f"; its last lines:\n{self.instance.log_tail()}" if self.instance else ""
        raise ServiceError(
            f"Kafka at {self.bootstrap} did not answer within {START_TIMEOUT_S} s ({last}){log}"
        )

    def _create_users(self) -> None:
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
        wanted: list[UserScramCredentialAlteration] = [
            UserScramCredentialUpsertion(name, how, secret.encode())
            for name, secret in self.users.items()
        ]
        answers = self.admin().alter_user_scram_credentials(
            wanted, request_timeout=REQUEST_TIMEOUT_S
        )
        for future in answers.values():
            _result(future)

    def _wait_for_partitions(self, name: str, count: int) -> None:
        def has_leaders() -> bool:
            topic = self.admin().list_topics(name, timeout=REQUEST_TIMEOUT_S).topics[name]
            leaders = [partition.leader for partition in topic.partitions.values()]
            return topic.error is None and len(leaders) == count and min(leaders) >= 0

        wait_until(has_leaders, REQUEST_TIMEOUT_S, f"topic {name} has {count} led partitions")

    def _list_offsets(
        self, name: str, partitions: Mapping[int, object], which: OffsetSpec
    ) -> dict[int, int]:
        wanted = {TopicPartition(name, number): which for number in partitions}
        answers = self.admin().list_offsets(wanted, request_timeout=REQUEST_TIMEOUT_S)
        return {where.partition: _result(future).offset for where, future in answers.items()}


def _address(port: int) -> str:
    return f"127.0.0.1:{port}"


def _result(future: Future[Any]) -> Any:
    """Return what the broker answered; the margin lets the request's own time-out speak first."""
    return future.result(timeout=REQUEST_TIMEOUT_S + 10)


def _silent_logger() -> logging.Logger:
    """Return a logger that drops everything: refused connections are expected while waiting."""
    logger = logging.getLogger("tests.services.kafka.client")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger
