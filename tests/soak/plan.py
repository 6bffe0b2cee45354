"""Which faults strike in which period: drawn from a seed, so that a run can be planned again.

In each block of four periods one is quiet. In the others the rarer faults are dealt from a
shuffled deck, so that each of them comes before any comes twice; killing sprees and storms of
failing requests join by chance. What a blow meets depends on the moment, which no seed repeats.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PERIOD_S = 20.0
"""How long a period's faults strike; healing and recovery bring it to about thirty seconds."""
QUIET_ONE_IN = 4
DEALT = 3
"""Rarer faults per period."""
SPREE_SHARE = 0.85
STORM_SHARE = 0.6
SPREE_GAP_S = (0.3, 1.4)
STORM_GAP_S = (0.05, 0.4)
LAST_BLOW_S = PERIOD_S - 4


class Fault(StrEnum):
    """What strikes, in the words of the page."""

    WORKER_KILLED = "worker killed"
    SUPERVISOR_KILLED = "supervisor killed, service started again"
    FORKSERVER_KILLED = "forkserver killed"
    SIDECAR_KILLED = "health page killed"
    RESTARTED = "service stopped by SIGTERM and started"
    WORKER_FROZEN = "worker frozen"
    SERVICE_FROZEN = "whole service frozen"
    STORE_REQUESTS = "requests to the store fail"
    STORE_SLOW = "store slow"
    STORE_KILLED = "store killed and started"
    BROKER_KILLED = "broker killed and started"
    BROKER_RESTARTED = "broker stopped and started"
    BROKER_SILENT = "broker out of reach"
    OPTIMIZED = "a foreign OPTIMIZE"


DECK = tuple(
    fault for fault in Fault if fault not in (Fault.WORKER_KILLED, Fault.STORE_REQUESTS)
)

SECONDS: dict[Fault, tuple[float, float]] = {
    Fault.WORKER_FROZEN: (1, 14),
    Fault.SERVICE_FROZEN: (2, 10),
    Fault.STORE_SLOW: (5, 12),
    Fault.STORE_KILLED: (0.5, 6),
    Fault.BROKER_KILLED: (0.5, 4),
    Fault.BROKER_RESTARTED: (0.2, 2),
    Fault.BROKER_SILENT: (3, 12),
}
"""How long those faults last that last; a frozen worker's limit lies inside its range."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One fault at one moment of its period; `seconds` is how long it lasts."""

    at_s: float
    fault: Fault
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Period:
    """The blows of one period, by time; none in a quiet one."""

    number: int
    blows: tuple[Blow, ...]

    @property
    def faults(self) -> list[Fault]:
        """What strikes in it, each once."""
        return sorted({blow.fault for blow in self.blows})


class Planner:
    """Draws one period after the other."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(f"soak {seed}")
        self._deck: list[Fault] = []
        self._number = 0
        self._quiet = 0
        self.dealt: set[Fault] = set()
        """Rarer faults dealt so far."""

    @property
    def is_round(self) -> bool:
        """Whether every rarer fault has been dealt once at least."""
        return self.dealt == set(DECK)

    def next(self) -> Period:
        """The next period."""
        place = self._number % QUIET_ONE_IN
        if place == 0:
            self._quiet = self._random.randrange(QUIET_ONE_IN)
        self._number += 1
        if place == self._quiet:
            return Period(self._number, ())
        blows = [self._deal() for _ in range(DEALT)]
        if self._random.random() < SPREE_SHARE:
            blows += self._series(Fault.WORKER_KILLED, SPREE_GAP_S)
        if self._random.random() < STORM_SHARE:
            blows += self._series(Fault.STORE_REQUESTS, STORM_GAP_S)
        return Period(self._number, tuple(sorted(blows, key=lambda blow: blow.at_s)))

    def _deal(self) -> Blow:
        if not self._deck:
            self._deck = list(DECK)
            self._random.shuffle(self._deck)
        fault = self._deck.pop()
        self.dealt.add(fault)
        lowest, highest = SECONDS.get(fault, (0.0, 0.0))
        return Blow(
            self._random.uniform(1, LAST_BLOW_S), fault, self._random.uniform(lowest, highest)
        )

    def _series(self, fault: Fault, gap_s: Sequence[float]) -> list[Blow]:
        """Blows of one kind, with gaps of random length, through the whole period."""
        shortest, longest = gap_s
        blows: list[Blow] = []
        at_s = self._random.uniform(0, longest)
        while at_s < PERIOD_S:
            blows.append(Blow(at_s, fault))
            at_s += self._random.uniform(shortest, longest)
        return blows
