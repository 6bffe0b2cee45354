"""From the first to the last of a cycle's tables becoming visible, cycle after cycle.

The interval is a second, to see many cycles; what a cycle makes visible was uploaded before, so
the window does not hold more work at a longer one.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.commits import quantile
from bench.contract import WINDOW_S_MAX, Verdict, at_most
from bench.stream import Stream, stream
from bench.surroundings import TOPICS, Incomplete, Surroundings

INTERVAL_S = 1.0
PER_SECOND = 20_000
CYCLES_SHARE_MIN = 0.5
"""Cycles with all topics in them that must be seen, as a share of the seconds that passed."""


@dataclass(frozen=True, slots=True)
class Window:
    """Two streams: all topics alike, and 90 % of all messages in the first one."""

    even: Stream
    skewed: Stream

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        return [at_most(f"window of {len(found.windows_s)} cycles, {load}, p99",
                        quantile(found.windows_s, 0.99) * 1000, WINDOW_S_MAX * 1000, "ms", 0)
                for load, found in (("even load", self.even),
                                    ("90 % in one topic", self.skewed))]


def skewed_rota(topics: int) -> list[int]:
    """Turns of which the first topic has nine in ten; the others share the rest alike."""
    return [turn for other in range(1, topics) for turn in [0] * 9 + [other]]


def run(around: Surroundings) -> Window:
    """Two streams, one after the other, each counted.

    Raises:
        Incomplete: also when too few cycles had all topics in them.
    """
    seconds = around.size(220, 15)
    found = []
    for name, rota in (("even", None), ("skewed", skewed_rota(TOPICS))):
        with around.ground(rota=rota) as ground:
            one = stream(ground, f"stream, {name}", PER_SECOND, INTERVAL_S, seconds)
            ground.count()
        if len(one.windows_s) < CYCLES_SHARE_MIN * seconds / INTERVAL_S:
            raise Incomplete(f"only {len(one.windows_s)} cycles in {seconds:g} s had all topics")
        found.append(one)
    return Window(*found)
