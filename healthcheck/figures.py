"""Numbers and times as people read them.  Pure.

What is not known is `UNKNOWN`, never a number.
"""

from __future__ import annotations

import math

UNKNOWN = "-"
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400


def count(number: int | None) -> str:
    """`1,234,567`."""
    return UNKNOWN if number is None else f"{number:,}"


def rate(per_s: float | None) -> str:
    """`12,345`, `12.3` or `0.012`: three digits that count."""
    if per_s is None:
        return UNKNOWN
    if per_s >= 100 or per_s == 0:
        return f"{per_s:,.0f}"
    return f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2g}"


def duration(seconds: float | None) -> str:
    """`12 ms`, `3.4 s`, `45 s`, `12 min`, `5 h 12 min` or `3 d 4 h`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    if seconds < 2 * DAY_S:
        return f"{seconds // HOUR_S:.0f} h {seconds % HOUR_S // MINUTE_S:.0f} min"
    return f"{seconds // DAY_S:.0f} d {seconds % DAY_S // HOUR_S:.0f} h"


def left(seconds: float | None) -> str:
    """Time that is left, in whole seconds; `never` where it has no end, `unknown` in words."""
    if seconds is None:
        return "unknown"
    return "never" if math.isinf(seconds) else age(seconds)


def age(seconds: float | None) -> str:
    """The same in whole seconds, for what lies back."""
    return duration(seconds) if seconds is None or seconds >= 10 else f"{seconds:.0f} s"


def megabytes(size: int) -> str:
    """`12.3 MB`, of a million bytes each."""
    return f"{size / 1e6:.1f} MB"
