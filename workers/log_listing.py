"""What is in a table's log, as its hint and a listing tell: no entry is read."""

from __future__ import annotations

import json
from typing import Any

from shared.object_store import ObjectStore
from workers.log_entry import entry_path, entry_version, log_folder


class HintUnreadable(ValueError):
    """`_last_checkpoint` is there and says nothing."""


def hint_path(folder: str) -> str:
    """Where the hint lies under the lake."""
    return f"{log_folder(folder)}_last_checkpoint"


def read_hint(store: ObjectStore, folder: str) -> dict[str, Any] | None:
    """What is said of the last checkpoint, `version` at least; None where there is none.

    Raises `HintUnreadable` and `StorageUnavailable`.
    """
    found = store.get(hint_path(folder))
    if found is None:
        return None
    try:
        hint = dict(json.loads(found))
        hint["version"] = int(hint["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise HintUnreadable(f"table {folder}: _last_checkpoint cannot be read") from error
    return hint


def newest_version(store: ObjectStore, folder: str, checkpoint: int) -> int:
    """The last entry's version, -1 where there is no log.

    checkpoint: the last one's version, -1 for none; entries below it need no listing.
    """
    paths = store.list_after(log_folder(folder), listing_start(folder, checkpoint))
    versions = map(entry_version, paths)
    return max((version for version in versions if version is not None), default=-1)


def listing_start(folder: str, checkpoint: int) -> str:
    """Behind which path to list: the checkpoint's files and all later entries come behind it."""
    return entry_path(folder, checkpoint - 1) if checkpoint > 0 else ""
