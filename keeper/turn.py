"""One turn of the keeper: what is due is done within a bounded time, and reported in the block."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial

from keeper.ledger import Ledger, Progress
from keeper.ledger_schema import LEDGER_FILE
from keeper.lineage import Lineage
from keeper.lineage_event import Origin
from keeper.lineage_sink import open_sink
from keeper.retention import REMOVED_RETENTION_DAYS
from keeper.table_files import TableFiles
from keeper.table_log import TableLog
from shared.block import Block
from shared.clock import SystemClock
from shared.config import Config, KeeperConfig
from shared.errors import CommitConflict, IngestError
from shared.layout import Header, Keeper
from shared.logs import log_event
from shared.memory import COMPACTION_BYTES, MB
from shared.naming import LEDGER, REPLAYS, bronze_table, dlq_table
from shared.object_store import Store, open_store
from shared.record_log import RecordLog
from shared.replay_log import ReplayLog
from shared.trouble import encode, trouble_of
from workers.assembly import table_store
from workers.delta_table import TableStore
from workers.pages import family_bytes, give_back
from workers.schemas import BRONZE_FILE, DLQ_FILE

logger = logging.getLogger("keeper")

TURN_S = 20.0
"""No further commit is begun after this; what is left is the next turn's."""
FILES_S = 20.0
"""The same for the files of the one table that are looked after, which comes last."""
LINEAGE_S = 15.0
"""The same for events of lineage, which are sent last of all."""
CONFLICTS_MAX = 5
"""Another instance's keeper was first: each time what it entered is looked at anew."""


def build_turn(config: Config, block: Block) -> Turn:
    """A turn on the configured lake; makes no request yet."""
    store, clock = open_store(config.lake), SystemClock()
    tables, records = table_store(config, store), RecordLog(store)
    schemas = {LEDGER: LEDGER_FILE}
    for topic in config.topics:
        schemas |= {bronze_table(topic): BRONZE_FILE, dlq_table(topic): DLQ_FILE}
    days = config.keeper.vacuum_retention_days or REMOVED_RETENTION_DAYS
    logs = {folder: TableLog(store, tables, folder, clock.unix_ms, days)
            for folder in (*schemas, REPLAYS)}
    replays = {bronze_table(topic): ReplayLog(store, topic) for topic in config.topics}
    files = [TableFiles(store, logs[folder], records, folder, schema, clock, replays.get(folder))
             for folder, schema in schemas.items()]
    limit_bytes = config.limits.memory_limit_mb * MB

    def has_room() -> bool:
        held = family_bytes()
        return held is None or held + COMPACTION_BYTES <= limit_bytes
    return Turn(
        Ledger(store, tables, records, clock.unix_ms), list(logs.values()), files, config.keeper,
        block, clock, give_back, has_room, _lineage(config, store, tables))


def _lineage(config: Config, store: Store, tables: TableStore) -> Lineage | None:
    """None where it is off."""
    sink = open_sink(config.lineage)
    if sink is None:
        return None
    broker = config.kafka.bootstrap_servers.split(",")[0]
    return Lineage(store, tables, sink, Origin(config.lineage.namespace, broker, config.lake.uri))


@dataclass(slots=True)
class Work:
    """What a turn has done."""

    records_entered: int = 0
    checkpoints: int = 0
    log_entries_deleted: int = 0
    files_compacted: int = 0
    files_made: int = 0
    files_vacuumed: int = 0
    bytes_vacuumed: int = 0


