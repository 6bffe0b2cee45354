"""Time as an argument: shells hold a clock, pure functions get numbers."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """The machine's clocks.  Intervals and ages are monotonic; wall time is for people and rows."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never steps, common to all processes."""
        return time.monotonic()

    def monotonic_ns(self) -> int:
        """The same in nanoseconds."""
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        """Wait; bounded by the caller."""
        time.sleep(seconds)

    def unix_ms(self) -> int:
        """Wall clock, milliseconds since 1970 (UTC)."""
        return time.time_ns() // 1_000_000


def rfc3339(unix_ms: int) -> str:
    """`2026-01-31T12:00:00.000Z`."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
