"""Faults that a test orders: which operation fails, on what, before or after its effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

FOREVER = 1_000_000


class When(Enum):
    """Before: nothing happened.  After: it happened and only the answer is lost."""

    BEFORE = "before its effect"
    AFTER = "after its effect"


@dataclass
class Fault:
    """One order; `fired` counts how often it struck, so that a test can see that it did."""

    operation: str
    part: str
    when: When
    times: int
    make: Callable[[str, str], Exception]
    skip: int = 0
    fired: int = 0

    def strikes(self, operation: str, path: str, when: When) -> bool:
        """Whether it hits now; uses one of its times up."""
        if operation != self.operation or self.part not in path or when is not self.when:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.fired >= self.times:
            return False
        self.fired += 1
        return True

    def heal(self) -> None:
        """Strike no more."""
        self.times = self.fired


class Faults:
    """The orders of one test, and actions that run just before an operation."""

    def __init__(self, make: Callable[[str, str], Exception]) -> None:
        """make: operation and path -> the error that the real part would raise."""
        self._make = make
        self._faults: list[Fault] = []
        self._actions: list[tuple[str, str, Callable[[], None]]] = []
        self.seen: list[tuple[str, str]] = []

    def order(
        self, operation: str, part: str = "", *, when: When = When.BEFORE, times: int = 1,
        skip: int = 0, error: Exception | None = None,
    ) -> Fault:
        """Let `operation` fail on paths holding `part`, `times` times after `skip` good ones."""
        make = self._make if error is None else lambda operation, path: error
        fault = Fault(operation, part, when, times, make, skip)
        self._faults.append(fault)
        return fault

    def once_before(self, operation: str, part: str, action: Callable[[], None]) -> None:
        """Run `action` right before the next such operation: somebody else was faster."""
        self._actions.append((operation, part, action))

    @contextmanager
    def around(self, operation: str, path: str = "") -> Iterator[None]:
        """Wrap one operation's effect."""
        self.seen.append((operation, path))
        for entry in list(self._actions):
            if entry[0] == operation and entry[1] in path:
                self._actions.remove(entry)
                entry[2]()
        self._strike(operation, path, When.BEFORE)
        yield
        self._strike(operation, path, When.AFTER)

    def _strike(self, operation: str, path: str, when: When) -> None:
        for fault in self._faults:
            if fault.strikes(operation, path, when):
                raise fault.make(operation, path)
