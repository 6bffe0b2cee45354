"""Pure: what a Delta table's log adds up to: the last checkpoint and the entries since.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoints has its form.  Files of the
old checkpoint are columns, read a slice at a time: a table may have had a hundred thousand in the
last week.  What a table of protocol (1, 2) cannot have is refused: another writer's feature may
mean something that is lost here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.damage import named
from workers.log_entry import actions_of
from workers.log_head import KINDS, LogHead
from workers.schemas import PARTITION_COLUMN

_TEXTS = pa.map_(pa.string(), pa.string())
TXN = pa.struct([
    pa.field("appId", pa.string()), pa.field("version", pa.int64()),
    pa.field("lastUpdated", pa.int64())])
ADD = pa.struct([
    pa.field("path", pa.string()), pa.field("partitionValues", _TEXTS),
    pa.field("size", pa.int64()), pa.field("modificationTime", pa.int64()),
    pa.field("dataChange", pa.bool_()), pa.field("stats", pa.string()), pa.field("tags", _TEXTS)])
REMOVE = pa.struct([
    pa.field("path", pa.string()), pa.field("deletionTimestamp", pa.int64()),
    pa.field("dataChange", pa.bool_()), pa.field("extendedFileMetadata", pa.bool_()),
    pa.field("partitionValues", _TEXTS), pa.field("size", pa.int64())])
METADATA = pa.struct([
    pa.field("id", pa.string()), pa.field("name", pa.string()),
    pa.field("description", pa.string()),
    pa.field("format", pa.struct([
        pa.field("provider", pa.string()), pa.field("options", _TEXTS)])),
    pa.field("schemaString", pa.string()), pa.field("partitionColumns", pa.list_(pa.string())),
    pa.field("createdTime", pa.int64()), pa.field("configuration", _TEXTS)])
PROTOCOL = pa.struct([
    pa.field("minReaderVersion", pa.int32()), pa.field("minWriterVersion", pa.int32())])
SCHEMA = pa.schema([
    pa.field("txn", TXN), pa.field("add", ADD), pa.field("remove", REMOVE),
    pa.field("metaData", METADATA), pa.field("protocol", PROTOCOL)])

READER_MAX, WRITER_MAX = 1, 2
SLICE_ROWS = 4096
"""Of the old checkpoint that are in memory at once."""
_IGNORED = frozenset({"commitInfo"})
_NEEDED = {"add": ("path", "partitionValues", "size", "modificationTime"), "remove": ("path",)}
"""What the protocol asks for and is relied on here."""


class NotOurs(Exception):
    """The table has something that we do not know the meaning of."""


@dataclass(frozen=True, slots=True)
class LiveFile:
    """A file of the newest snapshot: its path under the table's folder, bytes, ISO date, and when
    it was written, in Unix milliseconds."""

    path: str
    size: int
    date: str
    written_at_ms: int


class TableState:
    """What a table's log adds up to; entries are applied in order.

    What uses the old checkpoint, which is read each time, raises `TableUnavailable` for damage.
    """

    def __init__(self, checkpoint: pq.ParquetFile | None, name: str = "") -> None:
        """checkpoint: the last one, None where there is none; name: what an error calls it.
        Raises `NotOurs`."""
        self._old, self._old_name = checkpoint, name
        self._adds: dict[str, Mapping[str, Any]] = {}
        self._replaced: set[str] = set()
        self._removes: dict[str, Mapping[str, Any]] = {}
        self._head = LogHead()
        with named(self._old_name):
            for kind in KINDS:
                for column in self._old_columns(kind):
                    actions = column.to_pylist(maps_as_pydicts="strict")
                    for action in actions:
                        self._apply(kind, action)
                    _check(kind, actions)

    def _old_columns(self, name: str) -> Iterator[pa.StructArray]:
        """The actions of one kind in the old checkpoint, some at a time."""
        if self._old is None or name not in self._old.schema_arrow.names:
            return
        for batch in self._old.iter_batches(SLICE_ROWS, columns=[name]):
            column = batch.column(0)
            if column.null_count < len(column):
                yield column.filter(pc.is_valid(column))

    def apply(self, entry: bytes) -> None:
        """Apply the next entry of the log.  Raises `NotOurs`, and ValueError, KeyError, TypeError
        or AttributeError for damage."""
        found: dict[str, list[Mapping[str, Any]]] = {}
        for name, action in actions_of(entry):
            if name not in _IGNORED:
                self._apply(name, action)
                found.setdefault(name, []).append(action)
        for name, actions in found.items():
            _check(name, actions)

    def _apply(self, name: str, action: Mapping[str, Any]) -> None:
        if name == "add":
            self._add(action)
        elif name == "remove":
            path = action["path"]
            self._adds.pop(path, None)
            self._replaced.add(path)
            self._removes[path] = action
        elif name in KINDS:
            self._head.apply(name, action)
            if name == "protocol" and (
                    action["minReaderVersion"] > READER_MAX
                    or action["minWriterVersion"] > WRITER_MAX):
                raise NotOurs(f"protocol {dict(action)}")
        else:
            raise NotOurs(f"action {name}")

    def _add(self, action: Mapping[str, Any]) -> None:
        strange = {name for name in action if action[name] is not None} - set(_names(ADD))
        if strange:
            raise NotOurs(f"an added file has {', '.join(sorted(strange))}")
        path = action["path"]
        self._replaced.add(path)
        self._removes.pop(path, None)
        self._adds[path] = action

    @property
    def configuration(self) -> Mapping[str, str]:
        """The table's properties."""
        return self._head.configuration

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns."""
        return [str(field["name"]) for field in self._head.fields]

    def checkpoint(self, removed_since_ms: int) -> Iterator[pa.Table]:
        """The rows of the new checkpoint, some at a time.

        removed_since_ms: files that were removed until then are not told of any more; -1: all are.
        Raises `NotOurs` where the log has no beginning.
        """
        protocol, metadata = self._head.protocol, self._head.metadata
        if protocol is None or metadata is None:
            raise NotOurs("no metadata or no protocol in the log")
        yield _rows("protocol", [protocol])
        yield _rows("metaData", [metadata])
        yield _rows("txn", list(self._head.txns.values()))
        for column in self._remaining("remove", REMOVE):
            since = pc.greater(pc.fill_null(column.field("deletionTimestamp"), 0), removed_since_ms)
            yield _columns("remove", column.filter(since))
        yield _rows("remove", [
            remove for remove in self._removes.values() if _removed_ms(remove) > removed_since_ms])
        for column in self._remaining("add", ADD):
            yield _columns("add", column)
        yield _rows("add", [{**add, "dataChange": False} for add in self._adds.values()])

    def _remaining(self, name: str, kind: pa.StructType) -> Iterator[pa.StructArray]:
        """What the entries since have left of the files in the old checkpoint."""
        replaced = pa.array(sorted(self._replaced), pa.string())
        with named(self._old_name):
            for column in self._old_columns(name):
                column = _fit(column, name, kind)
                yield column.filter(pc.invert(pc.is_in(column.field("path"), replaced)))

    def live_files(self, before: str, bytes_max: int, count_max: int) -> list[LiveFile]:
        """The first `count_max` files of days before the ISO date `before` that are no larger
        than `bytes_max`, by day, oldest first.  Raises `NotOurs`."""
        wanted = (file for file in self._dated()
                  if file.date < before and file.size <= bytes_max)
        return heapq.nsmallest(
            count_max, wanted, key=lambda file: (file.date, file.written_at_ms, file.path))

    def _dated(self) -> Iterator[LiveFile]:
        """The live files that have a date: another writer's row may have none, and so have all
        files of a table that is partitioned no longer."""
        for column in self._remaining("add", ADD):
            days = pc.map_lookup(column.field("partitionValues"), PARTITION_COLUMN, "first")
            fields = (column.field("path"), column.field("size"), days,
                      column.field("modificationTime"))
            for values in zip(*(field.to_pylist() for field in fields), strict=True):
                if values[2] is not None:
                    yield LiveFile(*values)
        for add in self._adds.values():
            date = add["partitionValues"].get(PARTITION_COLUMN)
            if date is not None:
                yield LiveFile(
                    add["path"], int(add["size"]), date, int(add["modificationTime"]))

    def which_live(self, paths: Set[str]) -> set[str]:
        """Those of `paths` that the newest snapshot has.  Raises `NotOurs` where it has files
        that may lie elsewhere."""
        live: set[str] = set()
        for column in self._remaining("add", ADD):
            live |= _known(column.field("path").to_pylist(), paths)
        return live | _known(self._adds, paths)

    def removed_ms(self, paths: Set[str]) -> dict[str, int]:
        """When those of `paths` were removed whose removal is still told of, in Unix ms."""
        found: dict[str, int] = {}
        wanted = pa.array(sorted(paths), pa.string())
        for column in self._remaining("remove", REMOVE):
            column = column.filter(pc.is_in(column.field("path"), wanted))
            found |= {remove["path"]: _removed_ms(remove) for remove in column.to_pylist()}
        return found | {path: _removed_ms(remove) for path, remove in self._removes.items()
                        if path in paths}


def _known(stored: Iterable[str], paths: Set[str]) -> set[str]:
    """Which of `paths` are in `stored`.  A path of another form may be another name of one."""
    found = set()
    for path in stored:
        if path.startswith("/") or ":" in path or "%" in path:
            raise NotOurs(f"a file that may lie elsewhere: {path[:80]}")
        if path in paths:
            found.add(path)
    return found


def _removed_ms(remove: Mapping[str, Any]) -> int:
    return int(remove.get("deletionTimestamp") or 0)


def _names(kind: pa.StructType) -> list[str]:
    return [field.name for field in kind]


def _check(name: str, actions: list[Mapping[str, Any]]) -> None:
    """Raise ValueError, TypeError or AttributeError for actions of one kind that no checkpoint can
    hold: where they are read, their file can be named."""
    for field in _NEEDED.get(name, ()):
        if any(action.get(field) is None for action in actions):
            raise ValueError(f"{name} without {field}")
    try:
        _array(name, actions)
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"{name} of another form") from error


def _fit(found: pa.StructArray, name: str, kind: pa.StructType) -> pa.StructArray:
    """Files of an old checkpoint in our form; whoever wrote it may have left fields out."""
    present = set(_names(found.type))
    if kind == ADD:
        if "stats" not in present:
            raise NotOurs("the checkpoint has no statistics as JSON")
        strange = [field for field in present - set(_names(ADD))
                   if found.field(field).null_count < len(found)]
        if strange:
            raise NotOurs(f"files of the checkpoint have {', '.join(sorted(strange))}")
    fitted = pa.StructArray.from_arrays(
        [found.field(field.name).cast(field.type) if field.name in present
         else pa.nulls(len(found), field.type) for field in kind], fields=list(kind))
    absent = [field for field in _NEEDED[name] if fitted.field(field).null_count]
    if absent:
        raise ValueError(f"{name} without {', '.join(absent)}")
    return fitted


def _rows(name: str, actions: list[Mapping[str, Any]]) -> pa.Table:
    return _columns(name, _array(name, actions))


def _array(name: str, actions: list[Mapping[str, Any]]) -> pa.StructArray:
    as_row = _AS_ROW[name]
    return pa.array([as_row(action) for action in actions], SCHEMA.field(name).type)


def _converter(kind: pa.DataType) -> Callable[[Any], Any]:
    """What makes of a JSON value what Arrow takes for its type: of a map, its entries."""
    if pa.types.is_map(kind):
        return lambda value: None if value is None else list(value.items())
    if pa.types.is_struct(kind):
        parts = [(field.name, _converter(field.type)) for field in kind]
        return lambda value: None if value is None else {
            name: convert(value.get(name)) for name, convert in parts}
    return lambda value: value


_AS_ROW = {field.name: _converter(field.type) for field in SCHEMA}


def _columns(name: str, column: pa.Array) -> pa.Table:
    return pa.table(
        [column if field.name == name else pa.nulls(len(column), field.type)
         for field in SCHEMA], schema=SCHEMA)
