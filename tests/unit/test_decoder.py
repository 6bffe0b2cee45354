"""Messages become rows or dead letters: every one exactly once, byte for byte, never an error."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.batch import Batch
from workers.decoder import (
    MESSAGE_CHARS_MAX, TIMESTAMP_MS_MAX, TIMESTAMP_MS_MIN, Decoded, ErrorClass, decode, find_flaw,
)
from workers.schemas import BRONZE_FILE, DLQ_FILE

NOW_MS = int(datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)
TOPIC, VERSION = "orders", "1.2.3"

POISON = [
    (b"", ErrorClass.EMPTY, 0),
    (b"   ", ErrorClass.JSON, None),
    (b"NaN", ErrorClass.JSON, 0),
    (b'{"a": NaN}', ErrorClass.JSON, 6),
    (b"Infinity", ErrorClass.JSON, 0),
    (b"-Infinity", ErrorClass.JSON, None),
    (b'{"a": 1', ErrorClass.JSON, None),
    (b'{"a": 1}}', ErrorClass.JSON, 8),
    (b'{"a": 1} x', ErrorClass.JSON, 9),
    (b'{"a": 1}{"b": 2}', ErrorClass.JSON, 8),
    (b"{'a': 1}", ErrorClass.JSON, 1),
    (b'{"a": 1,}', ErrorClass.JSON, 8),
    (b"[1, 2", ErrorClass.JSON, None),
    (b"tru", ErrorClass.JSON, None),
    (b"01", ErrorClass.JSON, None),
    (b"+1", ErrorClass.JSON, 0),
    (b'"raw \x01 control"', ErrorClass.JSON, 5),
    (b'"line\nbreak"', ErrorClass.JSON, 5),
    (b'"bad \\x escape"', ErrorClass.JSON, None),
    (b"\xef\xbb\xbf{}", ErrorClass.JSON, 0),
    (b"\xff\xfe{\x00}\x00", ErrorClass.ENCODING, 0),
    (b'{"a": "\xff"}', ErrorClass.ENCODING, 7),
    (b'{"a": "\xc3"}', ErrorClass.ENCODING, 7),
    (b'"\xed\xa0\x80"', ErrorClass.ENCODING, 1),
    (b'"\xc0\xaf"', ErrorClass.ENCODING, 1),
    (b"[" * 100_000, ErrorClass.JSON, None),
    (b"[" * 100_000 + b"]" * 100_000, ErrorClass.JSON, None),
    (b'{"a":' * 100_000, ErrorClass.JSON, None),
    (b"\x00\x00\x00\x00\x01avro", ErrorClass.JSON, 0),
    (b"<xml/>", ErrorClass.JSON, 0),
]

WELL_FORMED = [
    b"{}", b"[]", b"null", b"true", b"0", b"-0.0", b"1e999", b'"text"', b" {\n} ",
    b"9223372036854775808", b"1" * 5_000, b'{"a": 1, "a": 2}', b'"\\u0000"', b'"\x7f"',
    b'"\\ud83d\\ude00"', '"äöü \U0001f600"'.encode(), b"[" * 500 + b"]" * 500,
    b'{"k": "' + b"x" * 100_000 + b'"}',
]


def batch_of(values: list[bytes | None], **columns: list) -> Batch:
    """Give a batch of partition 3 from offset 100 on."""
    count = len(values)
    return Batch(
        columns.get("partitions", [3] * count), columns.get("offsets", [*range(100, 100 + count)]),
        columns.get("timestamps_ms", [NOW_MS] * count), columns.get("keys", [None] * count),
        values, columns.get("headers", [None] * count))


def decoded(batch: Batch) -> Decoded:
    """Decode as the worker does."""
    return decode(batch, NOW_MS, TOPIC, VERSION)


def rows_of(found: pa.RecordBatch | None) -> list[dict]:
    """Rows as dicts, none for None."""
    return [] if found is None else found.to_pylist()


@pytest.mark.parametrize(("value", "error_class", "position"), POISON,
                         ids=[repr(value[:12]) for value, _, _ in POISON])
def test_poison_becomes_one_dead_letter_between_unharmed_neighbours(
    value: bytes, error_class: ErrorClass, position: int | None
) -> None:
    """Whatever a producer sends costs that message its place and nobody else's."""
    found = decoded(batch_of([b'{"before": 1}', value, None, b'{"after": 2}']))
    assert [row["value"] for row in rows_of(found.rows)] == ['{"before": 1}', None, '{"after": 2}']
    assert [row["_kafka_offset"] for row in rows_of(found.rows)] == [100, 102, 103]
    (dead,) = rows_of(found.dead)
    assert dead["value"] == value
    assert (dead["_kafka_topic"], dead["_kafka_partition"], dead["_kafka_offset"]) == (TOPIC, 3, 101)
    assert (dead["error_class"], dead["service_version"]) == (error_class.value, VERSION)
    assert 0 < len(dead["error_message"]) <= MESSAGE_CHARS_MAX
    if position is not None:
        # The parser points at the byte, or (trailing characters) just behind it.
        assert dead["error_position"] - position in (0, 1)
    assert (found.rows_of, found.dead_of) == ({3: 3}, {3: 1})
    assert found.flaws_of == {error_class: 1}


