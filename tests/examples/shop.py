"""A lake with the demo's events in it, made by the product's own parts, and what must be in it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo import events
from shared.records import DLQ
from tests.rig.made_lake import ABSENT_EVERY, DEAD_EVERY, MadeLake

TOPICS = ("orders", "payments")
PARTITIONS = 2
ERROR = "expected value at line 1 column 2"


class ShopLake(MadeLake):
    """Orders and payments as the demo writes them; see `MadeLake` for what is where."""

    def __init__(self, folder: Path, topics: tuple[str, ...] = TOPICS) -> None:
        super().__init__(folder, topics, PARTITIONS)

    def contents(
        self, topic: str, table: str, rows: list[tuple[int, int]],
    ) -> dict[str, list[Any]]:
        """A key and a value for every row, and for dead letters what is wrong with them."""
        found = [event(topic, partition, offset) for partition, offset in rows]
        keys = [key for key, _ in found]
        if table == DLQ:
            return {"key": keys, "value": [value[1:] for _, value in found],
                    "_kafka_topic": [topic] * len(rows), "error_class": ["json"] * len(rows),
                    "error_message": [ERROR] * len(rows)}
        return {"key": keys, "value": [value.decode() for _, value in found]}


def event(topic: str, partition: int, offset: int) -> tuple[bytes | None, bytes]:
    """The key and the well-formed value of one message, always the same."""
    number = offset * PARTITIONS + partition
    rng = random.Random(f"{topic}/{number}")
    while True:
        key, value, _, kind = events.event(rng, topic, number)
        if kind == events.VALID and value is not None:
            return key, value


def rows(offsets: Iterable[int]) -> int:
    """How many rows of a topic are at these offsets of all its partitions."""
    return PARTITIONS * sum(bool(at % ABSENT_EVERY and at % DEAD_EVERY) for at in offsets)


def dead_letters(offsets: Iterable[int]) -> int:
    """How many of its dead letters."""
    return PARTITIONS * sum(bool(at % ABSENT_EVERY and not at % DEAD_EVERY) for at in offsets)
