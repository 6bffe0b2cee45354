"""A table's own log, looked after: checkpoints, and the clean-up of entries long behind them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from keeper.checkpoint import NotOurs, TableState
from shared.errors import TableUnavailable
from shared.object_store import Store
from workers.delta_table import CHECKPOINT_INTERVAL, COMMITS_MAX, TableStore
from workers.log_entry import entry_path, entry_version, log_folder

DELETES_MAX = 200
"""Entries deleted in one go; a turn comes every minute."""
DAY_MS = 86_400_000
LOG_RETENTION_DAYS = 30
"""Delta's default."""

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
        self, store: Store, tables: TableStore, folder: str, unix_ms: Callable[[], int]
    ) -> None:
        self._store, self._tables, self._folder = store, tables, folder
        self._unix_ms = unix_ms

    def keep(self) -> Kept:
        """Write a checkpoint if the last one is CHECKPOINT_INTERVAL versions behind, then delete
        entries that are older than the table's retention and covered by an old checkpoint."""
        try:
            return self._keep()
        except NotOurs:
            # Another writer's features: the library knows more of them, and takes more memory.
            return Kept(self._tables.checkpoint(self._folder))

    def _keep(self) -> Kept:
        hint = self._hint()
        last = -1 if hint is None else int(hint["version"])
        newest = self._newest(last)
        if newest - last < CHECKPOINT_INTERVAL:
            return Kept()
        state = self._state(hint, last, newest)
        self._write(newest, state.checkpoint(self._unix_ms()))
        return Kept(newest, self._clean_up(state))

    def _hint(self) -> dict[str, Any] | None:
        found = self._store.get(f"{log_folder(self._folder)}_last_checkpoint")
        if found is None:
            return None
        try:
            hint = json.loads(found)
            int(hint["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise NotOurs("_last_checkpoint cannot be read") from error
        return dict(hint)

    def _newest(self, last: int) -> int:
        start = entry_path(self._folder, last - 1) if last > 0 else ""
        versions = map(entry_version, self._store.list_after(log_folder(self._folder), start))
        return max((version for version in versions if version is not None), default=-1)

    def _state(self, hint: dict[str, Any] | None, last: int, newest: int) -> TableState:
        if newest - last > COMMITS_MAX:
            raise NotOurs(f"{newest - last} entries since the last checkpoint")
        if hint is not None and (hint.get("parts") or hint.get("v2Checkpoint")):
            raise NotOurs("a checkpoint in parts")
        state = TableState(None if hint is None else self._read(last))
        for version in range(last + 1, newest + 1):
            entry = self._store.get(entry_path(self._folder, version))
            if entry is None:
                raise TableUnavailable(f"table {self._folder}: entry {version} is missing")
            try:
                state.apply(entry)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise TableUnavailable(
                    f"table {self._folder}: entry {version} cannot be read") from error
        return state

    def _read(self, version: int) -> Any:
        data = self._store.get(self._path(version))
        if data is None:
            raise NotOurs(f"checkpoint {version} is not one file")
        return pq.read_table(io.BytesIO(data))

    def _path(self, version: int) -> str:
        return f"{log_folder(self._folder)}{version:020d}.checkpoint.parquet"

    def _write(self, version: int, rows: Any) -> None:
        sink = io.BytesIO()
        pq.write_table(rows, sink, compression="snappy")
        content = sink.getvalue()
        self._store.put(self._path(version), content)
        adds = rows.num_rows - rows["add"].null_count
        self._store.put(f"{log_folder(self._folder)}_last_checkpoint", json.dumps(
            {"version": version, "size": rows.num_rows, "sizeInBytes": len(content),
             "numOfAddFiles": adds}).encode())

    def _clean_up(self, state: TableState) -> int:
        """Delete the oldest entries below a checkpoint that is itself older than the retention:
        what is left still adds up to every version from that checkpoint on."""
        days = _retention_days(state.configuration)
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


def _retention_days(configuration: Any) -> int | None:
    """How long entries are kept; None where the table says never, or what we do not understand."""
    if configuration.get("delta.enableExpiredLogCleanup", "true").lower() != "true":
        return None
    asked = configuration.get("delta.logRetentionDuration")
    if asked is None:
        return LOG_RETENTION_DAYS
    match = _DAYS.fullmatch(asked)
    return int(match[1]) if match else None
