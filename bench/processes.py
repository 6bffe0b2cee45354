"""CPU time and memory of a family of processes, from /proc.

A family is a session: whoever starts the first process gives it a session of its own, and no
process of the service leaves it, so children whose parent died still count.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KIB = 1024
YOUNG_S = 5.0
"""A process that was met no longer ago may still take another role: by exec, or a new name."""


class Role(StrEnum):
    """What a process is there for."""

    MAIN = "main"
    FORKSERVER = "forkserver"
    WORKER = "worker"
    SIDECAR = "sidecar"
    KEEPER = "keeper"
    TRACKER = "resource tracker"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/<pid>/stat tells; CPU in seconds, user and system together."""

    parent: int
    session: int
    own_s: float
    ended_s: float
    """Of children that ended and were waited for."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the family."""

    pid: int
    role: Role


@dataclass(frozen=True, slots=True)
class Memory:
    """One process; bytes. PSS: a page that n processes map counts 1/n for each."""

    pid: int
    role: Role
    pss: int
    anonymous: int
    file: int
    private: int


def parse_stat(text: str) -> Stat:
    """The content of a stat file; the name in it may hold blanks and parentheses."""
    fields = text.rpartition(")")[2].split()
    own, ended = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Stat(
        int(fields[1]), int(fields[3]), own / TICKS_PER_SECOND, ended / TICKS_PER_SECOND)


def parse_smaps(text: str) -> dict[str, int]:
    """The fields of a smaps_rollup file, in bytes."""
    found = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * KIB
    return found


def role_of(pid: int, root: int, parent_role: Role | None, command: str) -> Role:
    """A role by place in the family; the sidecar may be a program of its own, too.

    What comes from the forkserver has its command line at first, and then renames itself.
    """
    if pid == root:
        return Role.MAIN
    if parent_role is Role.FORKSERVER:
        return next((role for word, role in (("-m healthcheck", Role.SIDECAR),
                                             ("-m keeper", Role.KEEPER)) if word in command),
                    Role.WORKER)
    for word, role in (("resource_tracker", Role.TRACKER), ("forkserver", Role.FORKSERVER),
                       ("healthcheck", Role.SIDECAR)):
        if word in command:
            return role
    return Role.OTHER


class Family:
    """The living processes of the session that `root` leads; one thread at a time."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._members: dict[int, Member] = {}
        self._met_at: dict[int, float] = {}
        self._strangers: set[int] = set()

    def members(self) -> list[Member]:
        """Every living process; one whose role is known for a while is not looked at again."""
        living = {int(entry) for entry in os.listdir(PROC) if entry.isdigit()}
        self._strangers &= living
        settled = time.monotonic() - YOUNG_S
        self._members = {
            pid: member for pid, member in self._members.items()
            # After a fork a process looks like its parent for a while, so it is asked again.
            if pid in living and member.role is not Role.OTHER
            and (pid == self._root or self._met_at[pid] < settled)}
        # Parents have lower numbers than their children, but for the rare wrap-around.
        for pid in sorted(living - self._strangers - self._members.keys()):
            self._meet(pid)
        return list(self._members.values())

    def _meet(self, pid: int) -> None:
        stat = _stat(pid)
        if stat is None:
            return
        if stat.session != self._root:
            self._strangers.add(pid)
            return
        parent = self._members.get(stat.parent)
        role = role_of(pid, self._root, parent.role if parent else None, _command(pid))
        self._members[pid] = Member(pid, role)
        self._met_at.setdefault(pid, time.monotonic())

    def cpu_s(self) -> dict[Role, float]:
        """CPU seconds by role since the start of each, ended children included.

        What the forkserver's ended children used is the workers'.
        """
        used: dict[Role, float] = {}
        for member in self.members():
            stat = _stat(member.pid)
            if stat is None:
                continue
            heir = Role.WORKER if member.role is Role.FORKSERVER else member.role
            used[member.role] = used.get(member.role, 0.0) + stat.own_s
            used[heir] = used.get(heir, 0.0) + stat.ended_s
        return used

    def resident(self) -> int:
        """The sum of the resident sizes in bytes: cheap, and shared pages count for each."""
        texts = (_read(member.pid, "statm") for member in self.members())
        return sum(int(text.split()[1]) * PAGE_BYTES for text in texts if text)

    def memory(self) -> list[Memory]:
        """Memory of every process that lives now."""
        found = []
        for member in self.members():
            fields = _smaps(member.pid)
            if fields:
                found.append(Memory(
                    member.pid, member.role, fields["Pss"], fields.get("Pss_Anon", 0),
                    fields.get("Pss_File", 0),
                    fields["Private_Clean"] + fields["Private_Dirty"]))
        return found


def _stat(pid: int) -> Stat | None:
    text = _read(pid, "stat")
    return parse_stat(text) if text else None


def _smaps(pid: int) -> dict[str, int]:
    return parse_smaps(_read(pid, "smaps_rollup"))


def _command(pid: int) -> str:
    return _read(pid, "cmdline").replace("\0", " ")


def _read(pid: int, name: str) -> str:
    """A file of a process; empty once it is gone."""
    try:
        return (PROC / str(pid) / name).read_text(errors="replace")
    except OSError:
        return ""
