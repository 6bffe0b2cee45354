"""What the log of records holds: start records and cycle records, as JSON.

A *manifest* is one topic's part of a cycle: the files that are uploaded and invisible, and per
partition the range of offsets they cover.  It is complete before its worker's vote is visible,
comes from one incarnation, and is all that is needed to commit it later by anybody.

Every offset of a range has one fate: a row in the bronze table (`rows`), a row in the DLQ table
(`dead_letters`), skipped by policy (`skipped`), not delivered by Kafka (`absent`: control records,
aborted or compacted messages), or `lost` upstream, with the range.
"""

from __future__ import annotations

import msgspec

from shared.errors import UnsupportedRecord
from shared.protocol import Span

RECORD_VERSION = 1

BRONZE = "bronze"
DLQ = "dlq"


class DataFile(msgspec.Struct, frozen=True):
    """An add action to be: one Parquet file, uploaded, not yet visible.

    path is relative to the table; date is the value of the partition column (ISO); stats is the
    Delta statistics JSON; size in bytes; written_at_ms is Unix time.
    """

    table: str
    path: str
    size: int
    rows: int
    date: str
    stats: str
    written_at_ms: int


class Lost(msgspec.Struct, frozen=True):
    """Offsets [start, end) that Kafka no longer held when they were wanted, and why."""

    start: int
    end: int
    cause: str


class Range(msgspec.Struct, frozen=True):
    """One partition's half-open range [start, end) and the fates in it.

    rows + dead_letters + skipped + absent + sum(lost) == end - start.
    """

    partition: int
    start: int
    end: int
    rows: int = 0
    dead_letters: int = 0
    skipped: int = 0
    lost: tuple[Lost, ...] = ()

    @property
    def absent(self) -> int:
        """Offsets Kafka never delivered: control records, aborted, compacted."""
        lost = sum(gap.end - gap.start for gap in self.lost)
        return self.end - self.start - self.rows - self.dead_letters - self.skipped - lost

    @property
    def span(self) -> Span:
        """The range without its fates."""
        return Span(self.partition, self.start, self.end)


class Manifest(msgspec.Struct, frozen=True):
    """One topic's part of a cycle.

    flaws counts its dead letters (or skipped) by error class; value_bytes is the size of all its
    values as Kafka held them, dead letters included.  valid_through_ms: Unix time up to which all
    partitions its worker had were read, by Kafka's timestamps; 0 when that is not known, and in
    records of older releases.
    """

    topic: str
    topic_id: str
    incarnation: int
    files: tuple[DataFile, ...]
    ranges: tuple[Range, ...]
    flaws: dict[str, int] = {}
    value_bytes: int = 0
    valid_through_ms: int = 0

    @property
    def spans(self) -> tuple[Span, ...]:
        """The ranges without their fates."""
        return tuple(part.span for part in self.ranges)

    @property
    def dead_letter_spans(self) -> tuple[Span, ...]:
        """The spans of partitions that have dead letters in this manifest."""
        return tuple(part.span for part in self.ranges if part.dead_letters)

    def files_of(self, table: str) -> tuple[DataFile, ...]:
        """The files for `table` (BRONZE or DLQ)."""
        return tuple(file for file in self.files if file.table == table)


class StartRecord(msgspec.Struct, frozen=True, tag="start", tag_field="kind"):
    """A service has started; older services of the same instance are fenced by it.

    cycle_id: the highest one known then, so that cycle_ids grow across restarts.
    """

    instance: str
    uuid: str
    service_version: str
    cycle_id: int
    written_at: str
    complete_through: int
    record_version: int = RECORD_VERSION


class CycleRecord(msgspec.Struct, frozen=True, tag="cycle", tag_field="kind"):
    """The decision on a cycle: every manifest in it will be committed, whatever dies.

    excluded: topic -> why it is not part of this cycle.
    complete_through: every record up to this number is in the tables.
    table_versions: the versions all tables had when the last completed cycle was complete.
    """

    instance: str
    uuid: str
    cycle_id: int
    written_at: str
    manifests: tuple[Manifest, ...]
    excluded: dict[str, str]
    complete_through: int
    table_versions: dict[str, int]
    record_version: int = RECORD_VERSION


Record = StartRecord | CycleRecord


class _VersionOnly(msgspec.Struct):
    record_version: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)
_version_decoder = msgspec.json.Decoder(_VersionOnly)
_manifest_decoder = msgspec.json.Decoder(Manifest)


def encode(record: Record | Manifest) -> bytes:
    """JSON bytes; the same record always gives the same bytes."""
    return _encoder.encode(record)


def decode(data: bytes, number: int) -> Record:
    """Read record `number`; raises `UnsupportedRecord` for anything this release cannot know."""
    try:
        version = _version_decoder.decode(data).record_version
        if version != RECORD_VERSION:
            raise UnsupportedRecord(
                f"record {number} has record_version {version}, this release knows "
                f"{RECORD_VERSION}"
            )
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise UnsupportedRecord(f"record {number} cannot be read: {error}") from error


def decode_manifest(data: bytes) -> Manifest:
    """Read a manifest from a worker's slot; raises `msgspec.DecodeError`."""
    return _manifest_decoder.decode(data)
