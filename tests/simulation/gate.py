"""Every request that leaves a process goes through here: numbered, told to the judge, broken.

The twins ask `around(operation, path)` of whatever stands in their `faults`; here it is a `Gate`.
A request is broken by its number, so a schedule is a few pairs of number and mode.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol


class Crash(BaseException):
    """The process that made the request is dead; nothing of it may run on."""


class Mode(StrEnum):
    """What goes wrong at a request."""

    CRASH_BEFORE = "crash_before"
    """Its process dies, nothing was sent."""
    CRASH_AFTER = "crash_after"
    """It took effect, its process dies before it learns so."""
    ERROR_BEFORE = "error_before"
    """It is refused."""
    ERROR_AFTER = "error_after"
    """It took effect and is answered by an error."""
    TIMEOUT = "timeout"
    """It took effect; its process waits for the store's time-out, then gets an error."""
    LATE = "late"
    """The same, and the cycle's deadline passes meanwhile."""
    SLOW = "slow"
    """It is under way for a while, and others are faster; then all is well."""
    LAND_LATE = "land_late"
    """Its process dies; the request is under way and takes effect seconds later."""
    FREEZE = "freeze"
    """The whole service stands still before it, another takes over, then the old one goes on."""
    CONFLICT_AFTER = "conflict_after"
    """Of a table's commit: it took effect and is answered as a conflict with itself."""


CORE_MODES = (Mode.CRASH_BEFORE, Mode.CRASH_AFTER, Mode.ERROR_BEFORE, Mode.ERROR_AFTER,
              Mode.TIMEOUT)
ALL_MODES = tuple(Mode)
WITH_ERROR = frozenset({Mode.ERROR_AFTER, Mode.TIMEOUT, Mode.LATE})
WAIT_S = {Mode.SLOW: 2.0, Mode.TIMEOUT: 3.0, Mode.LATE: 9.0, Mode.LAND_LATE: 5.0, Mode.FREEZE: 12.0}
"""How long the others go on meanwhile; the cycle's deadline in a world is 6 seconds."""
WATCHED = frozenset({"put", "commit", "create table", "delete"})


class Actor(Protocol):
    """A process that makes requests."""

    name: str
    dead: bool

    def kill(self, code: int) -> None:
        """End it at once."""


class Surroundings(Protocol):
    """What the hub needs of a world."""

    def pass_time(self, seconds: float) -> None:
        """Let everybody go on who is not in the middle of a request."""

    def freeze(self, actor: Any, seconds: float) -> None:
        """Freeze the service of `actor` so long, while another one takes over."""

    def observe(self, kind: str, operation: str, path: str) -> None:
        """Show the judge what just took effect."""

    def now(self) -> float:
        """Seconds."""


@dataclass
class Outage:
    """Requests of `kind` ("" for all) on paths that hold `part` fail until it is over."""

    kind: str
    part: str
    until: float
    fired: int = 0

    def strikes(self, kind: str, path: str, now: float) -> bool:
        """Whether a request fails now."""
        if now >= self.until or (self.kind and kind != self.kind) or self.part not in path:
            return False
        self.fired += 1
        return True


class Free:
    """The way through for a request nothing happens to."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        return None


FREE = Free()


class Hub:
    """Numbers the requests of a world and breaks those the plan names."""

    def __init__(
        self, world: Surroundings, plan: dict[int, Mode], *, tracing: bool
    ) -> None:
        self.world, self.plan, self.tracing = world, dict(plan), tracing
        self.count = 0
        self.actor: Actor | None = None
        self.fired: Counter[tuple[str, Mode]] = Counter()
        self.outages: list[Outage] = []
        self.trace: list[str] = []

    def say(self, text: str) -> None:
        """Note a step of the world in the trace."""
        if self.tracing:
            self.trace.append(f"{self.world.now():9.2f}        {text}")

    def enter(self, gate: Gate, operation: str, path: str) -> Passage | Free:
        """Number a request."""
        actor = self.actor
        if actor is None:
            return FREE
        if actor.dead:
            raise Crash
        self.count += 1
        mode = self.plan.pop(self.count, None) if self.plan else None
        if mode is Mode.CONFLICT_AFTER and (gate.kind, operation) != ("table", "commit"):
            mode = None
        if self.tracing:
            self.trace.append(
                f"{self.world.now():9.2f} {self.count:6d} {actor.name}: {gate.kind} {operation} "
                f"{path}{' <== ' + mode if mode else ''}")
        if mode is None and not self.outages and operation not in WATCHED:
            return FREE
        return Passage(self, gate, operation, path, mode)


class Gate:
    """Stands in a twin's `faults`.  kind: "store", "table" or "kafka"."""

    def __init__(self, hub: Hub, kind: str, error: Callable[[str, str], Exception],
                 conflict: Callable[[str, str], Exception] | None = None) -> None:
        self.hub, self.kind, self.error = hub, kind, error
        self.conflict = conflict or error

    def around(self, operation: str, path: str = "") -> Passage | Free:
        """See `tests.fakes.faults.Faults`."""
        return self.hub.enter(self, operation, path)


class Passage:
    """One request on its way."""

    __slots__ = ("actor", "gate", "hub", "mode", "operation", "path")

    def __init__(self, hub: Hub, gate: Gate, operation: str, path: str, mode: Mode | None) -> None:
        self.hub, self.gate, self.operation, self.path = hub, gate, operation, path
        self.mode = mode
        self.actor = hub.actor

    def __enter__(self) -> None:
        hub, mode = self.hub, self.mode
        for outage in hub.outages:
            if outage.strikes(self.gate.kind, self.path, hub.world.now()):
                raise self.gate.error(self.operation, self.path)
        if mode is Mode.CRASH_BEFORE:
            self._crash()
        elif mode is Mode.ERROR_BEFORE:
            hub.fired[self.gate.kind, mode] += 1
            raise self.gate.error(self.operation, self.path)
        elif mode is Mode.SLOW:
            hub.fired[self.gate.kind, mode] += 1
            hub.world.pass_time(WAIT_S[mode])
        elif mode is Mode.LAND_LATE:
            hub.fired[self.gate.kind, mode] += 1
            self.actor.kill(-9)
            hub.world.pass_time(WAIT_S[mode])
        elif mode is Mode.FREEZE:
            hub.fired[self.gate.kind, mode] += 1
            hub.world.freeze(self.actor, WAIT_S[mode])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        hub, mode = self.hub, self.mode
        if error is None:
            hub.world.observe(self.gate.kind, self.operation, self.path)
        elif not isinstance(error, Exception) or not self.actor.dead:
            # It had no effect to answer for: its own error stands.
            return
        if mode is Mode.CRASH_AFTER:
            self._crash()
        elif mode is Mode.CONFLICT_AFTER:
            hub.fired[self.gate.kind, mode] += 1
            raise self.gate.conflict(self.operation, self.path)
        elif mode in WITH_ERROR:
            hub.fired[self.gate.kind, mode] += 1
            if mode in WAIT_S:
                hub.world.pass_time(WAIT_S[mode])
        if self.actor.dead:
            raise Crash
        if mode in WITH_ERROR:
            raise self.gate.error(self.operation, self.path)

    def _crash(self) -> None:
        self.hub.fired[self.gate.kind, self.mode] += 1
        self.actor.kill(-9)
        raise Crash
