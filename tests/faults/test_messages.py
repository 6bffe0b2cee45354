"""Messages as only real life sends them: poison, damage on the wire, odd sizes, times and headers.

Whatever lies at an offset ends up in exactly one table, as it came, and costs no worker its life.
"""

from __future__ import annotations

import gzip
import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.evidence import Evidence, Strike
from tests.rig.kafka_proxy import Api, KafkaProxy, Request, alter
from tests.rig.service import Service
from tests.services import KafkaService
from tests.waiting import wait_until

MIB = 1024 * 1024
FIRE_S = 30

BRONZE, EMPTY, JSON, ENCODING = "bronze", "empty", "json", "encoding"
POISON: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, BRONZE),
    "empty": (b"", EMPTY),
    "null": (b"null", BRONZE),
    "blanks around": (b" \n{}\t ", BRONZE),
    "nothing but blanks": (b"   ", JSON),
    "exponent beyond any float": (b"1e400", BRONZE),
    "number of 5000 digits": (b"9" * 5000, BRONZE),
    "number beyond 64 bits": (b'{"n": 1180591620717411303424}', BRONZE),
    "leading zero": (b"01", JSON),
    "not a number": (b'{"a": NaN}', JSON),
    "minus infinity": (b"-Infinity", JSON),
    "hexadecimal": (b"0x10", JSON),
    "truncated object": (b'{"a": [1, {"b": "c', JSON),
    "trailing comma": (b'{"a": 1,}', JSON),
    "single quotes": (b"{'a': 1}", JSON),
    "two texts": (b"{} {}", JSON),
    "NUL behind": (b"{}\x00", JSON),
    "comment": (b"{} // done", JSON),
    "duplicate names": (b'{"a": 1, "a": 2}', BRONZE),
    "nested 200 deep": (b"[" * 200 + b"]" * 200, BRONZE),
    "nested 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, JSON),
    "never closed, 100,000 deep": (b"[" * 100_000, JSON),
    "control character": (b'"a\x01b"', JSON),
    "delete character": (b'"a\x7fb"', BRONZE),
    "escaped control and NUL": (b'"\\u0000\\u001b]0;\\u0007"', BRONZE),
    "lone surrogate, escaped": (b'"\\ud800"', JSON),
    "lone surrogate, encoded": (b'"\xed\xa0\x80"', ENCODING),
    "beyond Unicode": (b'"\xf4\x90\x80\x80"', ENCODING),
    "overlong slash": (b'"\xc0\xaf"', ENCODING),
    "character cut in two": (b'"\xe2\x82"', ENCODING),
    "noncharacter": ('"\ufffe"'.encode(), BRONZE),
    "right-to-left override": ('"\u202egnp.exe"'.encode(), BRONZE),
    "byte order mark": (b"\xef\xbb\xbf{}", JSON),
    "UTF-16 with a mark": ('{"a": 1}'.encode("utf-16"), ENCODING),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), JSON),
    "gzip": (gzip.compress(b"{}", mtime=0), ENCODING),
    "Parquet": (b"PAR1\x15\x04PAR1", JSON),
    "Avro with a schema's number": (b"\x00\x00\x00\x00\x2a{}", JSON),
    "markup": (b'"<script>alert(1)</script>{{7*7}}"', BRONZE),
    "formula": (b"=cmd|' /C calc'!A0", JSON),
    "last": (b'"the end"', BRONZE),
}
"""Name -> value, and the bronze table or the error_class of its dead letter."""

HEADER_COUNT = 10_000
SIZES = (MIB, 8 * MIB)
LIMIT_BYTES = 9 * MIB


@dataclass(frozen=True)
class Odd:
    """One service over the topics of this module."""

    service: Service
    kafka: KafkaService
    lake: ls.Lake
    topics: dict[str, str]
    large: list[bytes]


@pytest.fixture(scope="module")
def kept() -> Iterator[ls.Kept]:
    """Keep what several tests of this module look at."""
    with ExitStack() as stack:
        yield ls.Kept(stack)


@pytest.fixture
def odd(
    kafka: KafkaService, kept: ls.Kept, topic_names: TopicNames,
    tmp_path_factory: pytest.TempPathFactory,
) -> Odd:
    """Give the one run; everything was written before it began."""
    if "odd" not in kept.things:
        topics = {kind: topic_names(1, kind)[0] for kind in ("poison", "headed", "large", "now")}
        ls.create_topics(kafka, (topics["poison"], topics["headed"]))
        kafka.create_topic(topics["large"], config={"max.message.bytes": LIMIT_BYTES})
        kafka.create_topic(topics["now"], config={"message.timestamp.type": "LogAppendTime"})
        large = _write(kafka.bootstrap, topics)
        lake = ls.folder_lake(tmp_path_factory.mktemp("odd"))
        service = kept.closing.enter_context(
            Service(ls.settings(kafka.bootstrap, lake, list(topics.values())), len(topics)))
        kept.things["odd"] = Odd(service, kafka, lake, topics, large)
        for topic in topics.values():
            end = kafka.offset_ranges(topic)[0][1]
            ls.wait_for_position(service, lake, topic, end, timeout_s=ls.START_S)
    return kept.things["odd"]


