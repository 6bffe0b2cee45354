"""Whether what Kafka really does (transactions, compaction, retention) reaches the tables right.

The first tests look at one run of the service over topics of every kind, which were written
before it started; the others stop, change and restart services of their own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.evidence import Evidence, Strike
from tests.rig.lake import bronze_table, dlq_table
from tests.rig.ledger import Kind, Ledger
from tests.rig.producer import LoadProducer
from tests.rig.service import Service
from tests.services import KafkaService
from tests.waiting import wait_until

KINDS = ("txn", "shapes", "squeezed", "large", "compacted", "growing")
MIB = 1024 * 1024
LIMIT_BYTES = 5 * MIB
NEW_PARTITION_S = 30
"""The promise for partitions that appear later."""
LATE_JOIN_S = 30
"""CYCLE_DEADLINE_SECONDS by default: longer than that no death may hold up another topic."""
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@dataclass(frozen=True)
class Mixed:
    """One service over one topic of each kind."""

    service: Service
    kafka: KafkaService
    lake: ls.Lake
    topics: dict[str, str]
    ledger: Ledger
    written: dict[str, list[bytes]]


@pytest.fixture(scope="module")
def kept() -> Iterator[ls.Kept]:
    """Keep what several tests of this module look at."""
    with ExitStack() as stack:
        yield ls.Kept(stack)


@pytest.fixture
def mixed(
    kafka: KafkaService, kept: ls.Kept, topic_names: TopicNames,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mixed:
    """Give the one run over everything, caught up with what was written before it."""
    if "mixed" not in kept.things:
        topics = {kind: topic_names(1, kind)[0] for kind in KINDS}
        lake = ls.folder_lake(tmp_path_factory.mktemp("mixed"))
        made = _write_everything(kafka, topics)
        service = kept.closing.enter_context(
            Service(ls.settings(kafka.bootstrap, lake, list(topics.values())), len(topics)))
        kept.things["mixed"] = Mixed(service, kafka, lake, topics, *made)
        _wait_for_ends(kept.things["mixed"])
    return kept.things["mixed"]


def _wait_for_ends(run: Mixed) -> None:
    for topic in run.topics.values():
        for number, (_, end) in run.kafka.offset_ranges(topic).items():
            ls.wait_for_position(run.service, run.lake, topic, end, number, ls.START_S)


def _write_everything(
    kafka: KafkaService, topics: dict[str, str]
) -> tuple[Ledger, dict[str, list[bytes]]]:
    _create(kafka, topics)
    boot = kafka.bootstrap
    _write_compacted(kafka, topics["compacted"])
    with LoadProducer(boot, [topics["txn"]], 2, malformed_fraction=0) as producer:
        producer.produce(20)
        for partition, is_good in ((0, True), (0, False), (0, True), (0, False), (1, False)):
            producer.produce_transaction(topics["txn"], partition, 7, commit=is_good)
    _write_shapes(boot, topics["shapes"])
    for codec in CODECS:
        ls.send(boot, topics["squeezed"], ls.numbered(200), client={
            "compression.type": codec, "linger.ms": 50})
    written = {"large": _write_large(boot, topics["large"])}
    ls.send(boot, topics["growing"], ls.numbered(5))
    return producer.ledger, written


def _create(kafka: KafkaService, topics: dict[str, str]) -> None:
    kafka.create_topic(topics["txn"], 2)
    kafka.create_topic(topics["large"], config={"max.message.bytes": LIMIT_BYTES})
    kafka.create_topic(topics["compacted"], config={
        "cleanup.policy": "compact", "segment.ms": 100, "min.cleanable.dirty.ratio": 0.01,
        "min.compaction.lag.ms": 0, "max.compaction.lag.ms": 1000, "delete.retention.ms": 0})
    kafka.create_topic(topics["shapes"], config={
        "message.timestamp.after.max.ms": 2**63 - 1, "retention.ms": -1})
    for kind in ("squeezed", "growing"):
        kafka.create_topic(topics[kind])


def _write_compacted(kafka: KafkaService, topic: str) -> None:
    """Write one key over and over, until the cleaner has removed something."""
    for number in range(4):
        ls.send(kafka.bootstrap, topic, ls.numbered(5, 5 * number), key=b"same")

    def has_holes() -> bool:
        # The segment being written is never cleaned: a message more closes the last one.
        ls.send(kafka.bootstrap, topic, ls.numbered(1, 100), key=b"same")
        held = _read_offsets(kafka, topic)
        return len(held) < kafka.offset_ranges(topic)[0][1] - 1

    wait_until(has_holes, 30, "the cleaner has removed messages", 0.5)


def _read_offsets(kafka: KafkaService, topic: str, timeout_s: float = 10) -> list[int]:
    """The offsets that a consumer gets to see."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "reader",
                         "enable.auto.commit": False, "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    offsets: list[int] = []

    def is_at_end() -> bool:
        for message in consumer.consume(500, timeout=0.2):
            if message.error() is not None:
                return True
            offsets.append(message.offset() or 0)
        return False

    try:
        wait_until(is_at_end, timeout_s, f"{topic} is read to its end")
    finally:
        consumer.close()
    return offsets


