"""An even stream through the service: CPU, memory, when a cycle's tables became visible, ages."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.commits import Ages, windows
from bench.processes import Family
from bench.sampler import Sampler, Watched
from bench.surroundings import Ground, Incomplete
from bench.watch import (
    READY_TIMEOUT_S, CpuByRole, difference, metrics_of, total, wait_committed,
)

SHARES = tuple(number / 1000 for number in range(0, 1001, 5))
"""Quantiles kept of the ages, for a curve; every one needed for a verdict is among them."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What was seen; seconds and bytes.

    cpu: used while messages were sent.
    behind_s: from the last message sent to the last commit.
    commit_s: mean duration of a commit, by the service's own account.
    windows_s: per cycle with all topics in it, from the first bronze table to the last.
    ages_s: of rows when they became visible, at the quantiles SHARES.
    """

    interval_s: float
    per_second: int
    seconds: float
    messages: int
    cpu: CpuByRole
    behind_s: float
    commit_s: float
    memory: Watched
    windows_s: list[float]
    ages_s: list[float]

    def age(self, share: float) -> float:
        """The age that this share of the rows does not exceed."""
        return self.ages_s[SHARES.index(share)]

    @property
    def cores(self) -> float:
        """What the whole service used while messages were sent."""
        return total(self.cpu) / self.seconds


def stream(
    ground: Ground, name: str, per_second: int, interval_s: float, seconds: float
) -> Stream:
    """Start the service, send at an even rate, wait until all is committed, stop the service.

    Raises:
        Incomplete, ProductError, LoadError, LogGap: nothing counts.
    """
    load, messages = ground.load, int(per_second * seconds)
    with ground.product(interval_s) as product:
        product.wait_ready(READY_TIMEOUT_S)
        family = Family(product.pid)
        with Sampler(product.pid) as sampler, ground.follow() as follower:
            began, cpu = time.monotonic(), family.cpu_s()
            with ground.around.step(name, messages) as tick:
                load.produce_steadily(per_second, seconds, tick)
            used, passed = difference(family.cpu_s(), cpu), time.monotonic() - began
            ended_at = time.time()
            wait_committed(product, ground.missing, lambda _count: None)
            metrics = metrics_of(product)
        ground.finish(product)
    ages, bucket = Ages(), ground.filesystem()
    with ground.around.step("read timestamps", None):
        for topic, log in follower.logs.items():
            for entry in log.entries:
                ages.add(bucket, ground.table_folder(topic), entry)
    if ages.rows != metrics["bronze_rows_total"]:
        raise Incomplete(f"{ages.rows:,} timestamps were found in the tables, the service "
                         f"committed {metrics['bronze_rows_total']:,.0f} rows")
    commits = metrics["bronze_commit_duration_seconds_count"]
    return Stream(
        interval_s, per_second, passed, messages, used,
        max(0.0, metrics["max:bronze_last_commit_timestamp_seconds"] - ended_at),
        metrics["bronze_commit_duration_seconds_sum"] / max(commits, 1), sampler.seen,
        windows({topic: log.entries for topic, log in follower.logs.items()}),
        ages.quantiles_s(SHARES))
