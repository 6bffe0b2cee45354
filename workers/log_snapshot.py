"""The newest version of a table and what its log says beside its files.

The last checkpoint is read in the few columns that are wanted, then the entries since.  How many
files the table has makes no difference, where a library's snapshot has them all in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from shared.errors import TableUnavailable, TableVanished
from shared.object_store import ObjectStore
from workers.damage import named
from workers.log_entry import entry_path
from workers.log_head import KINDS, LogHead
from workers.log_listing import LogFiles, look_at_log

REQUESTS_AT_ONCE = 4
"""Eight workers open their tables at the same time; a request to a distant store takes 30 ms."""
ENTRIES_AT_ONCE = 64
"""In memory, before they are taken in."""


def read_snapshot(
    store: ObjectStore, folder: str, beat: Callable[[], None] = lambda: None
) -> tuple[int, LogHead]:
    """The newest version and its head; `beat` is called on the way, however long that is.

    Raises `TableVanished` where there is no log, `TableUnavailable` where it cannot be read, and
    `StorageUnavailable`.
    """
    listed = look_at_log(store, folder)
    if listed.newest < 0:
        raise TableVanished(f"there is no table at {folder}")
    head = LogHead()
    for part in listed.parts:
        _read_checkpoint(store, folder, part, head)
    apply_entries(store, folder, listed, head.apply_entry, beat)
    if not head.is_complete:
        raise TableUnavailable(f"table {folder}: its log has no metadata or no protocol")
    return listed.newest, head


def apply_entries(
    store: ObjectStore, folder: str, listed: LogFiles, apply: Callable[[bytes], None],
    beat: Callable[[], None] = lambda: None,
) -> None:
    """Have the entries since the last checkpoint applied, in order; `beat` as above.

    `apply` raises ValueError, KeyError, TypeError or AttributeError for damage, which becomes
    `TableUnavailable`, as does an entry that is missing.
    """
    wanted = range(listed.checkpoint + 1, listed.newest + 1)
    missing = next((version for version in wanted if version not in listed.entries), None)
    if missing is not None:
        raise TableUnavailable(f"table {folder}: entry {missing} is missing from its log")
    for version, entry in _entries(store, folder, wanted, beat):
        with named(f"table {folder}: entry {version}"):
            apply(entry)


def _read_checkpoint(store: ObjectStore, folder: str, path: str, head: LogHead) -> None:
    source = store.open(path)
    if source is None:
        raise TableUnavailable(f"table {folder}: checkpoint {path} is gone")
    with named(f"table {folder}: checkpoint {path}"):
        file = pq.ParquetFile(pa.PythonFile(source, "r"))
        for kind in KINDS:
            for action in _actions(file, kind):
                head.apply(kind, action)


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


def _entries(
    store: ObjectStore, folder: str, versions: range, beat: Callable[[], None]
) -> Iterator[tuple[int, bytes]]:
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
            beat()
