"""What a replay writes: rows for the bronze table, and what became of each letter.  Pure.

A replayed row is the message as it was read, with two differences: `_ingested_at` is the time of
the replay, so that whoever follows the table by that column finds it, and the last header says
which replay brought it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from shared.version import SERVICE_VERSION
from tools.dead_letters import fingerprint
from workers.batch import Batch, Header
from workers.decoder import ErrorClass, decode, find_flaw
from workers.schemas import PARTITION_COLUMN, TIMESTAMP

HEADER = "_bronze_replay"
"""The name of the header; its value is the replay's number in decimal digits."""

REPLAYS_FILE = pa.schema([
    pa.field("_kafka_topic", pa.string()),
    pa.field("_kafka_partition", pa.int32()),
    pa.field("_kafka_offset", pa.int64()),
    pa.field("replay", pa.int64()),
    pa.field("fingerprint", pa.string()),
    pa.field("error_class", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("stored_sha256", pa.string()),
    pa.field("replayed_sha256", pa.string()),
    pa.field("_ingested_at", TIMESTAMP),
    pa.field("service_version", pa.string()),
])
"""Columns of `dlq_replays`, an interface (docs/tools.md).  The hashes are of the values, null for
a null value; `_ingested_at` is the time of the replay."""

REPLAYS_TABLE = REPLAYS_FILE.append(pa.field(PARTITION_COLUMN, pa.date32()))

LETTER_COLUMNS = ("key", "value", "headers", "_kafka_partition", "_kafka_offset",
                  "_kafka_timestamp", "error_class", "error_message", "error_position",
                  "_ingested_at", "service_version")


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter; value: what is to be replayed, stored: what is in the table."""

    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: list[Header] | None
    stored: bytes | None
    error_class: str
    error_message: str

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset."""
        return self.partition, self.offset

    @property
    def fingerprint(self) -> str:
        """Of its error."""
        return fingerprint(self.error_class, self.error_message)

    @property
    def weight(self) -> int:
        """The bytes it takes, about."""
        held = sum(len(part or b"") for part in (self.key, self.value, self.stored))
        return held + sum(len(name) + len(value or b"") for name, value in self.headers or ())

    def repaired(self, value: bytes) -> Letter:
        """The same with another value."""
        return replace(self, value=value)


def letter_of(row: Mapping[str, Any]) -> Letter:
    """A row of a dead letter table, with LETTER_COLUMNS."""
    at = row["_kafka_timestamp"]
    headers = row["headers"]
    return Letter(
        row["_kafka_partition"], row["_kafka_offset"],
        None if at is None else round(at.timestamp() * 1000), row["key"], row["value"],
        None if headers is None else [(part["key"], part["value"]) for part in headers],
        row["value"], row["error_class"] or "", row["error_message"] or "")


def refusal(letter: Letter, *, without_headers: bool) -> tuple[str, str] | None:
    """(class, message) of what is wrong with it by the checks of this release, None if nothing.

    without_headers: let those pass whose headers could not be kept.
    """
    if letter.error_class == ErrorClass.HEADERS and not without_headers:
        return ErrorClass.HEADERS.value, letter.error_message
    flaw = None if letter.value is None else find_flaw(letter.value)
    return None if flaw is None else (flaw.error_class.value, flaw.message)


def bronze_rows(letters: Sequence[Letter], number: int, topic: str, now_ms: int) -> pa.RecordBatch:
    """The letters, none of which has a flaw, as rows of replay `number`."""
    mark: Header = (HEADER, str(number).encode())
    batch = Batch(
        [letter.partition for letter in letters], [letter.offset for letter in letters],
        [letter.timestamp_ms for letter in letters], [letter.key for letter in letters],
        [letter.value for letter in letters],
        [[*(letter.headers or ()), mark] for letter in letters])
    decoded = decode(batch, now_ms, topic, SERVICE_VERSION)
    if decoded.rows is None or decoded.dead is not None:
        raise ValueError("a dead letter with a flaw was to be replayed")
    return decoded.rows


def absorption_rows(
    letters: Sequence[Letter], number: int, topic: str, now_ms: int
) -> pa.RecordBatch:
    """What became of them, for the table of replays."""
    count = len(letters)
    columns: dict[str, Sequence[object]] = {
        "_kafka_topic": [topic] * count,
        "_kafka_partition": [letter.partition for letter in letters],
        "_kafka_offset": [letter.offset for letter in letters],
        "replay": [number] * count,
        "fingerprint": [letter.fingerprint for letter in letters],
        "error_class": [letter.error_class for letter in letters],
        "error_message": [letter.error_message for letter in letters],
        "stored_sha256": [_sha256(letter.stored) for letter in letters],
        "replayed_sha256": [_sha256(letter.value) for letter in letters],
        "_ingested_at": [now_ms * 1000] * count,
        "service_version": [SERVICE_VERSION] * count,
    }
    return pa.record_batch(
        [pa.array(columns[field.name], field.type) for field in REPLAYS_FILE], schema=REPLAYS_FILE)


def _sha256(value: bytes | None) -> str | None:
    return None if value is None else hashlib.sha256(value).hexdigest()
