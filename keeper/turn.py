"""One turn of the keeper: what is due is done within a bounded time, and reported in the block."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

from keeper.ledger import Ledger, Progress
from keeper.lineage import Lineage
from keeper.lineage_event import Origin
from keeper.lineage_sink import open_sink
from keeper.table_log import TableLog
from shared.block import Block
from shared.clock import SystemClock, rfc3339
from shared.config import Config
from shared.errors import CommitConflict, IngestError
from shared.layout import Keeper
from shared.logs import log_event
from shared.naming import LEDGER, bronze_table, dlq_table
from shared.object_store import Store, open_store
from shared.record_log import RecordLog
from workers.assembly import table_store
from workers.delta_table import TableStore
from workers.pages import give_back
from workers.reporter import ERROR_CHARS_MAX

logger = logging.getLogger("keeper")

TURN_S = 20.0
"""No further commit is begun after this; what is left is the next turn's."""
LINEAGE_S = 15.0
"""The same for events of lineage, which are sent last."""
CONFLICTS_MAX = 5
"""Another instance's keeper was first: each time what it entered is looked at anew."""


def build_turn(config: Config, block: Block) -> Turn:
    """A turn on the configured lake; makes no request yet."""
    store, clock = open_store(config.lake), SystemClock()
    tables = table_store(config, store)
    folders = [LEDGER, *map(bronze_table, config.topics), *map(dlq_table, config.topics)]
    return Turn(
        Ledger(store, tables, RecordLog(store), clock.unix_ms),
        [TableLog(store, tables, folder, clock.unix_ms) for folder in folders], block, clock,
        give_back, _lineage(config, store, tables))


def _lineage(config: Config, store: Store, tables: TableStore) -> Lineage | None:
    """None where it is off."""
    sink = open_sink(config.lineage)
    if sink is None:
        return None
    broker = config.kafka.bootstrap_servers.split(",")[0]
    return Lineage(store, tables, sink, Origin(config.lineage.namespace, broker, config.lake.uri))


class Turn:
    """See the module."""

    def __init__(
        self, ledger: Ledger, table_logs: Sequence[TableLog], block: Block, clock: SystemClock,
        give_back: Callable[[], None], lineage: Lineage | None = None,
    ) -> None:
        """give_back: called between steps that use different code and memory."""
        self._ledger, self._table_logs, self._give_back = ledger, table_logs, give_back
        self._block, self._clock = block, clock
        self._lineage = lineage

    def run(self) -> bool:
        """Whether all of it was done; errors are in the log, the last one in the block."""
        began = self._clock.monotonic()
        went_well, entered = self._begin_lineage(), 0
        try:
            entered = self._enter_records(began + TURN_S)
        except IngestError as error:
            went_well = False
            self._tell_error(error)
        self._give_back()
        checkpoints, deleted = 0, 0
        for table_log in self._table_logs:
            if self._clock.monotonic() >= began + TURN_S:
                break
            try:
                kept = table_log.keep()
            except IngestError as error:
                went_well = False
                self._tell_error(error)
                continue
            if kept.checkpoint is not None:
                checkpoints += 1
                self._give_back()
            deleted += kept.deleted
        self._count(checkpoints, deleted)
        went_well = self._send_lineage() and went_well
        took_s = self._clock.monotonic() - began
        if went_well:
            self._tell_success(took_s)
        if entered or checkpoints or deleted:
            log_event(logger, logging.INFO, "lake_kept", records_entered=entered,
                      behind=self._block.keeper(Keeper.BEHIND), checkpoints=checkpoints,
                      log_entries_deleted=deleted, duration_s=round(took_s, 3))
        return went_well

    def _begin_lineage(self) -> bool:
        """Whether it went well; a lineage that does not know its position rests for this turn."""
        if self._lineage is None:
            return True
        try:
            self._lineage.begin()
        except IngestError as error:
            self._lineage = None
            self._tell_error(error)
            return False
        return True

    def _send_lineage(self) -> bool:
        """Whether it went well; the last step, so that what takes events keeps nothing else."""
        lineage = self._lineage
        if lineage is None:
            return True
        self._give_back()
        until = self._clock.monotonic() + LINEAGE_S
        error: IngestError | None = None
        try:
            lineage.send(lambda: self._clock.monotonic() < until)
        except IngestError as caught:
            error = caught
            self._tell_error(error)
        block = self._block
        block.set_keeper(
            Keeper.LINEAGE_EVENTS, block.keeper(Keeper.LINEAGE_EVENTS) + lineage.events_sent)
        behind = max(0, block.keeper(Keeper.NEXT_RECORD) - lineage.next_record)
        block.set_keeper(Keeper.LINEAGE_BEHIND, behind)
        if lineage.events_sent or error is not None:
            log_event(logger, logging.INFO, "lineage_sent", events=lineage.events_sent,
                      records_behind=behind)
        return error is None

    def _count(self, checkpoints: int, deleted: int) -> None:
        block = self._block
        block.set_keeper(Keeper.CHECKPOINTS, block.keeper(Keeper.CHECKPOINTS) + checkpoints)
        block.set_keeper(
            Keeper.LOG_ENTRIES_DELETED, block.keeper(Keeper.LOG_ENTRIES_DELETED) + deleted)

    def _tell_success(self, took_s: float) -> None:
        self._block.set_keeper(Keeper.ERROR_ACTIVE, 0)
        self._block.set_keeper(Keeper.LAST_TURN_US, int(took_s * 1e6))
        self._block.set_keeper(Keeper.LAST_TURN_AT_MS, self._clock.unix_ms())

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
