"""Where loans are kept: two report words per topic in the shared block."""

from __future__ import annotations

import threading

from shared.block import Block, Slot
from shared.layout import Report
from workers.loan import Entry


class BlockCounter:
    """`Counter` on the shared block."""

    def __init__(self, block: Block, slot: Slot) -> None:
        self._block, self._slot = block, slot
        # Nobody else has it.  Taking it is the one way in Python to keep the processor from
        # reading others' words before our own is visible to them.
        self._fence = threading.Lock()

    def entries(self) -> list[Entry]:
        """See `Counter`."""
        with self._fence:
            claims = self._block.reports(Report.BORROWED)
            return list(map(Entry, claims, self._block.reports(Report.LOAN_WAITED_NS)))

    def write(self, entry: Entry) -> None:
        """See `Counter`."""
        self._slot.set_report(Report.BORROWED, entry.claim)
        self._slot.set_report(Report.LOAN_WAITED_NS, entry.waiting_since)
