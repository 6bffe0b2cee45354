"""The keeper as a child process: one turn at a time, begun between two cycles, never waited for.

Its memory is borrowed from what the workers share before it is born, and given back when it is
gone: while it works, they hold less ready.
"""

from __future__ import annotations

import logging
from typing import Any

import multiprocess

from keeper import entry
from shared.block import Block
from shared.clock import SystemClock, rfc3339
from shared.config import Config
from shared.layout import Header
from shared.layout import Keeper as Word
from shared.logs import log_event
from shared.memory import KEEPER_BYTES
from shared.trouble import Trouble, encode
from supervisor.fleet import Child, log_refused, start
from supervisor.respawn import describe
from workers.loan import Loan, Terms
from workers.loan_words import of_keeper

logger = logging.getLogger("supervisor")

TURN_MAX_S = 120.0
"""A turn ends by itself long before; one that does not is killed, which harms nothing."""
ANYWAY_S = 600.0
"""A turn is taken after this long although nothing of ours is new: others may have written."""


class Keeper:
    """Gives the keeper its turns."""

    def __init__(self, config: Config, block: Block, clock: SystemClock) -> None:
        self._config, self._block, self._clock = config, block, clock
        self._interval_s = config.keeper.interval_seconds
        self._context = multiprocess.get_context("forkserver")
        limits = config.limits
        terms = Terms(0, limits.loan_budget_bytes)
        self._loan = Loan(of_keeper(block), len(config.topics), terms)
        self._child: Child | None = None
        self._said_before: bytes | None = None
        now = clock.monotonic()
        self._due_at, self._anyway_at = now + self._interval_s, now + ANYWAY_S

    @property
    def entered_through(self) -> int:
        """The last record that is in the ledger, as far as is known; -1 before the first turn."""
        return self._block.keeper(Word.NEXT_RECORD) - 1

    def waitables(self) -> list[Any]:
        """A descriptor that becomes ready when its process ends."""
        return [] if self._child is None or self._child.pidfd is None else [self._child.pidfd]

    def tend(self, now: float, *, is_between_cycles: bool) -> None:
        """Begin a turn that is due, notice one that has ended."""
        if self._child is not None:
            self._watch(self._child, now)
        elif now >= self._due_at:
            self._begin_if_possible(now, is_between_cycles)

    def _begin_if_possible(self, now: float, is_between_cycles: bool) -> None:
        if not self._has_work(now):
            self._due_at = now + self._interval_s
        elif not is_between_cycles:
            # A flush may be held up for long, and who waits keeps others from borrowing.
            self._loan.rest(0)
        elif self._loan.ask(KEEPER_BYTES, 0, self._clock.monotonic_ns()):
            self._begin(now)

    def _has_work(self, now: float) -> bool:
        if now >= self._anyway_at or self._block.keeper(Word.BEHIND):
            return True
        if self._block.keeper(Word.UNFINISHED) or self._block.keeper(Word.LINEAGE_BEHIND):
            return True
        return self._block.get(Header.LAST_RECORD) >= self._block.keeper(Word.NEXT_RECORD)

    def _begin(self, now: float) -> None:
        self._due_at, self._anyway_at = now + self._interval_s, now + ANYWAY_S
        process = self._context.Process(
            target=entry.main, name="keeper", daemon=True,
            args=(self._config, str(self._block.path)))
        try:
            self._child = Child(process, start(process), born_at=now)
        except (OSError, EOFError) as error:
            self._loan.hold(0)
            self._block.add(Header.KEEPER_FAILURES)
            log_refused("keeper_not_started", error)
            return
        self._said_before = self._block.keeper_error.read()
        self._block.add(Header.KEEPER_TURNS)

    def _watch(self, child: Child, now: float) -> None:
        is_late = now - child.born_at >= TURN_MAX_S
        if not child.is_over and not is_late:
            return
        how = f"it took longer than {TURN_MAX_S:.0f} seconds" if not child.is_over else ""
        code = child.make_certain()
        self._child = None
        self._loan.hold(0)
        if code:
            how = how or describe(code)
            self._block.add(Header.KEEPER_FAILURES)
            self._tell_death(how)
            log_event(logger, logging.WARNING, "keeper_failed", how=how,
                      took_s=round(now - child.born_at, 1),
                      what_to_do="None: the next turn goes on; see the keeper's own lines.")

    def _tell_death(self, how: str) -> None:
        """Say in the place of a dead one what it did not say itself; nobody else writes there
        now."""
        said = self._block.keeper_error.read()
        if said is not None and said != self._said_before:
            return
        self._block.keeper_error.write(encode(Trouble(
            rfc3339(self._clock.unix_ms()), "KeeperDied", f"the keeper's turn ended: {how}",
            "None: the next turn goes on; if it repeats, see keeper_crashed in the log.")))
        self._block.set_keeper(Word.ERROR_ACTIVE, 1)

    def stop(self) -> None:
        """End it where it is: what it had not committed is done again by the next one."""
        child, self._child = self._child, None
        if child is not None:
            child.make_certain()
        self._loan.rest(0)
