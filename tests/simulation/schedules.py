"""Which schedules are run: every single fault, pairs of them, and whatever a seed draws."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from shared.config import GapPolicy
from shared.record_log import RECORDS_KEPT_MIN
from tests.simulation.gate import ALL_MODES, CORE_MODES, Mode
from tests.simulation.messages import KINDS
from tests.simulation.world import Event, Schedule, World

SMALL = Schedule(
    partitions=(1, 1), turns=11,
    events=(Event(0, "produce", ("t0", "vj")), Event(0, "produce", ("t1", "vc")),
            Event(7, "produce", ("t0", "v")), Event(7, "produce", ("t1", "vu"))))
"""Two topics, a malformed message in each, a control record, a start and two cycles."""
TWO = Schedule(
    partitions=(2,), turns=14,
    events=(Event(0, "start", ("1",)), Event(0, "produce", ("t0", "vjv")),
            Event(7, "produce", ("t0", "vuv"))))
"""Two instances on one topic, started together: one log, one group, a partition each."""
RECYCLED = replace(
    SMALL, turns=14, events=(*SMALL.events, Event(3, "outgrow", ("t0",))), reads_on=False)
"""The small script, with a worker that leaves between the two cycles, and flushes that go well."""
ANYWHERE = tuple(mode for mode in ALL_MODES if mode is not Mode.CONFLICT_AFTER)


def replay(schedule: Schedule) -> str:
    """The command that runs exactly this schedule and prints its steps."""
    scripts = {SMALL.events: "", TWO.events: "--two", RECYCLED.events: "--recycled"}
    script = scripts.get(schedule.events)
    if script is not None:
        faults = [f"--fault {number}:{mode}" for number, mode in schedule.faults]
        return " ".join(filter(None, ["python -m tests.simulation", script, *faults]))
    return f"python -m tests.simulation --seed {schedule.seed}"


def length(schedule: Schedule) -> int:
    """Requests of a run before everything heals."""
    return World(schedule).run().requests


def singles(schedule: Schedule) -> Iterator[Schedule]:
    """The script as it is, then every mode at every request."""
    yield schedule
    for number, mode in product(range(1, length(schedule) + 1), ALL_MODES):
        yield replace(schedule, faults=((number, mode),))


def pairs(schedule: Schedule) -> Iterator[Schedule]:
    """Every two faults of the core modes, at requests of their own."""
    numbers = range(1, length(schedule) + 1)
    for first, second in product(numbers, numbers):
        if first < second:
            for one, other in product(CORE_MODES, CORE_MODES):
                yield replace(schedule, faults=((first, one), (second, other)))


def some_pairs(schedule: Schedule, count: int, seed: int) -> Iterator[Schedule]:
    """A sample of pairs, of every mode that can strike anywhere."""
    drawn, requests = random.Random(seed), length(schedule)
    for _ in range(count):
        first, second = sorted(drawn.sample(range(1, requests + 1), 2))
        yield replace(schedule, faults=(
            (first, drawn.choice(ANYWHERE)), (second, drawn.choice(ANYWHERE))))


def of_seed(seed: int) -> Schedule:
    """A random schedule; the same seed gives the same one."""
    drawn = random.Random(f"schedule {seed}")
    partitions = tuple(drawn.choice((1, 1, 2, 3)) for _ in range(drawn.choice((1, 2, 2, 3))))
    turns = drawn.randint(8, 15)
    events = [*_messages(drawn, len(partitions), turns), *_troubles(drawn, len(partitions), turns)]
    requests = (30 + turns) * len(partitions)
    numbers = drawn.sample(range(1, requests), drawn.choice((0, 1, 1, 2, 2, 3)))
    trims, tight = drawn.random() < 0.2, drawn.random() < 0.2
    if drawn.random() < 0.2:
        events.append(Event(drawn.randrange(2, turns), "outgrow", ("t0",)))
    return Schedule(
        seed=seed, partitions=partitions, turns=turns, events=tuple(events),
        faults=tuple((number, drawn.choice(ANYWHERE)) for number in sorted(numbers)),
        shuffled=drawn.random() < 0.7, batch=drawn.choice((2, 2, 5)),
        dlq_enabled=drawn.random() < 0.85, tight=tight, reads_on=seed % 2 == 0,
        gap_policy=GapPolicy.CONTINUE,
        records_kept=3 if trims else RECORDS_KEPT_MIN, trim_interval_s=3.0 if trims else 600.0,
        watch_interval_s=4.0 if trims else 30.0)


def _messages(drawn: random.Random, topics: int, turns: int) -> Iterator[Event]:
    for topic in range(topics):
        for _ in range(drawn.randint(1, 3)):
            kinds = "".join(drawn.choice(KINDS) for _ in range(drawn.randint(1, 5)))
            yield Event(drawn.randrange(turns), "produce", (f"t{topic}", kinds))


def _troubles(drawn: random.Random, topics: int, turns: int) -> Iterator[Event]:
    """Some events that are no single request's fault."""
    for _ in range(drawn.choice((0, 0, 1, 1, 2, 3))):
        turn, topic = drawn.randrange(2, turns), f"t{drawn.randrange(topics)}"
        kind = drawn.choice(("rebalance", "kill_worker", "kill_service", "stop", "start", "grow",
                             "retain", "second", "outage", "isolate", "reconfigure"))
        if kind in ("rebalance", "kill_worker", "grow", "retain"):
            yield Event(turn, kind, (topic,))
        elif kind in ("kill_service", "stop", "start"):
            yield Event(turn, kind)
        elif kind == "second":
            yield Event(turn, "start", ("1",))
            yield Event(drawn.randrange(turn, turns), drawn.choice(("leave", "kill_service")),
                        ("1",))
        elif kind == "outage":
            where = drawn.choice((("store", ""), ("table", ""), ("kafka", ""), ("", "")))
            yield Event(turn, "outage", (*where, drawn.choice((1.0, 3.0, 8.0))))
        elif kind == "isolate":
            yield Event(turn, "outage", (drawn.choice(("store", "table")), f"bronze_{topic}", 16.0))
            yield Event(turn, "wait", (14.0,))
        elif topics > 1:
            yield Event(turn, "reconfigure", (topics - 1,))
