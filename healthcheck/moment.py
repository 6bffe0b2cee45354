"""One look at the service: the copied block, the time of the look, and the verdict on it.

`Observer` is the only part with a memory: it looks every few seconds, asked or not, so that it
knows for how long messages have been waiting, and how fast counters grow, when somebody asks.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from healthcheck.history import History, Trend
from healthcheck.snapshot import ServiceSnapshot, take
from healthcheck.verdict import NOTHING_WAITS, Health, Waiting, judge
from shared.block import Block
from shared.clock import SystemClock
from shared.logs import RateLimit, log_event

LOOK_INTERVAL_S = 3.0

_LOGGER = logging.getLogger("healthcheck")


@dataclass(frozen=True, slots=True)
class Moment:
    """What /health and /metrics are made of."""

    snapshot: ServiceSnapshot
    now_ns: int
    now_ms: int
    health: Health
    waiting: Waiting


@dataclass(frozen=True, slots=True)
class Trends:
    """What the topics' counters did within the last `span_s`, in the order of the topics."""

    span_s: float
    topics: tuple[Trend, ...]


class Observer:
    """Looks at a block, on request and regularly."""

    def __init__(self, block: Block, clock: SystemClock) -> None:
        self._block = block
        self._clock = clock
        self._waiting = NOTHING_WAITS
        self._history = History(block.topic_count)
        self._repeats = RateLimit()
        # Of this process alone: two requests and the regular look may come at the same time.
        self._lock = threading.Lock()

    def look(self) -> Moment:
        """Copy and judge the block now; raises `BlockError`."""
        with self._lock:
            snapshot = take(self._block)
            now_ns, now_ms = self._clock.monotonic_ns(), self._clock.unix_ms()
            self._waiting = self._waiting.follow(snapshot, now_ns)
            waiting = self._waiting
            self._remember(snapshot, now_ns)
        health = judge(snapshot, now_ns, now_ms, waiting)
        return Moment(snapshot, now_ns, now_ms, health, waiting)

    def trends(self, moment: Moment) -> Trends:
        """What counters did up to the last sample."""
        interval_s = moment.snapshot.about.batch_interval_seconds
        with self._lock:
            return Trends(self._history.span_s(), tuple(
                self._history.trend(index, interval_s)
                for index in range(len(moment.snapshot.topics))))

    def _remember(self, snapshot: ServiceSnapshot, now_ns: int) -> None:
        for topic, word in self._history.add(now_ns, snapshot.topics):
            if self._repeats.admit("counter_fell", now_ns / 1e9) is not None:
                log_event(_LOGGER, logging.WARNING, "counter_fell", topic=topic, word=word.name,
                          what_to_do="The shared block is damaged: restart the service.")
