"""Where loans are kept: two words of each worker's and of the keeper's in the shared block."""

from __future__ import annotations

import threading
from collections.abc import Callable

from shared.block import Block, Slot
from shared.layout import Header, Report
from workers.loan import Entry


class BlockCounter:
    """`Counter` on the shared block: one entry per topic, then the keeper's."""

    def __init__(self, block: Block, write: Callable[[Entry], None]) -> None:
        self._block, self._write = block, write
        # Nobody else has it.  Taking it is the one way in Python to keep the processor from
        # reading others' words before our own is visible to them.
        self._fence = threading.Lock()

    def entries(self) -> list[Entry]:
        """See `Counter`."""
        with self._fence:
            claims = self._block.reports(Report.BORROWED)
            workers = map(Entry, claims, self._block.reports(Report.LOAN_WAITED_NS))
            keeper = Entry(self._block.get(Header.KEEPER_BORROWED),
                           self._block.get(Header.KEEPER_LOAN_WAITED_NS))
            return [*workers, keeper]

    def write(self, entry: Entry) -> None:
        """See `Counter`."""
        self._write(entry)


def of_worker(block: Block, slot: Slot) -> BlockCounter:
    """The counter of the worker of that slot; its entry is that of the slot's index."""
    def write(entry: Entry) -> None:
        slot.set_report(Report.BORROWED, entry.claim)
        slot.set_report(Report.LOAN_WAITED_NS, entry.waiting_since)
    return BlockCounter(block, write)


def of_keeper(block: Block) -> BlockCounter:
    """The counter of the keeper, which the supervisor borrows for; its entry is the last one."""
    def write(entry: Entry) -> None:
        block.set(Header.KEEPER_BORROWED, entry.claim)
        block.set(Header.KEEPER_LOAN_WAITED_NS, entry.waiting_since)
    return BlockCounter(block, write)
