"""The same backlog in 8, 16 and 32 topics: memory per further topic, CPU per message.

Many workers take long to start, and the first of them have read their share before the last one is
ready. So the CPU of a start on the same, empty topics is measured first and taken off the sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.contract import Verdict
from bench.processes import Family, Role
from bench.sampler import Sampler, Watched
from bench.scenarios.drain import INTERVAL_S, SETTLE_S, drained
from bench.surroundings import TOPICS, Ground, Surroundings
from bench.watch import READY_TIMEOUT_S, pass_time

COUNTS = (8, 16, 32)
MESSAGES, QUICK_MESSAGES = 3_200_000, 160_000
REST_S = 3.0


@dataclass(frozen=True, slots=True)
class Point:
    """A drain with so many topics; `idle` is after it.

    worker_us: CPU of the workers per message, without what a start with nothing to read costs.
    start_cpu_s: that start's, of the workers.
    """

    topics: int
    start_s: float
    worker_us: float
    start_cpu_s: float
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
    # The limit is for eight topics; more of them get as much for each.
    limit_mb = around.memory_limit_mb * topics // TOPICS
    with around.ground(topics) as ground:
        _start_cpu_s(ground, limit_mb)  # Makes the tables, which the start that counts finds.
        start_cpu_s = _start_cpu_s(ground, limit_mb)
        ground.fill(messages)
        with ground.product(INTERVAL_S, limit_mb) as product:
            found = drained(product, messages, around)
            with around.step(f"{topics} topics, idle (s)", SETTLE_S + REST_S) as tick:
                pass_time(SETTLE_S, tick)
                with Sampler(product.pid) as sampler:
                    pass_time(REST_S, lambda done: tick(int(SETTLE_S) + done))
            ground.finish(product)
        ground.count()
    used = found.start_cpu.get(Role.WORKER, 0.0) + found.cpu.get(Role.WORKER, 0.0)
    return Point(topics, found.start_s, (used - start_cpu_s) * 1e6 / messages, start_cpu_s,
                 found.memory, sampler.seen)


def _start_cpu_s(ground: Ground, limit_mb: int) -> float:
    """CPU seconds of the workers of a service that starts and finds nothing to read."""
    name = f"start with {len(ground.topics)} topics"
    with ground.product(INTERVAL_S, limit_mb) as product, ground.around.step(name, None):
        product.wait_ready(READY_TIMEOUT_S)
        pass_time(REST_S, lambda _done: None)
        used = Family(product.pid).cpu_s().get(Role.WORKER, 0.0)
        ground.finish(product)
    return used
