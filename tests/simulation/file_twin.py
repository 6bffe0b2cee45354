"""What makes a schedule cheap: a twin of `ParquetFile`, and decoding each batch only once.

The twin makes no Parquet; it stands in `workers.draft`, the one place that
makes files.  Encoding would cost most of a schedule's time and is shown elsewhere.
"""

from __future__ import annotations

import io
import itertools
import pickle
from functools import lru_cache
from typing import Any

import pyarrow as pa

from shared.records import DataFile
from workers.batch import Batch
from workers.decoder import Decoded, decode
from workers.parquet_file import ROW_OVERHEAD_BYTES, Encoded
from workers.schemas import PARTITION_COLUMN

REMEMBERED_MAX = 10_000

numbers = itertools.count()
"""Names of files; a world begins anew, so that a schedule gives the same names again."""


class FileTwin:
    """See `ParquetFile`; the content is a sequence of pickled columns."""

    def __init__(self, table: str, schema: pa.Schema, date: str, row_group_bytes: int) -> None:
        self._table, self._row_group_bytes = table, row_group_bytes
        self.date = date
        self._path = f"{PARTITION_COLUMN}={date}/part-{next(numbers)}"
        self._content = bytearray()
        self._pending: list[bytes] = []
        self._pending_bytes = self._rows = 0

    @property
    def encoded_bytes(self) -> int:
        """See `ParquetFile`."""
        return len(self._content)

    def append(self, rows: pa.RecordBatch, raw_bytes: int) -> None:
        """See `ParquetFile`."""
        self._pending.append(pickled(rows))
        self._pending_bytes += raw_bytes + rows.num_rows * ROW_OVERHEAD_BYTES
        self._rows += rows.num_rows
        if self._pending_bytes >= self._row_group_bytes:
            self._write()

    def _write(self) -> None:
        self._content += b"".join(self._pending)
        self._pending, self._pending_bytes = [], 0

    def close(self, now_ms: int) -> Encoded:
        """See `ParquetFile`."""
        self._write()
        return Encoded(
            DataFile(self._table, self._path, len(self._content), self._rows, self.date, "{}",
                     now_ms), self._content)


def pickled(rows: pa.RecordBatch) -> bytes:
    """The rows as bytes; a batch that `remembered` gives again is not pickled again."""
    found = _pickles.get(id(rows))
    if found is None:
        if len(_pickles) >= REMEMBERED_MAX:
            _pickles.clear()
        # The batch is kept with it, for only so long is its id its own.
        found = _pickles[id(rows)] = rows, pickle.dumps(rows.to_pydict())
    return found[1]


_pickles: dict[int, tuple[pa.RecordBatch, bytes]] = {}


@lru_cache(maxsize=REMEMBERED_MAX)
def read_rows(data: bytes) -> tuple[dict[str, Any], ...]:
    """The rows of such an object, in order."""
    rows: list[dict[str, Any]] = []
    source = io.BytesIO(data)
    while source.tell() < len(data):
        columns = pickle.load(source)
        rows += [dict(zip(columns, values, strict=True))
                 for values in zip(*columns.values(), strict=True)]
    return tuple(rows)


def remembered(batch: Batch, ingested_at_ms: int, topic: str, service_version: str) -> Decoded:
    """The real `decode`, asked once for each batch: schedules read the same again and again."""
    return _decoded(
        tuple(batch.partitions), tuple(batch.offsets), tuple(batch.timestamps_ms),
        tuple(batch.keys), tuple(batch.values),
        tuple(row and tuple(row) for row in batch.headers), ingested_at_ms, topic,
        service_version)


@lru_cache(maxsize=REMEMBERED_MAX)
def _decoded(
    partitions: tuple, offsets: tuple, timestamps_ms: tuple, keys: tuple, values: tuple,
    headers: tuple, ingested_at_ms: int, topic: str, service_version: str,
) -> Decoded:
    batch = Batch(list(partitions), list(offsets), list(timestamps_ms), list(keys), list(values),
                  [row and list(row) for row in headers])
    return decode(batch, ingested_at_ms, topic, service_version)
