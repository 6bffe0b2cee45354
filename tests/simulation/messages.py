"""Messages of every kind, each with a value of its own."""

from __future__ import annotations

import random

from tests.fakes.source import Entry

KINDS = "vvvvjuetc"
"""v: well formed; j: no JSON; u: not UTF-8; e: empty; t: tombstone; c: control record."""


class Messages:
    """Makes entries; no two have the same value."""

    def __init__(self, source: random.Random) -> None:
        self._random, self._count = source, 0

    def make(self, kind: str) -> Entry:
        """An entry of a kind out of `KINDS`."""
        self._count += 1
        number = b"%d" % self._count
        value = {
            "v": b'{"n":' + number + b"}", "j": b'{"n":' + number, "u": b'"\xff' + number + b'"',
            "e": b"", "t": None, "c": None}[kind]
        headers = (("h", number),) if self._count % 5 == 0 else ()
        return Entry(value, number if self._count % 2 else None, 1_770_000_000_000 + self._count,
                     headers, control=kind == "c")
