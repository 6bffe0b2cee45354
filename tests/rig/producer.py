"""Writes seeded test messages to Kafka and enters each one, with its offset, in the ledger.

A message is in the ledger once the broker confirmed it, and never otherwise: when a message's
fate is unknown (not confirmed in time), the producer raises instead of guessing.
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Delivered

from tests.rig.ledger import Kind, Ledger
from tests.rig.messages import Message, MessageSource

DELIVERY_TIMEOUT_S = 120
"""Long enough for a broker that is killed and started again."""

POLL_EVERY = 500
"""Messages between two looks at what was delivered."""

QUEUE_MESSAGES_MAX = 200_000
TICK_S = 0.05
"""How often the background producer wakes up; it sends the messages of that time at once."""

STOP_TIMEOUT_S = DELIVERY_TIMEOUT_S + 30
TRANSACTION_TIMEOUT_S = 60


class UnknownFate(Exception):
    """Messages were neither confirmed nor refused for certain; the ledger would be a guess."""


class _Lane:
    """The messages on their way to one partition, in the order in which they are confirmed."""

    def __init__(self, ledger: Ledger, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.pending: deque[tuple[Kind, bytes]] = deque()
        self.failures: list[str] = []
        self._ledger = ledger.partition(topic, partition)
        self._last_offset = -1

    def delivered(self, error: KafkaError | None, message: Delivered) -> None:
        """Called by the client once per message; one producer keeps a partition's order."""
        kind, digest = self.pending.popleft()
        if error is not None:
            self.failures.append(f"{self.topic}/{self.partition}: {error.str()}")
            return
        offset = message.offset()
        if offset is None or offset <= self._last_offset:
            self.failures.append(
                f"{self.topic}/{self.partition}: offset {offset} after {self._last_offset}"
            )
            return
        self._last_offset = offset
        self._ledger.record(offset, kind, digest)


