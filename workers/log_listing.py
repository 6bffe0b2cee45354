"""What is in a table's log, as its hint and a listing tell: no entry is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import TableUnavailable
from shared.object_store import ObjectStore
from workers.log_entry import entry_path, entry_version, log_folder, whole_number

_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10}))?\.parquet")


@dataclass(frozen=True, slots=True)
class LogFiles:
    """checkpoint, parts: the last whole one's version and its files' paths, -1 and none without
    one.  entries: versions of the entries, from that one on at least.  newest: the last version, -1
    where there is no log.  hint: what is said of the last checkpoint, {} where nothing is.
    """

    checkpoint: int
    parts: tuple[str, ...]
    newest: int
    entries: frozenset[int]
    hint: Mapping[str, Any]


def hint_path(folder: str) -> str:
    """Where the hint lies under the lake."""
    return f"{log_folder(folder)}_last_checkpoint"


def look_at_log(store: ObjectStore, folder: str) -> LogFiles:
    """List a table's log from its last checkpoint on.

    The hint only saves listing what lies before; without a readable one everything is listed.
    Raises `TableUnavailable` where the checkpoint that it names is gone, and `StorageUnavailable`.
    """
    hint = _read_hint(store, folder)
    named = hint.get("version", -1)
    start = entry_path(folder, named - 1) if named > 0 else ""
    found = log_files(store.list_after(log_folder(folder), start), hint)
    if found.checkpoint < named and not hint.get("v2Checkpoint"):
        raise TableUnavailable(f"table {folder}: _last_checkpoint names version {named}, whose "
                               f"checkpoint is not there")
    return found


def _read_hint(store: ObjectStore, folder: str) -> Mapping[str, Any]:
    try:
        hint = dict(json.loads(store.get(hint_path(folder)) or b"{}"))
    except (ValueError, TypeError):
        return {}
    version = whole_number(hint.get("version"))
    return {} if version is None else {**hint, "version": max(-1, version)}


def log_files(paths: list[str], hint: Mapping[str, Any]) -> LogFiles:
    """What these paths of a log are.

    Checkpoints of a form not known here are passed over: the entries since the last known one say
    the same.
    """
    entries = frozenset(
        version for version in map(entry_version, paths) if version is not None)
    checkpoints: dict[tuple[int, int], list[str]] = {}
    for path in paths:
        match = _CHECKPOINT.fullmatch(path.rsplit("/", 1)[-1])
        if match is not None:
            checkpoints.setdefault((int(match[1]), int(match[3] or 1)), []).append(path)
    whole = {key: files for key, files in checkpoints.items() if len(files) == key[1]}
    last = max(whole, default=(-1, 0))
    return LogFiles(last[0], tuple(whole.get(last, ())), max(last[0], *entries, -1), entries, hint)
