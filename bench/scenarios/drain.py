"""A backlog read at full speed, checkpoints of the tables included, and then nothing to do.

The tables are brought to the version at which a checkpoint is due first, by a service with a short
interval and a trickle of messages; the drain itself has the usual interval, and a keeper that comes
often, so that its turns fall into it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.contract import CPU_US_PER_MESSAGE_MAX, Verdict, at_most, memory
from bench.processes import Family, Role
from bench.product import Product, ProductError
from bench.sampler import Sampler, Watched
from bench.surroundings import PARTITIONS, TOPICS, Ground, Incomplete, Surroundings
from bench.watch import (
    READY_TIMEOUT_S, CpuByRole, difference, grown, metrics_of, pass_time, total, wait_committed,
)

INTERVAL_S = 10.0
MESSAGES, QUICK_MESSAGES = 10_000_000, 400_000
CHECKPOINT_EVERY = 20
CHECKPOINT = re.compile(r"/_delta_log/(\d{20})\.checkpoint")
KEEPER_INTERVAL_S = 5.0
PRIMER_INTERVAL_S, PRIMER_KEEPER_INTERVAL_S = 0.2, 3600.0
"""While the tables are primed, no keeper comes and writes the checkpoints too early."""
PRIMER_MESSAGES = 320
PRIMER_TIMEOUT_S = 180.0
EARLY_SHARE_MAX = 0.75
SETTLE_S = 12.0
"""A cycle's interval and more, so that what follows the last commit is over."""


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
class Drain:
    """A backlog of `messages` read and committed; seconds, CPU in seconds.

    read_s and committed_s count from READY. `start_cpu` is what was used until READY, `cpu` what
    was used from READY until the last commit was seen. The first workers read before the last
    one is ready, `early` messages altogether; they belong to the start.
    checkpoints: written to the bronze tables during the drain; without them its peak of memory
        is not the one that was promised.
    """

    messages: int
    early: int
    topics: int
    partitions: int
    message_bytes: float
    interval_s: float
    start_s: float
    read_s: float
    committed_s: float
    start_cpu: CpuByRole
    cpu: CpuByRole
    flush_s: float
    checkpoints: int
    memory: Watched
    idle: Idle
    rows: int
    dead_letters: int

    @property
    def late(self) -> int:
        """Messages read after READY, which is what `cpu` and read_s were spent on."""
        return max(1, self.messages - self.early)

    @property
    def worker_us(self) -> float:
        """CPU of the workers in microseconds per message."""
        return self.cpu.get(Role.WORKER, 0.0) * 1e6 / self.late

    @property
    def per_second(self) -> float:
        """Messages read per second."""
        return self.late / max(self.read_s, 1e-9)

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        return [
            memory("idle, after the drain", self.idle.memory.peak, limit_mb),
            memory(f"draining {self.messages:,} messages", self.memory.peak, limit_mb),
            at_most("CPU of the workers in the drain", self.worker_us, CPU_US_PER_MESSAGE_MAX,
                    "us/message"),
            Verdict("checkpoints of tables in the drain", "1 at least", str(self.checkpoints),
                    self.checkpoints > 0)]


def run(around: Surroundings) -> Drain:
    """Prime the tables, produce the backlog, drain it, rest; count everything.

    Raises:
        Incomplete: also when it wrote while idle.
    """
    messages = around.messages or int(around.size(MESSAGES, QUICK_MESSAGES))
    with around.ground(TOPICS, PARTITIONS) as ground:
        _prime(ground)
        ground.fill(messages)
        before = _checkpoints(ground)
        with ground.product(INTERVAL_S, keeper_interval_s=KEEPER_INTERVAL_S) as product:
            found = drained(product, messages, around)
            checkpoints = _checkpoints(ground) - before
            rested = _rest(product, around.size(20, 5), ground.objects, around)
            ground.finish(product)
        counted = ground.count()
        if found.early > EARLY_SHARE_MAX * messages:
            raise Incomplete(f"{found.early:,} of {messages:,} messages were read before READY; "
                             "what is left is too little to tell a speed from")
        return Drain(
            messages, found.early, TOPICS, PARTITIONS, ground.load.mean_bytes, INTERVAL_S,
            found.start_s, found.read_s, found.committed_s, found.start_cpu, found.cpu,
            found.flush_s, checkpoints, found.memory, rested, counted.rows,
            counted.dead_letters)


