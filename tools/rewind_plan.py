"""Which offsets a rewind reads again, and into which tables.  Pure.

A rewind never reads into the bronze table: what is there would be there twice.  It reads the
offsets between what was asked for and the position that the bronze table has into tables of its
own.  The plan fixes both ends when the rewind is begun; whoever goes on with it later goes by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from shared.clock import rfc3339
from shared.naming import bronze_table, dlq_table, rewind_prefix
from shared.records import Range
from tools.report import Line, Status
from tools.tiling import Claim
from tools.words import many

CHECK = "rewind"
PLAN_VERSION = 1
NAME_DIGITS = 8
LAST = 1 << 62
"""Behind every offset: an end that was not asked for."""


class Refused(Exception):
    """A rewind that must not be begun or gone on with; nothing was read."""

    def __init__(self, found: str, what_to_do: str) -> None:
        super().__init__(found)
        self.found, self.what_to_do = found, what_to_do


@dataclass(frozen=True, slots=True)
class Bound:
    """Where what is asked for begins, or ends: exactly one of the three.

    offsets: partition -> offset, for these partitions only; time_ms: Unix time, at the first
    message that is not older; cycle: behind all that this cycle brought.
    """

    offsets: Mapping[int, int] | None = None
    time_ms: int | None = None
    cycle: int | None = None

    def words(self) -> str:
        """In one form, however it was written."""
        if self.offsets is not None:
            listed = ",".join(f"{part}:{offset}" for part, offset in sorted(self.offsets.items()))
            return f"offset {listed}"
        if self.time_ms is not None:
            return f"time {rfc3339(self.time_ms)}"
        return f"cycle {self.cycle}"


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; `until` is None for all that the bronze table has.

    instance: of several on one lake, whose cycles are meant; empty where that is clear.
    """

    topic: str
    to: Bound
    until: Bound | None = None
    instance: str = ""

    def words(self) -> str:
        """In one form: a rewind is gone on with by who asks for the same."""
        until = f" until {self.until.words()}" if self.until is not None else ""
        instance = f" of instance {self.instance}" if self.instance else ""
        return f"to {self.to.words()}{until}{instance}"

    def name(self) -> str:
        """A name that is always the same for the same request."""
        digest = hashlib.sha256(f"{self.topic} {self.words()}".encode()).hexdigest()
        return f"r{digest[:NAME_DIGITS]}"


class Part(msgspec.Struct, frozen=True):
    """Offsets [start, end) of one partition."""

    partition: int
    start: int
    end: int

    @property
    def count(self) -> int:
        """How many offsets."""
        return self.end - self.start


class Plan(msgspec.Struct, frozen=True):
    """A rewind as it was begun; an object in the lake, made once.

    asked: the request in words; topic_id: of the topic's creation that the bronze table is of.
    """

    name: str
    topic: str
    topic_id: str
    asked: str
    parts: tuple[Part, ...]
    made_at: str
    service_version: str
    plan_version: int = PLAN_VERSION

    @property
    def prefix(self) -> str:
        """What stands before the usual names of the topic's tables."""
        return rewind_prefix(self.name)

    @property
    def tables(self) -> tuple[str, str]:
        """The table of rows and that of dead letters."""
        return self.prefix + bronze_table(self.topic), self.prefix + dlq_table(self.topic)

    @property
    def ends(self) -> dict[int, int]:
        """Partition -> where reading ends."""
        return {part.partition: part.end for part in self.parts}


class _Version(msgspec.Struct):
    plan_version: int


def encode_plan(plan: Plan) -> bytes:
    """As JSON."""
    return msgspec.json.encode(plan)


def decode_plan(data: bytes) -> Plan:
    """Raises `Refused` for what this release cannot know."""
    try:
        version = msgspec.json.decode(data, type=_Version).plan_version
        if version == PLAN_VERSION:
            return msgspec.json.decode(data, type=Plan)
    except msgspec.DecodeError as error:
        raise Refused(f"the plan of this rewind cannot be read: {error}",
                      "Name another rewind by --into.") from error
    raise Refused(f"the plan of this rewind has version {version}, this release knows "
                  f"{PLAN_VERSION}", "Go on with the release that began it.")


def starts_behind(claims: Iterable[Claim], record: int) -> dict[int, int]:
    """Partition -> the first offset that a record behind `record` brought."""
    found: dict[int, int] = {}
    for claim in claims:
        for part in claim.ranges if claim.record > record else ():
            found[part.partition] = min(part.start, found.get(part.partition, part.start))
    return found


