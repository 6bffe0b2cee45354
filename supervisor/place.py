"""Where the shared block lies, and how what killed services left of theirs is removed.

Under systemd it is the unit's runtime folder, which systemd empties.  Elsewhere each start makes a
private folder in memory; the supervisor holds a lock on it, so that a folder nobody holds is one
whose supervisor is gone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BlockError

PREFIX = "bronze-ingestion-"
MEMORY = Path("/dev/shm")
LEFT_BEHIND_AGE_S = 60.0
"""A younger folder may be one that is just being made and is not locked yet."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the block lies; `folder` and the lock on it are ours when we made it."""

    path: Path
    folder: Path | None = None
    lock: int | None = None

    def remove(self) -> None:
        """Remove the folder with what is in it, if it is ours."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self.lock is not None:
            os.close(self.lock)


def find_place(environ: Mapping[str, str] = os.environ, memory: Path = MEMORY) -> Place:
    """The unit's runtime folder, else a new folder; raises `BlockError` when none can be made."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if runtime:
        return Place(Path(runtime) / f"block-{uuid.uuid4()}")
    base = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    remove_left_behind(base)
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        return Place(folder / "block", folder, _lock(folder))
    except OSError as error:
        raise BlockError(f"cannot make a folder in {base}: {error.strerror}") from error


def remove_left_behind(base: Path) -> list[Path]:
    """Remove folders of services that were killed; those removed."""
    removed = []
    for folder in base.glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < LEFT_BEHIND_AGE_S:
                continue
            os.close(_lock(folder))
        except OSError:
            continue  # Held by a living service, another user's, or gone.
        shutil.rmtree(folder, ignore_errors=True)
        removed.append(folder)
    return removed


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