@dataclass(frozen=True, slots=True)
class Drained:
    """What `drained` saw; as in `Drain`."""

    early: int
    start_s: float
    read_s: float
    committed_s: float
    start_cpu: CpuByRole
    cpu: CpuByRole
    flush_s: float
    memory: Watched


def drained(product: Product, messages: int, around: Surroundings) -> Drained:
    """Measure a start of the service on a backlog, until all of it is committed."""
    family = Family(product.pid)
    with Sampler(product.pid) as sampler, around.step("drain", messages) as tick:
        product.wait_ready(READY_TIMEOUT_S)
        # In this order: the counter must not hold what the CPU time does not.
        early = int(metrics_of(product)["bronze_messages_consumed_total"])
        start_cpu = family.cpu_s()
        read_at = wait_committed(product, messages, tick)
        cpu = family.cpu_s()
    metrics = metrics_of(product)
    return Drained(
        early, product.ready_at - product.started_at, max(0.0, read_at - product.ready_at),
        metrics["max:bronze_last_commit_timestamp_seconds"] - product.ready_at,
        start_cpu, difference(cpu, start_cpu),
        metrics["bronze_cycle_duration_seconds_sum"]
        / max(metrics["bronze_cycle_duration_seconds_count"], 1), sampler.seen)


def _checkpoints(ground: Ground) -> int:
    return ground.objects("bronze_", lambda name: CHECKPOINT.search(name) is not None)


def _prime(ground: Ground) -> None:
    """Commit until a checkpoint of each table is due."""
    with ground.product(
            PRIMER_INTERVAL_S, keeper_interval_s=PRIMER_KEEPER_INTERVAL_S) as product:
        product.wait_ready(READY_TIMEOUT_S)
        with ground.around.step("prime tables", CHECKPOINT_EVERY) as tick:
            deadline = time.monotonic() + PRIMER_TIMEOUT_S
            version = 0
            while version <= CHECKPOINT_EVERY:
                if time.monotonic() > deadline:
                    raise ProductError(f"not primed in {PRIMER_TIMEOUT_S:g} s: {version}")
                ground.load.produce(PRIMER_MESSAGES, lambda _count: None)
                wait_committed(product, ground.missing, lambda _count: None)
                version = int(metrics_of(product)["max:bronze_table_version"])
                tick(version)
        ground.finish(product)


def _rest(
    product: Product, seconds: float, count_objects: Callable[[], int], around: Surroundings
) -> Idle:
    """Measure the service with nothing to do; it is asked nothing meanwhile."""
    with around.step("idle (s)", SETTLE_S + seconds) as tick:
        pass_time(SETTLE_S, tick)
        family = Family(product.pid)
        before, objects = metrics_of(product), count_objects()
        with Sampler(product.pid) as sampler:
            began, cpu = time.monotonic(), family.cpu_s()
            pass_time(seconds, lambda done: tick(int(SETTLE_S) + done))
            used, passed = difference(family.cpu_s(), cpu), time.monotonic() - began
        after, objects_after = metrics_of(product), count_objects()
    found = Idle(
        passed, used, int(grown(before, after, "bronze_commits_total")),
        int(grown(before, after, "bronze_log_records_written_total")), objects_after - objects,
        sampler.seen)
    if found.commits or found.records or found.objects_written:
        raise Incomplete(f"while idle it wrote {found.commits} commits, {found.records} records, "
                         f"{found.objects_written} objects; it must write nothing")
    return found


def idle_share(idle: Idle) -> float:
    """CPU while idle, as a share of a core."""
    return total(idle.cpu) / idle.seconds
