"""The rig's generator, ledger and producer: if these are wrong, every verdict is."""

from __future__ import annotations

import itertools
import json

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.conftest import TopicNames
from tests.rig.ledger import ERROR_CLASSES, MALFORMED, Kind, Ledger, digest_of, pack_headers
from tests.rig.messages import VALUE_BYTES, Message, MessageSource
from tests.rig.producer import LoadProducer
from tests.services import KafkaService
from tests.waiting import wait_until

BASE_MS = 1_700_000_000_000
READ_TIMEOUT_S = 30


def messages(count: int, seed: int = 1, fraction: float = 0.01) -> list[Message]:
    return list(itertools.islice(MessageSource(seed, BASE_MS, fraction), count))


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def what_it_is(value: bytes | None) -> str | None:
    """The error class of a value by the standard library's own judgement."""
    if value is None:
        return None
    if not value:
        return "empty"
    try:
        json.loads(value.decode(), parse_constant=refuse_constant)
    except UnicodeDecodeError:
        return "encoding"
    except ValueError:
        return "json"
    return None


def test_message_source_is_seeded() -> None:
    """A failed run can be repeated from its seed, and only from its seed."""
    assert messages(1000) == messages(1000)
    assert messages(1000) != messages(1000, seed=2)


def test_message_source_tells_malformed_from_valid() -> None:
    """The kind that is noted is what the value really is."""
    for message in messages(20_000):
        assert what_it_is(message.value) == ERROR_CLASSES.get(message.kind), message


def test_message_source_makes_every_variety() -> None:
    """A run without tombstones, null keys or doubled header names would prove less."""
    made = messages(20_000)
    assert {message.kind for message in made} == {Kind.VALID, *MALFORMED}
    assert any(message.value is None for message in made)
    assert {None, b""} <= {message.key for message in made}
    headers = [message.headers for message in made if message.headers]
    assert len(headers) < len(made)
    assert any(len({name for name, _ in some}) < len(some) for some in headers)
    assert {None, b""} <= {value for some in headers for _, value in some}
    sizes = [len(message.value) for message in made if message.kind is Kind.VALID and message.value]
    assert abs(sum(sizes) / len(sizes) - VALUE_BYTES) < 10


def test_message_source_makes_the_asked_fraction_malformed() -> None:
    """0.1 % of 400,000 is enough of each kind; more would hide the fast path."""
    count = sum(message.kind is not Kind.VALID for message in messages(100_000, fraction=0.001))
    assert 70 <= count <= 130
    assert all(message.kind is Kind.VALID for message in messages(10_000, fraction=0.0))


def test_message_digests_differ_between_valid_messages() -> None:
    """Two rows that changed places are found only if their digests differ."""
    digests = [message.digest for message in messages(50_000) if message.kind is Kind.VALID]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize(
    "changed",
    [
        (None, b"value", [("a", b"b")], 5),
        (b"", b"value", [("a", b"b")], 5),
        (b"key", None, [("a", b"b")], 5),
        (b"keyv", b"alue", [("a", b"b")], 5),
        (b"key", b"value", [], 5),
        (b"key", b"value", [("a", None)], 5),
        (b"key", b"value", [("a", b"")], 5),
        (b"key", b"value", [("ab", b"")], 5),
        (b"key", b"value", [("a", b"b"), ("a", b"b")], 5),
        (b"key", b"value", [("a", b"b")], 6),
    ],
)
def test_digest_changes_with_every_part(
    changed: tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int],
) -> None:
    """A part that the digest left out could be altered unseen."""
    key, value, headers, timestamp_ms = changed
    original = digest_of(b"key", b"value", pack_headers([("a", b"b")]), 5)
    assert digest_of(key, value, pack_headers(headers), timestamp_ms) != original


