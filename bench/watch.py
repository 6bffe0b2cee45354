"""Looks at a running service until something is reached; every wait is bounded."""

from __future__ import annotations

import time

from bench.load import Tick
from bench.processes import Role
from bench.product import Product, ProductError, committed

READY_TIMEOUT_S = 180.0
COMMIT_TIMEOUT_S = 600.0
METRICS_TIMEOUT_S = 20.0
POLL_S = 0.25
PASS_S = 1.0

CpuByRole = dict[Role, float]


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


def wait_committed(product: Product, messages: int, tick: Tick) -> float:
    """Wait until this service has committed so many; the Unix time at which all was read.

    That time is seen up to POLL_S late.

    Raises:
        ProductError: it ended, or was not done within COMMIT_TIMEOUT_S.
    """
    deadline = time.monotonic() + COMMIT_TIMEOUT_S
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
                       f"{COMMIT_TIMEOUT_S:g} s:\n{product.log_tail()}")


def difference(after: CpuByRole, before: CpuByRole) -> CpuByRole:
    """CPU used between two readings, by role."""
    return {role: used - before.get(role, 0.0) for role, used in after.items()}


def total(cpu: CpuByRole) -> float:
    """CPU seconds of all processes."""
    return sum(cpu.values())


def grown(before: dict[str, float], after: dict[str, float], metric: str) -> float:
    """By how much a counter grew."""
    return after[metric] - before[metric]


def pass_time(seconds: float, tick: Tick) -> None:
    """Wait, and show it."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        tick(int(passed))
        time.sleep(min(PASS_S, seconds - passed))
