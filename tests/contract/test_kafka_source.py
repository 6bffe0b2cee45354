"""What the worker relies on of a Kafka consumer: memory, and a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import Producer

from shared.errors import Fenced, TopicMissing
from shared.layout import Retention
from tests.conftest import TopicNames
from tests.fakes.config import make_config
from tests.fakes.source import MemorySource, MemoryTopic
from tests.services import KafkaService
from tests.waiting import wait_until
from workers.batch import Batch
from workers.kafka_source import (
    SESSION_TIMEOUT_MS, KafkaSource, Kept, OutOfRange, Source, group_instance_id,
)

JOIN_S = 30.0
MESSAGES = 40


@dataclass
class Rig:
    """A source and what a test does on the other side of Kafka.

    produce: partition and number of messages; retire: drop what lies below an offset.
    """

    source: Source
    produce: Callable[[int, int], None]
    retire: Callable[[int, int], None]
    failures: list[str]


def memory_rig() -> Rig:
    """Give the twin."""
    topic = MemoryTopic(partition_count=2)

    def produce(partition: int, count: int) -> None:
        topic.add(partition, *(b"%d" % number for number in range(count)))

    return Rig(MemorySource(topic), produce, lambda p, low: topic.firsts.update({p: low}), [])


def real_rig(kafka: KafkaService, topic: str) -> Rig:
    """Give a consumer of a new topic with two partitions."""
    kafka.create_topic(topic, partitions=2)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "acks": "all"})

    def produce(partition: int, count: int) -> None:
        for number in range(count):
            producer.produce(topic, b"%d" % number, partition=partition)
        assert producer.flush(JOIN_S) == 0

    config = make_config((topic,), {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                                    "KAFKA_GROUP_ID": f"group-{topic}"})
    failures: list[str] = []
    source = KafkaSource(config.kafka, config.limits, topic, "0", failures.append)
    return Rig(source, produce, lambda p, low: kafka.delete_records(topic, {p: low}) and None,
               failures)


@pytest.fixture(params=["memory", "kafka"])
def rig(request: pytest.FixtureRequest, topic_names: TopicNames) -> Iterator[Rig]:
    """Give an empty topic with two partitions and its consumer."""
    if request.param == "memory":
        made = memory_rig()
    else:
        made = real_rig(request.getfixturevalue("kafka"), topic_names()[0])
    yield made
    made.source.close()


def read(source: Source, count: int) -> Batch:
    """Poll until `count` messages came, and no more; errors and gaps must not come."""
    found = Batch()

    def is_enough() -> bool:
        polled = source.poll(count - len(found), 0.2)
        assert (polled.error, polled.out_of_range) == (None, ())
        found.partitions.extend(polled.batch.partitions)
        found.offsets.extend(polled.batch.offsets)
        found.values.extend(polled.batch.values)
        return len(found) >= count

    wait_until(is_enough, JOIN_S, f"{count} messages were delivered", 0.0)
    return found


def join(source: Source, starts: dict[int, int]) -> list[OutOfRange]:
    """Subscribe and poll until both partitions are assigned; delivers nothing but gaps."""
    assigned: set[int] = set()
    gaps: list[OutOfRange] = []

    def on_assign(partitions: tuple[int, ...]) -> dict[int, int]:
        assigned.update(partitions)
        return {partition: starts[partition] for partition in partitions}

    source.subscribe(on_assign, lambda partitions: assigned.difference_update(partitions))
    source.pause()

    def is_joined() -> bool:
        polled = source.poll(1, 0.1)
        assert len(polled.batch) == 0
        gaps.extend(polled.out_of_range)
        return assigned == {0, 1}

    wait_until(is_joined, JOIN_S, "both partitions are assigned", 0.0)
    source.resume()
    return gaps


def test_source_reads_from_where_the_table_says(rig: Rig) -> None:
    """Neither the group's offsets nor the client's reset decide where reading begins."""
    rig.produce(0, MESSAGES)
    rig.produce(1, 5)
    join(rig.source, {0: 30, 1: 5})
    batch = read(rig.source, 10)
    assert set(batch.partitions) == {0}
    assert batch.offsets == list(range(30, MESSAGES))
    assert batch.values[0] == b"30"
    assert rig.source.positions()[0] == MESSAGES


def test_source_learns_how_long_messages_are_kept_without_waiting(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """A question is sent; the answer is there some turns later, and asked for anew minutes later.
    """
    topic = topic_names()[0]
    kafka.create_topic(topic, config={"retention.ms": 7_200_000, "retention.bytes": 1 << 30})
    config = make_config((topic,), {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                                    "KAFKA_GROUP_ID": f"group-{topic}"})
    source = KafkaSource(config.kafka, config.limits, topic, "0", lambda cause: None)
    assert source.retention() == Kept()
    wait_until(lambda: source.retention() == Kept(Retention.TIME_OR_SIZE, 7_200_000), JOIN_S,
               "the broker has told")
    source.close()


def test_source_delivers_again_after_a_rewind_and_tells_no_position_before(rig: Rig) -> None:
    """A position told from before the rewind would pass over what was dropped: a silent loss."""
    rig.produce(0, MESSAGES)
    join(rig.source, {0: 0, 1: 0})
    read(rig.source, 25)
    rig.source.rewind({0: 7})
    assert rig.source.positions().get(0, 7) <= 7
    assert read(rig.source, 10).offsets == list(range(7, 17))
    assert rig.source.positions()[0] == 17


def test_source_delivers_nothing_while_paused(rig: Rig) -> None:
    """At a limit the worker pauses; it must be able to rely on the silence."""
    rig.produce(0, MESSAGES)
    join(rig.source, {0: 0, 1: 0})
    read(rig.source, 5)
    rig.source.pause()
    assert [len(rig.source.poll(10, 0.1).batch) for _ in range(5)] == [0] * 5
    rig.source.resume()
    assert read(rig.source, 5).offsets == list(range(5, 10))


def test_source_says_what_lies_ahead(rig: Rig) -> None:
    """The lag is made of these."""
    rig.produce(0, MESSAGES)
    assert rig.source.partitions() == (0, 1)
    marks = rig.source.watermarks(0)
    assert (marks.low, marks.high) == (0, MESSAGES)
    join(rig.source, {0: 0, 1: 0})
    read(rig.source, MESSAGES)

    def ends() -> dict[int, int]:
        rig.source.poll(1, 0.1)
        return rig.source.ends()

    wait_until(lambda: ends() == {0: MESSAGES, 1: 0}, JOIN_S, "both ends are known")


def test_source_tells_the_ends_as_the_brokers_have_them_now(rig: Rig) -> None:
    """Without having read up to there; of the partitions it has only."""
    assert rig.source.latest() == {}
    join(rig.source, {0: 0, 1: 0})
    rig.produce(0, MESSAGES)
    rig.produce(1, 3)
    assert rig.source.latest() == {0: MESSAGES, 1: 3}


def test_source_tells_a_retired_offset_once_and_goes_on_after_a_rewind(rig: Rig) -> None:
    """Retention overtook us: an event with the wanted offset, never a jump; then we say where."""
    rig.produce(0, MESSAGES)
    rig.retire(0, 20)
    gaps = join(rig.source, {0: 4, 1: 0})

    def is_told() -> bool:
        if not gaps:
            polled = rig.source.poll(10, 0.2)
            assert (len(polled.batch), polled.error) == (0, None)
            gaps.extend(polled.out_of_range)
        return bool(gaps)

    wait_until(is_told, JOIN_S, "the gap is told", 0.0)
    assert {gap.partition for gap in gaps} == {0}
    assert rig.source.positions().get(0, 4) <= 4
    assert rig.source.watermarks(0).low == 20
    rig.source.pause()
    rig.source.rewind({0: 20})
    assert len(rig.source.poll(10, 0.5).batch) == 0
    rig.source.resume()
    assert read(rig.source, 20).offsets == list(range(20, MESSAGES))
    rig.source.rewind({0: 25})
    assert read(rig.source, 5).offsets == list(range(25, 30))


def test_source_keeps_the_groups_offsets(rig: Rig) -> None:
    """Kafka's own tools show these."""
    join(rig.source, {0: 0, 1: 0})
    assert rig.source.committed([0, 1]) == {0: None, 1: None}
    rig.source.commit({0: 12}, wait=True)
    assert rig.source.committed([0, 1]) == {0: 12, 1: None}
    assert rig.failures == []


