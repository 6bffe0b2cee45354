"""One look at the service: the copied block, the time of the look, and the verdict on it.

`Observer` is the only part with a memory: it looks every few seconds, asked or not, so that it
knows for how long messages have been waiting when somebody asks.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from healthcheck.snapshot import ServiceSnapshot, take
from healthcheck.verdict import NOTHING_WAITS, Health, Waiting, judge
from shared.block import Block
from shared.clock import SystemClock

LOOK_INTERVAL_S = 3.0


@dataclass(frozen=True, slots=True)
class Moment:
    """What /health and /metrics are made of."""

    snapshot: ServiceSnapshot
    now_ns: int
    now_ms: int
    health: Health
    waiting: Waiting


class Observer:
    """Looks at a block, on request and regularly."""

    def __init__(self, block: Block, clock: SystemClock) -> None:
        self._block = block
        self._clock = clock
        self._waiting = NOTHING_WAITS
        # Of this process alone: two requests and the regular look may come at the same time.
        self._lock = threading.Lock()

    def look(self) -> Moment:
        """Copy and judge the block now; raises `BlockError`."""
        with self._lock:
            snapshot = take(self._block)
            now_ns, now_ms = self._clock.monotonic_ns(), self._clock.unix_ms()
            self._waiting = self._waiting.follow(snapshot, now_ns)
            waiting = self._waiting
        health = judge(snapshot, now_ns, now_ms, waiting)
        return Moment(snapshot, now_ns, now_ms, health, waiting)
