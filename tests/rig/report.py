"""What a judge found: anomalies by kind, and how much was looked at.

A verdict without anomalies is worth nothing when nothing was looked at, so a report also counts,
and a test asserts on the counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES_MAX = 10
"""How many anomalies of one kind and place are kept with their details; all are counted."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One thing that must not be.

    kind: a short name, the same for all of its sort.
    where: table or topic, and the reader that saw it.
    detail: offset, version, path: what to look for.
    """

    kind: str
    where: str
    detail: str

    def __str__(self) -> str:
        """One line for a failure message."""
        return f"{self.kind} in {self.where}: {self.detail}"


@dataclass(slots=True)
class Report:
    """The findings of one look at the lake."""

    anomalies: list[Anomaly] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Anomalies per kind, also those beyond the examples."""
    checked: Counter[str] = field(default_factory=Counter)
    """How much was looked at, per sort: rows per table and reader, commits, records, files."""
    _examples: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, kind: str, where: str, detail: str) -> None:
        """Count an anomaly, and keep its detail while there are few of them."""
        self.counts[kind] += 1
        self._examples[kind, where] += 1
        if self._examples[kind, where] <= EXAMPLES_MAX:
            self.anomalies.append(Anomaly(kind, where, detail))

    def merge(self, other: Report) -> Report:
        """Take in another report, and give itself."""
        self.anomalies.extend(other.anomalies)
        self.counts.update(other.counts)
        self.checked.update(other.checked)
        return self

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def kinds(self) -> set[str]:
        """The kinds of anomalies found."""
        return set(self.counts)

    def assert_ok(self) -> None:
        """Raise AssertionError with everything known unless nothing was found."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        """All kinds with their counts, then the examples."""
        lines = [f"{count} x {kind}" for kind, count in self.counts.most_common()]
        lines += [f"  {anomaly}" for anomaly in self.anomalies]
        looked = ", ".join(f"{what} {count}" for what, count in sorted(self.checked.items()))
        return "\n".join([*(lines or ["nothing wrong"]), f"looked at: {looked}"])
