"""Whether replayed dead letters are rows exactly once.  Pure: the part of `verify` about them.

A replayed dead letter is in both tables by design.  What must be there is told by the plans; what
is there, by the bronze table and the table of replays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shared.replay_plan import Place

EXAMPLES_MAX = 5


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decided replay: its dead letters; path, rows and bytes of its bronze file."""

    number: int
    letters: tuple[Place, ...]
    path: str
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class Replays:
    """A topic's: all plans in order; reached and recorded_through: the last ones that are in the
    bronze table and in the table of replays; recorded: place -> replay as that table has it, 0
    where it has the place twice, None where it could not be read."""

    plans: Sequence[Replayed] = ()
    reached: int = 0
    recorded_through: int = 0
    recorded: Mapping[Place, int] | None = field(default_factory=dict)

    @property
    def done(self) -> list[Replayed]:
        """Those in the bronze table."""
        return [plan for plan in self.plans if plan.number <= self.reached]

    @property
    def undone(self) -> list[Replayed]:
        """Those that are decided, and not in the bronze table yet."""
        return [plan for plan in self.plans if plan.number > self.reached]


NO_REPLAYS = Replays()


def judge_replays(replays: Replays, ends: Mapping[int, int]) -> Iterator[tuple[str, str]]:
    """(sort, what) of each thing that must not be; ends: partition -> end of what is recorded."""
    numbers = {plan.number for plan in replays.plans}
    if replays.reached and replays.reached not in numbers:
        yield "replay", (f"the bronze table has replay {replays.reached}, which is not in the "
                         "lake's log of them")
    # With a smaller number, or without any plan, it is of a topic that was created again since.
    if numbers and replays.recorded_through > max(numbers):
        yield "replay", (f"the table of replays has replay {replays.recorded_through}, the lake's "
                         f"log of them ends at {max(numbers)}")
    if replays.reached > replays.recorded_through:
        yield "replay", (f"the bronze table has replay {replays.reached}, the table of replays "
                         f"only goes to {replays.recorded_through}")
    decided = Counter(place for plan in replays.plans for place in plan.letters)
    twice = sorted(place for place, count in decided.items() if count > 1)
    if twice:
        yield "double", f"dead letters that were replayed twice: {_some(twice)}"
    beyond = sorted(place for place in decided if place[1] >= ends.get(place[0], 0))
    if beyond:
        yield "foreign", f"replayed dead letters that are in no record: {_some(beyond)}"
    yield from _judge_recorded(replays)


def _judge_recorded(replays: Replays) -> Iterator[tuple[str, str]]:
    if replays.recorded is None:
        if replays.plans:
            yield "replay", "the table of replays cannot be read"
        return
    wanted = {place: plan.number for plan in replays.plans
              if plan.number <= replays.recorded_through for place in plan.letters}
    missing = sorted(wanted.keys() - replays.recorded.keys())
    if missing:
        yield "replay", f"replayed dead letters that the table of replays lacks: {_some(missing)}"
    strange = sorted(place for place, number in replays.recorded.items()
                     if wanted.get(place) != number)
    if strange:
        yield "replay", ("dead letters that the table of replays has twice, or of a replay that is "
                         f"not theirs: {_some(strange)}")


def judge_replayed_rows(
    replays: Replays, found: Iterable[Place]
) -> Iterator[tuple[str, str]]:
    """Hold the rows of the bronze table that are decided replays against those that must be."""
    wanted = {place for plan in replays.done for place in plan.letters}
    held = Counter(found)
    missing = sorted(wanted - held.keys())
    if missing:
        yield "missing", f"replayed dead letters that are no rows: {_some(missing)}"
    double = sorted(place for place, count in held.items() if count > 1)
    if double:
        yield "double", f"replayed dead letters that are rows twice: {_some(double)}"
    early = sorted(held.keys() - wanted)
    if early:
        yield "foreign", f"rows of replays that are not in the table yet: {_some(early)}"


def notes_on(replays: Replays) -> Iterator[str]:
    """What is no fault, and should be known."""
    if replays.undone:
        numbers = ", ".join(str(plan.number) for plan in replays.undone[:EXAMPLES_MAX])
        yield (f"{len(replays.undone)} decided replays are not in the bronze table yet "
               f"({numbers}): dlq replay brings them to their end")


def _some(places: Sequence[Place]) -> str:
    shown = ", ".join(f"{partition}:{offset}" for partition, offset in places[:EXAMPLES_MAX])
    return f"{shown} and {len(places) - EXAMPLES_MAX} more" if len(places) > EXAMPLES_MAX else shown