class Turn:
    """See the module."""

    def __init__(
        self, ledger: Ledger, logs: Sequence[TableLog], files: Sequence[TableFiles],
        config: KeeperConfig, block: Block, clock: SystemClock, give_back: Callable[[], None],
        has_room: Callable[[], bool], lineage: Lineage | None = None,
    ) -> None:
        """logs: of all tables.  files: of those whose files are looked after.  give_back: called
        between steps that use different code and memory.  has_room: whether what a compaction needs
        is free."""
        self._ledger, self._logs, self._files, self._config = ledger, logs, files, config
        self._block, self._clock = block, clock
        self._give_back, self._has_room = give_back, has_room
        self._work = Work()
        self._lineage = lineage

    def run(self) -> bool:
        """Whether all of it was done; errors are in the log, the last one in the block."""
        began = self._clock.monotonic()
        until = began + TURN_S
        went_well = self._try(self._begin_lineage)
        went_well = self._try(partial(self._enter_records, until)) and went_well
        for log in self._logs:
            if self._clock.monotonic() >= until:
                break
            went_well = self._try(partial(self._keep_log, log)) and went_well
        if self._files:
            went_well = self._try(self._keep_files) and went_well
        self._count()
        went_well = self._try(self._send_lineage) and went_well
        took_s = self._clock.monotonic() - began
        if went_well:
            self._tell_success(took_s)
        if any(astuple(self._work)):
            log_event(logger, logging.INFO, "lake_kept", **asdict(self._work),
                      behind=self._block.keeper(Keeper.BEHIND), duration_s=round(took_s, 3))
        return went_well

    def _try(self, step: Callable[[], None]) -> bool:
        """Whether it went well: what fails with one table keeps no other from its turn."""
        try:
            step()
        except IngestError as error:
            self._tell_error(error)
            return False
        return True

    def _begin_lineage(self) -> None:
        """A lineage that does not know its position rests for this turn."""
        lineage, self._lineage = self._lineage, None
        if lineage is not None:
            lineage.begin()
            self._lineage = lineage

    def _send_lineage(self) -> None:
        """The last step, so that what takes events keeps nothing else."""
        lineage, block = self._lineage, self._block
        if lineage is None:
            return
        self._give_back()
        until = self._clock.monotonic() + LINEAGE_S
        try:
            lineage.send(lambda: self._clock.monotonic() < until)
        finally:
            block.set_keeper(
                Keeper.LINEAGE_EVENTS, block.keeper(Keeper.LINEAGE_EVENTS) + lineage.events_sent)
            behind = max(0, block.keeper(Keeper.NEXT_RECORD) - lineage.next_record)
            block.set_keeper(Keeper.LINEAGE_BEHIND, behind)
            if lineage.events_sent:
                log_event(logger, logging.INFO, "lineage_sent", events=lineage.events_sent,
                          records_behind=behind)

    def _keep_log(self, log: TableLog) -> None:
        kept = log.keep()
        self._work.log_entries_deleted += kept.deleted
        if kept.checkpoint is not None:
            self._work.checkpoints += 1
            self._give_back()

    def _keep_files(self) -> None:
        """Of one table in a turn; the others have their turns."""
        until = self._clock.monotonic() + FILES_S
        visit = self._block.keeper(Keeper.VISITS)
        # Before the work: a table that cannot be looked after must not keep the others waiting.
        self._block.set_keeper(Keeper.VISITS, visit + 1)
        self._block.set_keeper(Keeper.UNFINISHED, 0)
        round_number, index = divmod(visit, len(self._files))
        files, work = self._files[index], self._work
        is_finished = True
        if self._config.compact_target_mb and not self._has_room():
            # A backlog is being read; it ends, or MEMORY_LIMIT_MB is too small for this load.
            self._block.set_keeper(
                Keeper.POSTPONED, self._block.keeper(Keeper.POSTPONED) + 1)
        elif self._config.compact_target_mb:
            done = files.compact(self._config.compact_target_mb * MB, until)
            work.files_compacted, work.files_made = done.old, done.new
            is_finished = done.is_finished
            self._give_back()
        if self._config.vacuum_retention_days and self._clock.monotonic() < until:
            gone = files.vacuum(self._config.vacuum_retention_days,
                                self._block.get(Header.STARTED_AT_MS), round_number, until)
            work.files_vacuumed, work.bytes_vacuumed = gone.files, gone.size
            is_finished = is_finished and gone.is_finished
        self._block.set_keeper(Keeper.UNFINISHED, not is_finished)

    def _count(self) -> None:
        work = self._work
        for word, more in (
                (Keeper.CHECKPOINTS, work.checkpoints),
                (Keeper.LOG_ENTRIES_DELETED, work.log_entries_deleted),
                (Keeper.COMPACTED_FILES, work.files_compacted),
                (Keeper.COMPACTION_FILES, work.files_made),
                (Keeper.VACUUMED_FILES, work.files_vacuumed),
                (Keeper.VACUUMED_BYTES, work.bytes_vacuumed)):
            self._block.set_keeper(word, self._block.keeper(word) + more)

    def _tell_success(self, took_s: float) -> None:
        self._block.set_keeper(Keeper.ERROR_ACTIVE, 0)
        self._block.set_keeper(Keeper.LAST_TURN_US, int(took_s * 1e6))
        self._block.set_keeper(Keeper.LAST_TURN_AT_MS, self._clock.unix_ms())

    def _enter_records(self, until: float) -> None:
        conflicts = 0
        while True:
            try:
                progress = self._ledger.advance()
            except CommitConflict:
                conflicts += 1
                if conflicts > CONFLICTS_MAX:
                    raise
                continue
            self._tell(progress)
            self._work.records_entered += progress.entered
            if not progress.entered or not progress.behind or self._clock.monotonic() >= until:
                self._give_back()
                return

    def _tell(self, progress: Progress) -> None:
        self._block.set_keeper(Keeper.NEXT_RECORD, progress.next_record)
        self._block.set_keeper(Keeper.BEHIND, progress.behind)

    def _tell_error(self, error: IngestError) -> None:
        self._block.keeper_error.write(encode(trouble_of(error, self._clock.unix_ms())))
        self._block.set_keeper(Keeper.ERROR_ACTIVE, 1)
        log_event(logger, logging.WARNING, "keeper_error", error=error.name, message=error,
                  what_to_do=error.what_to_do)
