"""The newest version of a table and what its log says beside its files.

The last checkpoint is read in the few columns that are wanted, then the entries since.  How many
files the table has makes no difference, where a library's snapshot has them all in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import TableUnavailable, TableVanished
from shared.object_store import ObjectStore
from workers.log_entry import entry_path, entry_version, log_folder
from workers.log_head import KINDS, LogHead
from workers.log_listing import HintUnreadable, listing_start, read_hint

REQUESTS_AT_ONCE = 4
"""Eight workers open their tables at the same time; a request to a distant store takes 30 ms."""
ENTRIES_AT_ONCE = 64
"""In memory, before they are taken in."""

_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing of the log shows: the last whole checkpoint's version and files, -1 and none
    without one; the newest version, -1 where there is no log."""

    checkpoint: int
    parts: tuple[str, ...]
    newest: int
    entries: frozenset[int]


def read_snapshot(store: ObjectStore, folder: str) -> tuple[int, LogHead]:
    """The newest version and its head.

    Raises `TableVanished` where there is no log, `TableUnavailable` where it cannot be read, and
    `StorageUnavailable`.
    """
    listed = _listed(store, folder)
    head = LogHead()
    for part in listed.parts:
        _read_checkpoint(store, folder, part, head)
    wanted = range(listed.checkpoint + 1, listed.newest + 1)
    missing = [version for version in wanted if version not in listed.entries]
    if missing:
        raise TableUnavailable(f"table {folder}: entry {missing[0]} of its log is missing")
    for version, entry in _entries(store, folder, wanted):
        try:
            head.apply_entry(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableUnavailable(f"table {folder}: entry {version} cannot be read") from error
    if not head.is_complete:
        raise TableUnavailable(f"table {folder}: its log has no metadata or no protocol")
    return listed.newest, head


def _listed(store: ObjectStore, folder: str) -> Listed:
    try:
        hint = read_hint(store, folder)
    except HintUnreadable as error:
        raise TableUnavailable(str(error)) from error
    start = listing_start(folder, -1 if hint is None else hint["version"])
    found = list_log(store.list_after(log_folder(folder), start))
    if hint is not None and found.checkpoint < hint["version"]:
        raise TableUnavailable(f"table {folder}: _last_checkpoint names version "
                               f"{hint['version']}, whose checkpoint is not there")
    if found.newest < 0:
        raise TableVanished(f"there is no table at {folder}")
    return found


def list_log(paths: list[str]) -> Listed:
    """What these files of a log are.  Checkpoints of a form not known here are passed over: the
    entries since the last known one say the same."""
    entries = frozenset(
        version for version in map(entry_version, paths) if version is not None)
    checkpoints: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        match = _CHECKPOINT.fullmatch(path.rsplit("/", 1)[-1])
        if match is not None:
            checkpoints.setdefault((int(match[1]), int(match[3] or 1)), []).append(path)
    whole = {key: files for key, files in checkpoints.items() if len(files) == key[1]}
    last = max(whole, default=(-1, 0))
    return Listed(last[0], tuple(whole.get(last, ())), max(last[0], *entries, -1), entries)


def _read_checkpoint(store: ObjectStore, folder: str, path: str, head: LogHead) -> None:
    source = store.open(path)
    if source is None:
        raise TableUnavailable(f"table {folder}: checkpoint {path} is gone")
    try:
        file = pq.ParquetFile(pa.PythonFile(source, "r"))
        for kind in KINDS:
            for action in _actions(file, kind):
                head.apply(kind, action)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise TableUnavailable(f"table {folder}: checkpoint {path} cannot be read") from error


def _actions(file: pq.ParquetFile, kind: str) -> Iterator[dict]:
    """The actions of one kind; row groups that say they have none are not read."""
    if kind not in file.schema_arrow.names:
        return
    leaves = [index for index in range(len(file.schema))
              if file.schema.column(index).path.split(".")[0] == kind]
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if any(_may_hold(group.column(leaf), group.num_rows) for leaf in leaves):
            column = file.read_row_group(number, columns=[kind]).column(0)
            for action in column.drop_null().to_pylist(maps_as_pydicts="strict"):
                yield action


def _may_hold(column: pq.ColumnChunkMetaData, rows: int) -> bool:
    found = column.statistics
    return found is None or not found.has_null_count or found.null_count < rows


def _entries(store: ObjectStore, folder: str, versions: range) -> Iterator[tuple[int, bytes]]:
    """The entries in order, read some at a time, a few at once."""
    if not versions:
        return
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        for start in range(0, len(versions), ENTRIES_AT_ONCE):
            some = versions[start:start + ENTRIES_AT_ONCE]
            found = pool.map(lambda version: store.get(entry_path(folder, version)), some)
            for version, entry in zip(some, found, strict=True):
                if entry is None:
                    raise TableUnavailable(
                        f"table {folder}: entry {version} of its log is gone")
                yield version, entry
