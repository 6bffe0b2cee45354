"""What is promised of the service's performance, and whether a measurement keeps it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MB = 1_000_000
MEMORY_LIMIT_MB = 256
CPU_US_PER_MESSAGE_MAX = 2.0
"""Of the workers, in a drain."""
WINDOW_S_MAX = 0.1
"""From the first table of a cycle becoming visible to the last one, at p99."""
FRESHNESS_SLACK_S = 1.0
"""Beyond the interval, at p99."""
FRESHNESS_AT_ONE_S_MAX = 2.5
CORES_AT_ONE_S_MAX = 0.25
"""With an interval of a second and 1,000 messages/s, all processes together."""
GROWTH_MAX = 0.10
"""Fitted growth over a run that counts as none: two runs of one commit differ by as much."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise held against what was measured, in words for a table."""

    promise: str
    limit: str
    found: str
    is_kept: bool


def memory(where: str, peak: int, limit_mb: int) -> Verdict:
    """The sum of PSS over all processes against MEMORY_LIMIT_MB."""
    return Verdict(
        f"memory {where}", f"{limit_mb} MB", f"{peak / MB:,.1f} MB", peak <= limit_mb * MB)


def at_most(promise: str, found: float, limit: float, unit: str, digits: int = 2) -> Verdict:
    """A number that must not exceed another one."""
    return Verdict(
        promise, f"{limit:g} {unit}", f"{found:,.{digits}f} {unit}", found <= limit)


def no_growth(what: str, growth: float) -> Verdict:
    """A share by which something grew."""
    return Verdict(f"{what} does not grow", f"{GROWTH_MAX:+.0%} at most", f"{growth:+.1%}",
                   growth <= GROWTH_MAX)


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line fitted by least squares to a measure over a run.

    growth: by which share of its first value it grows from the first point to the last one.
    error: the standard error of that share.
    """

    first: float
    last: float
    growth: float
    error: float


def trend(places: Sequence[float], values: Sequence[float]) -> Trend:
    """Fit a line; there must be three points at least, at places that differ."""
    count = len(places)
    mean_x, mean_y = sum(places) / count, sum(values) / count
    spread = sum((x - mean_x) ** 2 for x in places)
    slope = sum((x - mean_x) * (y - mean_y)
                for x, y in zip(places, values, strict=True)) / spread
    first = mean_y + slope * (places[0] - mean_x)
    last = mean_y + slope * (places[-1] - mean_x)
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2
               for x, y in zip(places, values, strict=True))
    width = places[-1] - places[0]
    error = (rest / (count - 2) / spread) ** 0.5 * width
    return Trend(first, last, (last - first) / first, error / first)
