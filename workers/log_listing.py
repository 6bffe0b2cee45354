"""What is in a table's log, as its hint and a listing tell: no entry is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import TableUnavailable
from shared.object_store import ObjectStore
from workers.log_entry import (
    checkpoint_part, entry_path, entry_version, log_folder, whole_number,
)


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
    # A checkpoint of a form not known here is as good as none.
    named = -1 if hint.get("v2Checkpoint") else hint.get("version", -1)
    log = log_folder(folder)
    pages = store.pages_after(log, entry_path(folder, named - 1) if named > 0 else "")
    # Below lie other writers' folders, and copies that somebody put aside.
    ours = ([path for path in page if "/" not in path[len(log):]] for page in pages)
    found = log_files(ours, hint)
    if found.checkpoint < named:
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


def log_files(pages: Iterable[list[str]], hint: Mapping[str, Any]) -> LogFiles:
    """What the paths of a log are, which come in pages, in whichever order.

    Checkpoints of a form not known here are passed over: the entries since the last known one say
    the same.  What lies before a whole checkpoint is forgotten at the end of each page.
    """
    entries: set[int] = set()
    checkpoints: dict[tuple[int, int], list[str]] = {}
    last = (-1, 0)
    for page in pages:
        entries.update(version for version in map(entry_version, page) if version is not None)
        for path in page:
            found = checkpoint_part(path)
            if found is not None:
                version, _, parts_named = found
                checkpoints.setdefault((version, parts_named), []).append(path)
        last = max((key for key, files in checkpoints.items() if len(files) == max(1, key[1])),
                   default=last)
        entries = {version for version in entries if version >= last[0]}
        checkpoints = {key: files for key, files in checkpoints.items() if key[0] >= last[0]}
    parts = tuple(sorted(checkpoints.get(last, ())))
    return LogFiles(last[0], parts, max(last[0], *entries, -1), frozenset(entries), hint)
