"""A clock that moves only when it is told to."""

from __future__ import annotations

START_S = 1_000.0
START_UNIX_MS = 1_770_000_000_000
"""2026-02-02, some time in the morning."""


class FakeClock:
    """Stands for `shared.clock.SystemClock`; `sleep` advances it and returns at once."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.wall_ms = START_UNIX_MS

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_s

    def monotonic_ns(self) -> int:
        """The same in nanoseconds."""
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.advance(seconds)

    def unix_ms(self) -> int:
        """Wall clock in milliseconds."""
        return self.wall_ms

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self.now_s += seconds
        self.wall_ms += round(seconds * 1000)
