"""Loans stay within the budget however claims and checks interleave, and everybody gets on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule,
)

from shared.block import Block
from shared.layout import Report
from workers.loan_words import of_worker
from workers.loan import Entry, Loan, Terms, claim_of

FLOOR, BUDGET = 100, 1000
TERMS = Terms(FLOOR, BUDGET)
HUGE = 50 * BUDGET
TURNS_MAX = 40
needs = st.one_of(st.integers(0, FLOOR + BUDGET), st.integers(0, HUGE))


class Table:
    """Everybody's entries in memory."""

    def __init__(self, count: int) -> None:
        self.rows = [Entry()] * count


class Row:
    """`Counter` of one worker on a table."""

    def __init__(self, table: Table, own: int) -> None:
        self._table, self._own = table, own

    def entries(self) -> list[Entry]:
        """See `Counter`."""
        return list(self._table.rows)

    def write(self, entry: Entry) -> None:
        """See `Counter`."""
        self._table.rows[self._own] = entry


def workers(count: int, terms: Terms = TERMS) -> tuple[Table, list[Loan]]:
    """So many workers that have borrowed nothing."""
    table = Table(count)
    return table, [Loan(Row(table, own), own, terms) for own in range(count)]


class Machine(RuleBasedStateMachine):
    """Workers that claim and check at any moment between each other's steps."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.held: dict[int, int] = {}
        self.claimed: dict[int, int] = {}

    idle = Bundle("idle")
    claiming = Bundle("claiming")

    @initialize(target=idle, count=st.integers(1, 5))
    def begin(self, count: int) -> object:
        """Hire workers."""
        self.table, self.loans = workers(count)
        self.held = dict.fromkeys(range(count), 0)
        return multiple(*range(count))

    @rule(target=claiming, worker=consumes(idle), need=needs)
    def claim(self, worker: int, need: int) -> int:
        """First half of asking."""
        self.claimed[worker] = need
        self.loans[worker].claim_first(max(need, self.held[worker]))
        return worker

    @rule(target=idle, worker=consumes(claiming))
    def check(self, worker: int) -> int:
        """Second half; what was granted is in use from then on."""
        self.now += 1
        need = max(self.claimed.pop(worker), self.held[worker])
        if self.loans[worker].then_check(self.held[worker], self.now):
            self.held[worker] = need
        return worker

    @rule(worker=idle, kept=st.integers(0, HUGE))
    def give_back(self, worker: int, kept: int) -> None:
        """A turn ends with less than was borrowed for it."""
        self.held[worker] = min(self.held[worker], kept)
        self.loans[worker].hold(self.held[worker])

    @rule(worker=idle)
    def rest(self, worker: int) -> None:
        """It reads nothing for another reason."""
        self.loans[worker].rest(self.held[worker])
        assert self.table.rows[worker].waiting_since == 0

    @rule(worker=idle)
    def die(self, worker: int) -> None:
        """The supervisor clears its words, and a successor begins with nothing."""
        self.held[worker] = 0
        self.table.rows[worker] = Entry()
        self.loans[worker] = Loan(Row(self.table, worker), worker, TERMS)

    @invariant()
    def within_the_budget(self) -> None:
        """Beyond their floors all together hold no more than there is, or one is alone."""
        borrowed = [claim_of(held, TERMS) for held in self.held.values() if held > FLOOR]
        assert sum(borrowed) <= BUDGET or len(borrowed) == 1

    @invariant()
    def nothing_leaks(self) -> None:
        """Who is not asking claims what it holds, neither more nor less."""
        for worker, held in self.held.items():
            if worker not in self.claimed:
                assert self.table.rows[worker].claim == claim_of(held, TERMS)


Machine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


@pytest.mark.parametrize("sizes", [
    [HUGE], [HUGE, HUGE, HUGE], [HUGE, 600, 600, 600], [FLOOR + 1] * 8, [FLOOR] * 8, [600] * 8,
    [HUGE, 50, 50],
], ids=str)
def test_everybody_gets_on_while_the_others_keep_asking(sizes: list[int]) -> None:
    """A large message is not starved by the small ones of others, nor they by it."""
    _, loans = workers(len(sizes))
    turns = dict.fromkeys(range(len(sizes)), 0)
    for now in range(1, TURNS_MAX + 1):
        for worker, loan in enumerate(loans):
            if loan.ask(sizes[worker], 0, now):
                turns[worker] += 1
            if (now + worker) % 2:
                loan.hold(0)
    least = TURNS_MAX // (2 * len(sizes))
    assert min(turns.values()) >= max(1, least), turns
    for worker, size in enumerate(sizes):
        assert size > FLOOR or turns[worker] == TURNS_MAX, "its own floor needs no leave"


def test_who_would_fit_lets_those_who_wait_longer_go_first() -> None:
    """Else many small loans would keep a large one from ever being alone."""
    _, (large, small, other) = workers(3)
    assert small.ask(FLOOR + 300, 0, now=1)
    assert not large.ask(FLOOR + 900, 0, now=2)
    assert not other.ask(FLOOR + 10, 0, now=3)
    small.hold(0)
    assert large.ask(FLOOR + 900, 0, now=4)
    assert other.ask(FLOOR + 10, 0, now=5)


def test_what_was_taken_without_asking_keeps_others_from_more() -> None:
    """A batch that is larger than expected is there already; all that helps is to wait."""
    table, (one, two) = workers(2)
    assert one.ask(FLOOR + 10, 0, now=1)
    one.hold(FLOOR + 5 * BUDGET)
    assert table.rows[0].claim == one.claim == 5 * BUDGET
    assert not two.ask(FLOOR + 1, 0, now=2)
    assert two.ask(FLOOR, 0, now=3)


def test_claims_are_kept_in_the_shared_block(tmp_path: Path) -> None:
    """Each in its own slot, seen by all."""
    block = Block.create(tmp_path / "block", 3, b"{}")
    loans = [Loan(of_worker(block, block.slot(index)), index, TERMS) for index in range(3)]
    assert loans[1].ask(FLOOR + 700, 0, now=5)
    assert not loans[2].ask(FLOOR + 700, FLOOR + 1, now=6)
    assert block.reports(Report.BORROWED) == [0, 700, 1]
    assert block.reports(Report.LOAN_WAITED_NS) == [0, 0, 6]
    assert block.slot(2).report(Report.BORROWED) == 1