@pytest.mark.parametrize("value", WELL_FORMED, ids=[repr(value[:12]) for value in WELL_FORMED])
def test_any_json_text_is_a_row_as_it_came(value: bytes) -> None:
    """RFC 8259 lets any value stand at the top; what it means is for readers to say."""
    found = decoded(batch_of([value]))
    assert [row["value"].encode() for row in rows_of(found.rows)] == [value]
    assert found.dead is None


def test_a_tombstone_is_a_row_with_a_null_value() -> None:
    """Deletions are data; an empty value is not a tombstone."""
    found = decoded(batch_of([None, b""], keys=[b"k", b"k"]))
    assert [(row["key"], row["value"]) for row in rows_of(found.rows)] == [(b"k", None)]
    assert [dead["error_class"] for dead in rows_of(found.dead)] == ["empty"]


def test_a_batch_of_tombstones_only_is_all_rows() -> None:
    """No value at all is the edge of every column operation."""
    found = decoded(batch_of([None, None], timestamps_ms=[None, None]))
    assert [row["value"] for row in rows_of(found.rows)] == [None, None]
    assert [row["_kafka_timestamp"] for row in rows_of(found.rows)] == [None, None]
    assert found.value_bytes == 0


def test_a_batch_of_dead_letters_only_has_no_rows() -> None:
    """After a bad deploy of a producer every message may be one."""
    found = decoded(batch_of([b"x", b"\xff", b""]))
    assert found.rows is None
    assert [dead["error_class"] for dead in rows_of(found.dead)] == ["json", "encoding", "empty"]
    assert (found.rows_of, found.dead_of) == ({}, {3: 3})


HEADERS = [("trace", b"\x00\xff"), ("trace", b"again"), ("empty", b""), ("none", None), ("", b"x")]


@pytest.mark.parametrize("value", [b"{}", b"poison"])
def test_headers_are_kept_in_order_with_repeats_and_nulls(value: bytes) -> None:
    """Kafka allows a name twice; a mapping would lose one."""
    found = decoded(batch_of([value, b"{}"], headers=[list(HEADERS), None]))
    (row,) = [row for row in rows_of(found.rows) + rows_of(found.dead)
              if row["_kafka_offset"] == 100]
    assert [(item["key"], item["value"]) for item in row["headers"]] == HEADERS


def test_a_message_with_unreadable_headers_is_a_dead_letter_by_itself() -> None:
    """The client cannot give such headers; the value is kept, and the loss is said."""
    batch = batch_of([b"{}", b"{}", b"{}"])
    batch.unreadable_headers = frozenset({(3, 101)})
    found = decoded(batch)
    assert [row["_kafka_offset"] for row in rows_of(found.rows)] == [100, 102]
    (dead,) = rows_of(found.dead)
    assert (dead["error_class"], dead["value"], dead["headers"]) == ("headers", b"{}", None)


@pytest.mark.parametrize(("timestamp_ms", "shown"), [
    (None, None), (-1, -1), (0, 0), (TIMESTAMP_MS_MIN, TIMESTAMP_MS_MIN),
    (TIMESTAMP_MS_MIN - 1, None), (TIMESTAMP_MS_MAX, TIMESTAMP_MS_MAX),
    (TIMESTAMP_MS_MAX + 1, None), (1 << 62, None), (-(1 << 62), None), ((1 << 63) - 1, None),
    (-(1 << 63), None),
])
@pytest.mark.parametrize("value", [b"{}", b"poison"])
def test_a_timestamp_no_reader_can_show_becomes_null(
    value: bytes, timestamp_ms: int | None, shown: int | None
) -> None:
    """Producers choose timestamps freely; one of year 100,000 must not fail its neighbours."""
    found = decoded(batch_of([value, b"{}"], timestamps_ms=[timestamp_ms, NOW_MS]))
    column: dict[int, int | None] = {}
    for rows in filter(None, (found.rows, found.dead)):
        stored = rows.column("_kafka_timestamp").view(pa.int64()).to_pylist()
        column |= dict(zip(rows.column("_kafka_offset").to_pylist(), stored, strict=True))
    assert column == {100: None if shown is None else shown * 1000, 101: NOW_MS * 1000}


