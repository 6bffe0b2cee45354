"""Thousands of cycles at a short interval: does anything grow with the number of commits?

The load is small and even, so that a cycle's own costs are most of what is measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.contract import Trend, Verdict, memory, no_growth, trend
from bench.load import Tick
from bench.processes import Family
from bench.product import Product, ProductError
from bench.sampler import Sampler, Watched
from bench.surroundings import Ground, Incomplete, Surroundings
from bench.watch import (
    READY_TIMEOUT_S, grown, metrics_of, total, wait_committed,
)

INTERVAL_S = 0.25
PER_SECOND = 2_000
CYCLES, QUICK_CYCLES = 5_000, 200
PERIOD_S, QUICK_PERIOD_S = 20.0, 5.0
TIMEOUT_S, QUICK_TIMEOUT_S = 3600.0, 300.0
WARM_SHARE = 0.1
"""Of the cycles, which part is left out of the lines: caches fill, allocators settle."""
POINTS_MIN = 4


@dataclass(frozen=True, slots=True)
class Point:
    """A period of the run; `cycles` are those done at its end.

    pss: mean over the period; cpu_us: of all processes, per message sent; commit_s: mean.
    """

    cycles: int
    seconds: float
    messages: int
    cpu_us: float
    commit_s: float
    pss: float


@dataclass(frozen=True, slots=True)
class Growth:
    """The whole run; `log_objects` lie in the log of the fullest bronze table at its end."""

    interval_s: float
    per_second: int
    points: list[Point]
    log_objects: int
    memory: Watched

    def line(self, name: str) -> Trend:
        """A line through a measure over the cycles, without the first ones."""
        warm = WARM_SHARE * self.points[-1].cycles
        points = [point for point in self.points if point.cycles > warm]
        return trend([point.cycles for point in points],
                     [getattr(point, name) for point in points])

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        cycles = f"over {self.points[-1].cycles:,} cycles"
        return [
            memory(cycles, self.memory.peak, limit_mb),
            no_growth(f"CPU per message {cycles}", self.line("cpu_us").growth),
            no_growth(f"commit time {cycles}", self.line("commit_s").growth),
            no_growth(f"memory {cycles}", self.line("pss").growth)]


def run(around: Surroundings) -> Growth:
    """Cycles until there are enough, then count.

    Raises:
        Incomplete: also when there were not enough cycles in time.
    """
    cycles = int(around.size(CYCLES, QUICK_CYCLES))
    with around.ground() as ground:
        with ground.product(INTERVAL_S) as product:
            product.wait_ready(READY_TIMEOUT_S)
            # A look at PSS per second is enough here, where nothing is quick.
            with (Sampler(product.pid, full_s=1.0) as sampler,
                  around.step("cycles", cycles) as tick):
                points = _cycle(ground, product, sampler, cycles, tick)
            wait_committed(product, ground.missing, lambda _count: None)
            ground.finish(product)
        ground.count()
        log_objects = max(ground.objects(f"bronze_{topic}/_delta_log/")
                          for topic in ground.topics)
    return Growth(INTERVAL_S, PER_SECOND, points, log_objects, sampler.seen)


def _cycle(
    ground: Ground, product: Product, sampler: Sampler, cycles: int, tick: Tick
) -> list[Point]:
    """Send period after period, and look at its end."""
    period_s = ground.around.size(PERIOD_S, QUICK_PERIOD_S)
    deadline = time.monotonic() + ground.around.size(TIMEOUT_S, QUICK_TIMEOUT_S)
    family, points = Family(product.pid), []
    before, cpu, began = metrics_of(product), total(family.cpu_s()), time.time()
    first = before["bronze_log_records_written_total"]
    while not points or points[-1].cycles < cycles or len(points) < POINTS_MIN:
        if time.monotonic() > deadline:
            done = points[-1].cycles if points else 0
            raise Incomplete(f"only {done} of {cycles} cycles were done in time")
        product.must_run()
        ground.load.produce_steadily(PER_SECOND, period_s, lambda _count: None)
        after, cpu_after, now = metrics_of(product), total(family.cpu_s()), time.time()
        messages = int(PER_SECOND * period_s)
        commits = grown(before, after, "bronze_commit_duration_seconds_count")
        if not commits:
            raise ProductError(f"nothing was committed in {period_s:g} s")
        seen = [sum(by_role.values()) for at, by_role in list(sampler.seen.series) if at >= began]
        points.append(Point(
            int(after["bronze_log_records_written_total"] - first), now - began, messages,
            (cpu_after - cpu) * 1e6 / messages,
            grown(before, after, "bronze_commit_duration_seconds_sum") / commits,
            sum(seen) / max(1, len(seen))))
        tick(points[-1].cycles)
        before, cpu, began = after, cpu_after, now
    return points
