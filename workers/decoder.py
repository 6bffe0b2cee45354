"""Pure: a batch of messages in, Arrow rows and dead letters out.

The whole batch is checked at once, UTF-8 in Arrow and JSON by one call over all values joined with
newlines.  Only where that fails are single messages judged, so one bad row never fails its
neighbours.

A value is malformed when it is not one JSON text in UTF-8 (RFC 8259: any value may stand at the
top, NaN may not).  A null value is a tombstone, which is a row; an empty value is malformed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from workers.batch import Batch
from workers.schemas import BRONZE_FILE, DLQ_FILE, TIMESTAMP

TIMESTAMP_MS_MIN = -62_135_596_800_000
TIMESTAMP_MS_MAX = 253_402_300_799_999
"""Years 1 to 9999; what lies outside is stored as null, for most readers cannot show it."""

MESSAGE_CHARS_MAX = 200

_MICROSECONDS, _FIRST_TIME, _LAST_TIME = (
    pa.scalar(number, pa.int64()) for number in (1000, TIMESTAMP_MS_MIN, TIMESTAMP_MS_MAX))
"""As scalars: pyarrow looks for dateutil on the disk each time it converts a bare int."""

_NEWLINE = pa.scalar(b"\n", pa.binary())
_NO_VALUE, _JSON_NULL = pa.scalar(None, pa.binary()), pa.scalar(b"null", pa.binary())
_NO_TIME = pa.scalar(None, pa.int64())

_EMPTY = pa.scalar(0, pa.int32())

FEW = 8
"""Bad values of a batch that are looked for one after the other; then all that follow are judged
one by one."""

_json = msgspec.json.Decoder(msgspec.Raw)
_BYTE_POSITION = re.compile(r"\(byte (\d+)\)|position (\d+)")


class ErrorClass(StrEnum):
    """Why a message is a dead letter."""

    ENCODING = "encoding"
    JSON = "json"
    EMPTY = "empty"
    HEADERS = "headers"


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with one message; position is a byte offset where known."""

    error_class: ErrorClass
    message: str
    position: int | None


@dataclass(frozen=True, slots=True)
class Decoded:
    """Rows for the bronze table and dead letters, either may be None; counts per partition.

    rows_of and dead_of: partition -> number.  value_bytes: raw bytes of all values.
    """

    rows: pa.RecordBatch | None
    dead: pa.RecordBatch | None
    rows_of: dict[int, int]
    dead_of: dict[int, int]
    flaws_of: dict[ErrorClass, int]
    value_bytes: int
    ingestion_date: date

    @property
    def bytes(self) -> int:
        """What the columns take in memory, keys and headers included."""
        return sum(part.nbytes for part in (self.rows, self.dead) if part is not None)


def decode(batch: Batch, ingested_at_ms: int, topic: str, service_version: str) -> Decoded:
    """Check and convert a batch (not empty); never raises for what a message holds."""
    value_bytes = pc.sum(pc.binary_length(batch.values)).as_py() or 0
    day = datetime.fromtimestamp(ingested_at_ms / 1000, UTC).date()
    counts = {part.partition: part.count for part in batch.extents}
    text = _as_text(batch.values)
    flaws = _find_flaws(batch, is_utf8=text is not None)
    if not flaws:
        rows = _rows(batch, text, ingested_at_ms)
        return Decoded(rows, None, counts, {}, {}, value_bytes, day)
    bad = pa.array(flaws, pa.int64())
    dead = _dead_letters(
        batch, bad, list(flaws.values()), ingested_at_ms, topic, service_version)
    dead_of = Counter(batch.partitions.take(bad).to_pylist())
    rows = _good_rows(batch, text, flaws, ingested_at_ms) if len(flaws) < len(batch) else None
    return Decoded(
        rows, dead, dict(Counter(counts) - dead_of), dict(dead_of),
        dict(Counter(flaw.error_class for flaw in flaws.values())), value_bytes, day)


def _good_rows(
    batch: Batch, text: pa.Array | None, flaws: dict[int, Flaw], ingested_at_ms: int
) -> pa.RecordBatch:
    """The rows without a flaw; `text` is None when some value is not UTF-8."""
    marks = bytearray(b"\1") * len(batch)
    for index in flaws:
        marks[index] = 0
    good = pa.Array.from_buffers(pa.uint8(), len(batch), [None, pa.py_buffer(marks)]).cast(
        pa.bool_())
    if text is None:
        text = _as_text(pc.if_else(good, batch.values, _NO_VALUE))
    return _rows(batch, text, ingested_at_ms).filter(good)


def _find_flaws(batch: Batch, *, is_utf8: bool) -> dict[int, Flaw]:
    """Index -> flaw, in order, for each malformed message; is_utf8: all values are known to be."""
    values = batch.values.fill_null(_JSON_NULL) if batch.values.null_count else batch.values
    suspects = set(batch.unreadable_headers)
    lengths = pc.binary_length(values)
    if not pc.min(lengths).as_py():
        # An empty line would be no text at all, and all would have to be judged one by one.
        empty = pc.equal(lengths, _EMPTY)
        suspects.update(pc.indices_nonzero(empty).to_pylist())
        values = pc.if_else(empty, _JSON_NULL, values)
    suspects.update(_perhaps_not_json(values))
    if not is_utf8:
        suspects.update(_perhaps_not_utf8(values))
    found = ((index, _find_flaw_of(batch, index)) for index in sorted(suspects))
    return {index: flaw for index, flaw in found if flaw is not None}


def _as_text(values: pa.Array) -> pa.Array | None:
    """The values as one column of strings, None when one of them is not UTF-8.

    Values are checked one by one inside: two of them never make up a character between them.
    """
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return None


