"""Services in states that the status page has to show, made without a service.

A scene is a block, and a clock that plays the last quarter of an hour to the page's observer, so
that there is a history to draw.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from healthcheck.app import create_app
from healthcheck.history import KEPT_S, SAMPLE_INTERVAL_S
from healthcheck.moment import Observer
from healthcheck.server import HealthServer, listen
from shared.block import Block, Slot
from shared.clock import SystemClock, rfc3339
from shared.layout import Header, Order, Paused, Report, Retention
from shared.protocol import Phase, Standing

TOPICS = ("orders", "payments", "customers", "shipments", "inventory", "clicks", "invoices",
          "returns.eu-west-1")
RATES = (1200, 340, 25, 80, 410, 5200, 12, 3)
"""Messages per second, topic by topic."""
RETENTIONS = (
    (Retention.TIME, 168), (Retention.TIME, 1), (Retention.FOREVER, 0), (Retention.TIME, 72),
    (Retention.TIME, 168), (Retention.TIME_OR_SIZE, 24), (Retention.UNKNOWN, 0),
    (Retention.TIME, 168))
"""How Kafka keeps each, and for how many hours."""
COMMIT_EVERY_S = 10
OUTAGE_S = 200
COMMITTED_S = 4
RUNNING_S = 271_800
SEED = 20261128
STOP_S = 20
ABOUT = {
    "instance": "0", "service_version": "1.0.0", "lake": "s3://lake/bronze",
    "batch_interval_seconds": 10.0, "cycle_deadline_seconds": 30.0,
    "heartbeat_limit_seconds": 60.0, "memory_limit_mb": 256, "loan_budget_bytes": 26_000_000,
}
KAFKA_GONE = {
    "name": "KafkaUnavailable", "message": "fetch: Local: All broker connections are down",
    "what_to_do": "Check that the brokers are up and reachable; the service retries by itself.",
}
STORE_REFUSES = {
    "name": "StorageUnavailable",
    "message": "put bronze_payments/_ingestion_date=2026-11-28/0193-5c.parquet: 403 Forbidden",
    "what_to_do": "Check that the object store answers and that the credentials may read and "
                  "write the lake; the service retries by itself.",
}
ISOLATED = {
    "name": "TopicIsolated", "message": "it failed 4 cycles in a row, so the other topics go on "
    "without it", "what_to_do": "See the topic's last error; it rejoins by itself when it is well.",
}


class PastClock(SystemClock):
    """The machine's clocks, put back by `behind_s`."""

    behind_s = 0.0

    def monotonic_ns(self) -> int:
        """The time that is played, in nanoseconds."""
        return time.monotonic_ns() - int(self.behind_s * 1e9)

    def unix_ms(self) -> int:
        """The same as Unix time in milliseconds."""
        return time.time_ns() // 1_000_000 - int(self.behind_s * 1e3)


@dataclass(frozen=True, slots=True)
class Scene:
    """One state of a service of eight topics.

    stopped: topics that have written nothing since the outage began, by `error`.
    isolated: whether the others go on without them.
    names: what the topics are called on the page.
    """

    name: str
    status: str
    stopped: frozenset[str] = frozenset()
    error: Mapping[str, str] = field(default_factory=dict)
    isolated: bool = False
    names: tuple[str, ...] = TOPICS


HEALTHY = Scene("healthy", "healthy")
ONE_ISOLATED = Scene(
    "isolated", "unhealthy", frozenset({"payments"}), STORE_REFUSES, isolated=True)
NO_KAFKA = Scene("kafka-gone", "unhealthy", frozenset(TOPICS), KAFKA_GONE)
SCENES = (HEALTHY, ONE_ISOLATED, NO_KAFKA)


