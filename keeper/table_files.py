"""A table's data files, looked after: many small ones become a large one, and what nobody needs
any more is deleted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from keeper.checkpoint import LiveFile, NotOurs, TableState
from keeper.compaction import BATCH_FILES_MAX, SMALL_SHARE, batches, closed_before
from keeper.retention import DAY_MS, removed_retention_ms
from keeper.table_log import TableLog
from shared.clock import SystemClock
from shared.errors import CommitConflict, TableUnavailable
from shared.object_store import Store, StoredObject
from shared.record_log import RecordLog
from shared.records import CycleRecord, DataFile
from shared.replay_log import ReplayLog
from workers.parquet_file import EncodedRows, new_path
from workers.schemas import PARTITION_COLUMN

ROW_GROUP_BYTES = 2 * 1024 * 1024
"""Raw.  A reader that filters skips whole row groups.  With smaller ones the footer, which is in
memory until the end, would take more than they save."""
PLAN_FILES_MAX = 4 * BATCH_FILES_MAX
"""Files looked at for one plan; the rest has its turn later."""
COMMIT_WITHIN_S = 3600.0
"""A compaction that comes later is dropped: after a long freeze, its file may have been deleted."""
DATES_PER_SWEEP = 10
ORPHAN_DAYS_MIN = 30
"""A file in no log is deleted after so many days at the earliest, and only if it is older than this
service.  What this service has sent and not decided is younger; another instance's, kept for longer
than that, would be missed by that instance before it commits."""

_DATE = re.compile(rf"{PARTITION_COLUMN}=\d{{4}}-\d\d-\d\d")
_DATA_FILE = re.compile(r"\.parquet(#\d+)?$")
"""With a number: what a killed process leaves in a folder of a file that it had not finished."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """Files that were replaced, and those that replaced them; is_finished: nothing was left for
    want of time."""

    old: int = 0
    new: int = 0
    is_finished: bool = True


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """Files that were deleted, and their bytes."""

    files: int = 0
    size: int = 0
    is_finished: bool = True


class TableFiles:
    """The files of one table.  Methods raise `RecoverableError`s, and may be called again.

    A table that has what we do not know (another writer's columns or features) is left alone.
    """

    def __init__(
        self, store: Store, log: TableLog, records: RecordLog, folder: str, schema: pa.Schema,
        clock: SystemClock, replays: ReplayLog | None,
    ) -> None:
        """schema: of the table's files.  replays: those into the table, where there may be any."""
        self._store, self._log, self._records, self._replays = store, log, records, replays
        self._folder, self._schema, self._clock = folder, schema, clock

    def compact(self, target_bytes: int, until: float) -> Compacted:
        """Make files of about `target_bytes` out of small ones of closed dates.

        No further one is begun after `until` (monotonic), and the one in work then ends.
        """
        try:
            version, files = self._plan(target_bytes)
        except NotOurs:
            return Compacted()
        old = new = 0
        for batch in batches(files, target_bytes):
            if self._clock.monotonic() >= until:
                return Compacted(old, new, is_finished=False)
            try:
                version, replaced = self._replace(version, batch, until)
            except CommitConflict:
                # Somebody else works on these files: the next turn plans anew.
                return Compacted(old, new)
            old, new = old + replaced, new + bool(replaced)
        return Compacted(old, new, is_finished=len(files) < PLAN_FILES_MAX)

    def _plan(self, target_bytes: int) -> tuple[int, list[LiveFile]]:
        """The table's version, and small files of it, by date; raises `NotOurs`."""
        version, state = self._log.read()
        if set(state.columns) != {*self._schema.names, PARTITION_COLUMN}:
            raise NotOurs("columns of another writer")
        return version, state.live_files(
            closed_before(self._clock.unix_ms()), int(target_bytes * SMALL_SHARE), PLAN_FILES_MAX)

    def _replace(
        self, version: int, batch: Sequence[LiveFile], until: float
    ) -> tuple[int, int]:
        """The table's version afterwards, and how many files were replaced."""
        began = self._clock.monotonic()
        file, merged = self._merge(batch, until)
        if len(merged) < 2:
            self._store.delete(f"{self._folder}/{file.path}")
            return version, 0
        if self._clock.monotonic() - began >= COMMIT_WITHIN_S:
            raise CommitConflict(f"table {self._folder}: compaction took too long")
        return self._log.replace(version, merged, file), len(merged)

    def _merge(
        self, batch: Sequence[LiveFile], until: float
    ) -> tuple[DataFile, list[LiveFile]]:
        """Write the rows of a batch into one new file; which of its files these were."""
        date = batch[0].date
        path = new_path(date, "compacted")
        merged: list[LiveFile] = []
        with self._store.writing(f"{self._folder}/{path}") as sink:
            rows = EncodedRows(self._schema, sink, ROW_GROUP_BYTES)
            for file in batch:
                if len(merged) > 1 and self._clock.monotonic() >= until:
                    break
                if self._copy(file, rows):
                    merged.append(file)
            return rows.finish(self._folder, path, date, self._clock.unix_ms()), merged

    def _copy(self, file: LiveFile, rows: EncodedRows) -> bool:
        """Whether it was one of ours, and its rows were added."""
        content = self._store.get(f"{self._folder}/{file.path}")
        if content is None:
            raise TableUnavailable(f"table {self._folder}: file {file.path} is not in the store")
        try:
            source = pq.ParquetFile(pa.BufferReader(content))
            if not source.schema_arrow.equals(self._schema):
                return False
            for group in range(source.num_row_groups):
                for part in source.read_row_group(group, use_threads=False).to_batches():
                    rows.append(part, part.nbytes)
        except (pa.ArrowException, OSError) as error:
            raise TableUnavailable(
                f"table {self._folder}: file {file.path} cannot be read") from error
        return True

    def vacuum(self, days_min: int, started_at_ms: int, visit: int, until: float) -> Vacuumed:
        """Delete files that the table has not had for `days_min` days, and those it never had.

        started_at_ms: when this service started.  visit: counts the calls, each of which looks at
        DATES_PER_SWEEP dates.  A table that asks for longer gets it.
        """
        dates = [name for name in self._store.folders(f"{self._folder}/") if _DATE.fullmatch(name)]
        slices = max(1, -(-len(dates) // DATES_PER_SWEEP))
        begin = visit % slices * DATES_PER_SWEEP
        sweep = _Sweep(self._log, self._records, self._replays, self._folder, days_min,
                       started_at_ms, self._clock.unix_ms())
        files = size = 0
        for date in dates[begin:begin + DATES_PER_SWEEP]:
            for chunk in self._store.walk(f"{self._folder}/{date}/"):
                try:
                    doomed = sweep.doomed(chunk)
                except NotOurs:
                    return Vacuumed(files, size)
                if doomed:
                    self._store.delete_all([found.path for found in doomed])
                files, size = files + len(doomed), size + sum(found.size for found in doomed)
                if self._clock.monotonic() >= until:
                    return Vacuumed(files, size, is_finished=False)
        return Vacuumed(files, size)


@dataclass(frozen=True, slots=True)
class _Facts:
    """decided: paths that records or replays name whose commits may be still to come;
    retention_ms: how long removed files are kept."""

    decided: Set[str]
    state: TableState
    retention_ms: int


class _Sweep:
    """Says which objects nobody needs.

    The order matters: an object is listed before the records are read, and these before the table's
    log.  So what was decided, or committed, in between is seen in one of them.
    """

    def __init__(
        self, log: TableLog, records: RecordLog, replays: ReplayLog | None, folder: str,
        days_min: int, started_at_ms: int, now_ms: int,
    ) -> None:
        self._log, self._records, self._replays = log, records, replays
        self._folder = folder
        self._days_min, self._started_at_ms, self._now_ms = days_min, started_at_ms, now_ms
        self._facts: _Facts | None = None

    def doomed(self, objects: Iterable[StoredObject]) -> list[StoredObject]:
        """Those of `objects` that are to be deleted."""
        horizon_ms = self._now_ms - self._days_min * DAY_MS
        old = {found.path.removeprefix(f"{self._folder}/"): found for found in objects
               if found.modified_s * 1000 < horizon_ms and _DATA_FILE.search(found.path)}
        if not old:
            return []
        if self._facts is None:
            self._facts = self._read()
        facts = self._facts
        unneeded = old.keys() - facts.state.which_live(old.keys())
        removed_ms = facts.state.removed_ms(unneeded)
        kept_ms = facts.retention_ms
        return [old[path] for path in sorted(unneeded)
                if (self._is_long_gone(removed_ms[path], kept_ms) if path in removed_ms
                    else path not in facts.decided and self._is_orphan(old[path], kept_ms))]

    def _is_long_gone(self, removed_ms: int, kept_ms: int) -> bool:
        return removed_ms < self._now_ms - kept_ms

    def _is_orphan(self, found: StoredObject, kept_ms: int) -> bool:
        """Whether nobody who lives can still bring it into the table."""
        orphan_ms = self._now_ms - max(kept_ms, ORPHAN_DAYS_MIN * DAY_MS)
        return found.modified_s * 1000 < min(orphan_ms, self._started_at_ms)

    def _read(self) -> _Facts:
        decided = {file.path for record in self._records.tail().records.values()
                   if isinstance(record, CycleRecord)
                   for manifest in record.manifests for file in manifest.files}
        # A replay that was killed is brought to its end by the next one, however late.
        plans = [] if self._replays is None else self._replays.read()
        decided |= {file.path for plan in plans for file in plan.files}
        _, state = self._log.read()
        asked = removed_retention_ms(state.configuration)
        if asked is None:
            raise NotOurs("a retention in words we do not know")
        return _Facts(decided, state, max(self._days_min * DAY_MS, asked))
