"""The lines and bars of the status page, as SVG geometry.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from healthcheck.history import KEPT_S

SPARK_WIDTH, SPARK_HEIGHT = 120, 22
BAR_WIDTH = 600
SEGMENT_MIN = 3
"""So that a phase of a few milliseconds is seen beside one of ten seconds."""


@dataclass(frozen=True, slots=True)
class Spark:
    """A line of rates: `points` for a polyline, and what it says in numbers (per second)."""

    points: str
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a bar of `BAR_WIDTH`."""

    name: str
    seconds: float
    left: float
    width: float


def spark(chart: Sequence[tuple[float, float]]) -> Spark | None:
    """A line from zero to its own peak, its right end being now; None without two points."""
    if len(chart) < 2:
        return None
    rates = [per_s for _age_s, per_s in chart]
    highest = max(rates)
    room = SPARK_HEIGHT - 2
    points = " ".join(
        f"{SPARK_WIDTH * (1 - min(age_s / KEPT_S, 1)):.1f},"
        f"{SPARK_HEIGHT - 1 - (room * per_s / highest if highest else 0):.1f}"
        for age_s, per_s in chart)
    return Spark(points, min(rates), highest)


def segments(parts: Sequence[tuple[str, float]]) -> Iterator[Segment]:
    """(name, seconds) after each other, filling the bar; nothing where no time was spent."""
    total_s = sum(seconds for _name, seconds in parts)
    room = BAR_WIDTH - SEGMENT_MIN * len(parts)
    left = 0.0
    for name, seconds in parts if total_s else ():
        width = SEGMENT_MIN + room * seconds / total_s
        yield Segment(name, seconds, left, width)
        left += width


def filled(part: int, whole: int) -> float:
    """How much of a bar `part` of `whole` fills; all of it at most."""
    return BAR_WIDTH * min(part / whole, 1) if whole else 0.0
