"""An open Parquet file that goes to the store part by part while it is written.

Small batches are gathered until they make a row group worth having; a row group is compressed and
handed to the store at once.  So at flush time only the last row group and the footer remain, and
memory depends on the size of a row group and of a part, not on the interval or the backlog.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from shared.object_store import ObjectStore, Writer
from shared.records import DataFile
from workers.schemas import PARTITION_COLUMN

ROW_OVERHEAD_BYTES = 64
"""What a row's offsets, timestamps and partition take beside its key and value, about."""

PAGE_BYTES = 128 * 1024
"""Of one column's page before compression: the writer's buffers stay small enough to be reused
by malloc, where pages of 1 MiB would be mapped and paged in for every row group."""

STATISTICS = ("_kafka_partition", "_kafka_offset", "_kafka_timestamp", "_ingested_at")
"""Columns with minimum and maximum: what a reader of bronze tables filters by."""

_ENCODINGS = {
    "_kafka_offset": "DELTA_BINARY_PACKED",
    "_kafka_timestamp": "DELTA_BINARY_PACKED",
    "error_position": "DELTA_BINARY_PACKED",
}
_DICTIONARIES = [
    "_kafka_partition", "_ingested_at", "_kafka_topic", "error_class", "service_version"]


@dataclass(frozen=True, slots=True)
class FileLimits:
    """row_group_bytes: raw bytes gathered before a row group is cut; part_bytes: upload part."""

    row_group_bytes: int
    part_bytes: int


class ParquetFile:
    """One file of one table and one ingestion date; nothing of it is visible before a commit."""

    def __init__(
        self, store: ObjectStore, table: str, folder: str, schema: pa.Schema, date: str,
        limits: FileLimits,
    ) -> None:
        """table: BRONZE or DLQ; folder: the table's path under the lake; date: ISO."""
        self._table, self._date, self._limits = table, date, limits
        self._schema = schema
        self._path = f"{PARTITION_COLUMN}={date}/part-{uuid.uuid4()}.zstd.parquet"
        self._sink = _Sink(store.open_writer(f"{folder}/{self._path}", limits.part_bytes))
        names = set(schema.names)
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="zstd", compression_level=1, data_page_size=PAGE_BYTES,
            use_dictionary=[name for name in _DICTIONARIES if name in names],
            column_encoding={name: code for name, code in _ENCODINGS.items() if name in names},
            write_statistics=[name for name in STATISTICS if name in names])
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self.rows = 0

    @property
    def date(self) -> str:
        """The ingestion date all its rows share."""
        return self._date

    def append(self, rows: pa.RecordBatch, raw_bytes: int) -> None:
        """Add rows; may upload.  Raises `StorageUnavailable`, after which it must be dropped."""
        self._pending.append(rows)
        self._pending_bytes += raw_bytes + rows.num_rows * ROW_OVERHEAD_BYTES
        self.rows += rows.num_rows
        if self._pending_bytes >= self._limits.row_group_bytes:
            self._write_row_group()

    def _write_row_group(self) -> None:
        table = pa.Table.from_batches(self._pending, self._schema)
        self._pending, self._pending_bytes = [], 0
        self._writer.write_table(table, row_group_size=table.num_rows)

    def abandon(self) -> None:
        """Give it up: nothing more is sent, and what was sent stays invisible for ever."""
        self._sink.abandon()

    def close(self, now_ms: int) -> DataFile:
        """Finish the upload; the file exists then, still invisible.  Raises as `append`."""
        if self._pending:
            self._write_row_group()
        self._writer.close()
        self._sink.finish()
        return DataFile(
            self._table, self._path, self._sink.tell(), self.rows, self._date,
            _statistics(self._writer.writer.metadata), now_ms)


class _Sink:
    """What ParquetWriter wants of a file, on a store's writer; counts the bytes.

    A ParquetWriter writes a footer when it is collected, also after a failure.  By then the sink
    is abandoned and lets it write into the void, or a dropped file would wait for a dead store.
    """

    closed = False

    def __init__(self, writer: Writer) -> None:
        self._writer: Writer | None = writer
        self._position = 0

    def write(self, data: bytes) -> int:
        if self._writer is not None:
            try:
                self._writer.write(bytes(data))
            except BaseException:
                self.abandon()
                raise
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing: parts go out when they are full."""

    def close(self) -> None:
        """Nothing: pyarrow also closes what failed; only `finish` makes the object exist."""

    def abandon(self) -> None:
        self._writer = None

    def finish(self) -> None:
        if self._writer is None:
            raise RuntimeError("an abandoned file cannot be finished")
        self._writer.close()
        self._writer = None


def _statistics(footer: pq.FileMetaData) -> str:
    """Minimum, maximum and null count per column as Delta's JSON, from the file's own footer."""
    bounds: dict[str, tuple[int, int]] = {}
    nulls = dict.fromkeys(STATISTICS, 0)
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