def test_rows_carry_the_moment_and_the_utc_day_of_ingestion() -> None:
    """The partition column follows `_ingested_at`, never the host's time zone."""
    found = decoded(batch_of([b"{}", b"x"]))
    assert found.ingestion_date == date(2026, 1, 31)
    moment = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    assert [row["_ingested_at"] for row in rows_of(found.rows) + rows_of(found.dead)] == [moment] * 2
    assert found.rows is not None and found.dead is not None
    assert found.rows.schema.equals(BRONZE_FILE)
    assert found.dead.schema.equals(DLQ_FILE)


def test_counts_are_kept_per_partition() -> None:
    """The fates of a range are counted from these."""
    found = decoded(batch_of(
        [b"{}", b"x", b"{}", b"\xff"], partitions=[0, 0, 1, 1], offsets=[5, 6, 50, 51]))
    assert (found.rows_of, found.dead_of) == ({0: 1, 1: 1}, {0: 1, 1: 1})
    assert found.value_bytes == 6


def is_json_text(value: bytes) -> bool:
    """Judge by the standard library, strictly: no NaN, no other encodings, no lone control."""
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(value.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return False
    return not value.startswith(b"\xef\xbb\xbf")


def mangled(draw_from: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Valid texts with a byte cut out, doubled or changed."""
    def mangle(value: bytes, place: int, byte: int, kind: int) -> bytes:
        if not value:
            return value
        at = place % len(value)
        return (value[:at] + value[at + 1:], value[:at], value[:at] + bytes([byte]) + value[at + 1:],
                value + value)[kind]

    return st.builds(mangle, draw_from, st.integers(0, 1000), st.integers(0, 255),
                     st.integers(0, 3))


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner,
                                                                            max_size=3),
    max_leaves=6).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
values = (st.none() | json_texts | mangled(json_texts) | st.binary(max_size=30)
          | st.sampled_from([value for value, _, _ in POISON if len(value) < 100]))
messages = st.tuples(
    values, st.none() | st.binary(max_size=10),
    st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
    st.none() | st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=5)),
                         min_size=1, max_size=3))


@settings(max_examples=120, deadline=None)
@given(st.lists(messages, min_size=1, max_size=12), st.integers(0, 1))
def test_every_message_has_exactly_one_fate_and_keeps_its_bytes(
    drawn: list[tuple], unreadable: int
) -> None:
    """Rows and dead letters together are the batch, in order; nothing is raised or altered."""
    offsets = [1000 + 3 * index for index in range(len(drawn))]
    batch = Batch(
        [index % 2 for index in range(len(drawn))], offsets, [m[2] for m in drawn],
        [m[1] for m in drawn], [m[0] for m in drawn], [m[3] for m in drawn])
    if unreadable:
        batch.headers[0] = None
        batch.unreadable_headers = frozenset({(0, 1000)})
    found = decoded(batch)
    rows = {row["_kafka_offset"]: row for row in rows_of(found.rows)}
    dead = {row["_kafka_offset"]: row for row in rows_of(found.dead)}
    assert len(rows_of(found.rows)) + len(rows_of(found.dead)) == len(drawn)
    assert sorted([*rows, *dead]) == offsets
    for index, (value, key, _, _) in enumerate(drawn):
        row = {**rows, **dead}[offsets[index]]
        stored = row["value"].encode() if isinstance(row["value"], str) else row["value"]
        assert (stored, row["key"], row["_kafka_partition"]) == (value, key, index % 2)
        headers = batch.headers[index]
        assert row["headers"] == (
            [{"key": name, "value": item} for name, item in headers] if headers else None)
        if index or not unreadable:
            assert (offsets[index] in rows) == (value is None or is_json_text(value))
    assert sum(found.rows_of.values()) == len(rows)
    assert sum(found.dead_of.values()) == sum(found.flaws_of.values()) == len(dead)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | mangled(json_texts))
def test_find_flaw_agrees_with_a_second_judge(value: bytes) -> None:
    """Two parsers of different make must draw the same line."""
    assert (find_flaw(value) is None) == is_json_text(value)


@settings(max_examples=100, deadline=None)
@given(st.lists(json_texts, min_size=1, max_size=6), st.integers(0, 6), st.binary(max_size=20))
def test_a_bad_row_never_changes_its_neighbours(
    good: list[bytes], place: int, noise: bytes
) -> None:
    """The rows of a batch are the same with and without a malformed message among them."""
    bad = b"{" + noise
    at = min(place, len(good))
    alone = rows_of(decoded(batch_of(list(good), offsets=[*range(len(good))])).rows)
    offsets = [*range(at), 999, *range(at, len(good))]
    mixed = decoded(batch_of([*good[:at], bad, *good[at:]], offsets=offsets))
    if find_flaw(bad) is not None:
        assert rows_of(mixed.rows) == alone
