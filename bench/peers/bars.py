"""Bars side by side as SVG text. Pure: the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
MARGIN = 16
NAME_WIDTH = 150
VALUE_WIDTH = 90
BAR_HEIGHT = 18
ROW_HEIGHT = 26
TITLE_HEIGHT = 34
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0")


@dataclass(frozen=True, slots=True)
class Panel:
    """One measure; each bar has a name, a length and the text behind it."""

    title: str
    bars: Sequence[tuple[str, float, str]]


def svg(panels: Sequence[Panel]) -> str:
    """The panels one below the other; every panel has its own scale, which begins at 0."""
    parts, y = [], MARGIN
    for panel in panels:
        parts += _panel(panel, y)
        y += TITLE_HEIGHT + ROW_HEIGHT * len(panel.bars) + MARGIN
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>', *parts, "</svg>"]) + "\n"


def _panel(panel: Panel, top: int) -> list[str]:
    room = WIDTH - 2 * MARGIN - NAME_WIDTH - VALUE_WIDTH
    longest = max((length for _, length, _ in panel.bars), default=0.0) or 1.0
    left = MARGIN + NAME_WIDTH
    parts = [f'<text x="{MARGIN}" y="{top + 14}" font-size="14">{escape(panel.title)}</text>']
    for row, (name, length, text) in enumerate(panel.bars):
        y = top + TITLE_HEIGHT - 8 + row * ROW_HEIGHT
        width = room * length / longest
        parts += [
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{BAR_HEIGHT}" '
            f'fill="{COLOURS[row % len(COLOURS)]}"/>',
            f'<text x="{left + width + 6:.1f}" y="{y + 13}">{escape(text)}</text>']
    return parts
