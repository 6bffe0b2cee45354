"""An interval of a second: how fresh the tables get, and what that costs when little arrives."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contract import CORES_AT_ONE_S_MAX, FRESHNESS_AT_ONE_S_MAX, Verdict, at_most, memory
from bench.stream import Stream, stream
from bench.surroundings import Surroundings

INTERVAL_S = 1.0
MANY_PER_SECOND, FEW_PER_SECOND = 20_000, 1_000


@dataclass(frozen=True, slots=True)
class Freshness:
    """Two streams, each on topics and tables of its own."""

    many: Stream
    few: Stream

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        return [
            *(at_most(f"age of rows when visible, p99, interval {found.interval_s:g} s, "
                      f"{found.per_second:,} messages/s", found.age(0.99),
                      FRESHNESS_AT_ONE_S_MAX, "s") for found in (self.many, self.few)),
            at_most(f"CPU of all processes at interval {self.few.interval_s:g} s and "
                    f"{self.few.per_second:,} messages/s", self.few.cores, CORES_AT_ONE_S_MAX,
                    "cores", 3),
            memory(f"at interval {self.many.interval_s:g} s and {self.many.per_second:,} "
                   "messages/s", self.many.memory.peak, limit_mb)]


def run(around: Surroundings) -> Freshness:
    """Two streams, one after the other, each counted."""
    found = []
    for per_second in (MANY_PER_SECOND, FEW_PER_SECOND):
        with around.ground() as ground:
            found.append(stream(ground, f"stream {per_second:,}/s", per_second, INTERVAL_S,
                                around.size(90, 12)))
            ground.count()
    return Freshness(*found)
