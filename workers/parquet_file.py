"""A Parquet file of one table and one ingestion date, encoded in memory while messages arrive.

Small batches are gathered until they make a row group worth having; a row group is compressed at
once.  So when the file is closed only the last row group and the footer remain, and what it takes
is its compressed size, not what has been read.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

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


class ParquetFile:
    """One open file; nobody else sees anything of it."""

    def __init__(self, table: str, schema: pa.Schema, date: str, row_group_bytes: int) -> None:
        """table: BRONZE or DLQ; date: ISO; row_group_bytes: raw, gathered before it is cut."""
        self._table, self._date, self._row_group_bytes = table, date, row_group_bytes
        self._schema = schema
        self._sink = _Sink()
        names = set(schema.names)
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="zstd", compression_level=1, data_page_size=PAGE_BYTES,
            use_dictionary=[name for name in _DICTIONARIES if name in names],
            column_encoding={name: code for name, code in _ENCODINGS.items() if name in names},
            write_statistics=[name for name in STATISTICS if name in names])
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    @property
    def date(self) -> str:
        """The ingestion date all its rows share."""
        return self._date

    @property
    def encoded_bytes(self) -> int:
        """Size of what is encoded so far; at most a row group is still to come."""
        return len(self._sink.content)

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

    def close(self, now_ms: int) -> Encoded:
        """The whole file, under a name that nobody else has."""
        if self._pending:
            self._write_row_group()
        self._writer.close()
        footer = self._writer.writer.metadata
        path = f"{PARTITION_COLUMN}={self._date}/part-{uuid.uuid4()}.zstd.parquet"
        content = self._sink.content
        return Encoded(
            DataFile(self._table, path, len(content), footer.num_rows, self._date,
                     _statistics(footer), now_ms), content)


class _Sink:
    """What ParquetWriter wants of a file: one buffer that grows, and is given back as a whole."""

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
        "maxValues": {name: _shown(name, high) for name, (_, high) in bounds.items()},
        "nullCount": nulls,
    }, separators=(",", ":"))


def _shown(name: str, value: int) -> int | str:
    if name not in ("_kafka_timestamp", "_ingested_at"):
        return value
    moment = pa.scalar(value, pa.timestamp("us")).cast(pa.timestamp("ms"))
    return f"{moment.cast(pa.string()).as_py().replace(' ', 'T')}Z"