def _write(boot: str, topics: dict[str, str]) -> list[bytes]:
    """Write all of it; the large values."""
    ls.send(boot, topics["poison"], [value for value, _ in POISON.values()], key=b"poison")
    many = [("same", b"%d" % number) for number in range(HEADER_COUNT)]
    many[1], many[2] = ("same", None), ("", b"\xff\x00")
    ls.send_messages(boot, topics["headed"], [
        {"value": b"1"}, {"value": b"2", "headers": many}, {"value": b"3"}])
    large = [b'"%b"' % (b"%d" % (size % 7) * (size - 100)) for size in SIZES]
    ls.send(boot, topics["large"], [b"1", *large, b"2"], client={
        "message.max.bytes": LIMIT_BYTES, "compression.type": "none"})
    ls.send_messages(boot, topics["now"], [{"value": b"1", "timestamp": 1}])
    return [b"1", *large, b"2"]


def test_poison_payloads_land_where_they_belong_byte_for_byte(
    odd: Odd, evidence: Evidence
) -> None:
    """No payload stops a topic, gets lost, lands twice, or takes a neighbour with it."""
    topic = odd.topics["poison"]
    rows = {row["_kafka_offset"]: row for row in ls.rows(odd.lake, topic)}
    dead = {row["_kafka_offset"]: row for row in ls.dead_letters(odd.lake, topic)}
    found = {}
    for offset, (name, (value, _)) in enumerate(POISON.items()):
        assert (offset in rows) != (offset in dead), f"{name} is in neither table, or in both"
        if offset in rows:
            text = rows[offset]["value"]
            assert (None if text is None else text.encode()) == value, name
        else:
            assert dead[offset]["value"] == value, name
            assert dead[offset]["error_message"], name
        found[name] = BRONZE if offset in rows else dead[offset]["error_class"]
        assert (rows.get(offset) or dead[offset])["key"] == b"poison"
    assert found == {name: fate for name, (_, fate) in POISON.items()}
    assert len(ls.rows(odd.lake, topic)) + len(ls.dead_letters(odd.lake, topic)) == len(POISON)
    _assert_untroubled(odd)
    evidence.struck(Strike.KAFKA, "a poison payload", len(POISON))
    evidence.judged(len(POISON), len(ls.records(odd.lake)))


@pytest.mark.fault("K18")
def test_ten_thousand_headers_are_kept_in_order(odd: Odd, evidence: Evidence) -> None:
    """One row; names that repeat are not collapsed, and null stays null."""
    found = ls.rows(odd.lake, odd.topics["headed"])
    assert [row["value"] for row in found] == ["1", "2", "3"]
    headers = [(header["key"], header["value"]) for header in found[1]["headers"]]
    assert headers[:4] == [("same", b"0"), ("same", None), ("", b"\xff\x00"), ("same", b"3")]
    assert headers[4:] == [("same", b"%d" % number) for number in range(4, HEADER_COUNT)]
    assert found[0]["headers"] is None and found[2]["headers"] is None
    _assert_untroubled(odd)
    evidence.struck(Strike.KAFKA, "a message of 10,000 headers")
    evidence.judged(len(found))


@pytest.mark.fault("K16")
def test_message_of_8_mb_lands_whole_between_small_ones(odd: Odd, evidence: Evidence) -> None:
    """It is larger than a fetch, a row group and an upload's part; reading goes on behind it."""
    found = ls.rows(odd.lake, odd.topics["large"])
    assert [row["value"].encode() for row in found] == odd.large
    assert max(map(len, odd.large)) > 8 * MIB - 200
    _assert_untroubled(odd)
    evidence.struck(Strike.KAFKA, "a message of 1 MB or more", len(SIZES))
    evidence.judged(len(found))


@pytest.mark.fault("K17")
def test_time_given_by_the_broker_is_kept(odd: Odd, evidence: Evidence) -> None:
    """With LogAppendTime the producer's own time, here the first of 1970, does not count."""
    (row,) = ls.rows(odd.lake, odd.topics["now"])
    assert abs((datetime.now(UTC) - row["_kafka_timestamp"]).total_seconds()) < 600
    evidence.struck(Strike.KAFKA, "a time that is not the producer's")
    evidence.judged(1)


def _assert_untroubled(odd: Odd) -> None:
    page = odd.service.wait_healthy(20)
    assert {entry["restarts"] for entry in page["topics"].values()} == {0}
    assert odd.service.log_strays() == []


# Damage on the wire

GOOD, BAD = b"as-it-was-written", b"as-it-was-damaged"
DAMAGES = 3


