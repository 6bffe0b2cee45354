"""Both ways of taking messages from the Kafka client give the same columns, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.conftest import TopicNames
from tests.integration.lakeside import send_with_raw_header_name
from tests.services import KafkaService
from tests.waiting import wait_until
from workers import kafka_columns
from workers.batch import Batch
from workers.kafka_columns import ColumnReader, is_known_client
from workers.kafka_reader import MessageReader, Reader

JOIN_S = 30.0
TIMESTAMP_MS = int(time.time() * 1000) - 60_000
"""Brokers take no times from the future, and drop what is old."""
COLUMNS = ("partitions", "offsets", "timestamps_ms", "keys", "values", "headers")

ODD = [
    {"value": b"{}"}, {"value": None}, {"value": b""}, {"value": b"{}", "key": b""},
    {"value": None, "key": b"k", "timestamp": TIMESTAMP_MS + 1}, {"value": b"x" * 300_000, "key": b"large"},
    {"value": b"\x00\xff", "key": b"\xff\x00", "timestamp": TIMESTAMP_MS - 77},
    {"value": b"{}", "headers": [("trace", b"\x00\xff"), ("trace", b"again"), ("none", None)]},
    {"value": b"{}", "headers": [("", b"")], "key": b"h"},
    {"value": None, "headers": [(f"name-{index}", b"v" * index) for index in range(70)]},
]
"""Messages that differ in every column."""


def fill(kafka: KafkaService, topic: str, compression: str, messages: list[dict]) -> None:
    """Send messages to partition 0, the same again to 1."""
    refused: list[object] = []
    producer = Producer({
        "bootstrap.servers": kafka.bootstrap, "acks": "all", "compression.type": compression,
        "message.max.bytes": 2_000_000})
    for message in messages:
        for partition in (0, 1):
            producer.produce(
                topic, partition=partition, **{"timestamp": TIMESTAMP_MS, **message},
                on_delivery=lambda error, _: refused.append(error) if error else None)
    assert producer.flush(JOIN_S) == 0
    assert not refused


def read(
    kafka: KafkaService, topic: str, make: Callable[[Consumer, str, str], Reader], count: int,
    messages_max: int = 1000,
) -> dict[int, dict[str, list]]:
    """Read `count` messages from both partitions: partition -> column -> what stands in it."""
    client_id = f"reading-{topic}"
    consumer = Consumer({
        "bootstrap.servers": kafka.bootstrap, "group.id": "none", "client.id": client_id,
        "enable.auto.commit": False, "auto.offset.reset": "error"})
    reader = make(consumer, client_id, topic)
    for partition in (0, 1):
        reader.attach(partition)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in (0, 1)])
    found: dict[int, dict[str, list]] = {
        partition: {name: [] for name in (*COLUMNS, "unreadable")} for partition in (0, 1)}

    def is_all() -> bool:
        delivered = reader.read(messages_max, 0.2)
        assert delivered.errors == ()
        gather(found, delivered.batch)
        return sum(len(part["offsets"]) for part in found.values()) >= count

    try:
        wait_until(is_all, JOIN_S, f"{count} messages were delivered", 0.0)
    finally:
        reader.close()
        consumer.close()
    return found


def gather(found: dict[int, dict[str, list]], batch: Batch) -> None:
    """Sort a batch's rows by partition."""
    columns = {name: getattr(batch, name).to_pylist() for name in COLUMNS}
    for index, partition in enumerate(columns["partitions"]):
        for name in COLUMNS:
            found[partition][name].append(columns[name][index])
        found[partition]["unreadable"].append(index in batch.unreadable_headers)


def columns_reader(consumer: Consumer, client_id: str, topic: str) -> Reader:
    """The fast one."""
    return ColumnReader(consumer, f"{client_id}#", topic, 1000)


def messages_reader(consumer: Consumer, client_id: str, topic: str) -> Reader:
    """The one that works with every client."""
    return MessageReader(consumer)


def test_the_installed_client_is_the_one_whose_memory_is_known() -> None:
    """Else the service falls back to reading one by one, and costs more than it says."""
    assert is_known_client()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_both_readers_give_the_same_columns(
    kafka: KafkaService, topic_names: TopicNames, compression: str
) -> None:
    """Nulls, empty texts, headers, keys and times as a producer may choose them."""
    (topic,) = topic_names()
    kafka.create_topic(topic, partitions=2)
    messages = [*ODD, *({"value": b'{"n": %d}' % n, "key": b"%d" % n} for n in range(3000))]
    fill(kafka, topic, compression, messages)
    count = 2 * len(messages)
    fast, plain = (read(kafka, topic, make, count) for make in (columns_reader, messages_reader))
    assert fast == plain
    for partition in (0, 1):
        assert fast[partition]["values"] == [message["value"] for message in messages]
        assert fast[partition]["keys"] == [message.get("key") for message in messages]
        assert fast[partition]["timestamps_ms"] == [
            message.get("timestamp", TIMESTAMP_MS) for message in messages]
        assert [None if row is None else [(item["key"], item["value"]) for item in row]
                for row in fast[partition]["headers"]] == [
            message.get("headers") for message in messages]


def test_a_header_whose_name_is_not_text_is_told_by_both_readers(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """The message becomes a dead letter; its neighbours keep their headers."""
    (topic,) = topic_names()
    kafka.create_topic(topic, partitions=2)
    good = {"value": b"{}", "headers": [("a", b"b")]}
    fill(kafka, topic, "none", [good])
    send_with_raw_header_name(kafka.bootstrap, topic, b"\xff", key=b"k", value=b"[]")
    fill(kafka, topic, "none", [good])
    fast, plain = (read(kafka, topic, make, 5) for make in (columns_reader, messages_reader))
    assert fast == plain
    assert fast[0]["unreadable"] == [False, True, False]


def test_what_was_read_outlives_the_clients_memory(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """The messages are given back at once; a column that still pointed there would change."""
    (topic,) = topic_names()
    kafka.create_topic(topic, partitions=2)
    messages = [{"value": b"%06d" % n * 20} for n in range(5000)]
    fill(kafka, topic, "lz4", messages)
    found = read(kafka, topic, columns_reader, 2 * len(messages), messages_max=7)
    assert found[1]["values"] == [message["value"] for message in messages]


def test_a_client_with_another_layout_is_refused(
    kafka: KafkaService, topic_names: TopicNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields read from the wrong place would be rows with other people's numbers."""
    (topic,) = topic_names()
    kafka.create_topic(topic, partitions=2)
    fill(kafka, topic, "none", [{"value": b"{}"}])
    monkeypatch.setattr(kafka_columns, "_TIMESTAMP", kafka_columns._OFFSET)
    with pytest.raises(kafka_columns.ClientLayoutUnknown):
        read(kafka, topic, columns_reader, 1)
