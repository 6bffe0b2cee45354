"""Dead letters, told apart by what is wrong with them.  Pure.

A *fingerprint* stands for one sort of error: its class and its message, without what differs from
message to message (numbers, quoted text).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

FINGERPRINT_CHARS = 12
GROUPS_MAX = 10_000
"""Sorts of errors that are kept apart; the service's own checks know some dozens."""
OTHER = "-"
"""In place of a fingerprint, for all groups beyond GROUPS_MAX."""

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_NUMBER = re.compile(r"(?<![A-Za-z]-)(?<!\d)(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)")
_SPACES = re.compile(r"\s+")


def normalised(message: str) -> str:
    """A message without what differs from one dead letter to the next."""
    text = _NUMBER.sub("N", _QUOTED.sub("'…'", message))
    return _SPACES.sub(" ", text).strip()


@lru_cache(maxsize=4096)
def fingerprint(error_class: str, error_message: str) -> str:
    """What all dead letters with this error have in common, as a short word."""
    told = f"{error_class}\0{normalised(error_message)}"
    return hashlib.sha256(told.encode(errors="replace")).hexdigest()[:FINGERPRINT_CHARS]


@dataclass(frozen=True, slots=True)
class Seen:
    """One dead letter without its content."""

    topic: str
    partition: int
    offset: int
    at: datetime | None
    error_class: str
    error_message: str

    @property
    def fingerprint(self) -> str:
        """Of its error."""
        return fingerprint(self.error_class, self.error_message)

    @property
    def as_fact(self) -> Mapping[str, object]:
        """For JSON."""
        return {"partition": self.partition, "offset": self.offset,
                "ingested_at": None if self.at is None else self.at.isoformat()}


def seen_of(topic: str, row: Mapping[str, Any]) -> Seen:
    """A row of a dead letter table, as far as grouping needs it."""
    return Seen(topic, row["_kafka_partition"], row["_kafka_offset"], row["_ingested_at"],
                row["error_class"] or "", row["error_message"] or "")


@dataclass(slots=True)
class Group:
    """Dead letters of one topic that have something in common; open: how many are not replayed.

    first and last are by the time they were read; the last one is the example.
    """

    first: Seen
    last: Seen
    count: int = 0
    open: int = 0
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, seen: Seen, *, is_open: bool) -> None:
        """Count one."""
        self.count += 1
        self.open += is_open
        self.classes[seen.error_class] += 1
        if _order(seen) < _order(self.first):
            self.first = seen
        if _order(seen) > _order(self.last):
            self.last = seen


def _order(seen: Seen) -> tuple[float, int, int]:
    at = seen.at.timestamp() if seen.at is not None else 0.0
    return at, seen.offset, seen.partition


class Groups:
    """Groups by topic and by a word: a fingerprint, or nothing at all for a whole topic."""

    def __init__(self) -> None:
        self.by: dict[tuple[str, str], Group] = {}

    def add(self, seen: Seen, word: str, *, is_open: bool) -> None:
        """Count one under a word."""
        key = (seen.topic, word)
        if key not in self.by:
            if len(self.by) >= GROUPS_MAX:
                key = (seen.topic, OTHER)
            self.by.setdefault(key, Group(seen, seen))
        self.by[key].add(seen, is_open=is_open)

    def largest_first(self) -> list[tuple[str, str, Group]]:
        """(topic, word, group): by topic, those with most open ones first."""
        return sorted(((topic, word, group) for (topic, word), group in self.by.items()),
                      key=lambda one: (one[0], -one[2].open, -one[2].count, one[1]))
