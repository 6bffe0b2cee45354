"""A seeded generator of test messages: the same arguments always give the same messages.

Valid values are JSON objects of about 210 bytes, every one different. Content that repeats (keys,
headers, the tails of values) is prepared once, so that making a message costs about a microsecond.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import NamedTuple

from tests.rig.ledger import MALFORMED, Kind, digest_of, pack_headers

POOL_SIZE = 4096
"""How many different templates there are; a power of two, so that a stride visits each."""

STRIDE = 1_669
"""Odd, so that walking the pool by it visits every template before any repeats."""

VALUE_BYTES = 210

TOMBSTONE_FRACTION = 0.01
NULL_KEY_FRACTION = 0.2
EMPTY_KEY_FRACTION = 0.01
HEADERS_FRACTION = 0.4

WORDS = ("alpha", "Köln", "日本", "delta \"quoted\"", "tab\\t", "naïve", "\U0001f680", "zulu")


Headers = list[tuple[str, str | bytes | None]]
"""As the client takes them; all of ours have bytes or None as value."""


class Message(NamedTuple):
    """One message; `headers` is None or not empty, `timestamp_ms` since the epoch."""

    key: bytes | None
    value: bytes | None
    headers: Headers | None
    timestamp_ms: int
    kind: Kind
    digest: bytes


class _Template(NamedTuple):
    key: bytes | None
    tail: bytes | None
    headers: Headers | None
    packed_headers: bytes


class MessageSource:
    """An endless stream of messages.

    Args:
        seed: what the stream depends on, with the following arguments.
        base_timestamp_ms: of the first message; each message is a millisecond later every 16th
            time. Take the present: Kafka deletes what is older than its retention.
        malformed_fraction: how much of the stream is malformed, each kind in its turn.
    """

    def __init__(
        self, seed: int | str, base_timestamp_ms: int, malformed_fraction: float = 0.001
    ) -> None:
        self._random = random.Random(f"messages {seed}")
        self._base_timestamp_ms = base_timestamp_ms
        self._fraction = malformed_fraction
        self._pool = [_template(self._random) for _ in range(POOL_SIZE)]
        self._number = 0
        self._malformed = 0
        self._next_malformed = self._gap()

    def __iter__(self) -> Iterator[Message]:
        """Every message once; the stream never ends."""
        while True:
            yield self.next()

    def next(self) -> Message:
        """The next message of the stream."""
        number = self._number
        self._number = number + 1
        key, tail, headers, packed = self._pool[number * STRIDE % POOL_SIZE]
        timestamp_ms = self._base_timestamp_ms + (number >> 4)
        kind = Kind.VALID
        if tail is None:
            # All that a tombstone says is its key, so that is what makes it different.
            key, value = b"tombstone-%d" % number, None
        else:
            value = b'{"id": %d, %b' % (number, tail)
        if number == self._next_malformed:
            kind = MALFORMED[self._malformed % len(MALFORMED)]
            self._malformed += 1
            self._next_malformed = number + self._gap()
            value = malformed_value(kind, number, self._random)
        digest = digest_of(key, value, packed, timestamp_ms)
        return Message(key, value, headers, timestamp_ms, kind, digest)

    def _gap(self) -> int:
        """Messages from one malformed one to the next: geometric, so that neighbours occur."""
        if self._fraction <= 0:
            return -1
        return 1 + int(self._random.expovariate(self._fraction))


def malformed_value(kind: Kind, number: int, generator: random.Random) -> bytes:
    """A value that must become a dead letter of the given kind."""
    good = b'{"id": %d, "name": "caf\xc3\xa9", "amount": 12.5, "tags": ["a", "b"]}' % number
    if kind is Kind.BROKEN:
        return good.replace(b": 12.5", b" = 12.5")
    if kind is Kind.INVALID_UTF8:
        broken = generator.choice((b"\xc3(", b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5\x80"))
        return good.replace(b"\xc3\xa9", broken)
    if kind is Kind.TRUNCATED:
        # Cut in ASCII, so that it is JSON that is broken and not the encoding.
        return good[: generator.randrange(good.index(b"amount"), len(good) - 1)]
    if kind is Kind.NAN:
        return good.replace(b"12.5", generator.choice((b"NaN", b"Infinity", b"-Infinity")))
    if kind is Kind.EMPTY:
        return b""
    raise ValueError(f"{kind!r} is not a malformed kind")


def _template(generator: random.Random) -> _Template:
    """One set of what repeats: key, tail of the value, headers."""
    headers = _headers(generator)
    is_tombstone = generator.random() < TOMBSTONE_FRACTION
    tail = None if is_tombstone else _tail(generator)
    return _Template(_key(generator), tail, headers, pack_headers(headers or ()))


def _key(generator: random.Random) -> bytes | None:
    draw = generator.random()
    if draw < NULL_KEY_FRACTION:
        return None
    if draw < NULL_KEY_FRACTION + EMPTY_KEY_FRACTION:
        return b""
    if draw < 0.4:
        return generator.randbytes(generator.randrange(1, 24))
    return b"customer-%05d" % generator.randrange(100_000)


def _headers(generator: random.Random) -> Headers | None:
    if generator.random() >= HEADERS_FRACTION:
        return None
    trace = ("trace", generator.randbytes(8))
    choices: list[Headers] = [
        [trace],
        [trace, ("source", b"web"), ("source", b"mobile")],
        [("nothing", None)],
        [("empty", b""), ("", b"no name"), ("größe", "ß".encode())],
        [("same", None), ("same", b""), ("same", b"\x00\xff"), trace],
    ]
    return generator.choice(choices)


def _tail(generator: random.Random) -> bytes:
    """All of a JSON object but its beginning, filled up to the usual size."""
    fields: dict[str, object] = {
        "customer": f"c-{generator.randrange(100_000):05d}",
        "amount": generator.randrange(10_000_000) / 100,
        "city": generator.choice(WORDS),
        "nested": {"list": [1, -2.5e-3, None, True, {}], "text": generator.choice(WORDS)},
        "big": generator.randrange(2**53, 2**63),
    }
    is_ascii = generator.random() < 0.5
    size = len(json.dumps(fields, ensure_ascii=is_ascii).encode())
    fields["note"] = "x" * max(0, VALUE_BYTES - size - 22)
    return json.dumps(fields, ensure_ascii=is_ascii).encode()[1:]
