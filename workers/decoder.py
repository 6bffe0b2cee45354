"""Pure: a batch of messages in, Arrow rows and dead letters out.

The whole batch is checked at once, UTF-8 in Arrow and JSON by one call over all values joined with
newlines.  Only where that fails are parts of it looked at, smaller and smaller, down to single
messages, so one bad row never fails its neighbours.

A value is malformed when it is not one JSON text in UTF-8 (RFC 8259: any value may stand at the
top, NaN may not).  A null value is a tombstone, which is a row; an empty value is malformed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
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
_NO_VALUE = pa.scalar(None, pa.binary())
_NO_TIME = pa.scalar(None, pa.int64())

SLICES, SLICE_MIN = 16, 32
"""Where a check fails, this many slices are checked each; slices this short message by message."""

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
    suspects = {*_suspects(batch.values, _are_json), *batch.unreadable_headers}
    if not is_utf8:
        suspects.update(_suspects(batch.values, lambda values: _as_text(values) is not None))
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


def _suspects(values: pa.Array, pass_check: Callable[[pa.Array], bool]) -> Iterator[int]:
    """Indexes of values that do not pass; a check may refuse many at once that are all good."""
    pending = [(0, len(values))]
    while pending:
        start, count = pending.pop()
        if pass_check(values.slice(start, count)):
            continue
        if count <= SLICE_MIN:
            yield from (index for index in range(start, start + count)
                        if not pass_check(values.slice(index, 1)))
            continue
        step = -(-count // SLICES)
        end = start + count
        pending += [(first, min(step, end - first)) for first in range(start, end, step)]


def _are_json(values: pa.Array) -> bool:
    """Whether every value is one JSON text; True is proof, False may be wrong for several.

    The decoder reads texts between newlines, and would as well read two on one line, or one on
    two lines.  So what it found, joined again, must be the whole text, and have the lengths of
    the values: then each text found is one value.  A value with blanks around it is refused here.
    UTF-8 inside strings is not looked at.
    """
    if values.null_count:
        values = values.drop_null()
    count = len(values)
    if not count:
        return True
    if count == 1:
        return _is_json(values[0].as_py())
    whole = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), values)
    joined = pc.binary_join(whole, _NEWLINE)[0].as_buffer()
    try:
        found = _json.decode_lines(joined)
    except (msgspec.DecodeError, RecursionError):
        return False
    lengths = pa.array(list(map(len, found)), pa.int32())
    return (lengths.equals(pc.binary_length(values))
            and pa.py_buffer(b"\n".join(found)).equals(joined))


def _is_json(value: bytes) -> bool:
    try:
        _json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


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
        found = _BYTE_POSITION.search(str(error))
        position = int(found.group(1) or found.group(2)) if found else None
        return Flaw(ErrorClass.JSON, str(error)[:MESSAGE_CHARS_MAX], position)
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
