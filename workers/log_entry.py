"""Pure: entries of a Delta log as this service writes them, one JSON action per line.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md#actions has their form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.records import DataFile
from shared.version import SERVICE_VERSION
from workers.schemas import PARTITION_COLUMN

ENGINE = f"bronze-ingestion/{SERVICE_VERSION}"
READER_VERSION, WRITER_VERSION = 1, 2
"""What every reader of Delta tables knows."""
VERSION_MAX = 2**63 - 1
"""Delta's versions are signed 64-bit numbers: a longer one in a name is something else, a date."""

_ENTRY = re.compile(r"(\d{20})\.json", re.ASCII)
_CHECKPOINT = re.compile(
    r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet", re.ASCII)
_FEATURES_OF_VERSION = {
    1: (), 2: ("appendOnly", "invariants"), 3: ("appendOnly", "invariants", "checkConstraints"),
    4: ("appendOnly", "invariants", "checkConstraints", "changeDataFeed", "generatedColumns"),
}
_FEATURES_VERSION = 7
"""The writer version with which a table lists its features."""
_HARMLESS = frozenset({"appendOnly", "changeDataFeed", "deletionVectors", "timestampNtz"})
"""Features that ask nothing of who only adds files."""
_RULES = {"invariants": "delta.invariants", "checkConstraints": "delta.constraints.",
          "generatedColumns": "delta.generationExpression"}
"""Features that ask something only where a column or the table has a property of that name."""
_UNBEARABLE = frozenset({"delta.setTransactionRetentionDuration"})
"""Properties of a table with which our positions would go from it: Spark's next checkpoint leaves
out those that are old, or that have no time with them."""


@dataclass(frozen=True, slots=True)
class Commit:
    """What a table's log tells of one version.

    record: the record of ours whose files it added, None for every other commit; at_ms: Unix time
    by the writer's clock, None where it left none; txns: the positions it set; is_compaction: it
    is one of ours, and changed no row.
    """

    version: int
    record: int | None
    at_ms: int | None
    txns: Mapping[str, int] = field(default_factory=dict)
    is_compaction: bool = False


def log_folder(folder: str) -> str:
    """Where a table's log lies under the lake."""
    return f"{folder}/_delta_log/"


def entry_path(folder: str, version: int) -> str:
    """Where the log entry of a table's version lies under the lake."""
    return f"{log_folder(folder)}{version:020d}.json"


def entry_version(path: str) -> int | None:
    """The version in an entry's path; None for a checkpoint and whatever else lies there."""
    match = _ENTRY.fullmatch(path.rsplit("/", 1)[-1])
    version = int(match[1]) if match else VERSION_MAX + 1
    return version if version <= VERSION_MAX else None


def checkpoint_part(path: str) -> tuple[int, int, int] | None:
    """(version, part, parts) in the path of a checkpoint's file, (version, 1, 0) where it is one
    file whose name has no parts; None for whatever else lies there."""
    match = _CHECKPOINT.fullmatch(path.rsplit("/", 1)[-1])
    if match is None or int(match[1]) > VERSION_MAX:
        return None
    return int(match[1]), int(match[2] or 1), int(match[3] or 0)


def actions_of(entry: bytes) -> Iterator[tuple[str, Any]]:
    """Kind and content of each action of an entry, in order; raises ValueError for damage."""
    for line in entry.splitlines():
        if line.strip():
            action = json.loads(line)
            if not isinstance(action, dict):
                raise ValueError("an action is not an object")
            yield from action.items()


def commit_of(entry: bytes, version: int) -> Commit:
    """Read what an entry of whichever writer says of its commit; raises ValueError."""
    record = at_ms = None
    txns: dict[str, int] = {}
    for kind, content in actions_of(entry):
        if not isinstance(content, dict):
            raise ValueError(f"{kind} is not an object")
        if kind == "commitInfo":
            ours = content.get("bronze")
            record = whole_number(ours.get("record")) if isinstance(ours, dict) else None
            at_ms = whole_number(content.get("timestamp"))
        elif kind == "txn":
            position = whole_number(content.get("version"))
            if position is not None:
                txns[str(content.get("appId"))] = position
    return Commit(version, record, at_ms, txns, is_compaction(entry))


def whole_number(found: Any) -> int | None:
    """What JSON has as a whole number, None for everything else."""
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def first_entry(
    schema: Mapping[str, Any], configuration: Mapping[str, str], table_id: str, now_ms: int
) -> bytes:
    """Version 0: an empty table.  schema: a Delta schema; table_id: a fresh UUID."""
    return _lines(
        _commit_info("CREATE TABLE", {}, {}, now_ms),
        {"protocol": {"minReaderVersion": READER_VERSION, "minWriterVersion": WRITER_VERSION}},
        {"metaData": {
            "id": table_id, "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps(schema), "partitionColumns": [PARTITION_COLUMN],
            "configuration": dict(configuration), "createdTime": now_ms}})


def append_entry(
    files: Sequence[DataFile], txns: Mapping[str, int], facts: Mapping[str, Any], now_ms: int
) -> bytes:
    """A version that adds `files` and sets `txns`; `facts` are for people who read the log."""
    return _lines(
        _commit_info("WRITE", {"mode": "Append", "partitionBy": "[]"},
                     {"isBlindAppend": True, "bronze": dict(facts)}, now_ms),
        *({"txn": {"appId": app_id, "version": version}} for app_id, version in txns.items()),
        *({"add": _add(file)} for file in files))


def _add(file: DataFile) -> dict[str, Any]:
    return {"path": file.path, "partitionValues": {PARTITION_COLUMN: file.date},
            "size": file.size, "modificationTime": file.written_at_ms, "dataChange": True,
            "stats": file.stats}


def compaction_entry(
    old: Sequence[tuple[str, int, str]], new: DataFile, now_ms: int
) -> bytes:
    """A version with `new` in the place of files that have the same rows.

    old: (path, bytes, ISO date) of each.
    """
    return _lines(
        _commit_info("OPTIMIZE", {}, {"isBlindAppend": False, "bronze": {"compaction": len(old)}},
                     now_ms),
        *({"remove": {
            "path": path, "deletionTimestamp": now_ms, "dataChange": False,
            "extendedFileMetadata": True, "partitionValues": {PARTITION_COLUMN: date},
            "size": size}} for path, size, date in old),
        {"add": {**_add(new), "dataChange": False}})


def is_compaction(entry: bytes) -> bool:
    """Whether an entry is such a version: rows, positions and schema are what they were."""
    if b'"compaction"' not in entry:
        return False
    try:
        actions = list(actions_of(entry))
        return any(kind == "commitInfo" and "compaction" in content.get("bronze", {})
                   for kind, content in actions) and all(
                       kind == "commitInfo" or _changes_no_data(kind, content)
                       for kind, content in actions)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _changes_no_data(kind: str, content: Mapping[str, Any]) -> bool:
    return kind in ("add", "remove") and not content["dataChange"]


def appends_only(entry: bytes) -> bool:
    """Whether an entry adds files and sets positions, and does nothing else."""
    try:
        return all(kind in ("commitInfo", "add", "txn") for kind, _ in actions_of(entry))
    except ValueError:
        return False


def unknown_features(
    writer_version: int, features: Iterable[str] | None, properties: Iterable[str]
) -> list[str]:
    """Writer features of a table that ask of an append what is not done here.

    features: as the table lists them; properties: names of the table's and its columns'.
    """
    if writer_version == _FEATURES_VERSION:
        asked = tuple(features or ())
    elif writer_version in _FEATURES_OF_VERSION:
        asked = _FEATURES_OF_VERSION[writer_version]
    else:
        return [f"writer version {writer_version}"]
    names = tuple(properties)
    return [*(feature for feature in asked if feature not in _HARMLESS
              and (feature not in _RULES
                   or any(name.startswith(_RULES[feature]) for name in names))),
            *(name for name in names if name in _UNBEARABLE)]


def _commit_info(
    operation: str, parameters: Mapping[str, str], more: Mapping[str, Any], now_ms: int
) -> dict[str, Any]:
    return {"commitInfo": {"timestamp": now_ms, "operation": operation,
                           "operationParameters": dict(parameters), "engineInfo": ENGINE, **more}}


def _lines(*actions: Mapping[str, Any]) -> bytes:
    return "\n".join(json.dumps(action, separators=(",", ":")) for action in actions).encode()
