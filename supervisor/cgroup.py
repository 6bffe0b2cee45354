"""What the control group that the service runs in allows it of memory (cgroup v2)."""

from __future__ import annotations

import logging
from pathlib import Path

from shared.logs import log_event
from shared.memory import MB

logger = logging.getLogger("supervisor")

OWN = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")
DEPTH_MAX = 64
"""Of nested groups that are looked at; the kernel's own trees are far flatter."""


def warn_if_tight(limit_mb: int, own: Path = OWN, root: Path = ROOT) -> None:
    """Say so when the kernel would kill a process before the service reaches its own limit."""
    allowed = memory_max(own, root)
    if allowed is not None and allowed < limit_mb * MB:
        log_event(logger, logging.WARNING, "memory_limit_above_cgroup", memory_limit_mb=limit_mb,
                  cgroup_mb=round(allowed / MB, 1),
                  what_to_do="Lower MEMORY_LIMIT_MB, or raise the group's limit (MemoryMax in the "
                             "unit, mem_limit of a container); it counts more than processes do.")


def memory_max(own: Path = OWN, root: Path = ROOT) -> int | None:
    """The least `memory.max` of the own group and those above it, in bytes.

    None when there is none, or where it cannot be read: under cgroup v1, or hidden.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    name = next((line[3:] for line in lines if line.startswith("0::/")), None)
    if name is None:
        return None
    group = root / name.lstrip("/")
    groups = [group, *group.parents][:DEPTH_MAX]
    found = [_read(folder / "memory.max") for folder in groups if folder.is_relative_to(root)]
    return min((limit for limit in found if limit is not None), default=None)


def _read(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
