"""The charts of docs/benchmarks.md. Pure: numbers in, file name -> SVG text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.contract import FRESHNESS_AT_ONE_S_MAX, MB, WINDOW_S_MAX
from bench.processes import Role
from bench.sampler import Watched
from bench.scenarios import Result
from bench.scenarios.drain import Drain
from bench.scenarios.freshness import Freshness
from bench.scenarios.growth import Growth
from bench.scenarios.outage import Outage
from bench.scenarios.steady import Steady
from bench.scenarios.topics import Topics
from bench.scenarios.window import Window
from bench.stream import SHARES, Stream
from bench.svg import Chart, Limit, Line, Point, render


def charts(results: Mapping[str, Result], limit_mb: int) -> dict[str, str]:
    """Every chart for which there are numbers."""
    found: dict[str, Chart] = {}
    for result in results.values():
        match result:
            case Drain():
                found["bench-drain-memory.svg"] = _memory(
                    f"Memory (PSS) while draining {result.messages:,} messages", result.memory,
                    limit_mb)
            case Outage():
                found["bench-outage-memory.svg"] = _memory(
                    "Memory (PSS) around an outage of the store", result.memory, limit_mb,
                    [(result.away_at, "away"), (result.back_at, "back")])
            case Steady():
                found["bench-steady-memory.svg"] = _memory(
                    f"Memory (PSS) at {result.stream.per_second:,} messages/s",
                    result.stream.memory, limit_mb)
                found["bench-steady-freshness.svg"] = _ages(
                    f"Age of rows when visible, interval {result.stream.interval_s:g} s",
                    [result.stream], result.stream.interval_s + 1)
            case Freshness():
                found["bench-freshness.svg"] = _ages(
                    "Age of rows when visible, interval 1 s", [result.many, result.few],
                    FRESHNESS_AT_ONE_S_MAX)
            case Window():
                found["bench-window.svg"] = _windows(result)
            case Growth():
                found.update(_growth(result, limit_mb))
            case Topics():
                found["bench-topics.svg"] = _topics(result)
    return {name: render(chart) for name, chart in found.items()}


def _memory(
    title: str, watched: Watched, limit_mb: int, marks: Sequence[tuple[float, str]] = ()
) -> Chart:
    """Memory over time, by kind of process, upon each other."""
    began = watched.series[0][0]
    roles = [role for role in Role if any(role in seen for _, seen in watched.series)]
    lines = [Line(role.value, [(at - began, seen.get(role, 0) / MB)
                               for at, seen in watched.series]) for role in roles]
    return Chart(
        title, "seconds", "MB", lines,
        [Limit(f"limit {limit_mb} MB", limit_mb),
         *(Limit(name, at - began, is_upright=True) for at, name in marks)], is_stacked=True)


def _shares(values: Sequence[float], factor: float) -> list[Point]:
    """The share of values that do not exceed x, as steps."""
    ordered = sorted(values)
    return [(value * factor, (number + 1) / len(ordered))
            for number, value in enumerate(ordered)]


def _windows(found: Window) -> Chart:
    return Chart(
        "From the first to the last of a cycle's tables becoming visible", "ms",
        "share of cycles",
        [Line("even load", _shares(found.even.windows_s, 1000)),
         Line("90 % in one topic", _shares(found.skewed.windows_s, 1000))],
        [Limit("", WINDOW_S_MAX * 1000, is_upright=True)], y_max=1.0)


def _ages(title: str, streams: Sequence[Stream], limit_s: float) -> Chart:
    return Chart(
        title, "seconds from produced to visible", "share of rows",
        [Line(f"{one.per_second:,}/s", list(zip(one.ages_s, SHARES, strict=True)))
         for one in streams],
        [Limit("", limit_s, is_upright=True)], y_max=1.0)


def _growth(found: Growth, limit_mb: int) -> dict[str, Chart]:
    def chart(name: str, title: str, unit: str, factor: float, limits: list[Limit]) -> Chart:
        line = found.line(name)
        warm = [point for point in found.points if point.cycles > 0]
        ends = [(warm[0].cycles, line.first * factor), (warm[-1].cycles, line.last * factor)]
        return Chart(title, "cycles", unit, [
            Line("measured", [(point.cycles, getattr(point, name) * factor) for point in warm],
                 is_dots=True),
            Line(f"line, {line.growth:+.1%}", ends, is_dashed=True)], limits)

    return {
        "bench-growth-memory.svg": chart(
            "pss", "Memory (PSS) over cycles", "MB", 1 / MB,
            [Limit(f"limit {limit_mb} MB", limit_mb)]),
        "bench-growth-commit.svg": chart("commit_s", "A commit over cycles", "ms", 1000, []),
        "bench-growth-cpu.svg": chart(
            "cpu_us", "CPU of all processes per message over cycles", "us", 1, [])}


def _topics(found: Topics) -> Chart:
    return Chart(
        f"Memory (PSS) with more topics, {found.messages:,} messages in all", "topics", "MB",
        [Line("peak in the drain", [(one.topics, one.memory.peak / MB)
                                    for one in found.points]),
         Line("idle after it", [(one.topics, one.idle.peak / MB) for one in found.points])])