class LoadProducer:
    """Produces to every partition of every topic in turn, in bulk or in the background.

    Args:
        bootstrap: ``host:port`` of the broker.
        partitions: how many each topic has (one number for all, or per topic).
        seed: what the messages depend on; their timestamps begin at `base_timestamp_ms`.
        settings: further settings of the Kafka client.

    All calls come from one thread. A context manager: leaving it stops the background.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[str],
        partitions: int | Mapping[str, int],
        seed: int | str = 1,
        *,
        ledger: Ledger | None = None,
        malformed_fraction: float = 0.001,
        base_timestamp_ms: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.ledger = ledger if ledger is not None else Ledger()
        self.base_timestamp_ms = base_timestamp_ms or int(time.time() * 1000)
        self.produced = 0
        """Messages handed to the client so far, from all ways of producing."""
        self._settings = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 20,
            "batch.size": 262_144,
            "queue.buffering.max.messages": QUEUE_MESSAGES_MAX,
            "message.timeout.ms": DELIVERY_TIMEOUT_S * 1000,
            "log_level": 0,
            **(settings or {}),
        }
        self._source = MessageSource(seed, self.base_timestamp_ms, malformed_fraction)
        counts = (
            dict.fromkeys(topics, partitions)
            if isinstance(partitions, int)
            else {topic: partitions[topic] for topic in topics}
        )
        self._lanes = [
            _Lane(self.ledger, topic, number)
            for number in range(max(counts.values()))
            for topic in topics
            if number < counts[topic]
        ]
        self._turns: Iterator[_Lane] = itertools.cycle(self._lanes)
        self._producer = Producer(self._settings)
        self._background: _Background | None = None

    def __enter__(self) -> LoadProducer:
        """Give itself; nothing is produced yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the background; a failure of it is raised unless another error is on its way."""
        if kind is None:
            self.stop_background()
        elif self._background is not None:
            self._background.stop()

    def produce(self, count: int) -> None:
        """Produce `count` messages as fast as they go, and return once all are confirmed.

        Raises:
            UnknownFate: the broker did not confirm them all within DELIVERY_TIMEOUT_S.
        """
        if self._background is not None:
            raise RuntimeError("the background producer runs; stop it first")
        self._send(count)
        self._finish(self._producer, self._lanes)

    def start_background(self, rate_per_s: float) -> None:
        """Go on producing from a thread, at most `rate_per_s` messages a second over all."""
        if self._background is not None:
            raise RuntimeError("the background producer runs already")
        self._background = _Background(self._send, rate_per_s, self._producer.poll)

    def stop_background(self) -> None:
        """Stop, and return once every message is confirmed; no effect when none runs.

        Raises:
            UnknownFate: some were not confirmed, or the thread failed.
        """
        background, self._background = self._background, None
        if background is not None:
            background.stop()
            self._finish(self._producer, self._lanes)
            if background.error is not None:
                raise UnknownFate("the background producer failed") from background.error

    def produce_transaction(
        self, topic: str, partition: int, count: int, *, commit: bool
    ) -> None:
        """Produce one transaction of `count` messages; when aborted, they are never to land.

        The broker writes a control record after them, an offset that holds no message.
        """
        producer = Producer(
            {
                **self._settings,
                "transactional.id": f"rig-{uuid.uuid4().hex}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_S * 1000,
                "message.timeout.ms": TRANSACTION_TIMEOUT_S * 1000,
            }
        )
        producer.init_transactions(TRANSACTION_TIMEOUT_S)
        producer.begin_transaction()
        lane = _Lane(self.ledger, topic, partition)
        for _ in range(count):
            message = self._source.next()
            kind = message.kind if commit else Kind.ABORTED
            self._put(producer, lane, message, kind)
        # Before the end, so that aborted messages reach the log and have offsets, too.
        self._finish(producer, [lane])
        if commit:
            producer.commit_transaction(TRANSACTION_TIMEOUT_S)
        else:
            producer.abort_transaction(TRANSACTION_TIMEOUT_S)

    def _send(self, count: int) -> None:
        for number in range(count):
            message = self._source.next()
            self._put(self._producer, next(self._turns), message, message.kind)
            if number % POLL_EVERY == 0:
                self._producer.poll(0)

    def _put(self, producer: Producer, lane: _Lane, message: Message, kind: Kind) -> None:
        """Hand one message to the client, waiting while its queue is full."""
        key, value, headers, timestamp_ms, _, digest = message
        lane.pending.append((kind, digest))
        deadline_s = time.monotonic() + DELIVERY_TIMEOUT_S
        while True:
            try:
                producer.produce(
                    lane.topic,
                    value=value,
                    key=key,
                    partition=lane.partition,
                    on_delivery=lane.delivered,
                    timestamp=timestamp_ms,
                    headers=headers,
                )
                self.produced += 1
                return
            except BufferError:
                if time.monotonic() > deadline_s:
                    lane.pending.pop()
                    raise UnknownFate(f"the queue stayed full for {DELIVERY_TIMEOUT_S} s") from None
                producer.poll(TICK_S)

    def _finish(self, producer: Producer, lanes: Sequence[_Lane]) -> None:
        left = producer.flush(DELIVERY_TIMEOUT_S)
        failures = [failure for lane in lanes for failure in lane.failures]
        if left or failures:
            raise UnknownFate(
                f"{left} messages unconfirmed, {len(failures)} failed: {failures[:5]}"
            )


class _Background:
    """A thread that sends at a bounded rate until it is told to stop."""

    def __init__(
        self,
        send: Callable[[int], None],
        rate_per_s: float,
        poll: Callable[[float], object],
    ) -> None:
        self.error: BaseException | None = None
        self._send = send
        self._rate_per_s = rate_per_s
        self._poll = poll
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-producer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once the thread has ended."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            raise UnknownFate(f"the background producer did not stop in {STOP_TIMEOUT_S} s")

    def _run(self) -> None:
        try:
            owed = 0.0
            last_s = time.monotonic()
            while not self._stop.wait(TICK_S):
                now_s = time.monotonic()
                # A stall is not made up for beyond one second, so that the rate stays bounded.
                owed = min(owed + (now_s - last_s) * self._rate_per_s, self._rate_per_s)
                last_s = now_s
                self._send(int(owed))
                owed -= int(owed)
                self._poll(0)
        except Exception as error:
            # Raised by stop_background in the thread of the test.
            self.error = error