def test_real_source_that_leaves_keeps_nobody_from_joining(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """A static member that only closes is waited for until its session ends."""
    first, second = topic_names(2)
    sources = []
    for topic in (first, second):
        kafka.create_topic(topic, partitions=2)
        config = make_config((topic,), {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                                        "KAFKA_GROUP_ID": f"group-{first}"})
        sources.append(KafkaSource(config.kafka, config.limits, topic, "0", lambda cause: None))
    join(sources[0], {0: 0, 1: 0})
    sources[0].leave()
    began = time.monotonic()
    join(sources[1], {0: 0, 1: 0})
    assert time.monotonic() - began < SESSION_TIMEOUT_MS / 1000 / 2
    sources[1].close()


def test_real_source_delivers_from_a_partition_that_was_taken_and_given_back_around_a_pause(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """The client keeps a partition paused across assignments, and nobody would ever resume it."""
    (topic,) = topic_names()
    kafka.create_topic(topic, partitions=2)
    config = make_config((topic,), {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                                    "KAFKA_GROUP_ID": f"group-{topic}"})
    first, second = (KafkaSource(config.kafka, config.limits, topic, name, lambda cause: None)
                     for name in ("first", "second"))
    held: dict[KafkaSource, set[int]] = {first: set(), second: set()}

    def subscribe(source: KafkaSource) -> None:
        def on_assign(partitions: tuple[int, ...]) -> dict[int, int]:
            held[source].update(partitions)
            return dict.fromkeys(partitions, 0)
        source.subscribe(on_assign, held[source].difference_update)

    def hold(mine: set[int], theirs: int) -> None:
        def is_so() -> bool:
            for source in (first, second):
                source.poll(1, 0.1)
            return held[first] >= mine and len(held[second]) == theirs
        wait_until(is_so, JOIN_S, f"the first holds {mine}, the second {theirs}", 0.0)

    subscribe(first)
    wait_until(lambda: first.poll(1, 0.1) and held[first] == {0, 1}, JOIN_S, "joined", 0.0)
    first.pause()
    subscribe(second)
    hold(set(), 1)
    first.resume()
    second.leave()
    held[second].clear()
    wait_until(lambda: first.poll(1, 0.1) and held[first] == {0, 1}, JOIN_S, "given back", 0.0)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "acks": "all"})
    for partition in (0, 1):
        producer.produce(topic, b"{}", partition=partition)
    assert producer.flush(JOIN_S) == 0
    assert sorted(read(first, 2).partitions) == [0, 1]
    first.close()


