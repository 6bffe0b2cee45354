"""Pure: a batch of messages in, Arrow rows and dead letters out.

The whole batch is checked at once: UTF-8 in Arrow, JSON value by value without building anything.
Only a batch that fails takes the way row by row, so one bad row never fails its neighbours.

A value is malformed when it is not one JSON text in UTF-8 (RFC 8259: any value may stand at the
top, NaN may not).  A null value is a tombstone, which is a row; an empty value is malformed.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from workers.batch import Batch
from workers.schemas import BRONZE_FILE, DLQ_FILE, HEADERS, TIMESTAMP

TIMESTAMP_MS_MIN = -62_135_596_800_000
TIMESTAMP_MS_MAX = 253_402_300_799_999
"""Years 1 to 9999; what lies outside is stored as null, for most readers cannot show it."""

MESSAGE_CHARS_MAX = 200

_MICROSECONDS = pa.scalar(1000, pa.int64())
"""As a scalar: pyarrow looks for dateutil on the disk each time it converts a bare int."""

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
    value_bytes = sum(map(len, filter(None, batch.values)))
    day = datetime.fromtimestamp(ingested_at_ms / 1000, UTC).date()
    counts = {part.partition: part.count for part in batch.extents}
    text = _as_text(batch.values)
    flaws = _find_flaws(batch, is_utf8=text is not None)
    if not flaws:
        rows = _rows(batch, text, ingested_at_ms)
        return Decoded(rows, None, counts, {}, {}, value_bytes, day)
    bad = _select(batch, flaws)
    dead = _dead_letters(bad, list(flaws.values()), ingested_at_ms, topic, service_version)
    dead_of = Counter(bad.partitions)
    rows = _good_rows(batch, text, flaws, ingested_at_ms) if len(flaws) < len(batch) else None
    return Decoded(
        rows, dead, dict(Counter(counts) - dead_of), dict(dead_of),
        dict(Counter(flaw.error_class for flaw in flaws.values())), value_bytes, day)


def _good_rows(
    batch: Batch, text: pa.Array | None, flaws: dict[int, Flaw], ingested_at_ms: int
) -> pa.RecordBatch:
    """The rows without a flaw; `text` is None when some value is not UTF-8."""
    if text is None:
        text = _as_text([None if index in flaws else value
                         for index, value in enumerate(batch.values)])
    good = pa.array([index not in flaws for index in range(len(batch))], pa.bool_())
    return _rows(batch, text, ingested_at_ms).filter(good)


def _find_flaws(batch: Batch, *, is_utf8: bool) -> dict[int, Flaw]:
    """Index -> flaw, in order, for each malformed message; is_utf8: all values are known to be."""
    suspects = set(_not_json(batch.values))
    if not is_utf8:
        suspects.update(_not_utf8(batch.values, 0))
    if batch.unreadable_headers:
        places = zip(batch.partitions, batch.offsets, strict=True)
        suspects.update(index for index, place in enumerate(places)
                        if place in batch.unreadable_headers)
    found = ((index, _find_flaw_of(batch, index)) for index in sorted(suspects))
    return {index: flaw for index, flaw in found if flaw is not None}


def _as_text(values: list[bytes | None]) -> pa.Array | None:
    """The values as one column of strings, None when one of them is not UTF-8.

    Values are checked one by one inside: two of them never make up a character between them.
    """
    try:
        return pa.array(values, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return None


def _not_utf8(values: list[bytes | None], first: int) -> list[int]:
    """Indexes, counted from `first`, of values that are not UTF-8; there is at least one.

    Found by halves: mostly it is one in a thousand, and Arrow checks the good halves quickly.
    """
    if len(values) == 1:
        return [first]
    middle = len(values) // 2
    return [index for start, half in ((first, values[:middle]), (first + middle, values[middle:]))
            if _as_text(half) is None for index in _not_utf8(half, start)]


def _not_json(values: list[bytes | None]) -> list[int]:
    """Indexes of values the JSON decoder refuses; it does not look for UTF-8 inside strings.

    `deque` drives the iterator without a loop in Python; after a refusal it goes on behind it.
    """
    refused = []
    remaining = iter(values)
    while True:
        try:
            deque(map(_json.decode, remaining), 0)
        except (msgspec.DecodeError, RecursionError):
            refused.append(len(values) - remaining.__length_hint__() - 1)
        except TypeError:
            continue  # A tombstone.
        else:
            return refused


def _find_flaw_of(batch: Batch, index: int) -> Flaw | None:
    if (batch.partitions[index], batch.offsets[index]) in batch.unreadable_headers:
        return Flaw(ErrorClass.HEADERS, "a header's name is not UTF-8; headers are not kept", None)
    value = batch.values[index]
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


def _select(batch: Batch, indexes: Iterable[int]) -> Batch:
    wanted = tuple(indexes)

    def picked(column: list) -> list:
        return [column[index] for index in wanted]

    return Batch(
        picked(batch.partitions), picked(batch.offsets), picked(batch.timestamps_ms),
        picked(batch.keys), picked(batch.values), picked(batch.headers))


def _rows(batch: Batch, text: pa.Array | None, ingested_at_ms: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([
        pa.array(batch.keys, pa.binary()),
        text,
        _headers(batch.headers),
        pa.array(batch.partitions, pa.int32()),
        pa.array(batch.offsets, pa.int64()),
        _timestamps(batch.timestamps_ms),
        _constant_time(ingested_at_ms, len(batch)),
    ], schema=BRONZE_FILE)


def _dead_letters(
    batch: Batch, flaws: list[Flaw], ingested_at_ms: int, topic: str, service_version: str
) -> pa.RecordBatch:
    count = len(batch)
    return pa.RecordBatch.from_arrays([
        pa.array(batch.keys, pa.binary()),
        pa.array(batch.values, pa.binary()),
        _headers(batch.headers),
        pa.array([topic] * count, pa.string()),
        pa.array(batch.partitions, pa.int32()),
        pa.array(batch.offsets, pa.int64()),
        _timestamps(batch.timestamps_ms),
        pa.array([flaw.error_class.value for flaw in flaws], pa.string()),
        pa.array([flaw.message for flaw in flaws], pa.string()),
        pa.array([flaw.position for flaw in flaws], pa.int64()),
        _constant_time(ingested_at_ms, count),
        pa.array([service_version] * count, pa.string()),
    ], schema=DLQ_FILE)


def _headers(headers: list) -> pa.Array:
    if not any(headers):
        return pa.nulls(len(headers), HEADERS)
    return pa.array(
        [[{"key": name, "value": value} for name, value in row] if row else None
         for row in headers], HEADERS)


def _timestamps(timestamps_ms: list[int | None]) -> pa.Array:
    column = pa.array(timestamps_ms, pa.int64())
    bounds = pc.min_max(column).as_py()
    if bounds["min"] is not None and (
            bounds["min"] < TIMESTAMP_MS_MIN or bounds["max"] > TIMESTAMP_MS_MAX):
        inside = pc.and_(pc.greater_equal(column, TIMESTAMP_MS_MIN),
                         pc.less_equal(column, TIMESTAMP_MS_MAX))
        column = pc.if_else(inside, column, pa.scalar(None, pa.int64()))
    return pc.multiply(column, _MICROSECONDS).view(TIMESTAMP)


def _constant_time(unix_ms: int, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(unix_ms * 1000, pa.int64()), count).view(TIMESTAMP)
