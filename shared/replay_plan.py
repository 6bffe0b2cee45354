"""A replay as it is decided: which dead letters, and the files that make them rows.  Pure.

A plan is one object of a topic's own dense sequence, made with put-if-absent, and never changed or
deleted.  Whoever writes number n has read all below it, so a dead letter is in one plan at most:
that is what makes a replay happen once.  Once it exists, whoever comes next brings it to its end.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from shared.errors import IngestError
from shared.records import DataFile

PLAN_VERSION = 1
REPLAYED = "replays"
"""The label, beside BRONZE and DLQ, of a file for the table of replayed dead letters."""

Place = tuple[int, int]
"""Partition and offset of a message."""


class ReplayDamaged(IngestError):
    """The replays of a topic do not fit each other, or the tables: going on could double rows."""

    what_to_do = ("Restore what is missing under _bronze/replays/ or in the tables from the "
                  "bucket's versions; nothing is replayed until then.")


class Plan(msgspec.Struct, frozen=True):
    """Replay `number` of a topic: its dead letters by place, and two uploaded, invisible files:
    rows for the bronze table, and what became of each letter for the table of replays.

    first: the number of the first plan of its sequence, so that none can be missing unnoticed: a
    topic that was created again, with a new bronze table, begins behind the numbers used before.
    """

    topic: str
    first: int
    number: int
    uuid: str
    service_version: str
    written_at: str
    letters: tuple[Place, ...]
    files: tuple[DataFile, ...]
    plan_version: int = PLAN_VERSION

    def files_of(self, table: str) -> tuple[DataFile, ...]:
        """The files for `table` (BRONZE or REPLAYED)."""
        return tuple(file for file in self.files if file.table == table)


class _VersionOnly(msgspec.Struct):
    plan_version: int


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Plan)
_version_decoder = msgspec.json.Decoder(_VersionOnly)


def encode(plan: Plan) -> bytes:
    """JSON bytes."""
    return _encoder.encode(plan)


def decode(data: bytes, topic: str, number: int) -> Plan:
    """Read a plan; raises `ReplayDamaged` for anything that is not this topic's of this number."""
    try:
        version = _version_decoder.decode(data).plan_version
        if version != PLAN_VERSION:
            raise ReplayDamaged(f"replay {number} of {topic} has plan_version {version}, this "
                                f"release knows {PLAN_VERSION}")
        plan = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ReplayDamaged(f"replay {number} of {topic} cannot be read: {error}") from error
    if (plan.topic, plan.number) != (topic, number):
        raise ReplayDamaged(f"replay {number} of {topic} is another one: number {plan.number} of "
                            f"{plan.topic}")
    return plan


def absorbed(plans: Iterable[Plan]) -> frozenset[Place]:
    """The dead letters that are decided to be rows."""
    return frozenset(place for plan in plans for place in plan.letters)