def _perhaps_not_json(values: pa.Array) -> Iterator[int]:
    """Indexes of all values that are not JSON, and of some that are; there are no nulls.

    The parser says where it gave up.  That may be in the value behind the one that is to blame,
    when that one has no end; and what lies before both is checked again by itself.
    """
    first = 0
    for _ in range(FEW):
        rest = values.slice(first)
        refusal = _first_refusal(rest)
        if refusal == len(rest):
            return
        before = max(refusal - 1, 0)
        if _first_refusal(rest.slice(0, before)) != before:
            break
        yield from range(first + before, first + refusal + 1)
        first += refusal + 1
    yield from range(first, len(values))


def _first_refusal(values: pa.Array) -> int:
    """The index of the value at which the parser gave up, 0 where that is not known; the number
    of values when all are JSON.

    The parser reads texts between newlines, and would as well read two on one line, or one on
    two lines.  So what it found, joined again, must be the whole text, and have the lengths of
    the values: then each text found is one value.  A value with blanks around it is refused here.
    UTF-8 inside strings is not looked at.
    """
    count = len(values)
    if not count:
        return 0
    joined = _joined(values)
    try:
        found = _json.decode_lines(joined)
    except msgspec.DecodeError as error:
        place = _position(error)
        return 0 if place is None else _index_at(values, place)
    except RecursionError:
        return 0
    lengths = pa.array(list(map(len, found)), pa.int32())
    is_each_one = (lengths.equals(pc.binary_length(values))
                   and pa.py_buffer(b"\n".join(found)).equals(joined))
    return count if is_each_one else 0


def _perhaps_not_utf8(values: pa.Array) -> Iterator[int]:
    """Indexes of all values that are not UTF-8, and of some that are; there are no nulls.

    A newline is part of no other character: the joined text is UTF-8 if every value is.
    """
    first = 0
    for _ in range(FEW):
        rest = values.slice(first)
        try:
            _joined(rest).to_pybytes().decode()
        except UnicodeDecodeError as error:
            index = first + _index_at(rest, error.start)
            yield index
            first = index + 1
        else:
            return
        if first == len(values):
            return
    yield from range(first, len(values))


def _joined(values: pa.Array) -> pa.Buffer:
    """The values, not empty, with a newline between each two."""
    whole = pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)
    return pc.binary_join(whole, _NEWLINE)[0].as_buffer()


def _index_at(values: pa.Array, place: int) -> int:
    """The index of the value that holds byte `place` of the joined text, or ends before it."""
    offsets = memoryview(values.buffers()[1]).cast("i")[values.offset:]
    begins = range(len(values))
    return bisect_right(begins, place, key=lambda index: offsets[index] - offsets[0] + index) - 1


def _position(error: msgspec.DecodeError) -> int | None:
    found = _BYTE_POSITION.search(str(error))
    return int(found.group(1) or found.group(2)) if found else None


def _find_flaw_of(batch: Batch, index: int) -> Flaw | None:
    if index in batch.unreadable_headers:
        return Flaw(ErrorClass.HEADERS, "a header's name is not UTF-8; headers are not kept", None)
    value = batch.values[index].as_py()
    return None if value is None else find_flaw(value)


def find_flaw(value: bytes) -> Flaw | None:
    """What is wrong with a value, None when it is one JSON text in UTF-8."""
    if not value:
        return Flaw(ErrorClass.EMPTY, "the value is empty (a tombstone would be null)", 0)
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return Flaw(ErrorClass.ENCODING, f"not UTF-8: {error.reason}", error.start)
    try:
        _json.decode(value)
    except RecursionError:
        return Flaw(ErrorClass.JSON, "nested too deeply", None)
    except msgspec.DecodeError as error:
        return Flaw(ErrorClass.JSON, str(error)[:MESSAGE_CHARS_MAX], _position(error))
    return None


def _rows(batch: Batch, text: pa.Array | None, ingested_at_ms: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([
        batch.keys,
        text,
        batch.headers,
        batch.partitions,
        batch.offsets,
        _timestamps(batch.timestamps_ms),
        _constant_time(ingested_at_ms, len(batch)),
    ], schema=BRONZE_FILE)


def _dead_letters(
    batch: Batch, indexes: pa.Array, flaws: list[Flaw], ingested_at_ms: int, topic: str,
    service_version: str,
) -> pa.RecordBatch:
    count = len(indexes)
    return pa.RecordBatch.from_arrays([
        batch.keys.take(indexes),
        batch.values.take(indexes),
        batch.headers.take(indexes),
        pa.array([topic] * count, pa.string()),
        batch.partitions.take(indexes),
        batch.offsets.take(indexes),
        _timestamps(batch.timestamps_ms.take(indexes)),
        pa.array([flaw.error_class.value for flaw in flaws], pa.string()),
        pa.array([flaw.message for flaw in flaws], pa.string()),
        pa.array([flaw.position for flaw in flaws], pa.int64()),
        _constant_time(ingested_at_ms, count),
        pa.array([service_version] * count, pa.string()),
    ], schema=DLQ_FILE)


def _timestamps(column: pa.Array) -> pa.Array:
    """Milliseconds as a column of moments."""
    bounds = pc.min_max(column).as_py()
    if bounds["min"] is not None and (
            bounds["min"] < TIMESTAMP_MS_MIN or bounds["max"] > TIMESTAMP_MS_MAX):
        inside = pc.and_(pc.greater_equal(column, _FIRST_TIME),
                         pc.less_equal(column, _LAST_TIME))
        column = pc.if_else(inside, column, _NO_TIME)
    return pc.multiply(column, _MICROSECONDS).view(TIMESTAMP)


def _constant_time(unix_ms: int, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(unix_ms * 1000, pa.int64()), count).view(TIMESTAMP)
