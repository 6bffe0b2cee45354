"""Words and tables that the page is made of. Pure."""

from __future__ import annotations

from bench.contract import MB
from bench.processes import Memory, Role


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def megabytes(count: float) -> str:
    """Bytes as MB (10^6), as the tables show them."""
    return f"{count / MB:,.1f}"


def by_process(processes: list[Memory]) -> str:
    """Where the megabytes of one moment are: a line a process, and the sum."""
    order = list(Role)
    names = ("pss", "anonymous", "file", "private")
    rows = [[process.role.value, *(megabytes(getattr(process, name)) for name in names)]
            for process in sorted(processes, key=lambda one: (order.index(one.role), -one.pss))]
    sums = [sum(getattr(process, name) for process in processes) for name in names]
    return table(["Process", "PSS", "of it anonymous", "of it files", "Private"],
                 [*rows, ["**all**", *(f"**{megabytes(value)}**" for value in sums)]])
