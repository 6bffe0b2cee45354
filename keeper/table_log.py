"""A table's own log, looked after: checkpoints, and the clean-up of entries long behind them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from keeper.checkpoint import SCHEMA, LiveFile, NotOurs, TableState
from keeper.log_cleanup import OldFiles, may_clean_up
from keeper.retention import (
    DAY_MS, REMOVED_RETENTION_DAYS, log_retention_ms, removed_retention_ms,
)
from shared.errors import CommitConflict, TableUnavailable
from shared.object_store import Store
from shared.records import DataFile
from workers.damage import named
from workers.delta_table import CHECKPOINT_INTERVAL, COMMITS_MAX, TableStore
from workers.log_entry import appends_only, compaction_entry, entry_path, log_folder
from workers.log_listing import LogFiles, hint_path, look_at_log
from workers.log_snapshot import apply_entries, read_snapshot

DELETES_MAX = 1000
"""Files of a log deleted in one go, a request to a store.  More than come anew between two
checkpoints: VERSIONS_MAX entries, and as many checksums where another writer leaves them."""
CHUNKS_MAX = 1000
"""Of a log's listing that are looked at in one go: a million names."""
REMOVALS_TOLD_DAYS = 2
"""For so much longer than its retention a removed file is told of: until a vacuum came by."""
ROWS_PER_VERSION = 1000
"""A checkpoint is written anew after a version for so many rows in it, if that is later: what it
costs is then the same for each commit, however many files there are."""
VERSIONS_MAX = 400
COMMIT_ATTEMPTS_MAX = 100
"""Versions that others may take before a compaction's: seconds of commits, at the most frequent."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was done: the version of the new checkpoint, None where none was due; how many files of
    the log were deleted."""

    checkpoint: int | None = None
    deleted: int = 0