@pytest.mark.extended
@pytest.mark.fault("K15")
def test_damaged_batch_is_fetched_again_and_never_passed_over(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """The client refuses a batch whose checksum is wrong; its offsets are not "absent" then."""
    _require_proxy(kafka)
    lake = ls.folder_lake(tmp_path)
    (topic,) = topics = topic_names(1)
    ls.create_topics(kafka, topics)
    damaged: list[float] = []

    def damage(_: Request, frame: bytes) -> bytes:
        if GOOD in frame and len(damaged) < DAMAGES:
            damaged.append(time.monotonic())
            return frame.replace(GOOD, BAD)
        return frame

    with (
        KafkaProxy(kafka.proxy_upstream, _port(kafka.proxied_bootstrap)) as proxy,
        Service(ls.settings(kafka.proxied_bootstrap, lake, topics), 1) as service,
    ):
        ls.send(kafka.bootstrap, topic, ls.numbered(3))
        ls.wait_for_position(service, lake, topic, 3, timeout_s=ls.START_S)
        proxy.rule(Api.FETCH, client=f"^bronze-{topic}$", action=alter(damage))
        # Three batches: the damaged one must cost neither itself nor the one behind it.
        values = [*ls.numbered(3, 3), b'"%b"' % GOOD, *ls.numbered(3, 6)]
        for part in (values[:3], values[3:4], values[4:]):
            ls.send(kafka.bootstrap, topic, part)
        wait_until(lambda: len(damaged) == DAMAGES, FIRE_S, lambda: f"{damaged} of {DAMAGES}")
        ls.wait_for_position(service, lake, topic, 10)
        recovered_s = time.monotonic() - damaged[-1]
        found = ls.rows(lake, topic)
        assert [row["value"].encode() for row in found] == [*ls.numbered(3), *values]
        errors = {line["error"] for line in service.log_events("worker_error")}
        assert errors == {"KafkaUnavailable"}
        assert "CRC" in service.log_path.read_text()
        service.wait_healthy(20)
        assert service.topics()[topic]["restarts"] == 0
        assert service.terminate() == 0
        assert proxy.errors == []
    evidence.struck(Strike.KAFKA, "a damaged batch", len(damaged))
    evidence.recovered("a damaged batch", recovered_s)
    evidence.judged(len(found), len(ls.records(lake)))


def _require_proxy(kafka: KafkaService) -> None:
    if not kafka.is_managed:
        pytest.skip("a given Kafka has no listener for a proxy")


def _port(address: str | None) -> int:
    return int(str(address).rpartition(":")[2])


# A transaction that does not end

OPEN_FOR_S = 6


@pytest.mark.extended
@pytest.mark.fault("K14")
def test_open_transaction_holds_its_partition_only_and_what_is_aborted_never_lands(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Behind it nothing may be read; that shows as lag, not as an error of ours."""
    lake = ls.folder_lake(tmp_path)
    (topic,) = topics = topic_names(1)
    kafka.create_topic(topic, 2)
    with Service(ls.settings(kafka.bootstrap, lake, topics), 1) as service:
        service.wait_healthy(ls.START_S)
        held = _begin_transaction(kafka.bootstrap, topic, 4)
        ls.send(kafka.bootstrap, topic, ls.numbered(10), partition=0)
        began = time.monotonic()
        for number in itertools.count():
            ls.send(kafka.bootstrap, topic, ls.numbered(1, number), partition=1)
            ls.wait_for_position(service, lake, topic, number + 1, partition=1)
            if time.monotonic() - began > OPEN_FOR_S:
                break
        page = service.wait_for(
            lambda page: (page["topics"][topic]["lag"] or 0) >= 14, 10, "it shows as lag")
        assert page["topics"][topic]["last_error"] is None
        assert ls.position(lake, topic, 0) == 0
        held.abort_transaction(30)
        healed = time.monotonic()
        # Four that are aborted, ten behind them, and the transaction's own record.
        ls.wait_for_position(service, lake, topic, 4 + 10 + 1)
        recovered_s = time.monotonic() - healed
        service.wait_for(lambda page: page["topics"][topic]["lag"] == 0, 10, "no lag is left")
        service.wait_healthy(10)
        assert service.terminate() == 0
    found = ls.rows(lake, topic)
    assert ls.offsets_of(found, 0) == list(range(4, 14))
    assert ls.offsets_of(found, 1) == list(range(number + 1))
    evidence.struck(Strike.KAFKA, "a transaction left open")
    evidence.recovered("a transaction left open", recovered_s)
    evidence.judged(len(found), len(ls.records(lake)))


def _begin_transaction(boot: str, topic: str, count: int) -> Producer:
    """Messages of a transaction, in the log of partition 0 and without an end."""
    producer = Producer({
        "bootstrap.servers": boot, "transactional.id": f"open-{topic}", "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    for value in ls.numbered(count, 1000):
        producer.produce(topic, partition=0, value=value)
    assert producer.flush(30) == 0
    return producer