def test_ledger_refuses_a_second_message_at_an_offset() -> None:
    """An offset that was entered twice means that the rig is confused."""
    ledger = Ledger()
    ledger.record("a", 0, 7, Kind.VALID, bytes(16))
    with pytest.raises(ValueError, match="offset 7"):
        ledger.record("a", 0, 7, Kind.VALID, bytes(16))
    assert ledger.partition("a", 0).kind(6) is Kind.ABSENT
    assert ledger.rows() == 1


def read_back(kafka: KafkaService, topic: str, isolation: str) -> Ledger:
    """Read a topic to its end and make a ledger of what is there."""
    ranges = kafka.offset_ranges(topic)
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "rig",
            "enable.auto.commit": False,
            "isolation.level": isolation,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in ranges])
    ledger = Ledger()

    def is_at_end() -> bool:
        for message in consumer.consume(10_000, 0.2):
            assert message.error() is None, message.error()
            partition, offset, headers = message.partition(), message.offset(), message.headers()
            assert partition is not None and offset is not None and not isinstance(headers, dict)
            digest = digest_of(
                message.key(),
                message.value(),
                pack_headers(headers or ()),
                message.timestamp()[1],
            )
            ledger.record(topic, partition, offset, Kind.VALID, digest)
        positions = consumer.position([TopicPartition(topic, number) for number in ranges])
        return all(where.offset >= ranges[where.partition][1] for where in positions)

    wait_until(is_at_end, READ_TIMEOUT_S, f"{topic} is read to its end")
    consumer.close()
    return ledger


def test_producer_ledger_is_what_kafka_holds(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """Every message is where the ledger says, with the content that it says, and no other is."""
    topics = topic_names(2)
    for topic in topics:
        kafka.create_topic(topic, 3)
    with LoadProducer(kafka.bootstrap, topics, 3, seed=5, malformed_fraction=0.01) as producer:
        producer.produce(20_000)
        assert producer.ledger.rows() == 20_000
        producer.start_background(2_000)
        wait_until(lambda: producer.produced >= 22_000, READ_TIMEOUT_S, "the background produces")
    ledger = producer.ledger
    assert ledger.rows() == producer.produced
    assert ledger.count(Kind.EMPTY) > 0
    for topic in topics:
        found = read_back(kafka, topic, "read_committed")
        for number, expected in ledger.partitions(topic):
            assert found.partition(topic, number).digests == expected.digests


def test_producer_background_keeps_its_rate(kafka: KafkaService, topic_names: TopicNames) -> None:
    """A test that asks for a trickle must not get a flood."""
    (topic,) = topic_names()
    kafka.create_topic(topic)
    with LoadProducer(kafka.bootstrap, [topic], 1) as producer:
        producer.start_background(500)
        wait_until(lambda: producer.produced >= 500, READ_TIMEOUT_S, "500 were produced")
        producer.stop_background()
        assert 500 <= producer.produced < 1_500


def test_producer_notes_aborted_messages(kafka: KafkaService, topic_names: TopicNames) -> None:
    """Aborted messages lie in the log at the noted offsets, and readers of committed skip them."""
    (topic,) = topic_names()
    kafka.create_topic(topic)
    with LoadProducer(kafka.bootstrap, [topic], 1, malformed_fraction=0.0) as producer:
        producer.produce(3)
        producer.produce_transaction(topic, 0, 4, commit=False)
        producer.produce_transaction(topic, 0, 2, commit=True)
    kinds = list(producer.ledger.partition(topic, 0).kinds)
    aborted, valid = int(Kind.ABORTED), int(Kind.VALID)
    assert kinds == [valid] * 3 + [aborted] * 4 + [int(Kind.ABSENT)] + [valid] * 2
    committed = read_back(kafka, topic, "read_committed").partition(topic, 0)
    everything = read_back(kafka, topic, "read_uncommitted").partition(topic, 0)
    assert [number for number in range(len(committed)) if committed.kind(number)] == [0, 1, 2, 8, 9]
    assert [number for number in range(len(everything)) if everything.kind(number)] == [
        0, 1, 2, 3, 4, 5, 6, 8, 9,
    ]
