"""A twin of `workers.parquet_file.ParquetFile`: the same requests, no Parquet.

It stands in `workers.draft`, the one place that makes files.  Encoding costs most of a schedule's
time and is shown elsewhere with the real one.
"""

from __future__ import annotations

import io
import itertools
import pickle
from typing import Any

import pyarrow as pa

from shared.object_store import ObjectStore
from shared.records import DataFile
from workers.parquet_file import ROW_OVERHEAD_BYTES, FileLimits
from workers.schemas import PARTITION_COLUMN

_numbers = itertools.count()


class FileTwin:
    """See `ParquetFile`; the object is a sequence of pickled columns."""

    def __init__(
        self, store: ObjectStore, table: str, folder: str, schema: pa.Schema, date: str,
        limits: FileLimits,
    ) -> None:
        self._table, self._limits = table, limits
        self.date = date
        self._path = f"{PARTITION_COLUMN}={date}/part-{next(_numbers)}"
        self._writer = store.open_writer(f"{folder}/{self._path}", limits.part_bytes)
        self._pending: list[dict[str, list]] = []
        self._pending_bytes = self._size = self.rows = 0

    def append(self, rows: pa.RecordBatch, raw_bytes: int) -> None:
        """See `ParquetFile`."""
        self._pending.append(rows.to_pydict())
        self._pending_bytes += raw_bytes + rows.num_rows * ROW_OVERHEAD_BYTES
        self.rows += rows.num_rows
        if self._pending_bytes >= self._limits.row_group_bytes:
            self._write()

    def _write(self) -> None:
        for columns in self._pending:
            data = pickle.dumps(columns)
            self._writer.write(data)
            self._size += len(data)
        self._pending, self._pending_bytes = [], 0

    def abandon(self) -> None:
        """See `ParquetFile`."""
        self._writer = None

    def close(self, now_ms: int) -> DataFile:
        """See `ParquetFile`."""
        self._write()
        self._writer.close()
        return DataFile(self._table, self._path, self._size, self.rows, self.date, "{}", now_ms)


def read_rows(data: bytes) -> list[dict[str, Any]]:
    """The rows of such an object, in order."""
    rows: list[dict[str, Any]] = []
    source = io.BytesIO(data)
    while source.tell() < len(data):
        columns = pickle.load(source)
        rows += [dict(zip(columns, values, strict=True))
                 for values in zip(*columns.values(), strict=True)]
    return rows
