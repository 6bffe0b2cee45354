"""What a worker has read since the last file was closed: open files and the ranges they cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from shared.naming import bronze_table, dlq_table
from shared.object_store import ObjectStore
from shared.records import BRONZE, DLQ, DataFile, Range
from workers.batch import Batch
from workers.decoder import Decoded
from workers.parquet_file import FileLimits, ParquetFile
from workers.ranges import RangeBook
from workers.schemas import BRONZE_FILE, DLQ_FILE


@dataclass(frozen=True, slots=True)
class Prepared:
    """Files that are uploaded and invisible, and the ranges they cover.

    value_bytes: raw size of the values in the ranges, as Kafka held them.
    """

    files: tuple[DataFile, ...]
    ranges: tuple[Range, ...]
    flaws: Mapping[str, int] = field(default_factory=dict)
    value_bytes: int = 0

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


class Draft:
    """Open files of one topic; at most one per table, a new one when the ingestion date changes.

    After any error of `take` or `close` the draft must be dropped and its ranges read again.
    """

    def __init__(
        self, store: ObjectStore, topic: str, limits: FileLimits, positions: Mapping[int, int],
        *, dlq_enabled: bool,
    ) -> None:
        self._store, self._limits = store, limits
        self._folders = {BRONZE: bronze_table(topic), DLQ: dlq_table(topic)}
        self._dlq_enabled = dlq_enabled
        self._open: dict[str, ParquetFile] = {}
        self._closed: list[DataFile] = []
        self._flaws: Counter[str] = Counter()
        self.book = RangeBook(positions)
        self.bytes = 0
        self.rows = 0

    def take(self, batch: Batch, decoded: Decoded, now_ms: int) -> None:
        """Encode a batch that was checked against `book`; may upload parts.

        With the DLQ off, malformed messages are skipped here (the caller has consulted the
        policy) and recorded as such.  Raises `StorageUnavailable`.
        """
        date = decoded.ingestion_date.isoformat()
        if decoded.rows is not None:
            self._file(BRONZE, date, now_ms).append(decoded.rows, decoded.value_bytes)
        if decoded.dead is not None and self._dlq_enabled:
            self._file(DLQ, date, now_ms).append(decoded.dead, decoded.dead.nbytes)
        dead = decoded.dead_of if self._dlq_enabled else {}
        skipped = {} if self._dlq_enabled else decoded.dead_of
        ends = {part.partition: part.last + 1 for part in batch.extents}
        self.book.advance(ends, decoded.rows_of, dead, skipped)
        self._flaws.update({kind.value: count for kind, count in decoded.flaws_of.items()})
        self.bytes += decoded.value_bytes
        self.rows += len(batch)

    def _file(self, table: str, date: str, now_ms: int) -> ParquetFile:
        file = self._open.get(table)
        if file is not None and file.date != date:
            self._closed.append(file.close(now_ms))
            file = None
        if file is None:
            schema: pa.Schema = BRONZE_FILE if table == BRONZE else DLQ_FILE
            file = ParquetFile(
                self._store, table, self._folders[table], schema, date, self._limits)
            self._open[table] = file
        return file

    def abandon(self) -> None:
        """Give all open files up; see `ParquetFile.abandon`."""
        for file in self._open.values():
            file.abandon()

    def close(self, now_ms: int) -> Prepared:
        """Finish all uploads.  Raises `StorageUnavailable`."""
        files = [*self._closed, *(file.close(now_ms) for file in self._open.values())]
        return Prepared(tuple(files), self.book.ranges(), dict(self._flaws), self.bytes)
