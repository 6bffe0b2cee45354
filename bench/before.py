"""The first drain that was ever kept, to show what has become of it since."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.processes import Memory, Role
from bench.results import FOLDER
from bench.scenarios.drain import Drain
from bench.tables import megabytes, table


@dataclass(frozen=True, slots=True)
class Before:
    """Memory in bytes, CPU of the workers in microseconds per message."""

    at: str
    commit: str
    cpu: str
    messages: int
    worker_us: float
    at_peak: Sequence[Memory]


def read_first(root: Path) -> Before | None:
    """The oldest drain below a folder, of any format; None where there is none."""
    found = (json.loads(path.read_text()) for path in (root / FOLDER).glob("*.json"))
    runs = [(run["facts"]["at"], run["facts"], drain) for run in found
            if (drain := run.get("drain") or run.get("results", {}).get("drain"))]
    if not runs:
        return None
    at, facts, drain = min(runs, key=lambda run: run[0])
    return Before(
        at, facts["commit"], facts["cpu"], drain["messages"],
        drain["cpu"]["worker"] * 1e6 / max(1, drain["messages"] - drain["early"]),
        msgspec.convert(drain["memory"]["at_peak"], list[Memory]))


def before_and_after(before: Before, after: Drain) -> str:
    """Both drains beside each other, memory by kind of process."""
    def cells(role: Role | None) -> list[str]:
        return [_of(role, processes) for processes in (before.at_peak, after.memory.at_peak)]

    seen = {process.role for process in (*before.at_peak, *after.memory.at_peak)}
    rows = [[role.value, *cells(role)] for role in Role if role in seen]
    rows.append(["**all**", *cells(None)])
    rows.append(["CPU of the workers", f"{before.worker_us:.2f} us/message",
                 f"{after.worker_us:.2f} us/message"])
    return (
        "## Before and after\n\n"
        f"The first drain that was kept (`{before.commit}`, {before.at[:10]}, {before.messages:,} "
        f"messages, {before.cpu}, no checkpoint fell into it) and this one; processes x PSS at "
        "the peak in MB. Machines differ in speed: compare memory, not microseconds.\n\n"
        + table(["Process", "Before", "Now"], rows))


def _of(role: Role | None, processes: Sequence[Memory]) -> str:
    """The sum of a role's processes, or of all."""
    sizes = [process.pss for process in processes if role in (None, process.role)]
    return f"{len(sizes)} x, {megabytes(sum(sizes))}" if sizes else "-"
