"""What a worker has read since its last vote: files, open or sent, and the ranges they cover."""

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
from workers.parquet_file import ParquetFile
from workers.ranges import RangeBook
from workers.schemas import BRONZE_FILE, DLQ_FILE


@dataclass(frozen=True, slots=True)
class Prepared:
    """Files that are in the store and invisible, and the ranges they cover.

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


@dataclass(frozen=True, slots=True)
class FileLimits:
    """row_group_bytes: raw bytes in a row group; upload_bytes: encoded bytes in the open files
    at which one of them is sent."""

    row_group_bytes: int
    upload_bytes: int


class Draft:
    """Files of one topic; at most one is open per table, a new one when the date changes.

    A file that is full is closed and sent, which nobody sees before a commit names it.  After any
    error of `take` or `close` the draft must be dropped and its ranges read again.
    """

    def __init__(
        self, store: ObjectStore, topic: str, limits: FileLimits, positions: Mapping[int, int],
        *, dlq_enabled: bool, prefix: str = "",
    ) -> None:
        """prefix: before the tables' usual names, for those of a rewind."""
        self._store, self._limits = store, limits
        self._folders = {BRONZE: prefix + bronze_table(topic), DLQ: prefix + dlq_table(topic)}
        self._dlq_enabled = dlq_enabled
        self._open: dict[str, ParquetFile] = {}
        self._sent: list[DataFile] = []
        self._flaws: Counter[str] = Counter()
        self.book = RangeBook(positions)
        self.bytes = 0
        self.rows = 0

    @property
    def open_files(self) -> tuple[int, ...]:
        """Encoded bytes of each open file."""
        return tuple(file.encoded_bytes for file in self._open.values())

    @property
    def sent(self) -> int:
        """How many files are in the store already."""
        return len(self._sent)

    def take(self, batch: Batch, decoded: Decoded, now_ms: int) -> None:
        """Encode a batch that was checked against `book`; may send files.

        With the DLQ off, malformed messages are skipped here (the caller has consulted the
        policy) and recorded as such.  Raises `StorageUnavailable`.
        """
        date = decoded.ingestion_date.isoformat()
        if decoded.rows is not None:
            self._append(BRONZE, date, decoded.rows, decoded.value_bytes, now_ms)
        if decoded.dead is not None and self._dlq_enabled:
            self._append(DLQ, date, decoded.dead, decoded.dead.nbytes, now_ms)
        dead = decoded.dead_of if self._dlq_enabled else {}
        skipped = {} if self._dlq_enabled else decoded.dead_of
        ends = {part.partition: part.last + 1 for part in batch.extents}
        self.book.advance(ends, decoded.rows_of, dead, skipped)
        self._flaws.update({kind.value: count for kind, count in decoded.flaws_of.items()})
        self.bytes += decoded.value_bytes
        self.rows += len(batch)

    def _append(
        self, table: str, date: str, rows: pa.RecordBatch, raw_bytes: int, now_ms: int
    ) -> None:
        if table in self._open and self._open[table].date != date:
            self._send(table, now_ms)
        if table not in self._open:
            schema: pa.Schema = BRONZE_FILE if table == BRONZE else DLQ_FILE
            self._open[table] = ParquetFile(table, schema, date, self._limits.row_group_bytes)
        self._open[table].append(rows, raw_bytes)
        if sum(self.open_files) >= self._limits.upload_bytes:
            self._send(self._largest(), now_ms)

    def _send(self, table: str, now_ms: int) -> None:
        """Close the open file of a table and put it into the store.  Raises as `take`."""
        encoded = self._open.pop(table).close(now_ms)
        path = f"{self._folders[table]}/{encoded.file.path}"
        self._store.put(path, encoded.content)
        self._sent.append(encoded.file)

    def send_early(self, least_bytes: int, now_ms: int) -> bool:
        """Send open files, largest first, until less than `least_bytes` are encoded in them;
        whether there was one to send.  Raises as `take`."""
        was_worth_it = sum(self.open_files) >= least_bytes
        while sum(self.open_files) >= least_bytes:
            self._send(self._largest(), now_ms)
        return was_worth_it

    def _largest(self) -> str:
        """The table with the largest open file: it gives most back, and makes the best file."""
        return max(self._open, key=lambda table: self._open[table].encoded_bytes)

    def close(self, now_ms: int) -> Prepared:
        """Send what is open.  Raises `StorageUnavailable`."""
        for table in tuple(self._open):
            self._send(table, now_ms)
        return Prepared(tuple(self._sent), self.book.ranges(), dict(self._flaws), self.bytes)
