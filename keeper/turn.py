"""One turn of the keeper: what is due is done within a bounded time, and reported in the block."""

from __future__ import annotations

import json
import logging

from keeper.ledger import Ledger, Progress
from shared.block import Block
from shared.clock import SystemClock, rfc3339
from shared.config import Config
from shared.errors import CommitConflict, IngestError
from shared.layout import Keeper
from shared.logs import log_event
from shared.object_store import open_store
from shared.record_log import RecordLog
from workers.assembly import table_store
from workers.reporter import ERROR_CHARS_MAX

logger = logging.getLogger("keeper")

TURN_S = 20.0
"""No further commit is begun after this; what is left is the next turn's."""
CONFLICTS_MAX = 5
"""Another instance's keeper was first: each time what it entered is looked at anew."""


def build_turn(config: Config, block: Block) -> Turn:
    """A turn on the configured lake; makes no request yet."""
    store, clock = open_store(config.lake), SystemClock()
    ledger = Ledger(store, table_store(config, store), RecordLog(store), clock.unix_ms)
    return Turn(ledger, block, clock)


class Turn:
    """See the module."""

    def __init__(self, ledger: Ledger, block: Block, clock: SystemClock) -> None:
        self._ledger, self._block, self._clock = ledger, block, clock

    def run(self) -> bool:
        """Whether all of it was done; an error is in the block and in the log."""
        began = self._clock.monotonic()
        try:
            entered = self._enter_records(began + TURN_S)
        except IngestError as error:
            self._tell_error(error)
            return False
        took_s = self._clock.monotonic() - began
        self._block.set_keeper(Keeper.ERROR_ACTIVE, 0)
        self._block.set_keeper(Keeper.LAST_TURN_US, int(took_s * 1e6))
        self._block.set_keeper(Keeper.LAST_TURN_AT_MS, self._clock.unix_ms())
        if entered:
            log_event(logger, logging.INFO, "ledger_written", records=entered,
                      behind=self._block.keeper(Keeper.BEHIND), duration_s=round(took_s, 3))
        return True

    def _enter_records(self, until: float) -> int:
        """How many records were entered."""
        entered = conflicts = 0
        while True:
            try:
                progress = self._ledger.advance()
            except CommitConflict:
                conflicts += 1
                if conflicts > CONFLICTS_MAX:
                    raise
                continue
            self._tell(progress)
            entered += progress.entered
            if not progress.entered or not progress.behind or self._clock.monotonic() >= until:
                return entered

    def _tell(self, progress: Progress) -> None:
        self._block.set_keeper(Keeper.NEXT_RECORD, progress.next_record)
        self._block.set_keeper(Keeper.BEHIND, progress.behind)

    def _tell_error(self, error: IngestError) -> None:
        content = {"at": rfc3339(self._clock.unix_ms()), "name": error.name,
                   "message": str(error)[:ERROR_CHARS_MAX], "what_to_do": error.what_to_do}
        self._block.keeper_error.write(
            json.dumps(content, ensure_ascii=False).encode(errors="replace"))
        self._block.set_keeper(Keeper.ERROR_ACTIVE, 1)
        log_event(logger, logging.WARNING, "keeper_error", error=error.name, message=error,
                  what_to_do=error.what_to_do)
