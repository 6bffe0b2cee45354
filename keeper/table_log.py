"""A table's own log, looked after: checkpoints, and the clean-up of entries long behind them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from keeper.checkpoint import SCHEMA, LiveFile, NotOurs, TableState
from keeper.damage import named
from shared.errors import CommitConflict, TableUnavailable
from shared.object_store import Store
from shared.records import DataFile
from workers.delta_table import CHECKPOINT_INTERVAL, COMMITS_MAX, TableStore
from workers.log_entry import (
    appends_only, compaction_entry, entry_path, entry_version, log_folder,
)
from workers.log_listing import LogFiles, hint_path, look_at_log
from workers.log_snapshot import apply_entries

DELETES_MAX = 200
"""Entries deleted in one go; a turn comes every minute."""
DAY_MS = 86_400_000
LOG_RETENTION_DAYS = 30
"""Delta's default."""
REMOVED_RETENTION_DAYS = 7
"""Delta's default for files that a table no longer has: readers of older versions need them."""
REMOVALS_TOLD_DAYS = 2
"""For so much longer than its retention a removed file is told of: until a vacuum came by."""
ROWS_PER_VERSION = 1000
"""A checkpoint is written anew after a version for so many rows in it, if that is later: what it
costs is then the same for each commit, however many files there are."""
VERSIONS_MAX = 400
COMMIT_ATTEMPTS_MAX = 100
"""Versions that others may take before a compaction's: seconds of commits, at the most frequent."""

_DAYS = re.compile(r"\s*interval\s+(\d{1,5})\s+days?\s*", re.IGNORECASE)
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


@dataclass(frozen=True, slots=True)
class Kept:
    """What was done: the version of the new checkpoint, None where none was due; how many entries
    were deleted."""

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
            return Kept(self._tables.checkpoint(self._folder))

    def _keep(self) -> Kept:
        found = look_at_log(self._store, self._folder)
        newest = found.newest
        if newest - found.checkpoint < _versions_due(found.hint):
            return Kept()
        state = self._state(found)
        days = max(removed_retention_days(state) or 0, self._removed_days_min)
        told_since_ms = self._unix_ms() - (days + REMOVALS_TOLD_DAYS) * DAY_MS
        self._write(newest, state.checkpoint(told_since_ms))
        return Kept(newest, self._clean_up(state))

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

    def _clean_up(self, state: TableState) -> int:
        """Delete the oldest entries below a checkpoint that is itself older than the retention:
        what is left still adds up to every version from that checkpoint on."""
        days = log_retention_days(state)
        if days is None:
            return 0
        cutoff_s = (self._unix_ms() - days * DAY_MS) / 1000
        oldest = self._store.oldest(log_folder(self._folder), DELETES_MAX)
        old = {path.rsplit("/", 1)[-1]: path for path, modified_s in oldest.items()
               if modified_s <= cutoff_s}
        covered = max((int(match[1]) for match in map(_CHECKPOINT.fullmatch, old) if match),
                      default=-1)
        doomed = [path for name, path in sorted(old.items())
                  if _is_below(name, covered)]
        for path in doomed:
            self._store.delete(path)
        return len(doomed)


def _is_below(name: str, version: int) -> bool:
    """Whether a file of the log is an entry or a checkpoint of an earlier version."""
    match = _CHECKPOINT.fullmatch(name)
    found = int(match[1]) if match else entry_version(name)
    return found is not None and found < version


def _versions_due(hint: Mapping[str, Any]) -> int:
    """How many versions behind the last checkpoint the next one is due."""
    rows = hint.get("size")
    known = rows if isinstance(rows, int) else 0
    return max(CHECKPOINT_INTERVAL, min(known // ROWS_PER_VERSION, VERSIONS_MAX))


def log_retention_days(state: TableState) -> int | None:
    """How long entries are kept; None where the table says never, or what we do not understand."""
    if state.configuration.get("delta.enableExpiredLogCleanup", "true").lower() != "true":
        return None
    return _days(state, "delta.logRetentionDuration", LOG_RETENTION_DAYS)


def removed_retention_days(state: TableState) -> int | None:
    """How long removed files are kept; None where the table says what we do not understand."""
    return _days(state, "delta.deletedFileRetentionDuration", REMOVED_RETENTION_DAYS)


def _days(state: TableState, name: str, default: int) -> int | None:
    asked = state.configuration.get(name)
    if asked is None:
        return default
    match = _DAYS.fullmatch(asked)
    return int(match[1]) if match else None
