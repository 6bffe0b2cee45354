"""A Parquet file of one table and one ingestion date, encoded while rows arrive.

Small batches are gathered until they make a row group worth having; a row group is compressed at
once.  So when the file is closed only the last row group and the footer remain, and what it takes
is its compressed size, not what has been read.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from shared.records import DataFile
from workers.schemas import PARTITION_COLUMN

ROW_OVERHEAD_BYTES = 64
"""What a row's offsets, timestamps and partition take beside its key and value, about."""

PAGE_BYTES = 128 * 1024
"""Of one column's page before compression: the writer's buffers stay small enough to be reused
by malloc, where pages of 1 MiB would be mapped and paged in for every row group."""

SMALL_BATCH_BYTES = 64 * 1024
"""A batch below it is copied to the next one.  A dead letter of every batch would else keep some
small blocks of the heap between large ones, which could then not be joined again: with one in a
thousand, 80 KB of heap were lost per batch, measured."""

STATISTICS = ("_kafka_partition", "_kafka_offset", "_kafka_timestamp", "_ingested_at", "record")
"""Columns with minimum and maximum, of the tables that have them: what readers filter by."""

_ENCODINGS = {
    "_kafka_offset": "DELTA_BINARY_PACKED",
    "_kafka_timestamp": "DELTA_BINARY_PACKED",
    "error_position": "DELTA_BINARY_PACKED",
}
_DICTIONARIES = [
    "_kafka_partition", "_ingested_at", "_kafka_topic", "error_class", "service_version"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A whole file: where it belongs under its table's folder, and its bytes."""

    file: DataFile
    content: bytearray


def new_path(date: str, kind: str = "part") -> str:
    """A name under the table's folder that nobody else has."""
    return f"{PARTITION_COLUMN}={date}/{kind}-{uuid.uuid4()}.zstd.parquet"


class Sink(Protocol):
    """What ParquetWriter wants of a file that it writes from its beginning to its end."""

    closed: bool

    def write(self, data: bytes) -> int:
        """Take the next bytes."""

    def tell(self) -> int:
        """How many there were."""

    def flush(self) -> None:
        """Send what is held, if that can be."""

    def close(self) -> None:
        """Called by the writer at its end, which need not be the sink's."""


class EncodedRows:
    """Rows on their way into a sink, in row groups of one size."""

    def __init__(self, schema: pa.Schema, sink: Sink, row_group_bytes: int) -> None:
        """row_group_bytes: raw, gathered before a row group is cut."""
        self._schema, self._sink, self._row_group_bytes = schema, sink, row_group_bytes
        names = set(schema.names)
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="zstd", compression_level=1, data_page_size=PAGE_BYTES,
            use_dictionary=[name for name in _DICTIONARIES if name in names],
            column_encoding={name: code for name, code in _ENCODINGS.items() if name in names},
            write_statistics=[name for name in STATISTICS if name in names])
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def append(self, rows: pa.RecordBatch, raw_bytes: int) -> None:
        """Add rows."""
        self._pending_bytes += raw_bytes + rows.num_rows * ROW_OVERHEAD_BYTES
        if self._pending and self._pending[-1].nbytes < SMALL_BATCH_BYTES:
            rows = pa.concat_batches([self._pending.pop(), rows])
        self._pending.append(rows)
        if self._pending_bytes >= self._row_group_bytes:
            self._write_row_group()

    def _write_row_group(self) -> None:
        table = pa.Table.from_batches(self._pending, self._schema)
        self._pending, self._pending_bytes = [], 0
        self._writer.write_table(table, row_group_size=table.num_rows)

    def finish(self, table: str, path: str, date: str, now_ms: int) -> DataFile:
        """Write what is left; the file as it is to be committed.  table: BRONZE or DLQ."""
        if self._pending:
            self._write_row_group()
        self._writer.close()
        footer = self._writer.writer.metadata
        return DataFile(table, path, self._sink.tell(), footer.num_rows, date,
                        _statistics(footer), now_ms)


class ParquetFile(EncodedRows):
    """One open file, in memory; nobody else sees anything of it."""

    def __init__(self, table: str, schema: pa.Schema, date: str, row_group_bytes: int) -> None:
        """table: BRONZE or DLQ; date: ISO, which all its rows share."""
        self._table, self.date = table, date
        self._content = _Content()
        super().__init__(schema, self._content, row_group_bytes)

    @property
    def encoded_bytes(self) -> int:
        """Size of what is encoded so far; at most a row group is still to come."""
        return self._content.tell()

    def close(self, now_ms: int) -> Encoded:
        """The whole file, under a name that nobody else has."""
        file = self.finish(self._table, new_path(self.date), self.date, now_ms)
        return Encoded(file, self._content.content)


class _Content:
    """A sink that is one buffer, which grows and is given back as a whole."""

    closed = False

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> int:
        self.content += data
        return len(data)

    def tell(self) -> int:
        return len(self.content)

    def flush(self) -> None:
        """Nothing: it is all here."""

    def close(self) -> None:
        """Nothing: the content is still wanted."""


def _statistics(footer: pq.FileMetaData) -> str:
    """Minimum, maximum and null count per column as Delta's JSON, from the file's own footer."""
    bounds: dict[str, tuple[int, int]] = {}
    nulls = {name: 0 for name in STATISTICS if name in footer.schema.names}
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    for index, name in enumerate(footer.schema.names):
        if name not in nulls:
            continue
        found = [group.column(index).statistics for group in groups]
        nulls[name] = sum(part.null_count for part in found)
        lows = [part.min_raw for part in found if part.has_min_max]
        if lows:
            bounds[name] = min(lows), max(part.max_raw for part in found if part.has_min_max)
    return json.dumps({
        "numRecords": footer.num_rows,
        "minValues": {name: _shown(name, low) for name, (low, _) in bounds.items()},
        "maxValues": {name: _shown(name, high, up_us=999) for name, (_, high) in bounds.items()},
        "nullCount": nulls,
    }, separators=(",", ":"))


def _shown(name: str, value: int, up_us: int = 0) -> int | str:
    """A bound as Delta has it, which knows milliseconds; up_us: 999 to round up instead of down."""
    if name not in ("_kafka_timestamp", "_ingested_at"):
        return value
    moment = pa.scalar((value + up_us) // 1000, pa.timestamp("ms"))
    return f"{moment.cast(pa.string()).as_py().replace(' ', 'T')}Z"
