"""Pure: a Delta checkpoint, made of the one before it and the log entries since.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoints has its form.  Files stay
columns all the way: a table may have tens of thousands.  What a table of protocol (1, 2) cannot
have is refused: another writer's feature may mean something that is lost here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
TOMBSTONES_KEPT_MS = 7 * 86_400_000
"""Delta's default for how long a removed file's tombstone is kept."""
_IGNORED = frozenset({"commitInfo"})


class NotOurs(Exception):
    """The table has something that a checkpoint of ours would lose."""


class TableState:
    """What a table's log adds up to; entries are applied in order."""

    def __init__(self, checkpoint: pa.Table | None) -> None:
        """checkpoint: the last one as it was read, None where there is none.  Raises `NotOurs`."""
        self._old_adds = _old_adds(checkpoint)
        self._adds: dict[str, Mapping[str, Any]] = {}
        self._replaced: set[str] = set()
        self._removes: dict[str, Mapping[str, Any]] = {}
        self._txns: dict[str, Mapping[str, Any]] = {}
        self._metadata: Mapping[str, Any] | None = None
        self._protocol: Mapping[str, Any] | None = None
        for name in ("protocol", "metaData", "txn", "remove"):
            for action in _old(checkpoint, name):
                self._apply(name, action)

    def apply(self, entry: bytes) -> None:
        """Apply the next entry of the log.  Raises `NotOurs`, and ValueError for damage."""
        for line in entry.splitlines():
            for name, action in json.loads(line).items():
                if name not in _IGNORED:
                    self._apply(name, action)

    def _apply(self, name: str, action: Mapping[str, Any]) -> None:
        if name == "add":
            self._add(action)
        elif name == "remove":
            path = str(action["path"])
            self._adds.pop(path, None)
            self._replaced.add(path)
            self._removes[path] = action
        elif name == "txn":
            self._txns[str(action["appId"])] = action
        elif name == "metaData":
            self._metadata = action
        elif name == "protocol":
            self._protocol = action
            if action["minReaderVersion"] > READER_MAX or action["minWriterVersion"] > WRITER_MAX:
                raise NotOurs(f"protocol {dict(action)}")
        else:
            raise NotOurs(f"action {name}")

    def _add(self, action: Mapping[str, Any]) -> None:
        strange = {name for name in action if action[name] is not None} - set(_names(ADD))
        if strange:
            raise NotOurs(f"an added file has {', '.join(sorted(strange))}")
        path = str(action["path"])
        self._replaced.add(path)
        self._removes.pop(path, None)
        self._adds[path] = action

    @property
    def configuration(self) -> Mapping[str, str]:
        """The table's properties."""
        found = dict((self._metadata or {}).get("configuration") or {})
        return {str(name): str(value) for name, value in found.items()}

    def checkpoint(self, now_ms: int) -> pa.Table:
        """The rows of the new checkpoint.  Raises `NotOurs` where the log has no beginning."""
        if self._metadata is None or self._protocol is None:
            raise NotOurs("no metadata or no protocol in the log")
        kept = [action for action in self._removes.values()
                if (action.get("deletionTimestamp") or 0) > now_ms - TOMBSTONES_KEPT_MS]
        return pa.concat_tables([
            _rows("protocol", PROTOCOL, [self._protocol]),
            _rows("metaData", METADATA, [self._metadata]),
            _rows("txn", TXN, list(self._txns.values())),
            _rows("remove", REMOVE, kept),
            _columns("add", self._remaining_adds()),
            _rows("add", ADD, [{**add, "dataChange": False} for add in self._adds.values()])])

    def _remaining_adds(self) -> pa.Array:
        if not self._replaced or not len(self._old_adds):
            return self._old_adds
        gone = pc.is_in(self._old_adds.field("path"), pa.array(sorted(self._replaced)))
        return self._old_adds.filter(pc.invert(gone))


def _names(kind: pa.StructType) -> list[str]:
    return [field.name for field in kind]


def _old(checkpoint: pa.Table | None, name: str) -> Iterable[Mapping[str, Any]]:
    if checkpoint is None or name not in checkpoint.column_names:
        return
    column = checkpoint[name]
    for action in column.filter(pc.is_valid(column)).to_pylist():
        yield {key: dict(value) if key in ("configuration", "partitionValues") and value else value
               for key, value in action.items()}


def _old_adds(checkpoint: pa.Table | None) -> pa.Array:
    if checkpoint is None or "add" not in checkpoint.column_names:
        return pa.array([], ADD)
    column = checkpoint["add"]
    found = column.filter(pc.is_valid(column)).combine_chunks()
    present = set(_names(found.type))
    if "stats" not in present:
        raise NotOurs("the checkpoint has no statistics as JSON")
    strange = [name for name in present - set(_names(ADD))
               if found.field(name).null_count < len(found)]
    if strange:
        raise NotOurs(f"files of the checkpoint have {', '.join(sorted(strange))}")
    return pa.StructArray.from_arrays(
        [found.field(field.name).cast(field.type) if field.name in present
         else pa.nulls(len(found), field.type) for field in ADD], fields=list(ADD))


def _rows(name: str, kind: pa.StructType, actions: list[Mapping[str, Any]]) -> pa.Table:
    names = _names(kind)
    rows = [{key: _pairs(action.get(key)) for key in names} for action in actions]
    return _columns(name, pa.array(rows, kind))


def _pairs(value: Any) -> Any:
    """A JSON object as a map's entries; that of `format` holds another one."""
    if not isinstance(value, Mapping):
        return value
    if "provider" in value:
        return {"provider": value["provider"],
                "options": list(dict(value.get("options") or {}).items())}
    return list(value.items())


def _columns(name: str, column: pa.Array) -> pa.Table:
    return pa.table(
        [column if field.name == name else pa.nulls(len(column), field.type)
         for field in SCHEMA], schema=SCHEMA)