class TableLog:
    """The log of one table.  Methods raise `StorageUnavailable` and `TableUnavailable`."""

    def __init__(
        self, store: Store, tables: TableStore, folder: str, unix_ms: Callable[[], int],
        removed_days_min: int = REMOVED_RETENTION_DAYS,
    ) -> None:
        """removed_days_min: for how long removed files are kept, where the table does not say."""
        self._store, self._tables, self._folder = store, tables, folder
        self._unix_ms, self._removed_days_min = unix_ms, removed_days_min

    def keep(self) -> Kept:
        """Write a checkpoint if the last one is CHECKPOINT_INTERVAL versions behind, then delete
        entries that are older than the table's retention and covered by an old checkpoint."""
        try:
            return self._keep()
        except NotOurs:
            # Another writer's features: the library knows more of them, and takes more memory.
            return self._keep_by_library()

    def _keep(self) -> Kept:
        found = look_at_log(self._store, self._folder)
        newest = found.newest
        if newest - found.checkpoint < _versions_due(found.hint):
            return Kept()
        state = self._state(found)
        self._write(newest, state.checkpoint(self._told_since_ms(state.configuration)))
        return Kept(newest, self._clean_up(state.configuration))

    def _told_since_ms(self, configuration: Mapping[str, str]) -> int:
        """Removals since then are told of; -1, which is all of them, where the table says for how
        long in words that we do not know."""
        asked = removed_retention_ms(configuration)
        if asked is None:
            return -1
        kept_ms = max(asked, self._removed_days_min * DAY_MS)
        return self._unix_ms() - kept_ms - REMOVALS_TOLD_DAYS * DAY_MS

    def _keep_by_library(self) -> Kept:
        version = self._tables.checkpoint(self._folder)
        _, head = read_snapshot(self._store, self._folder)
        with named(f"table {self._folder}: its protocol"):
            may = may_clean_up(head.protocol or {})
        return Kept(version, self._clean_up(head.configuration) if may else 0)

    def read(self) -> tuple[int, TableState]:
        """The newest version and what the log adds up to; raises `NotOurs`."""
        found = look_at_log(self._store, self._folder)
        if found.newest < 0:
            raise NotOurs("there is no table")
        return found.newest, self._state(found)

    def replace(self, version: int, old: Sequence[LiveFile], new: DataFile) -> int:
        """Put one file in the place of others that have its rows; the version that does it.

        version: one at which the table had all of `old`.  What others append meanwhile stays
        before it.  Raises `CommitConflict` when they did anything else.
        """
        self._check_is_there(version)
        entry = compaction_entry(
            [(file.path, file.size, file.date) for file in old], new, self._unix_ms())
        for target in range(version + 1, version + 1 + COMMIT_ATTEMPTS_MAX):
            if self._store.put_if_absent(entry_path(self._folder, target), entry):
                return target
            taken = self._store.get(entry_path(self._folder, target))
            if taken == entry:
                return target
            if taken is None or not appends_only(taken):
                break
        raise CommitConflict(f"table {self._folder}: version {target} is not an append")

    def _check_is_there(self, version: int) -> None:
        """Without the entry before it, ours would be that of a table that is gone."""
        if self._store.size(entry_path(self._folder, version)) is not None:
            return
        if look_at_log(self._store, self._folder).newest != version:
            raise CommitConflict(f"table {self._folder}: version {version} is gone")

    def _state(self, found: LogFiles) -> TableState:
        since = found.newest - found.checkpoint
        if since > COMMITS_MAX:
            raise NotOurs(f"{since} entries since the last checkpoint")
        if len(found.parts) > 1 or found.hint.get("v2Checkpoint"):
            raise NotOurs("a checkpoint in parts")
        state = self._checkpointed(found.parts[0]) if found.parts else TableState(None)
        apply_entries(self._store, self._folder, found, state.apply)
        return state

    def _checkpointed(self, path: str) -> TableState:
        data = self._store.get(path)
        if data is None:
            raise TableUnavailable(f"{self._name(path)} is gone")
        with named(self._name(path)):
            file = pq.ParquetFile(pa.BufferReader(data))
        return TableState(file, self._name(path))

    def _name(self, path: str) -> str:
        """What an error calls a checkpoint."""
        return f"table {self._folder}: checkpoint {path}"

    def _path(self, version: int) -> str:
        return f"{log_folder(self._folder)}{version:020d}.checkpoint.parquet"

    def _write(self, version: int, parts: Iterator[pa.Table]) -> None:
        sink, rows, adds = io.BytesIO(), 0, 0
        with pq.ParquetWriter(sink, SCHEMA, compression="snappy") as writer:
            for part in parts:
                if part.num_rows:
                    writer.write_table(part)
                rows += part.num_rows
                adds += part.num_rows - part["add"].null_count
        content = sink.getbuffer()
        self._store.put(self._path(version), content)
        self._store.put(hint_path(self._folder), json.dumps(
            {"version": version, "size": rows, "sizeInBytes": len(content),
             "numOfAddFiles": adds}).encode())

    def _clean_up(self, configuration: Mapping[str, str]) -> int:
        """Delete the oldest files below a checkpoint that is itself older than the retention; how
        many."""
        kept_ms = log_retention_ms(configuration)
        if kept_ms is None:
            return 0
        folder = log_folder(self._folder)
        old = OldFiles((self._unix_ms() - kept_ms) / 1000, DELETES_MAX)
        for chunk in islice(self._store.walk(folder), CHUNKS_MAX):
            for found in chunk:
                old.take(found.path.removeprefix(folder), found.modified_s)
            if self._store.lists_in_order and old.is_settled:
                break
        doomed = [f"{folder}{name}" for name in old.doomed()]
        if doomed:
            for name in old.covering:
                self._check_opens(f"{folder}{name}")
            self._store.delete_all(doomed)
        return len(doomed)

    def _check_opens(self, path: str) -> None:
        """What lies below a torn checkpoint is the only way to the versions behind it."""
        source = self._store.open(path)
        if source is None:
            raise TableUnavailable(f"{self._name(path)} is gone")
        with named(self._name(path)):
            pq.ParquetFile(pa.PythonFile(source, "r"))


def _versions_due(hint: Mapping[str, Any]) -> int:
    """How many versions behind the last checkpoint the next one is due."""
    rows = hint.get("size")
    known = rows if isinstance(rows, int) else 0
    return max(CHECKPOINT_INTERVAL, min(known // ROWS_PER_VERSION, VERSIONS_MAX))
