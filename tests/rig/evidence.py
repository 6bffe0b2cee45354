"""What the fault tests and the soak saw, kept as lines of JSON that the reliability page counts.

A test that injects faults asks for the `evidence` fixture and tells it what struck, how often, and
how long recovery took.  Where EVIDENCE_FILE names a file, one line per test is appended to it,
whatever its outcome; otherwise nothing is kept.  Figures are told after the judge has spoken, so
a line of a passed test never counts what was not judged.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

EVIDENCE_FILE = "EVIDENCE_FILE"
ROOT = Path(__file__).resolve().parents[2]


class Strike(StrEnum):
    """What kind of fault struck; the page sums by these."""

    KILL = "kill"
    """A process of the service was killed (SIGKILL, SIGSEGV, out of memory)."""
    FREEZE = "freeze"
    """A process of the service was stopped for a while."""
    STORE = "store"
    """A request to the object store failed, was late, or lost its answer; or the store died."""
    KAFKA = "kafka"
    """The same of Kafka; also what happens to topics."""
    TABLE = "table"
    """Another writer or an operator changed a table or its log."""
    HOST = "host"
    """The host refused something: memory, disk, descriptors, clocks, ports."""


@dataclass
class Evidence:
    """Of one test or one soak.

    fired: (kind, what) -> how often it struck.  recoveries_s: what recovered -> seconds each.
    messages: rows and dead letters that the judge has held against the ledger.
    """

    fired: Counter[tuple[Strike, str]] = field(default_factory=Counter)
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    messages: int = 0
    cycles: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    def struck(self, kind: Strike, what: str, count: int = 1) -> None:
        """`what` (a few words, the same every time) has struck `count` times; zero is a mistake."""
        if count < 1:
            raise AssertionError(f"the planned fault never fired: {what}")
        self.fired[kind, what] += count

    def recovered(self, what: str, seconds: float) -> None:
        """The service was well again so long after `what` struck, or after it was healed."""
        self.recoveries_s.setdefault(what, []).append(round(seconds, 3))

    def judged(self, messages: int, cycles: int = 0) -> None:
        """The judge has found this many messages right, in this many decided cycles."""
        self.messages += messages
        self.cycles += cycles

    def line(self, name: str, rows: tuple[str, ...], outcome: str, seconds: float) -> str:
        """One line of JSON.

        rows: of the fault matrix.  outcome: passed, failed or skipped.
        """
        return json.dumps({
            "name": name, "rows": list(rows), "outcome": outcome, "seconds": round(seconds, 1),
            "commit": commit(),
            "fired": [[kind.value, what, count] for (kind, what), count in self.fired.items()],
            "recoveries_s": self.recoveries_s, "messages": self.messages, "cycles": self.cycles,
            "notes": self.notes,
        })


def keep(line: str, environ: Mapping[str, str] = os.environ) -> None:
    """Append a line to the file that EVIDENCE_FILE names, if it names one."""
    path = environ.get(EVIDENCE_FILE)
    if path:
        with Path(path).open("a") as file:
            file.write(line + "\n")


def commit() -> str:
    """The commit under test, with a plus when files differ from it; "unknown" without git."""
    def git(*arguments: str) -> str:
        found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True,
                               timeout=30, check=False)
        return found.stdout.strip() if found.returncode == 0 else ""
    head = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "shared", "workers",
                  "supervisor", "healthcheck")
    return f"{head}{'+' if changed else ''}" if head else "unknown"
