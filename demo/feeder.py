"""Sends the shop's events to Kafka: at a bounded rate, up to a bounded number, and never so
far ahead of the service that the embedded cluster would have to drop what was not read.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, Message, Producer

from demo import events

# Per topic. Even if one partition got all of them, with the largest event the generator
# makes, they would fit into what the embedded cluster keeps (a test holds this).
BACKLOG_LIMIT_MESSAGES = 8_000
_TICK_SECONDS = 0.05
# A pause (a laptop that slept) is not made up for beyond this.
_CATCH_UP_SECONDS = 0.5
_FLUSH_SECONDS = 5.0
_STOP_SECONDS = 2.0


@dataclass
class Pace:
    """How many messages are due by now, for a constant rate and a bounded total."""

    rate: float
    total: int
    started: float
    sent: int = 0

    def due(self, now: float) -> int:
        """Messages to send at `now`, in seconds of the clock that `started` is of."""
        behind = (now - self.started) * self.rate - self.sent
        allowance = self.rate * _CATCH_UP_SECONDS
        if behind > allowance:
            # What was not sent in time is dropped from the plan, not sent in a burst.
            self.started += (behind - allowance) / self.rate
            behind = allowance
        return max(0, min(int(behind), self.total - self.sent))


def backlog(sent: int, landed: int, lag: int) -> int:
    """Messages of a topic that may be needed still: not read yet, or read but in no table.

    A worker that dies reads its undecided messages again, so those must not be dropped
    either; `lag` covers a service whose row counters lost their history.
    """
    return max(sent - landed, lag, 0)


class Feeder:
    """The generator's thread. `observe` what the service has done, or it stops at the limit."""

    def __init__(self, address: str, *, rate: float, total: int, seed: int) -> None:
        """`address`: host:port of a broker; `rate`: messages per second over all topics."""
        # The clock starts with the thread.
        self._pace = Pace(rate, total, started=0.0)
        self._rng = random.Random(seed)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sent: Counter[str] = Counter()
        self._malformed = 0
        self._undelivered = 0
        self._landed: Mapping[str, int] = {}
        self._lag: Mapping[str, int] = {}
        self._held = False
        self._producer = Producer({
            "bootstrap.servers": address,
            "client.id": "demo-shop",
            # Compressed batches count with their compressed size at the cluster.
            "compression.type": "lz4",
            "linger.ms": 100,
            "log_level": 2,
        })
        self._thread = threading.Thread(target=self._run, name="demo-feeder", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more and wait, bounded, until what was sent has arrived."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)
        self._producer.flush(_FLUSH_SECONDS)

    def observe(self, landed: Mapping[str, int], lag: Mapping[str, int]) -> None:
        """Tell what the service reports: per topic, messages in tables, messages not read."""
        with self._lock:
            self._landed = dict(landed)
            self._lag = dict(lag)

    def state(self) -> FeederState:
        """A consistent copy of the counters."""
        with self._lock:
            return FeederState(
                sent=dict(self._sent),
                malformed=self._malformed,
                undelivered=self._undelivered,
                held=self._held,
                finished=self._pace.sent >= self._pace.total,
            )

    def _run(self) -> None:
        self._pace.started = time.monotonic()
        while not self._stop.wait(_TICK_SECONDS):
            self._tick(time.monotonic())
            self._producer.poll(0)

    def _tick(self, now: float) -> None:
        held = False
        for _ in range(self._pace.due(now)):
            topic = events.pick_topic(self._rng)
            if self._is_full(topic):
                # The plan waits with it: the shares of the topics stay as they are.
                held = True
                break
            self._send(topic)
        with self._lock:
            self._held = held

    def _is_full(self, topic: str) -> bool:
        with self._lock:
            waiting = backlog(
                self._sent[topic], self._landed.get(topic, 0), self._lag.get(topic, 0)
            )
        return waiting >= BACKLOG_LIMIT_MESSAGES

    def _send(self, topic: str) -> None:
        key, value, headers, kind = events.event(self._rng, topic, self._pace.sent)
        self._producer.produce(
            topic, key=key, value=value, headers=headers, on_delivery=self._on_delivery
        )
        self._pace.sent += 1
        with self._lock:
            self._sent[topic] += 1
            self._malformed += kind in events.MALFORMED_KINDS

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            with self._lock:
                self._undelivered += 1


@dataclass(frozen=True)
class FeederState:
    """What the generator has done; `held`: it waits for the service to catch up."""

    sent: Mapping[str, int]
    malformed: int
    undelivered: int
    held: bool
    finished: bool
