"""Runs many schedules and counts what they were."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context

from tests.rig.evidence import Evidence, Strike
from tests.simulation.gate import Mode
from tests.simulation.schedules import replay
from tests.simulation.world import Schedule, World

TRACE_LINES = 60
PART = 40
"""Schedules that a process runs before it tells; about half a second."""
_KINDS = {"store": Strike.STORE, "table": Strike.TABLE, "kafka": Strike.KAFKA}
_DEADLY = {Mode.CRASH_BEFORE, Mode.CRASH_AFTER, Mode.LAND_LATE}


@dataclass
class Tally:
    """Of the schedules in which every planned fault struck; `missed` counts the others."""

    schedules: int = 0
    missed: int = 0
    requests: int = 0
    messages: int = 0
    cycles: int = 0
    recycled: int = 0
    refused: int = 0
    seconds: float = 0.0
    fired: Counter[tuple[str, Mode]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        by_mode: Counter[str] = Counter()
        for (_, mode), count in self.fired.items():
            by_mode[mode] += count
        faults = ", ".join(f"{mode} {count}" for mode, count in sorted(by_mode.items()))
        return (f"{self.schedules} schedules, {self.requests} requests, {self.cycles} cycles, "
                f"{self.messages} messages judged, {self.recycled} workers recycled; {sum(by_mode.values())} faults ({faults}) and "
                f"{self.refused} requests refused in outages; {self.missed} schedules not counted, "
                f"their faults never struck; {self.seconds:.1f} s of CPU")

    def add(self, other: Tally) -> None:
        """Count what another one counted, behind what is counted here."""
        self.schedules += other.schedules
        self.missed += other.missed
        self.requests += other.requests
        self.messages += other.messages
        self.cycles += other.cycles
        self.recycled += other.recycled
        self.refused += other.refused
        self.seconds += other.seconds
        self.fired.update(other.fired)
        self.failures += other.failures

    def tell(self, evidence: Evidence) -> None:
        """Tell what struck, once all schedules were judged well."""
        for (kind, mode), count in sorted(self.fired.items()):
            strike = Strike.KILL if mode in _DEADLY else _KINDS[kind]
            if mode is Mode.FREEZE:
                strike = Strike.FREEZE
            evidence.struck(strike, f"simulated: {mode} at a request to {kind}", count)
        evidence.judged(self.messages, self.cycles)
        evidence.notes["simulation"] = {"schedules": self.schedules, "requests": self.requests}


def run_all(schedules: Iterable[Schedule], failures_max: int = 1) -> Tally:
    """Run schedules until they end or too many have failed."""
    tally, began = Tally(), time.process_time()
    for schedule in schedules:
        outcome = World(schedule).run()
        if outcome.violation:
            tally.failures.append(explain(schedule))
            if len(tally.failures) >= failures_max:
                break
        elif outcome.missed:
            tally.missed += 1
        else:
            tally.schedules += 1
            tally.requests += outcome.requests
            tally.messages += outcome.messages
            tally.cycles += outcome.cycles
            tally.recycled += outcome.recycled
            tally.refused += outcome.refused
            tally.fired.update(outcome.fired)
    tally.seconds = time.process_time() - began
    return tally


def run_spread(schedules: Iterable[Schedule], failures_max: int = 1) -> Tally:
    """The same in as many processes as there are cores; which runs where changes nothing.

    They are new interpreters: a rule that was taken out in this process is in force there.

    Raises:
        BrokenProcessPool: one of the processes died.
    """
    tally = Tally()
    # Not forked: by now this process may have threads of the clients' libraries.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = pool.map(partial(run_all, failures_max=failures_max), _parts(schedules))
        for part in found:
            tally.add(part)
            if len(tally.failures) >= failures_max:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return tally


def _parts(schedules: Iterable[Schedule]) -> Iterator[list[Schedule]]:
    waiting = iter(schedules)
    while part := list(islice(waiting, PART)):
        yield part


def explain(schedule: Schedule, lines: int = TRACE_LINES) -> str:
    """Run a schedule again and say what it is, its last steps, and what was broken."""
    outcome = World(schedule, tracing=True).run()
    return "\n".join([f"{schedule}", *outcome.trace[-lines:], f"VIOLATION: {outcome.violation}",
                      f"replay with: {replay(schedule)}"])
