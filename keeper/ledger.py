"""The ledger: what each cycle brought, as a table in the lake, entered exactly once.

Records of the log are trimmed, tables' logs are cleaned up; the ledger stays.  Its position is the
`txn` of its own table, so rows and position cannot disagree, and of two keepers that enter the same
records one is refused.  A record is entered when its cycle is complete, in order, none left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from keeper.ledger_rows import Entry, enter, folders_of, missing
from keeper.ledger_schema import LEDGER_FILE, LEDGER_TABLE
from shared.clock import rfc3339
from shared.errors import StorageUnavailable
from shared.naming import LEDGER, LEDGER_APP_ID, birth_certificate
from shared.object_store import ObjectStore
from shared.record_log import RecordLog
from shared.records import CycleRecord, DataFile, Record
from workers.delta_table import TableStore
from workers.log_entry import Commit
from workers.parquet_file import ParquetFile
from workers.tables import certify, ensure_table

RECORDS_PER_COMMIT_MAX = 100
"""Their manifests are held at once: some kB for each topic."""
ROW_GROUP_BYTES = 1024 * 1024
TIMES = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True, slots=True)
class Progress:
    """next_record: the first one not entered; behind: how many there are from it on; entered: how
    many were entered now."""

    next_record: int
    behind: int
    entered: int


class Ledger:
    """See the module.  Every method may raise a `RecoverableError` and be called again."""

    def __init__(
        self, store: ObjectStore, tables: TableStore, log: RecordLog, unix_ms: Callable[[], int]
    ) -> None:
        self._store, self._tables, self._log, self._unix_ms = store, tables, log, unix_ms

    def advance(self) -> Progress:
        """Enter the next records that can be, RECORDS_PER_COMMIT_MAX at most, in one commit.

        Raises `CommitConflict` when another keeper was there first: nothing is entered twice.
        """
        version, position = self._stand()
        numbers = self._log.numbers(-1 if position is None else position - 1)
        if not numbers:
            return Progress(position or 0, 0, 0)
        entries = self._gone(position, numbers[0])
        done, entered = self._entries(numbers)
        entries += entered
        if not done:
            return Progress(position or numbers[0], len(numbers), 0)
        next_record = done[-1] + 1
        self._tables.append(
            LEDGER, version, self._send(entries), {LEDGER_APP_ID: next_record},
            {"ledger_through": done[-1]})
        return Progress(next_record, len(numbers) - len(done), len(done))

    def _stand(self) -> tuple[int, int | None]:
        """The ledger's version, and its position then: the first record that is not in it.

        After a commit of ours the newest entry tells both.  Only when it is somebody else's is the
        table opened, and checked, which takes several times the memory.
        """
        newest = self._tables.newest(LEDGER)
        if newest is not None and LEDGER_APP_ID in newest.txns:
            return newest.version, newest.txns[LEDGER_APP_ID]
        if newest is None and self._has_made():
            return 0, None
        table = ensure_table(self._store, self._tables, LEDGER, LEDGER_TABLE)
        return table.version, table.txn_version(LEDGER_APP_ID)

    def _has_made(self) -> bool:
        """Whether there never was a ledger, and it was we who have made it now."""
        if self._store.size(birth_certificate(LEDGER)) is not None:
            return False
        if not self._tables.make(LEDGER, LEDGER_TABLE):
            return False
        certify(self._store, LEDGER)
        return True

    def _gone(self, position: int | None, first: int) -> list[Entry]:
        """A row for records that nobody entered while they were there."""
        if position is None or first <= position:
            return []
        return [missing(position, first - 1, rfc3339(self._unix_ms()))]

    def _entries(self, numbers: list[int]) -> tuple[list[int], list[Entry]]:
        """The records that can be entered now, and their rows."""
        newest = self._must_read(numbers[-1])
        records = {number: self._must_read(number) for number in numbers[:RECORDS_PER_COMMIT_MAX]}
        claim = max(record.complete_through for record in (newest, *records.values()))
        history = self._history(records)
        done: list[int] = []
        entries: list[Entry] = []
        for number, record in records.items():
            if isinstance(record, CycleRecord):
                entry = enter(number, record, history, is_complete=number <= claim)
                if entry is None:
                    break
                entries.append(entry)
            done.append(number)
        return done, entries

    def _history(self, records: Mapping[int, Record]) -> dict[str, list[Commit]]:
        cycles = {number: record for number, record in records.items()
                  if isinstance(record, CycleRecord)}
        folders = {folder for record in cycles.values() for folder in folders_of(record)}
        return {folder: self._tables.commits(folder, min(cycles)) for folder in sorted(folders)}

    def _must_read(self, number: int) -> Record:
        record = self._log.read(number)
        if record is None:
            # Another instance, which keeps no ledger, may trim what we have just listed.
            raise StorageUnavailable("read", f"record {number}", "it was listed and is gone")
        return record

    def _send(self, entries: Iterable[Entry]) -> list[DataFile]:
        """Encode the rows, one file for each day, and put them into the store, still invisible."""
        by_date: dict[str, list[Mapping[str, object]]] = {}
        for entry in entries:
            by_date.setdefault(entry.date, []).extend(entry.values)
        files = []
        for date, rows in by_date.items():
            if not rows:
                continue
            file = ParquetFile("ledger", LEDGER_FILE, date, ROW_GROUP_BYTES)
            columns = encode(rows)
            file.append(columns, columns.nbytes)
            encoded = file.close(self._unix_ms())
            self._store.put(f"{LEDGER}/{encoded.file.path}", encoded.content)
            files.append(encoded.file)
        return files


def encode(rows: Iterable[Mapping[str, object]]) -> pa.RecordBatch:
    """Rows of `ledger_rows` as columns; what a row lacks is null."""
    rows = list(rows)
    return pa.record_batch(
        [_column([row.get(field.name) for row in rows], field.type) for field in LEDGER_FILE],
        schema=LEDGER_FILE)


def _column(values: list[object], kind: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(kind):
        return pa.array(values, TIMES).cast(kind)
    return pa.array(values, kind)
