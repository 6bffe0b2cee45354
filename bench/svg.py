"""Small line and area charts as SVG text. Pure: the same numbers give the same bytes.

Written here because matplotlib brings numpy, which pyarrow loads into every process that imports
it: a developer's environment would then run a heavier service than an installed one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 160, 34, 46
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")
TICKS = 6

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """One curve; dots without a line between them where `is_dots`."""

    name: str
    points: Sequence[Point]
    is_dots: bool = False
    is_dashed: bool = False
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """A straight line across the chart at a value of y, or of x where `is_upright`."""

    name: str
    at: float
    is_upright: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines, or areas stacked upon each other (`is_stacked`: all with the same values of x)."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    limits: Sequence[Limit] = ()
    is_stacked: bool = False
    y_max: float | None = None


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about TICKS of them."""
    raw = (high - low) / TICKS or 1.0
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Turns values into places on the page."""

    def __init__(self, xs: Sequence[float], y_max: float) -> None:
        self.x_low, self.x_high = min(xs), max(max(xs), min(xs) + 1e-9)
        self.y_high = y_max or 1.0

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.y_high * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


def render(chart: Chart) -> str:
    """The chart as the text of an SVG file; the y axis begins at 0."""
    lines = stacked(chart.lines) if chart.is_stacked else list(chart.lines)
    points = [point for line in lines for point in line.points]
    xs = [x for x, _ in points] + [one.at for one in chart.limits if one.is_upright]
    ys = [y for _, y in points] + [one.at for one in chart.limits if not one.is_upright]
    frame = _Frame(xs, chart.y_max or 1.08 * max(ys))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(chart.title)}</text>',
        *_axes(chart, frame)]
    draw = _areas if chart.is_stacked else _curves
    parts += draw(frame, lines)
    parts += _limits(frame, chart.limits)
    parts += _legend(chart)
    return "\n".join([*parts, "</svg>"]) + "\n"


def stacked(lines: Sequence[Line]) -> list[Line]:
    """Each line lifted by the sum of those before it."""
    found: list[Line] = []
    floor: Sequence[float] = [0.0] * len(lines[0].points)
    for line in lines:
        tops = [(x, y + base) for (x, y), base in zip(line.points, floor, strict=True)]
        found.append(Line(line.name, tops))
        floor = [y for _, y in tops]
    return found


def _colour(line: Line, number: int) -> str:
    return line.colour or COLOURS[number % len(COLOURS)]


def _areas(frame: _Frame, lines: Sequence[Line]) -> list[str]:
    # The highest first, so that each lower one covers its part of it.
    return [
        f'<polygon fill="{_colour(line, number)}" points="{frame.path(line.points)} '
        f'{frame.x(line.points[-1][0]):.1f},{frame.y(0):.1f} '
        f'{frame.x(line.points[0][0]):.1f},{frame.y(0):.1f}"/>'
        for number, line in reversed(list(enumerate(lines)))]


def _curves(frame: _Frame, lines: Sequence[Line]) -> list[str]:
    parts = []
    for number, line in enumerate(lines):
        colour = _colour(line, number)
        if line.is_dots:
            parts += [f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2" '
                      f'fill="{colour}" fill-opacity="0.6"/>' for x, y in line.points]
        else:
            dash = ' stroke-dasharray="6 4"' if line.is_dashed else ""
            parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.8"{dash} '
                         f'points="{frame.path(line.points)}"/>')
    return parts


def _axes(chart: Chart, frame: _Frame) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in ticks(0, frame.y_high):
        y = frame.y(value)
        parts += [
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#ddd"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.6g}</text>']
    for value in ticks(frame.x_low, frame.x_high):
        parts.append(f'<text x="{frame.x(value):.1f}" y="{bottom + 17}" '
                     f'text-anchor="middle">{value:,.6g}</text>')
    return [*parts,
            f'<line x1="{LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="black"/>',
            f'<text x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 8}" '
            f'text-anchor="middle">{escape(chart.x_label)}</text>',
            f'<text transform="translate(16 {(TOP + bottom) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle">{escape(chart.y_label)}</text>']


def _limits(frame: _Frame, limits: Sequence[Limit]) -> list[str]:
    parts = []
    for limit in limits:
        if limit.is_upright:
            x1 = x2 = frame.x(limit.at)
            y1, y2 = float(TOP), float(HEIGHT - BOTTOM)
        else:
            x1, x2 = float(LEFT), float(WIDTH - RIGHT)
            y1 = y2 = frame.y(limit.at)
        parts += [
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#c00" '
            'stroke-dasharray="4 3"/>',
            f'<text x="{x2 + 4:.1f}" y="{y1 + 4:.1f}" fill="#c00">{escape(limit.name)}</text>'
            if limit.is_upright else
            f'<text x="{x2 - 4:.1f}" y="{y1 - 5:.1f}" text-anchor="end" fill="#c00">'
            f'{escape(limit.name)}</text>']
    return parts


def _legend(chart: Chart) -> list[str]:
    parts = []
    order = list(enumerate(chart.lines))
    for row, (number, line) in enumerate(reversed(order) if chart.is_stacked else order):
        y = TOP + 30 + 18 * row
        parts += [f'<rect x="{WIDTH - RIGHT + 12}" y="{y - 9}" width="11" height="11" '
                  f'fill="{_colour(line, number)}"/>',
                  f'<text x="{WIDTH - RIGHT + 28}" y="{y}">{escape(line.name)}</text>']
    return parts
