"""Kafka as a rewind reads it: partitions taken by hand, no group joined, no offset committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from shared.config import KafkaConfig, Limits
from shared.errors import IngestError
from workers.kafka_source import REQUEST_TIMEOUT_S, KafkaSource, OutOfRange

GROUP = "bronze-rewind"
"""A client must be given one; nothing is ever stored under it."""


class RewindSource(KafkaSource):
    """See the module; requests raise as `Source`'s."""

    def __init__(self, config: KafkaConfig, limits: Limits, topic: str) -> None:
        super().__init__(replace(config, group_id=GROUP), limits, topic, "rewind",
                         on_commit_failure=lambda cause: None)

    def read(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets, and no others."""
        self.release(self._assigned)
        parts = [TopicPartition(self._topic, index, offset) for index, offset in offsets.items()]
        try:
            self._consumer.incremental_assign(parts)
        except KafkaException as error:
            raise self._named("assign", error) from error
        self._assigned = tuple(sorted(offsets))

    def release(self, partitions: Iterable[int]) -> None:
        """Read these no more."""
        gone = set(partitions) & set(self._assigned)
        if not gone:
            return
        try:
            self._consumer.incremental_unassign(
                [TopicPartition(self._topic, index) for index in gone])
        except KafkaException as error:
            raise self._named("unassign", error) from error
        self._assigned = tuple(index for index in self._assigned if index not in gone)

    def offsets_at(self, partitions: Iterable[int], unix_ms: int) -> dict[int, int | None]:
        """The first message of each partition whose timestamp is not before `unix_ms`; None where
        there is none."""
        asked = [TopicPartition(self._topic, index, unix_ms) for index in partitions]
        try:
            found = self._consumer.offsets_for_times(asked, timeout=REQUEST_TIMEOUT_S)
        except KafkaException as error:
            raise self._named("offsets for times", error) from error
        for part in found:
            if part.error is not None:
                raise self._named("offsets for times", KafkaException(part.error))
        return {part.partition: part.offset if part.offset >= 0 else None for part in found}

    def _judge_error(self, message: Any) -> OutOfRange | IngestError | None:
        """That the group may not be used is no matter: it is not."""
        if message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            return None
        return super()._judge_error(message)