def test_real_source_says_that_its_membership_was_taken(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """The client delivers nothing any more; taken for an outage, it would be waited for for ever.

    It happens without a second service, too: a broker that dies in the middle of a join comes
    back with another member under our name.
    """
    (topic,) = topic_names()
    kafka.create_topic(topic, partitions=2)
    config = make_config((topic,), {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
                                    "KAFKA_GROUP_ID": f"group-{topic}"})
    older, newer = (KafkaSource(config.kafka, config.limits, topic, "0", lambda cause: None)
                    for _ in range(2))
    join(older, {0: 0, 1: 0})
    join(newer, {0: 0, 1: 0})
    error = wait_until(lambda: older.poll(10, 0.2).error, JOIN_S, "the older one notices")
    assert isinstance(error, Fenced)
    for source in (older, newer):
        source.close()


def test_real_source_names_a_topic_that_is_not_there(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """A topic that was never made is waited for under its own name, and is not made by asking."""
    topic = topic_names()[0]
    config = make_config((topic,), {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap})
    source = KafkaSource(config.kafka, config.limits, topic, "0", lambda cause: None)
    for question in (source.topic_id, source.partitions):
        with pytest.raises(TopicMissing, match=topic):
            question()
    assert topic not in kafka.admin().list_topics(timeout=JOIN_S).topics
    source.close()


def test_real_source_gives_each_creation_of_a_topic_its_own_id(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """A re-created topic has other messages under the same offsets; only the id tells."""
    topic = topic_names()[0]
    kafka.create_topic(topic)
    config = make_config((topic,), {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap})
    source = KafkaSource(config.kafka, config.limits, topic, "0", lambda cause: None)
    first = source.topic_id()
    assert source.topic_id() == first
    kafka.delete_topic(topic)
    kafka.create_topic(topic)
    assert source.topic_id() != first
    source.close()


def test_static_members_name_is_the_same_for_every_incarnation_and_bounded() -> None:
    """A restarted worker gets its partitions back at once only under its old name."""
    assert group_instance_id("0", "orders") == group_instance_id("0", "orders")
    assert group_instance_id("0", "orders") != group_instance_id("1", "orders")
    longest = [group_instance_id("0", letter * 249) for letter in "ab"]
    assert all(len(name) <= 249 for name in longest)
    assert longest[0] != longest[1]
