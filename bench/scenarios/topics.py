"""The same backlog in 8, 16 and 32 topics: memory per further topic, CPU per message."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.contract import Verdict
from bench.processes import Role
from bench.sampler import Sampler, Watched
from bench.scenarios.drain import INTERVAL_S, SETTLE_S, drained
from bench.surroundings import TOPICS, Surroundings
from bench.watch import pass_time

COUNTS = (8, 16, 32)
MESSAGES, QUICK_MESSAGES = 3_200_000, 160_000
REST_S = 3.0


@dataclass(frozen=True, slots=True)
class Point:
    """A drain with so many topics; `idle` is after it."""

    topics: int
    start_s: float
    worker_us: float
    read_s: float
    memory: Watched
    idle: Watched


@dataclass(frozen=True, slots=True)
class Topics:
    """Drains of `messages`, which all topics share alike."""

    messages: int
    points: list[Point]

    def per_topic(self, name: str) -> float:
        """Bytes that a further topic costs, between fewest and most; name: memory or idle."""
        first, last = self.points[0], self.points[-1]
        return ((getattr(last, name).peak - getattr(first, name).peak)
                / (last.topics - first.topics))

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """The contract names no limit here: what a further topic costs is told, not judged."""
        return []


def run(around: Surroundings) -> Topics:
    """One drain after the other, each on topics of its own, each counted."""
    messages = int(around.size(MESSAGES, QUICK_MESSAGES))
    return Topics(messages, [_point(around, count, messages) for count in COUNTS])


def _point(around: Surroundings, topics: int, messages: int) -> Point:
    with around.ground(topics) as ground:
        ground.fill(messages)
        # The limit is for eight topics; more of them get as much for each.
        limit_mb = around.memory_limit_mb * topics // TOPICS
        with ground.product(INTERVAL_S, limit_mb) as product:
            began = time.monotonic()
            found = drained(product, messages, around)
            with around.step(f"{topics} topics, idle (s)", SETTLE_S + REST_S) as tick:
                pass_time(SETTLE_S, tick)
                with Sampler(product.pid) as sampler:
                    pass_time(REST_S, lambda _done: tick(int(time.monotonic() - began)))
            ground.finish(product)
        ground.count()
    late = max(1, messages - found.early)
    return Point(topics, found.start_s, found.cpu.get(Role.WORKER, 0.0) * 1e6 / late,
                 found.read_s, found.memory, sampler.seen)