def parts_of(
    request: Request, starts: Mapping[int, int], untils: Mapping[int, int],
    positions: Mapping[int, int],
) -> tuple[Part, ...]:
    """What is to be read again: from `starts` up to `untils`, where one is given, and never
    beyond the position of the bronze table.  Raises `Refused`.

    A partition without a start has nothing behind what was asked for.
    """
    named = {*(request.to.offsets or {}), *(request.until.offsets or {} if request.until else {})}
    unknown = sorted(named - positions.keys())
    if unknown:
        raise Refused(
            f"{bronze_table(request.topic)} has no position for "
            f"{many(len(unknown), 'partition')}: {', '.join(map(str, unknown))}",
            f"It knows {', '.join(map(str, sorted(positions))) or 'none'}.")
    found = (Part(partition, start, min(positions[partition], untils.get(partition, LAST)))
             for partition, start in sorted(starts.items()) if partition in positions)
    return tuple(part for part in found if part.start < part.end)


def gaps_of(
    positions: Mapping[int, int], ends: Mapping[int, int], lows: Mapping[int, int]
) -> tuple[Part, ...]:
    """What Kafka has deleted of [position, end), where its first offsets are `lows`."""
    return tuple(
        Part(partition, position, min(lows[partition], ends[partition]))
        for partition, position in sorted(positions.items())
        if position < min(lows[partition], ends[partition]))


def beyond(ends: Mapping[int, int], highs: Mapping[int, int]) -> tuple[Part, ...]:
    """What lies behind the last offset Kafka has: the log has lost its end."""
    return tuple(Part(partition, highs[partition], end) for partition, end in sorted(ends.items())
                 if highs[partition] < end)


def listed(parts: Iterable[Part]) -> str:
    """Partitions and offsets as people read them."""
    return ", ".join(f"partition {part.partition}: [{part.start}, {part.end})" for part in parts)


def refuse_gaps(gaps: Sequence[Part]) -> Refused:
    """Kafka no longer has some of it, and nobody has said that this will do."""
    count = sum(part.count for part in gaps)
    return Refused(f"Kafka no longer has {many(count, 'offset')} of it: {listed(gaps)}",
                   "--allow-gaps reads the rest, and records these as lost; a later start by "
                   "--to-offset leaves them out.")


def refuse_beyond(parts: Sequence[Part]) -> Refused:
    """The bronze table has more than Kafka: its messages are others, or gone with a broker."""
    return Refused(f"Kafka ends before the bronze table: it has nothing at {listed(parts)}",
                   "A broker has lost the end of its log; --until-offset leaves it out.")


@dataclass(frozen=True, slots=True)
class Estimate:
    """How many rows and dead letters a range will give, by what is recorded of it."""

    rows: int
    dead_letters: int


def estimate(part: Part, claims: Iterable[Claim]) -> Estimate | None:
    """None where nothing is recorded.  A record that is only partly in it counts in proportion."""
    rows = dead_letters = 0.0
    is_known = False
    for found in _overlapping(part, claims):
        share = ((min(part.end, found.end) - max(part.start, found.start))
                 / (found.end - found.start))
        rows, dead_letters = rows + share * found.rows, dead_letters + share * found.dead_letters
        is_known = True
    return Estimate(round(rows), round(dead_letters)) if is_known else None


def _overlapping(part: Part, claims: Iterable[Claim]) -> Iterator[Range]:
    for claim in claims:
        for found in claim.ranges:
            if (found.partition == part.partition and found.start < part.end
                    and part.start < found.end):
                yield found


def plan_lines(plan: Plan, claims: Sequence[Claim]) -> Iterator[Line]:
    """What would be read, and where it would go."""
    for part in plan.parts:
        about = estimate(part, claims)
        told = (f"about {many(about.rows, 'row')} and {many(about.dead_letters, 'dead letter')}"
                if about is not None else "nothing is recorded of them")
        yield Line(CHECK, f"{plan.topic}/{part.partition}", Status.OK,
                   f"offsets [{part.start}, {part.end}), {part.count:,} of them: {told}")
    rows, dead_letters = plan.tables
    yield Line(CHECK, plan.topic, Status.OK, f"into {rows} and {dead_letters}")


def done_lines(plan: Plan, ranges: Iterable[Range], lake_uri: str) -> Iterator[Line]:
    """What a complete rewind holds."""
    ranges = tuple(ranges)
    for part in plan.parts:
        mine = [found for found in ranges if found.partition == part.partition]
        rows, dead_letters, absent = (sum(getattr(found, fate) for found in mine)
                                      for fate in ("rows", "dead_letters", "absent"))
        yield Line(CHECK, f"{plan.topic}/{part.partition}", Status.OK,
                   f"offsets [{part.start}, {part.end}): {many(rows, 'row')}, "
                   f"{many(dead_letters, 'dead letter')}, {absent} never delivered")
        for gap in (gap for found in mine for gap in found.lost):
            yield Line(CHECK, f"{plan.topic}/{part.partition}", Status.WARN,
                       f"offsets [{gap.start}, {gap.end}) are in none: {gap.cause}")
    rows_table, dead_letter_table = plan.tables
    yield Line(CHECK, plan.topic, Status.OK,
               f"in {lake_uri.rstrip('/')}/{rows_table} and {dead_letter_table}")