@contextmanager
def served(scene: Scene, folder: Path) -> Iterator[str]:
    """Serve the page of a scene as the product does; its address."""
    about = json.dumps({**ABOUT, "topics": scene.names}).encode()
    block = Block.create(folder / "block", len(TOPICS), about)
    clock = PastClock()
    observer = Observer(block, clock)
    _set(block, scene)
    _play(block, scene, clock, observer)
    listening = listen("127.0.0.1", 0)
    server = _Server(create_app(block, clock, observer), observer, listening)
    thread = threading.Thread(target=server.run, name="page", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.is_over = True
        thread.join(STOP_S)
        assert not thread.is_alive(), "the page's server did not end"
        listening.close()


class _Server(HealthServer):
    is_over = False

    def maintenance(self, now: float) -> None:
        """End, where that was asked for."""
        if self.is_over:
            raise SystemExit
        super().maintenance(now)


def _set(block: Block, scene: Scene) -> None:
    """Write what does not change while the past is played."""
    now_ms = time.time_ns() // 1_000_000
    idle_ms = 1000 * (OUTAGE_S if len(scene.stopped) == len(TOPICS) else COMMITTED_S)
    for word, value in (
        (Header.HEARTBEAT_NS, _ahead_ns()), (Header.SUPERVISOR_PID, 4711), (Header.READY, 1),
        (Header.STARTED_AT_MS, now_ms - 1000 * RUNNING_S), (Header.LAST_CYCLE_US, 231_000),
        (Header.LAST_CONSUMING_US, 9_769_000), (Header.LAST_FLUSHING_US, 142_000),
        (Header.LAST_DECIDING_US, 21_000), (Header.LAST_COMMITTING_US, 68_000),
        (Header.CYCLES_COMPLETED, 26_911), (Header.CYCLES_EMPTY, 3), (Header.CYCLES_ABORTED, 4),
        (Header.LAST_COMPLETED_AT_MS, now_ms - idle_ms),
    ):
        block.set(word, value)
    block.set_phase(26_918, Phase.CONSUMING)
    for index, topic in enumerate(TOPICS):
        _set_well(block.slot(index), RATES[index], now_ms)
        if topic in scene.stopped:
            _set_stopped(block.slot(index), RATES[index], now_ms, scene)
    if not scene.stopped:
        _tell(block.slot(1).error, now_ms - 11_000_000, STORE_REFUSES)


def _set_well(slot: Slot, per_s: int, now_ms: int) -> None:
    for order, value in (
        (Order.PID, 4713 + slot.index), (Order.INCARNATION, 1),
        (Order.STANDING, list(Standing).index(Standing.ACTIVE)),
        (Order.STANDING_SINCE_MS, now_ms - 1000 * RUNNING_S),
    ):
        slot.set_order(order, value)
    for report, value in (
        (Report.INCARNATION, 1), (Report.HEARTBEAT_NS, _ahead_ns()), (Report.LAG_KNOWN, 1),
        (Report.LAG, per_s // 40), (Report.VALID_THROUGH_MS, now_ms + 3_600_000),
        (Report.LAST_COMMIT_AT_MS, now_ms - 1000 * COMMITTED_S),
        (Report.BORROWED, 300_000 + 400 * per_s), (Report.ROWS, per_s * RUNNING_S),
        (Report.DEAD_LETTERS_EMPTY, 17 * (slot.index % 3)),
        (Report.COMMITTED_THROUGH_MS, now_ms - 1000 * COMMITTED_S),
        (Report.RETENTION, RETENTIONS[slot.index][0]),
        (Report.RETENTION_MS, 3_600_000 * RETENTIONS[slot.index][1]),
    ):
        slot.set_report(report, value)


def _set_stopped(slot: Slot, per_s: int, now_ms: int, scene: Scene) -> None:
    for report, value in (
        (Report.LAG, per_s * OUTAGE_S), (Report.VALID_THROUGH_MS, now_ms - 1000 * OUTAGE_S),
        (Report.LAST_COMMIT_AT_MS, now_ms - 1000 * OUTAGE_S), (Report.BORROWED, 0),
        (Report.COMMITTED_THROUGH_MS, now_ms - 1000 * OUTAGE_S),
        (Report.ERROR_ACTIVE, 1), (Report.PAUSED, Paused.BACKING_OFF),
    ):
        slot.set_report(report, value)
    _tell(slot.error, now_ms - 20_000, scene.error)
    if scene.isolated:
        slot.set_order(Order.STANDING, list(Standing).index(Standing.ISOLATED))
        slot.set_order(Order.STANDING_SINCE_MS, now_ms - 60_000)
        slot.set_order(Order.FAILURES, 4)
        _tell(slot.verdict, now_ms - 60_000, ISOLATED)


def _ahead_ns() -> int:
    """A sign of life that is good for the length of a test."""
    return time.monotonic_ns() + 3_600 * 10**9


def _tell(place: Any, at_ms: int, error: Mapping[str, str]) -> None:
    place.write(json.dumps({"at": rfc3339(at_ms), **error}).encode())


def _play(block: Block, scene: Scene, clock: PastClock, observer: Observer) -> None:
    """Let the observer see the last quarter of an hour, in which topics commit together."""
    chance = random.Random(SEED)
    steps = int(KEPT_S / SAMPLE_INTERVAL_S)
    for step in range(steps):
        clock.behind_s = (steps - step) * SAMPLE_INTERVAL_S
        is_commit = step % int(COMMIT_EVERY_S / SAMPLE_INTERVAL_S) == 0
        for index, topic in enumerate(TOPICS):
            is_out = topic in scene.stopped and clock.behind_s < OUTAGE_S
            if is_commit and not is_out:
                share = chance.uniform(0.6, 1.3)
                slot = block.slot(index)
                slot.count(Report.ROWS, int(RATES[index] * COMMIT_EVERY_S * share))
                slot.count(Report.COMMITS)
                if topic == "customers":
                    slot.count(Report.DEAD_LETTERS_JSON, chance.randrange(4))
                    slot.count(Report.DEAD_LETTERS_ENCODING, chance.randrange(3))
                    slot.count(Report.DEAD_LETTERS_EMPTY, chance.randrange(3))
        observer.look()
    clock.behind_s = 0.0
    observer.look()
