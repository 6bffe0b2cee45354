"""How tools write counts and times.  Pure."""

from __future__ import annotations


def many(count: int, noun: str) -> str:
    """A count and its noun, in the plural where there is not just one."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """In the largest unit that leaves a number above one."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    unit, size = next((unit for unit in units if seconds >= unit[1]), units[-1])
    count = seconds / size
    return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