ODD_TIMES = (0, 1, 253_402_300_799_999, 253_402_300_800_000, 2**53)
"""CreateTime as a client may set it: the epoch, the end of year 9999, and behind it."""
DUPLICATES = [("a", b"1"), ("a", None), ("a", b""), ("", b"\xff\x00"), ("größe", b"x")]


def _write_shapes(boot: str, topic: str) -> None:
    """Messages at fixed offsets, see the tests that name them."""
    ls.send_messages(boot, topic, [
        {"value": None, "key": b"gone"},
        {"value": None},
        {"value": b"1", "key": b""},
        {"value": b"2"},
        {"value": b"3", "key": b"\xff\xfe"},
        {"value": b"4", "headers": DUPLICATES},
        {"value": b"5", "headers": []},
    ])
    ls.send_with_raw_header_name(boot, topic, b"\xff\xfe", key=b"bad-header", value=b"6")
    ls.send_messages(boot, topic, [
        {"value": b"7", "headers": [("after", b"v")]},
        *({"value": b"8", "timestamp": moment} for moment in ODD_TIMES),
    ])


def _write_large(boot: str, topic: str) -> list[bytes]:
    """Values of the usual 1 MB, of almost the topic's limit, and beyond it before compression."""
    generator = random.Random("large")

    def noise(size: int) -> bytes:
        return b'"%b"' % generator.randbytes(size // 2).hex().encode()

    plain = {"message.max.bytes": 2 * LIMIT_BYTES, "compression.type": "none"}
    packed = {"message.max.bytes": 20 * MIB, "compression.type": "zstd"}
    values = [noise(MIB), noise(LIMIT_BYTES - 200), b"1", b'"%b"' % (b"x" * 16 * MIB), b"2"]
    ls.send(boot, topic, values[:3], client=plain)
    ls.send(boot, topic, values[3:], client=packed)
    with pytest.raises(AssertionError, match="too large"):
        ls.send(boot, topic, [noise(LIMIT_BYTES + 1)], client=plain)
    return values


# What the run over everything left in the tables


@pytest.mark.fault("K14")
def test_aborted_messages_never_land_and_positions_pass_control_records(
    mixed: Mixed, evidence: Evidence
) -> None:
    """A position that stops before a control record would show lag for ever."""
    topic = mixed.topics["txn"]
    found = ls.rows(mixed.lake, topic)
    ends = mixed.kafka.offset_ranges(topic)
    for number, ledger in mixed.ledger.partitions(topic):
        wanted = [n for n in range(len(ledger)) if ledger.kind(n) is Kind.VALID]
        assert ls.offsets_of(found, number) == wanted
        # The last transaction was aborted: its messages and its control record end the partition.
        assert wanted[-1] < ends[number][1] - 7
        assert ls.position(mixed.lake, topic, number) == ends[number][1]
    assert mixed.ledger.count(Kind.ABORTED) == 21
    absent = sum(
        part["end"] - part["start"] - part.get("rows", 0) - part.get("dead_letters", 0)
        for number in ends for part in ls.ranges(mixed.lake, topic, number))
    assert absent == sum(end for _, end in ends.values()) - len(found) == 21 + 5
    evidence.struck(Strike.KAFKA, "an aborted transaction", 3)
    evidence.judged(len(found))


def test_group_offsets_reach_behind_control_records(mixed: Mixed) -> None:
    """Kafka's tools show the lag by these offsets."""
    topic = mixed.topics["txn"]
    group = ls.group_of(list(mixed.topics.values()))
    ends = {n: end for n, (_, end) in mixed.kafka.offset_ranges(topic).items()}
    wait_until(
        lambda: mixed.kafka.committed_offsets(group, topic) == ends, 15,
        f"the group stands at {ends}")
    mixed.service.wait_for(lambda page: page["topics"][topic]["lag"] == 0, 10, "no lag is left")


def test_tombstones_and_keys_keep_null_and_empty_apart(mixed: Mixed) -> None:
    """A tombstone is a row, and a null key is not an empty one."""
    found = {row["_kafka_offset"]: row for row in ls.rows(mixed.lake, mixed.topics["shapes"])}
    assert [(found[n]["key"], found[n]["value"]) for n in range(5)] == [
        (b"gone", None), (None, None), (b"", "1"), (None, "2"), (b"\xff\xfe", "3")]


@pytest.mark.fault("K18")
def test_headers_keep_order_duplicates_and_nulls(
    mixed: Mixed, evidence: Evidence
) -> None:
    """Kafka's headers are a list, not a map."""
    found = {row["_kafka_offset"]: row for row in ls.rows(mixed.lake, mixed.topics["shapes"])}
    assert [(h["key"], h["value"]) for h in found[5]["headers"]] == DUPLICATES
    assert found[6]["headers"] is None
    assert [(h["key"], h["value"]) for h in found[8]["headers"]] == [("after", b"v")]
    evidence.struck(Strike.KAFKA, "headers with duplicates, nulls and odd names")
    evidence.judged(3)


@pytest.mark.fault("K18")
def test_header_name_that_is_no_text_makes_a_dead_letter(
    mixed: Mixed, evidence: Evidence
) -> None:
    """The client cannot decode such a message's headers, which must not stop the topic."""
    topic = mixed.topics["shapes"]
    (dead,) = ls.dead_letters(mixed.lake, topic)
    assert (dead["_kafka_offset"], dead["error_class"]) == (7, "headers")
    assert (dead["key"], dead["value"], dead["_kafka_topic"]) == (b"bad-header", b"6", topic)
    assert 7 not in ls.offsets_of(ls.rows(mixed.lake, topic))
    evidence.struck(Strike.KAFKA, "a header's name that is no text")
    evidence.judged(1)


@pytest.mark.fault("K17")
def test_timestamps_are_kept_and_impossible_ones_are_null(
    mixed: Mixed, evidence: Evidence
) -> None:
    """One message with a time behind year 9999 must not make the table unreadable."""
    found = ls.rows(mixed.lake, mixed.topics["shapes"])[-len(ODD_TIMES):]
    assert [row["value"] for row in found] == ["8"] * len(ODD_TIMES)
    now = datetime.now(UTC)
    shown = [row["_kafka_timestamp"] for row in found]
    # The client takes 0 for "now".
    assert abs((now - shown[0]).total_seconds()) < 600
    assert shown[1] == datetime(1970, 1, 1, 0, 0, 0, 1000, UTC)
    assert shown[2] == datetime(9999, 12, 31, 23, 59, 59, 999000, UTC)
    assert shown[3:] == [None, None]
    evidence.struck(Strike.KAFKA, "an odd timestamp", len(ODD_TIMES))
    evidence.judged(len(found))


@pytest.mark.fault("K15")
def test_every_compression_is_read(
    mixed: Mixed, evidence: Evidence
) -> None:
    """Each codec is another code path of the client, and other bytes in the broker."""
    found = ls.rows(mixed.lake, mixed.topics["squeezed"])
    wanted = [value.decode() for value in ls.numbered(200)] * len(CODECS)
    assert [row["value"] for row in found] == wanted
    evidence.struck(Strike.KAFKA, "a change of compression", len(CODECS))
    evidence.judged(len(found))


@pytest.mark.fault("K16")
def test_messages_up_to_the_limit_of_the_topic_land_whole(
    mixed: Mixed, evidence: Evidence
) -> None:
    """A message larger than a fetch or a part must neither block its partition nor be cut."""
    found = ls.rows(mixed.lake, mixed.topics["large"])
    assert [row["value"].encode() for row in found] == mixed.written["large"]
    evidence.struck(Strike.KAFKA, "a message of 1 MB or more", 3)
    evidence.judged(len(found))


def test_offsets_removed_by_compaction_are_recorded_as_absent(mixed: Mixed) -> None:
    """The holes lie inside the ranges, so that positions tile the whole axis."""
    topic = mixed.topics["compacted"]
    found = ls.offsets_of(ls.rows(mixed.lake, topic))
    parts = ls.ranges(mixed.lake, topic)
    end = mixed.kafka.offset_ranges(topic)[0][1]
    assert found == sorted(set(found))
    assert len(found) < end - 1
    assert [part["start"] for part in parts] == [0, *(part["end"] for part in parts[:-1])]
    assert parts[-1]["end"] == end == ls.position(mixed.lake, topic)
    assert sum(part.get("rows", 0) for part in parts) == len(found)
    assert not any(part.get("lost") for part in parts)


@pytest.mark.fault("K7")
def test_new_partitions_are_read_from_their_beginning_within_30_s(
    mixed: Mixed, evidence: Evidence
) -> None:
    """Messages written before anybody noticed the partition must not be passed over."""
    topic = mixed.topics["growing"]
    mixed.kafka.create_partitions(topic, 3)
    for number in (1, 2):
        ls.send(mixed.kafka.bootstrap, topic, ls.numbered(4), number)
    began = time.monotonic()
    for number in (1, 2):
        ls.wait_for_position(
            mixed.service, mixed.lake, topic, 4, number, timeout_s=NEW_PARTITION_S)
    evidence.recovered("partitions added", time.monotonic() - began)
    ls.send(mixed.kafka.bootstrap, topic, ls.numbered(1))
    ls.wait_for_position(mixed.service, mixed.lake, topic, 6)
    found = ls.rows(mixed.lake, topic)
    assert [ls.offsets_of(found, n) for n in range(3)] == [
        [0, 1, 2, 3, 4, 5], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert mixed.service.topics()[topic]["partitions"] == 3
    evidence.struck(Strike.KAFKA, "partitions added", 2)
    evidence.judged(len(found))


def test_nothing_of_all_this_restarted_a_worker(mixed: Mixed) -> None:
    """Messages of any kind are never a reason to die."""
    page = mixed.service.wait_healthy(20)
    assert {entry["restarts"] for entry in page["topics"].values()} == {0}
    assert mixed.service.log_strays() == []


# Services of their own


@pytest.mark.fault("K8")
def test_gap_policy_stops_one_topic_or_records_the_loss(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Retention that overtook us is a loss: by default a person decides, and never silently."""
    lake = ls.folder_lake(tmp_path)
    gapped, other = topics = topic_names(2)
    ls.create_topics(kafka, topics)
    for topic in topics:
        ls.send(kafka.bootstrap, topic, ls.numbered(10))
    environ = ls.settings(kafka.bootstrap, lake, topics)
    with Service(environ, 2) as service:
        for topic in topics:
            ls.wait_for_position(service, lake, topic, 10)
        assert service.terminate() == 0
    for topic in topics:
        ls.send(kafka.bootstrap, topic, ls.numbered(10))
    kafka.delete_records(gapped, {0: 15})

    with Service(environ, 2) as service:
        page = ls.wait_for_error(service, gapped, "OffsetGap", ls.START_S, "stopped")
        assert "10" in page["topics"][gapped]["last_error"]["message"]
        assert any(gapped in reason and "OffsetGap" in reason for reason in page["reasons"])
        ls.wait_for_position(service, lake, other, 20)
        ls.send(kafka.bootstrap, other, ls.numbered(1))
        ls.wait_for_position(service, lake, other, 21)
        assert ls.position(lake, gapped) == 10
        assert service.topics()[gapped]["restarts"] == 0
        assert service.terminate() == 0

    with Service({**environ, "GAP_POLICY": "continue"}, 2) as service:
        ls.wait_for_position(service, lake, gapped, 20)
        assert service.wait_healthy(10)
        assert ls.metric(
            service, "bronze_gap_offsets_total", topic=gapped, cause="lost") == 5
    assert ls.offsets_of(ls.rows(lake, gapped)) == [*range(10), *range(15, 20)]
    lost = [gap for part in ls.ranges(lake, gapped) for gap in part.get("lost", [])]
    assert lost == [{"start": 10, "end": 15, "cause": "retention"}]
    assert ls.offsets_of(ls.rows(lake, other)) == list(range(21))
    evidence.struck(Strike.KAFKA, "retention that overtook the service")
    evidence.judged(15 + 21, len(ls.records(lake)))


@pytest.mark.fault("K6")
def test_recreated_and_missing_topics_are_named_and_the_others_go_on(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Offsets of a new creation mean other messages; going on would lose or mix them."""
    lake = ls.folder_lake(tmp_path)
    running, stopped, late, steady = topics = topic_names(4)
    ls.create_topics(kafka, (running, stopped, steady))
    environ = ls.settings(kafka.bootstrap, lake, topics, START_DEADLINE_SECONDS=4)
    for topic in (running, stopped, steady):
        ls.send(kafka.bootstrap, topic, ls.numbered(10))
    with Service(environ, 4) as service:
        ls.wait_for_error(service, late, "TopicMissing", ls.START_S)
        for topic in (running, stopped, steady):
            ls.wait_for_position(service, lake, topic, 10)
        ls.send(kafka.bootstrap, steady, ls.numbered(1))
        ls.wait_for_position(service, lake, steady, 11)
        kafka.create_topic(late)
        ls.send(kafka.bootstrap, late, ls.numbered(3))
        ls.wait_for_position(service, lake, late, 3, timeout_s=40)
        service.wait_healthy(20)
        assert service.terminate() == 0

    _recreate(kafka, stopped, 25)
    with Service(environ, 4) as service:
        ls.wait_for_error(service, stopped, "TopicRecreated", ls.START_S, "stopped")
        ls.send(kafka.bootstrap, steady, ls.numbered(1))
        ls.wait_for_position(service, lake, steady, 12)
        _recreate(kafka, running, 25)
        ls.wait_for_error(service, running, "TopicRecreated", 40, "stopped")
        ls.send(kafka.bootstrap, steady, ls.numbered(1))
        ls.wait_for_position(service, lake, steady, 13)
        assert service.topics()[steady]["state"] == "active"
    for topic in (running, stopped):
        assert [row["value"].encode() for row in ls.rows(lake, topic)] == ls.numbered(10)
        assert ls.position(lake, topic) == 10
    evidence.struck(Strike.KAFKA, "a topic deleted and created again", 2)
    evidence.judged(10 + 10 + 13 + 3, len(ls.records(lake)))


def _recreate(kafka: KafkaService, topic: str, count: int) -> None:
    """Delete a topic, create it again, and write more into it than it held before."""
    kafka.delete_topic(topic)

    def is_created() -> bool:
        try:
            kafka.create_topic(topic)
        except KafkaException:
            return False  # The broker is still removing it.
        return True

    wait_until(is_created, 20, f"{topic} is created again")
    ls.send(kafka.bootstrap, topic, ls.numbered(count, 1000))


def test_first_start_honours_group_offsets_and_keeps_its_resolved_start(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path
) -> None:
    """"Latest" is resolved once: resolved anew after a crash, it would pass over messages."""
    lake = ls.folder_lake(tmp_path)
    committed, latest = topics = topic_names(2)
    ls.create_topics(kafka, topics)
    for topic in topics:
        ls.send(kafka.bootstrap, topic, ls.numbered(10))
    _commit(kafka, ls.group_of(topics), committed, 4)
    environ = ls.settings(kafka.bootstrap, lake, topics, KAFKA_AUTO_OFFSET_RESET="latest")
    with Service(environ, 2) as service:
        service.wait_ready(ls.START_S)
        service.kill_all()
        assert ls.position(lake, latest) == 10
        assert ls.rows(lake, latest) == []
        ls.send(kafka.bootstrap, latest, ls.numbered(5))
        service.restart()
        ls.wait_for_position(service, lake, latest, 15, timeout_s=ls.START_S)
        ls.wait_for_position(service, lake, committed, 10)
    assert ls.offsets_of(ls.rows(lake, latest)) == list(range(10, 15))
    assert ls.offsets_of(ls.rows(lake, committed)) == list(range(4, 10))


def _commit(kafka: KafkaService, group: str, topic: str, offset: int) -> None:
    """Leave a committed offset as another consumer of the group did before us."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def test_without_dlq_a_malformed_message_stops_its_topic_or_is_counted(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path
) -> None:
    """Data is dropped only by somebody who asked for it, and never without a trace."""
    lake = ls.folder_lake(tmp_path)
    bad, other = topics = topic_names(2)
    ls.create_topics(kafka, topics)
    environ = ls.settings(kafka.bootstrap, lake, topics, DLQ_ENABLED="false")
    values = [b"1", b"{broken", b"2", b"\xff", b""]
    ls.send(kafka.bootstrap, bad, values)
    with Service(environ, 2) as service:
        page = ls.wait_for_error(service, bad, "MalformedMessage", ls.START_S, "stopped")
        assert "json 1" in page["topics"][bad]["last_error"]["message"]
        ls.send(kafka.bootstrap, other, ls.numbered(3))
        ls.wait_for_position(service, lake, other, 3)
        # What stands before the first malformed message may have landed; it and the rest may not.
        landed = ls.position(lake, bad)
        assert landed in (0, 1)
        assert ls.offsets_of(ls.rows(lake, bad)) == [*range(landed)]
        assert service.terminate() == 0
    with Service({**environ, "ON_MALFORMED": "skip"}, 2) as service:
        ls.wait_for_position(service, lake, bad, 5, timeout_s=ls.START_S)
        service.wait_healthy(10)
        assert ls.metric(service, "bronze_messages_skipped_total", topic=bad) == 3
        # A line tells of one batch, and the first of a topic are small.
        told = [line["flaws"] for line in service.log_events("messages_skipped")]
        assert sorted(", ".join(told).split(", ")) == ["empty 1", "encoding 1", "json 1"]
    assert ls.offsets_of(ls.rows(lake, bad)) == [0, 2]
    assert sum(part.get("skipped", 0) for part in ls.ranges(lake, bad)) == 3
    assert not (Path(lake.uri) / dlq_table(bad)).exists()
    assert (Path(lake.uri) / bronze_table(bad)).exists()


def test_topic_that_stopped_does_not_keep_a_later_one_from_joining(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path
) -> None:
    """It leaves the group, which otherwise waits for it until its session ends."""
    lake = ls.folder_lake(tmp_path)
    bad, late, steady = topics = topic_names(3)
    ls.create_topics(kafka, (bad, steady))
    ls.send(kafka.bootstrap, bad, [b"{broken"])
    environ = ls.settings(
        kafka.bootstrap, lake, topics, DLQ_ENABLED="false", START_DEADLINE_SECONDS=4)
    with Service(environ, 3) as service:
        ls.wait_for_error(service, bad, "MalformedMessage", ls.START_S, "stopped")
        kafka.create_topic(late)
        for topic in (late, steady):
            ls.send(kafka.bootstrap, topic, ls.numbered(5))
        for topic in (steady, late):
            ls.wait_for_position(service, lake, topic, 5, timeout_s=LATE_JOIN_S)
        losers = {line["topic"] for line in service.log_events("partitions_revoked")}
        assert losers <= {bad}, "only the one that stopped gave its partitions up"
