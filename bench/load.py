"""Messages for the benchmark, made beforehand so that producing them costs little.

Every message has a short key and a JSON object of about 210 bytes as value; one in a thousand is
malformed, in five ways by turns. Topics and partitions take turns, so all get equal shares, or
the shares that a rota gives them.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Sequence

from confluent_kafka import Producer

DISTINCT = 49_999
"""More bytes than the compressor looks back over, and no multiple of the number of topics."""
MALFORMED_EVERY = 1000
LARGE_DISTINCT = 16
MESSAGE_BYTES_MAX = 1_048_588
"""A broker's own default; the client's is lower, and a value of 10^6 bytes would not fit."""
CHUNK = 5_000
TICK_S = 0.05
FLUSH_TIMEOUT_S = 120.0
PRODUCE_TIMEOUT_S = 600.0
SEED = 20

Tick = Callable[[int], None]
"""Called now and then with the number of messages handed over so far."""


class LoadError(Exception):
    """The broker did not take the messages."""


def make_payloads(count: int = DISTINCT, seed: int = SEED) -> list[bytes]:
    """JSON objects as an online shop's events might be, 200 to 220 bytes."""
    dice = random.Random(seed)
    return [json.dumps({
        "event_id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
        "type": dice.choice(["created", "changed", "closed"]),
        "user": dice.randrange(10**6, 10**7),
        "amount": round(dice.uniform(100, 999), 2),
        "currency": dice.choice(["EUR", "USD", "CHF"]),
        "at": f"2025-{dice.randrange(1, 13):02}-{dice.randrange(1, 29):02}T12:00:00.000Z",
        "note": f"{dice.getrandbits(140):035x}",
    }).encode() for _ in range(count)]


def make_malformed(good: bytes) -> list[bytes]:
    """Five values that are no JSON in UTF-8, each for another reason."""
    return [good[:-1] + b",}", b'{"note": "\xff\xfe"}', good[: len(good) // 2],
            b'{"amount": NaN}', b""]


class Load:
    """Produces to all topics in turn and counts what it sent.

    Args:
        rota: indices of topics, whose turns come in this order; None gives all equal shares.

    Attributes:
        sent: messages by topic, those of every call together.
        malformed: how many of them are no JSON, by topic.
    """

    def __init__(
        self, bootstrap: str, topics: Sequence[str], partitions: int,
        rota: Sequence[int] | None = None,
    ) -> None:
        self._producer = Producer({
            "bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20,
            "batch.size": 262_144, "message.max.bytes": MESSAGE_BYTES_MAX,
            "queue.buffering.max.messages": 500_000,
            "log_level": 0,  # What matters is raised; a broker that starts or ends is no news.
        })
        self._rota = [topics[index] for index in rota or range(len(topics))]
        self._partitions = partitions
        self._good = make_payloads()
        self._bad = make_malformed(self._good[0])
        self._keys = [f"user-{number}".encode() for number in range(1000)]
        self._next = 0
        self.sent = dict.fromkeys(topics, 0)
        self.malformed = dict.fromkeys(topics, 0)

    @property
    def total(self) -> int:
        """Messages sent."""
        return sum(self.sent.values())

    @property
    def mean_bytes(self) -> float:
        """Mean size of a well formed value."""
        return sum(map(len, self._good)) / len(self._good)

    def produce(self, count: int, tick: Tick) -> None:
        """Send `count` messages as fast as the broker takes them, and wait for its receipts.

        Raises:
            LoadError: it did not take them in time.
        """
        deadline = time.monotonic() + PRODUCE_TIMEOUT_S
        for start in range(0, count, CHUNK):
            done = min(CHUNK, count - start)
            self._send(done, deadline)
            tick(start + done)
        self._flush()

    def produce_large(self, topic: str, count: int, size: int, tick: Tick) -> None:
        """Send JSON values of `size` bytes to one topic, and wait for the receipts."""
        deadline = time.monotonic() + PRODUCE_TIMEOUT_S
        dice = random.Random(SEED)
        frame = b'{"note": "%s"}'
        # Random digits, for a megabyte of one letter would be next to nothing when compressed.
        notes = [dice.randbytes(size // 2).hex().encode()[: size - len(frame) + 2]
                 for _ in range(LARGE_DISTINCT)]
        for number in range(count):
            value = frame % notes[number % len(notes)]
            self._hand_over(topic, value, self._keys[number % 1000],
                            number % self._partitions, deadline)
            self.sent[topic] += 1
            tick(number + 1)
        self._flush()

    def produce_steadily(self, per_second: int, seconds: float, tick: Tick) -> None:
        """Send at an even rate, and wait for the receipts."""
        began, done = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed * per_second) - done
            self._send(due, began + seconds + FLUSH_TIMEOUT_S)
            done += due
            tick(done)
            time.sleep(TICK_S)
        self._send(int(seconds * per_second) - done, time.monotonic() + FLUSH_TIMEOUT_S)
        self._flush()

    def _send(self, count: int, deadline: float) -> None:
        producer, rota, good = self._producer, self._rota, self._good
        for number in range(self._next, self._next + count):
            # Shifted by one each thousand: malformed ones would all fall on one topic otherwise.
            place = number + number // MALFORMED_EVERY
            topic = rota[place % len(rota)]
            value = good[number % len(good)]
            if number % MALFORMED_EVERY == MALFORMED_EVERY - 1:
                value = self._bad[number // MALFORMED_EVERY % len(self._bad)]
                self.malformed[topic] += 1
            self.sent[topic] += 1
            partition = place // len(rota) % self._partitions
            self._hand_over(topic, value, self._keys[number % 1000], partition, deadline)
        self._next += count
        producer.poll(0)

    def _hand_over(
        self, topic: str, value: bytes, key: bytes, partition: int, deadline: float
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
                return
            except BufferError:
                if time.monotonic() > deadline:
                    raise LoadError("the broker takes no messages") from None
                self._producer.poll(TICK_S)

    def _flush(self) -> None:
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        if left:
            raise LoadError(f"{left} messages were not taken within {FLUSH_TIMEOUT_S:g} s")
