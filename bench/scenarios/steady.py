"""The usual interval under a steady stream: memory, CPU, and how fresh the tables are."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contract import FRESHNESS_SLACK_S, Verdict, at_most, memory
from bench.stream import Stream, stream
from bench.surroundings import Surroundings

INTERVAL_S = 10.0
PER_SECOND = 20_000


@dataclass(frozen=True, slots=True)
class Steady:
    """One stream."""

    stream: Stream

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        found = self.stream
        return [
            memory(f"at a steady {found.per_second:,} messages/s", found.memory.peak, limit_mb),
            at_most(f"age of rows when visible, p99, interval {found.interval_s:g} s, "
                    f"{found.per_second:,} messages/s", found.age(0.99),
                    found.interval_s + FRESHNESS_SLACK_S, "s")]


def run(around: Surroundings) -> Steady:
    """Stream, and count."""
    with around.ground() as ground:
        found = stream(ground, f"stream {PER_SECOND:,}/s", PER_SECOND, INTERVAL_S,
                       around.size(180, 25))
        ground.count()
        return Steady(found)
