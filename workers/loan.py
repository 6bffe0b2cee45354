"""Pure: borrowing from the memory that all workers share, without a lock.

Every worker has a floor that it owns.  What it needs beyond is a *claim*, a word of its own in the
shared block.  It writes the claim first and then looks at everybody's: of two that claim at once at
least one sees the other, so both may step back, but never do both believe that they fit.  A claim
that does not fit is taken back, and the worker says since when it waits.

Who waits longest comes first: meanwhile nobody else may claim anything, whether it would fit or
not.  So all other claims end as files are sent, and in the end it is alone; and who is alone may
claim more than there is, for a message that is larger than the budget must pass, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Terms:
    """floor_bytes: each worker's own; budget_bytes: for all claims together."""

    floor_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What one worker's words say: the bytes it claims beyond its floor, and since when it waits
    for more (monotonic, 0 when it does not)."""

    claim: int = 0
    waiting_since: int = 0


class Counter(Protocol):
    """Where the entries are kept, one per worker, each written by its worker alone."""

    def entries(self) -> Sequence[Entry]:
        """Everybody's, as they are now."""

    def write(self, entry: Entry) -> None:
        """Replace our own, visibly to others before anything that is read after it."""


def claim_of(need: int, terms: Terms) -> int:
    """What a worker that needs so many bytes must borrow."""
    return max(0, need - terms.floor_bytes)


def fits(entries: Sequence[Entry], own: int, waiting_since: int, terms: Terms) -> bool:
    """Whether the claim that stands in entry `own`, which is not 0, may stay there.

    waiting_since: when this worker began to wait; now, if it has not waited yet.
    """
    claim = entries[own].claim
    others = [(entry, index) for index, entry in enumerate(entries) if index != own]
    if any(entry.waiting_since and (entry.waiting_since, index) < (waiting_since, own)
           for entry, index in others):
        return False
    borrowed = sum(entry.claim for entry, _ in others)
    return borrowed == 0 or borrowed + claim <= terms.budget_bytes


class Loan:
    """One worker's claim; `ask` before taking more, `hold` after each turn."""

    def __init__(self, counter: Counter, own: int, terms: Terms) -> None:
        self._counter, self._own, self._terms = counter, own, terms
        self._claim = self._waiting_since = 0

    @property
    def claim(self) -> int:
        """Bytes borrowed at present."""
        return self._claim

    def ask(self, need: int, held: int, now: int) -> bool:
        """Borrow what `need` bytes take; if refused, what is `held` stays borrowed.

        now: monotonic, above 0.
        """
        self.claim_first(need)
        return self.then_check(held, now)

    def claim_first(self, need: int) -> None:
        """The first half of `ask`; whatever others do may come in between."""
        self._write(claim_of(need, self._terms), self._waiting_since)

    def then_check(self, held: int, now: int) -> bool:
        """The second half of `ask`."""
        since = self._waiting_since or now
        if not self._claim or fits(self._counter.entries(), self._own, since, self._terms):
            self._write(self._claim, 0)
            return True
        self._write(claim_of(held, self._terms), since)
        return False

    def hold(self, held: int) -> None:
        """Keep no more than what is held; what was taken without asking is told here, too."""
        self._write(claim_of(held, self._terms), self._waiting_since)

    def rest(self, held: int) -> None:
        """The same, for one that reads nothing for another reason: it does not wait for us."""
        self._write(claim_of(held, self._terms), 0)

    def _write(self, claim: int, waiting_since: int) -> None:
        self._claim, self._waiting_since = claim, waiting_since
        self._counter.write(Entry(claim, waiting_since))
