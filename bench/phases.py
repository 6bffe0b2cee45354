"""The phases of a measurement: draining a backlog, doing nothing, a steady stream.

Each takes the running service, gives numbers and no judgement, and is bounded in time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.load import Load
from bench.processes import Family, Role
from bench.product import Product, ProductError, committed
from bench.sampler import Sampler, Watched

READY_TIMEOUT_S = 90.0
DRAIN_TIMEOUT_S = 600.0
SETTLE_S = 12.0
"""A cycle's interval and more, so that what follows the last commit is over."""
POLL_S = 0.25
IDLE_SAMPLE_S = 1.0
METRICS_TIMEOUT_S = 20.0

Tick = Callable[[int], None]
CpuByRole = dict[Role, float]


@dataclass(frozen=True, slots=True)
class Drain:
    """A backlog of `messages` read and committed; seconds, CPU in seconds.

    read_s and committed_s count from READY. `start_cpu` is what was used until READY, `cpu` what
    was used from READY until the last commit was seen. The first workers read before the last
    one is ready, `early` messages altogether; they belong to the start.
    """

    messages: int
    early: int
    start_s: float
    read_s: float
    committed_s: float
    start_cpu: CpuByRole
    cpu: CpuByRole
    flush_s: float
    worker_restarts: int
    memory: Watched

    @property
    def late(self) -> int:
        """Messages read after READY, which is what `cpu` and read_s were spent on."""
        return max(1, self.messages - self.early)


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing arrives; commits and records by the service's metrics, objects by listing."""

    seconds: float
    cpu: CpuByRole
    commits: int
    records: int
    objects_written: int
    memory: Watched


@dataclass(frozen=True, slots=True)
class Steady:
    """An even stream; `behind_s` is how long after its end the last message was committed."""

    seconds: float
    messages: int
    cpu: CpuByRole
    behind_s: float
    memory: Watched


def drain(product: Product, messages: int, tick: Tick) -> Drain:
    """Measure a start of the service on a backlog, until all of it is committed.

    Raises:
        ProductError: the service ended, or did not get there in time.
    """
    family = Family(product.pid)
    with Sampler(product.pid) as sampler:
        product.wait_ready(READY_TIMEOUT_S)
        # In this order: the counter must not hold what the CPU time does not.
        early = int(metrics_of(product)["bronze_messages_consumed_total"])
        start_cpu = family.cpu_s()
        read_at = _wait_read_and_committed(product, messages, tick)
        cpu = family.cpu_s()
    metrics = metrics_of(product)
    flushes = max(metrics["bronze_cycle_duration_seconds_count"], 1)
    return Drain(
        messages, early, product.ready_at - product.started_at,
        max(0.0, read_at - product.ready_at),
        metrics["max:bronze_last_commit_timestamp_seconds"] - product.ready_at,
        start_cpu, difference(cpu, start_cpu),
        metrics["bronze_cycle_duration_seconds_sum"] / flushes,
        int(metrics["bronze_worker_restarts_total"]), sampler.seen)


def _wait_read_and_committed(product: Product, messages: int, tick: Tick) -> float:
    """Wait for the last commit; the Unix time at which all was read (seen up to POLL_S late)."""
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    read_at = 0.0
    while time.monotonic() < deadline:
        metrics = product.metrics()
        if not read_at and metrics.get("bronze_messages_consumed_total", 0) >= messages:
            read_at = time.time()
        tick(committed(metrics))
        if committed(metrics) >= messages:
            return read_at
        product.must_run()
        time.sleep(POLL_S)
    raise ProductError(f"not all of {messages} messages were committed within "
                       f"{DRAIN_TIMEOUT_S:g} s:\n{product.log_tail()}")


def idle(product: Product, seconds: float, count_objects: Callable[[], int], tick: Tick) -> Idle:
    """Measure the service with nothing to do; it is asked nothing meanwhile."""
    _pass_time(SETTLE_S, tick)
    family = Family(product.pid)
    before, objects = metrics_of(product), count_objects()
    with Sampler(product.pid, IDLE_SAMPLE_S) as sampler:
        began, cpu = time.monotonic(), family.cpu_s()
        _pass_time(seconds, tick)
        used, passed = difference(family.cpu_s(), cpu), time.monotonic() - began
    after, objects_after = metrics_of(product), count_objects()
    return Idle(
        passed, used, _grown(before, after, "bronze_commits_total"),
        _grown(before, after, "bronze_log_records_written_total"), objects_after - objects,
        sampler.seen)


def steady(product: Product, load: Load, per_second: int, seconds: float, tick: Tick) -> Steady:
    """Measure the service under an even stream, then wait until all of it is committed."""
    goal = load.total + int(per_second * seconds)
    family = Family(product.pid)
    with Sampler(product.pid) as sampler:
        began, cpu = time.monotonic(), family.cpu_s()
        load.produce_steadily(per_second, seconds, tick)
        used, passed = difference(family.cpu_s(), cpu), time.monotonic() - began
        ended_at = time.time()
        _wait_read_and_committed(product, goal, lambda _count: None)
    last = metrics_of(product)["max:bronze_last_commit_timestamp_seconds"]
    return Steady(
        passed, int(per_second * seconds), used, max(0.0, last - ended_at), sampler.seen)


def metrics_of(product: Product) -> dict[str, float]:
    """The service's metrics.

    Raises:
        ProductError: it did not give them in time.
    """
    deadline = time.monotonic() + METRICS_TIMEOUT_S
    while time.monotonic() < deadline:
        metrics = product.metrics()
        if metrics:
            return metrics
        product.must_run()
        time.sleep(POLL_S)
    raise ProductError(f"no metrics within {METRICS_TIMEOUT_S:g} s:\n{product.log_tail()}")


def difference(after: CpuByRole, before: CpuByRole) -> CpuByRole:
    """CPU used between two readings, by role."""
    return {role: used - before.get(role, 0.0) for role, used in after.items()}


def _grown(before: dict[str, float], after: dict[str, float], metric: str) -> int:
    return int(after[metric] - before[metric])


def _pass_time(seconds: float, tick: Tick) -> None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        tick(int(passed))
        time.sleep(min(IDLE_SAMPLE_S, seconds - passed))
