"""One topic's worker: reads, encodes, votes, commits.

`run_once` is one turn: beat, learn what became of the last vote, commit what is owed, vote when
asked, read.  It never waits longer than one request of a client, so the heartbeat it writes tells
of progress.  Whatever it holds that is not named by a record is its own to drop and read again.

    Kafka ──poll──> Draft (open files) ──close──> Prepared ──vote──> Ballot out
                      ^                              ^                  │
                      └── dropped after an error     └── carried over ──┴── decided ──> tables
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from shared.backoff import Backoff
from shared.block import Block, Finished, Slot
from shared.clock import SystemClock
from shared.config import Config, GapPolicy, OffsetReset, OnMalformed
from shared.errors import (
    AssignmentFailed, Fenced, MalformedMessage, ManifestTooLarge, OffsetGap, RecoverableError,
    StorageUnavailable, TopicRecreated, TopicStopped,
)
from shared.exit_codes import WorkerExit
from shared.layout import Histogram, Order, Paused, Report, check_of
from shared.logs import RateLimit, log_event
from shared.memory import MB, RECYCLE_AGE_S, SEND_EARLY_BYTES, need
from shared.object_store import ObjectStore
from shared.protocol import TERMINAL, Ballot, Outcome, Phase, Vote, outcome, resolve_start
from shared.record_log import RecordLog
from shared.records import Manifest, encode
from shared.version import SERVICE_VERSION
from workers.appetite import Appetite
from workers.batch import Batch
from workers.decoder import Decoded, decode
from workers.draft import Draft, FileLimits, Prepared
from workers.kafka_source import OutOfRange, Source
from workers.loan import Loan, Terms
from workers.loan_words import of_worker
from workers.pages import Tidier
from workers.ranges import join
from workers.read_through import UNKNOWN, ReadThrough
from workers.reporter import Reporter
from workers.tables import TopicTables

logger = logging.getLogger("worker")

POLL_S = 0.1
"""How long a turn waits for messages; also how late a flush order is noticed."""
IDLE_POLL_S, IDLE_AFTER_S = 0.25, 2.0
"""The same when nothing came for a while: a service without messages should cost nothing."""
SHORT_TURN_S = 0.01
"""How long a turn lasts that may not read: between a vote and the end of the flush (with everybody
reading on, the tables come twice as far apart), or with too little memory for the next batch."""
FLUSH_WAIT_S = 2.0
"""A flush that takes longer is held up, and reading goes on."""
BUDGET_PATIENCE_S = 5.0
"""Who waits for memory for so long leaves what the client holds ready where it is.  Then the client
pauses, too; to go on from that, it must ask the broker for everything again."""
UNCOUNTED = (Paused.NO, Paused.STARTING)
"""Not reading before the service has started is no sign of a limit or a failure."""
LAG_INTERVAL_S = 1.0
OFFSETS_RETRY_S = 5.0
"""Kafka's offsets are repeated after this while they lag behind the table."""
OFFSETS_LAST_TELLS_MAX = 2
"""A worker that ends tells them at most so often; its successor would tell them, too."""
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 5.0
"""A long outage ends unannounced: the longest wait delays every recovery by as much."""
FLUSH_ASK_SHARE = 0.5
"""Share of CYCLE_BYTES_MAX at which an early flush is asked for; at the whole reading pauses."""

@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker works with; the simulation gives twins."""

    config: Config
    topic: str
    incarnation: int
    block: Block
    slot: Slot
    source: Source
    tables: TopicTables
    log: RecordLog
    store: ObjectStore
    clock: SystemClock
    reporter: Reporter
    tidier: Tidier
    wake_supervisor: Callable[[], None]


@dataclass(slots=True)
class BallotOut:
    """A vote whose outcome is not known; `orphaned` once a partition in it was revoked."""

    cycle_id: int
    manifest: Manifest
    parts: list[Prepared]
    orphaned: bool = False


@dataclass(frozen=True, slots=True)
class Owed:
    """A decided manifest that is not known to be in the tables."""

    number: int
    manifest: Manifest


@dataclass(slots=True)
class Retry:
    """When something that failed may be tried again."""

    backoff: Backoff = field(default_factory=lambda: Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S))
    at: float = 0.0

    def failed(self, now: float) -> None:
        """It failed once more."""
        self.backoff = self.backoff.failed()
        self.at = now + self.backoff.delay_s()

    def worked(self) -> None:
        """It worked."""
        self.backoff, self.at = self.backoff.reset(), 0.0


class Restart(IntEnum):
    """What must be dropped and read again before reading or voting may go on.

    Kept until it succeeded: to go on from a draft that lost something would lose rows.
    """

    NO = 0
    DRAFT = 1
    EVERYTHING = 2


class Worker:
    """See the module."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._config, self._slot, self._clock = parts.config, parts.slot, parts.clock
        self._reporter = parts.reporter
        limits = parts.config.limits
        self._file_limits = FileLimits(limits.row_group_bytes, limits.upload_bytes)
        self._appetite = Appetite(
            limits.consume_batch_messages, min(limits.row_group_bytes, limits.cycle_bytes_max))
        self._loan = Loan(of_worker(parts.block, parts.slot), parts.slot.index,
                          Terms(limits.loan_floor_bytes, limits.loan_budget_bytes))
        self._born_at = parts.clock.monotonic()
        self._has_outgrown = False
        self._started = False
        self._joined = False
        self._topic_id = ""
        self._assigned: set[int] = set()
        self._draft = self._new_draft({})
        self._prepared: list[Prepared] = []
        self._out: BallotOut | None = None
        self._owed: Owed | None = None
        self._voted_cycle = 0
        self._voted_for: frozenset[int] = frozenset()
        self._voted_at = 0.0
        self._rolled_through = 0
        self._finished = Finished()
        self._restart = Restart.NO
        self._gaps: dict[int, OutOfRange] = {}
        self._read_through = ReadThrough()
        self._paused = Paused.NO
        self._client_is_paused = False
        self._short_since = 0.0
        self._start_retry, self._read_retry, self._commit_retry = Retry(), Retry(), Retry()
        self._log_limit = RateLimit()
        self._read_at = self._lag_at = 0.0
        self._offsets_told: dict[int, int] = {}
        self._offsets_at = 0.0

    # -- the loop ---------------------------------------------------------------------------

    def run(self) -> WorkerExit:
        """Turn until the supervisor says stop; the exit says what should happen next."""
        self._slot.set_report(Report.INCARNATION, self._p.incarnation)
        self._slot.set_report(Report.FLUSH_WANTED, 0)
        self._slot.set_report(Report.OPEN_BYTES, 0)
        self._slot.set_report(Report.OPEN_ROWS, 0)
        self._loan.rest(0)
        exit_code = WorkerExit.STOPPED_CLEANLY
        try:
            while self._p.block.phase()[1] not in TERMINAL:
                self.run_once()
                if self.may_be_recycled():
                    exit_code = WorkerExit.RECYCLED
                    break
        except TopicStopped as error:
            self._reporter.error(error)
            self._p.source.leave()
            return WorkerExit.TOPIC_STOPPED
        except Fenced as error:
            self._reporter.error(error)
            return WorkerExit.FENCED
        self._tell_last_offsets()
        self._p.source.close()
        return exit_code

    def may_be_recycled(self) -> bool:
        """Whether it has outgrown its share, and its end now would void no vote and delay no
        commit."""
        return (self._has_outgrown and self._out is None and self._owed is None
                and self._p.block.phase()[1] is Phase.CONSUMING)

    def run_once(self) -> None:
        """One turn; raises `TopicStopped` and `Fenced`, handles every `RecoverableError`."""
        self._reporter.beat()
        try:
            self._learn_outcome()
            self._commit_owed()
            self._vote()
            if not self._started:
                self._start()
            self._restart_reading()
            self._bridge_gaps()
            self._read()
            if self._started and self._clock.monotonic() >= self._offsets_at:
                self._tell_offsets(wait=False)
        except RecoverableError as error:
            self._reporter.error(error)
            self._read_retry.failed(self._clock.monotonic())
        self._publish()

    # -- starting ---------------------------------------------------------------------------

    def _start(self) -> None:
        """Roll the topic forward, find where its partitions begin, join the group."""
        if self._clock.monotonic() < self._start_retry.at:
            return
        try:
            self._p.tables.ensure()
            self._reporter.beat()
            done_through = self._roll_forward()
            self._reporter.beat()
            self._topic_id = self._p.source.topic_id()
            self._begin(self._p.source.partitions())
        except RecoverableError:
            self._start_retry.failed(self._clock.monotonic())
            raise
        self._start_retry.worked()
        self._read_retry.worked()
        self._p.source.subscribe(self._on_assign, self._on_revoke)
        self._started = True
        self._report_done(done_through)
        self._reporter.clear_error()
        log_event(logger, logging.INFO, "worker_started", topic=self._p.topic,
                  incarnation=self._p.incarnation, done_record=done_through,
                  table_version=self._p.tables.bronze.version)
        self._p.wake_supervisor()

    def _roll_forward(self) -> int:
        """Bring every undone record naming the topic into the tables; the last number seen."""
        tail = self._p.log.tail()
        for number, record in tail.cycles.items():
            for manifest in record.manifests:
                if manifest.topic == self._p.topic:
                    self._reporter.beat()
                    self._p.tables.roll_forward(number, manifest)
        self._rolled_through = tail.next_number - 1
        self._report_done(self._rolled_through)
        return self._rolled_through

    def _report_done(self, number: int) -> None:
        """Every record up to `number` that names the topic is in its tables; stays true."""
        tables = self._p.tables
        self._finished = Finished(
            max(number, self._finished.record), tables.bronze.version, tables.dlq_version or 0)
        self._slot.finish(self._finished)

    def _begin(self, partitions: Iterable[int]) -> dict[int, int]:
        """Partition -> where to read on; a partition without a position gets one, for good."""
        partitions = tuple(partitions)
        source, tables = self._p.source, self._p.tables
        known = tables.knows_topic_id(self._topic_id)
        held = tables.positions(partitions)
        if not known and any(position is not None for position in held.values()):
            raise TopicRecreated(self._p.topic)
        missing = [partition for partition, position in held.items() if position is None]
        if missing:
            committed = {} if known else source.committed(missing)
            starts = {}
            for partition in missing:
                self._reporter.beat()
                marks = source.watermarks(partition)
                starts[partition] = resolve_start(
                    committed.get(partition), marks.low, marks.high, table_is_new=not known,
                    earliest=self._config.kafka.auto_offset_reset is OffsetReset.EARLIEST)
            tables.begin(starts, self._topic_id)
            held = tables.positions(partitions)
        return {partition: int(position) for partition, position in held.items()
                if position is not None}

    # -- the group --------------------------------------------------------------------------

    def _on_assign(self, partitions: tuple[int, ...]) -> dict[int, int]:
        """Say where the partitions begin, after everything decided about them is in the tables."""
        held = sorted(self._assigned & set(partitions))
        if held:
            # What was read of them would be read again into the same file.
            raise AssignmentFailed(f"topic {self._p.topic}: partitions {held} were given twice")
        starts: dict[int, int] = {}
        if partitions:
            self._roll_forward()
            self._p.tables.refresh()
            starts = self._begin(partitions)
        self._assigned |= set(partitions)
        self._draft.book.add(starts)
        self._slot.count(Report.REBALANCES)
        # With more members than partitions one of them gets none; it has joined all the same.
        if starts or not self._joined:
            log_event(logger, logging.INFO, "partitions_assigned", topic=self._p.topic,
                      starts=starts)
        self._joined = True
        self._own_committed_through()
        self._slot.set_report(Report.STARTED, self._p.incarnation)
        self._p.wake_supervisor()
        self._p.tidier.after_start()
        return starts

    def _on_revoke(self, partitions: tuple[int, ...]) -> None:
        """Drop everything undecided: an open file mixes partitions, the next owner reads on."""
        self._assigned -= set(partitions)
        # What was true of more partitions is true of these.
        self._slot.set_report(Report.COMMITTED_OF, check_of(*sorted(self._assigned)))
        self._restart = Restart.EVERYTHING
        if self._out is not None:
            self._out.orphaned = True
        self._slot.count(Report.REBALANCES)
        log_event(logger, logging.INFO, "partitions_revoked", topic=self._p.topic,
                  partitions=list(partitions))

    # -- the cycle --------------------------------------------------------------------------

    def _learn_outcome(self) -> None:
        if self._out is None:
            return
        cycle_id, phase = self._p.block.phase()
        record = self._slot.included_record(self._out.cycle_id)
        included = self._out.cycle_id if record is not None else 0
        fate = outcome(self._out.cycle_id, phase, cycle_id, included)
        if fate is Outcome.WAIT:
            return
        out, self._out = self._out, None
        if record is not None:
            self._owed = Owed(record, out.manifest)
        elif out.orphaned or self._slot.order(Order.RESET_CYCLE) == out.cycle_id:
            self._restart = Restart.EVERYTHING
        else:
            self._prepared = out.parts + self._prepared

    def _commit_owed(self) -> None:
        """Commit the decided manifest: DLQ first, bronze second, Kafka's offsets last."""
        now = self._clock.monotonic()
        if self._owed is None or now < self._commit_retry.at:
            return
        owed = self._owed
        try:
            if self._slot.order(Order.FOREIGN_RECORD) > self._rolled_through:
                # Another instance decided before us: its record on our topic comes first.
                self._roll_forward()
            self._p.tables.roll_forward(owed.number, owed.manifest)
        except RecoverableError as error:
            self._commit_retry.failed(now)
            self._slot.count(Report.COMMIT_FAILURES)
            self._reporter.error(error)
            return
        self._owed = None
        self._commit_retry.worked()
        self._slot.histograms[Histogram.COMMIT].observe(self._clock.monotonic() - now)
        self._reporter.committed(owed.manifest)
        self._report_done(owed.number)
        if self._assigned <= self._voted_for:
            self._committed_through(owed.manifest.valid_through_ms)
        self._reporter.clear_error()
        self._p.wake_supervisor()
        self._tell_offsets(wait=False)
        self._judge_size(self._p.tidier.after_commit())

    def _judge_size(self, private_bytes: int | None) -> None:
        """See whether what this process holds, its loans aside, still fits its share; what it read
        since its vote is read again by its successor."""
        age_s = self._clock.monotonic() - self._born_at
        allowed = self._config.limits.worker_share_bytes + self._loan.claim
        if private_bytes is None or private_bytes <= allowed or age_s < RECYCLE_AGE_S:
            return
        if not self._has_outgrown:
            log_event(logger, logging.INFO, "worker_outgrew_its_share", topic=self._p.topic,
                      private_mb=round(private_bytes / MB, 1), allowed_mb=round(allowed / MB, 1),
                      borrowed_mb=round(self._loan.claim / MB, 1), age_s=round(age_s))
        self._has_outgrown = True

    def _vote(self) -> None:
        cycle_id, phase = self._p.block.phase()
        if phase is not Phase.FLUSHING or cycle_id == self._voted_cycle:
            return
        self._voted_cycle = cycle_id
        vote = Vote.FAILED
        try:
            vote = self._prepare(cycle_id)
        except RecoverableError as error:
            self._reporter.error(error)
        finally:
            self._slot.cast(Ballot(cycle_id, vote))
            self._voted_at = self._clock.monotonic()
            self._p.wake_supervisor()

    def _prepare(self, cycle_id: int) -> Vote:
        """Make a manifest of everything read so far, complete and readable before the vote."""
        if not self._joined or self._owed is not None or self._out is not None:
            return Vote.FAILED
        if self._restart is not Restart.NO or self._gaps:
            return Vote.FAILED
        if self._clock.monotonic() < self._read_retry.at:
            return Vote.FAILED
        # An id never returns: that it is still the old one now proves that everything read until
        # now was read from the topic the table was begun for.
        if self._p.source.topic_id() != self._topic_id:
            raise TopicRecreated(self._p.topic)
        for partition, position in self._p.source.positions().items():
            if position > self._draft.book.ends.get(partition, position):
                self._draft.book.reach(partition, position)
        self._close_draft()
        self._slot.set_report(Report.FLUSH_WANTED, 0)
        if not self._prepared:
            self._reporter.clear_error()
            self._committed_through(self._read_through.moment(
                self._assigned, self._draft.book.ends, self._p.source.ends(),
                self._clock.unix_ms()))
            return Vote.EMPTY
        manifest = self._manifest(self._valid_through_ms())
        content = encode(manifest)
        if len(content) > self._slot.manifest.capacity:
            raise ManifestTooLarge(f"{len(content)} bytes, {len(manifest.files)} files")
        self._slot.manifest.write(content)
        self._out = BallotOut(cycle_id, manifest, self._prepared)
        self._voted_for = frozenset(self._assigned)
        self._prepared = []
        return Vote.PREPARED

    def _close_draft(self) -> None:
        """Finish the open files, so that a new draft begins where they end."""
        if not self._draft.book.moved:
            return
        began = self._clock.monotonic()
        try:
            prepared = self._draft.close(self._clock.unix_ms())
        except StorageUnavailable:
            self._upload_failed()
            raise
        self._slot.histograms[Histogram.UPLOAD].observe(self._clock.monotonic() - began)
        self._slot.count(Report.FILES_UPLOADED, len(prepared.files))
        self._slot.count(Report.BYTES_UPLOADED, prepared.bytes)
        self._prepared.append(prepared)
        self._draft = self._new_draft(self._draft.book.ends)
        self._p.tidier.after_upload()

    def _valid_through_ms(self) -> int:
        """What the manifest says of it; only who seems to have read all there is asks for more."""
        read = self._draft.book.ends
        if all(read.get(index, 0) < end for index, end in self._p.source.ends().items()):
            return self._read_through.moment(self._assigned, read, {}, self._clock.unix_ms())
        at_ms = self._clock.unix_ms()
        return self._read_through.moment(self._assigned, read, self._p.source.latest(), at_ms)

    def _manifest(self, valid_through_ms: int) -> Manifest:
        flaws: dict[str, int] = {}
        for part in self._prepared:
            for kind, count in part.flaws.items():
                flaws[kind] = flaws.get(kind, 0) + count
        return Manifest(
            self._p.topic, self._topic_id, self._p.incarnation,
            tuple(file for part in self._prepared for file in part.files),
            join(part.ranges for part in self._prepared), flaws,
            sum(part.value_bytes for part in self._prepared), valid_through_ms)

    # -- reading ----------------------------------------------------------------------------

    def _read(self) -> None:
        if not self._started:
            self._clock.sleep(POLL_S)
            return
        if self._is_in_flush():
            self._clock.sleep(SHORT_TURN_S)
            return
        self._pause_or_resume()
        if self._paused is Paused.BUDGET and not self._client_is_paused:
            self._clock.sleep(SHORT_TURN_S)
            return
        try:
            polled = self._p.source.poll(self._appetite.messages(), self._poll_timeout())
        except RecoverableError:
            self._restart = max(self._restart, Restart.DRAFT)
            raise
        # While a restart is due, what comes is read again from where the restart goes back to.
        if self._restart is Restart.NO:
            if len(polled.batch):
                self._take(polled.batch)
            self._gaps.update({event.partition: event for event in polled.out_of_range})
        if polled.error is not None:
            raise polled.error

    def _is_in_flush(self) -> bool:
        """Whether the flush that was voted on is under way, and has not taken long."""
        cycle_id, phase = self._p.block.phase()
        return (cycle_id == self._voted_cycle and phase is not Phase.CONSUMING
                and self._clock.monotonic() - self._voted_at < FLUSH_WAIT_S)

    def _poll_timeout(self) -> float:
        now = self._clock.monotonic()
        return IDLE_POLL_S if now - self._read_at >= IDLE_AFTER_S else POLL_S

    def _take(self, batch: Batch) -> None:
        now_ms = self._clock.unix_ms()
        self._draft.book.check(batch.extents)
        decoded = decode(batch, now_ms, self._p.topic, SERVICE_VERSION)
        self._appetite.saw(len(batch), decoded.bytes)
        if decoded.dead_of and not self._config.dlq_enabled:
            self._apply_malformed_policy(decoded)
        sent_before = self._draft.sent
        try:
            self._draft.take(batch, decoded, now_ms)
        except StorageUnavailable:
            self._upload_failed()
            raise
        if self._draft.sent > sent_before:
            self._p.tidier.after_upload()
        self._read_through.saw(batch.extents)
        self._read_retry.worked()
        self._read_at = self._clock.monotonic()
        self._slot.count(Report.MESSAGES_CONSUMED, len(batch))
        if self._draft.bytes >= self._config.limits.cycle_bytes_max * FLUSH_ASK_SHARE:
            if not self._slot.report(Report.FLUSH_WANTED):
                self._slot.set_report(Report.FLUSH_WANTED, 1)
                self._p.wake_supervisor()

    def _apply_malformed_policy(self, decoded: Decoded) -> None:
        kinds = ", ".join(f"{kind} {count}" for kind, count in decoded.flaws_of.items())
        where = f"topic {self._p.topic}, partitions {sorted(decoded.dead_of)}: {kinds}"
        if self._config.on_malformed is OnMalformed.STOP:
            raise MalformedMessage(where)
        held_back = self._log_limit.admit(("skipped", *decoded.flaws_of), self._clock.monotonic())
        if held_back is not None:
            log_event(logger, logging.WARNING, "messages_skipped", topic=self._p.topic,
                      flaws=kinds, suppressed=held_back)

    def _bridge_gaps(self) -> None:
        """Kafka holds nothing at a position: name the loss and go on, or stop the topic."""
        if not self._gaps:
            return
        if self._p.source.topic_id() != self._topic_id:
            raise TopicRecreated(self._p.topic)
        for partition in sorted(self._gaps):
            self._bridge_gap(partition)
            del self._gaps[partition]

    def _bridge_gap(self, partition: int) -> None:
        wanted = self._draft.book.ends.get(partition)
        if wanted is None:
            return
        marks = self._p.source.watermarks(partition)
        if marks.low <= wanted <= marks.high:
            self._p.source.rewind({partition: wanted})
            return
        if wanted > marks.high or self._config.gap_policy is GapPolicy.FAIL:
            raise OffsetGap(self._p.topic, partition, wanted, marks.low, marks.high)
        log_event(logger, logging.ERROR, "offsets_lost", topic=self._p.topic,
                  partition=partition, start=wanted, end=marks.low)
        self._p.source.rewind({partition: marks.low})
        self._draft.book.lose(partition, marks.low, "retention")

    def _pause_or_resume(self) -> None:
        wanted = self._reason_to_pause()
        if wanted is not Paused.NO:
            self._loan.rest(self._held())
        elif not self._borrow():
            wanted = Paused.BUDGET
        self._pause_client(wanted)
        if wanted not in UNCOUNTED and self._paused in UNCOUNTED:
            self._slot.count(Report.PAUSES)
        self._paused = wanted

    def _pause_client(self, wanted: Paused) -> None:
        now = self._clock.monotonic()
        if wanted is not Paused.BUDGET:
            self._short_since = now
        is_patient = now - self._short_since < BUDGET_PATIENCE_S
        should_pause = wanted is not Paused.NO and not (wanted is Paused.BUDGET and is_patient)
        if should_pause and not self._client_is_paused:
            self._p.source.pause()
        elif self._client_is_paused and not should_pause:
            self._p.source.resume()
        self._client_is_paused = should_pause

    def _reason_to_pause(self) -> Paused:
        limits = self._config.limits
        carried = [*self._prepared, *(self._out.parts if self._out is not None else ())]
        files = self._draft.sent + sum(len(part.files) for part in carried)
        if self._restart is not Restart.NO or self._clock.monotonic() < self._read_retry.at:
            return Paused.BACKING_OFF
        if self._p.block.phase()[1] is Phase.RECOVERING:
            # Opening tables takes as much memory as reading; whoever reads early has both at once.
            return Paused.STARTING
        if (files >= limits.carry_over_files_max
                or sum(part.bytes for part in carried) >= limits.carry_over_bytes_max):
            return Paused.CARRY_OVER_FULL
        if self._draft.bytes >= limits.cycle_bytes_max:
            return Paused.CYCLE_FULL
        return Paused.NO

    def _borrow(self) -> bool:
        """Borrow what the next batch may take; where that fails, the open files go early."""
        if self._ask():
            return True
        try:
            was_worth_it = self._draft.send_early(SEND_EARLY_BYTES, self._clock.unix_ms())
        except StorageUnavailable:
            self._upload_failed()
            raise
        return was_worth_it and self._ask()

    def _ask(self) -> bool:
        row_group_bytes, files = self._file_limits.row_group_bytes, self._draft.open_files
        # A batch opens a file where there is none.
        wanted = need(files or (0,), self._appetite.bytes(), row_group_bytes)
        return self._loan.ask(wanted, self._held(), self._clock.monotonic_ns())

    def _held(self) -> int:
        """Bytes in open files."""
        return need(self._draft.open_files, 0, self._file_limits.row_group_bytes)

    def _upload_failed(self) -> None:
        self._slot.count(Report.UPLOAD_FAILURES)
        self._restart = max(self._restart, Restart.DRAFT)

    def _restart_reading(self) -> None:
        """Go back to the end of what is decided, out for a vote or prepared; drop the rest."""
        if self._restart is Restart.NO or self._clock.monotonic() < self._read_retry.at:
            return
        if self._restart is Restart.EVERYTHING:
            self._prepared = []
            self._roll_forward()
            self._p.tables.refresh()
        positions = {
            partition: position for partition, position
            in self._p.tables.positions(sorted(self._assigned)).items() if position is not None}
        manifests = [held.manifest for held in (self._owed, self._out) if held is not None]
        for ranges in (*(m.ranges for m in manifests), *(p.ranges for p in self._prepared)):
            for part in ranges:
                if part.partition in positions:
                    positions[part.partition] = max(positions[part.partition], part.end)
        self._p.source.rewind(positions)
        self._draft = self._new_draft(positions)
        self._read_through.forget()
        self._gaps = {}
        self._restart = Restart.NO

    def _new_draft(self, positions: dict[int, int]) -> Draft:
        return Draft(self._p.store, self._p.topic, self._file_limits, positions,
                     dlq_enabled=self._config.dlq_enabled)

    # -- telling ----------------------------------------------------------------------------

    def _tell_offsets(self, *, wait: bool) -> None:
        """Bring the group's offsets up to the table's positions; best effort, never ahead."""
        if not self._started:
            return
        if self._reporter.take_refusal():
            self._offsets_told = {}
        held = self._p.tables.positions(sorted(self._assigned))
        news = {partition: position for partition, position in held.items()
                if position is not None and self._offsets_told.get(partition) != position}
        if news:
            self._p.source.commit(news, wait=wait)
            self._offsets_told.update(news)
        self._offsets_at = self._clock.monotonic() + OFFSETS_RETRY_S

    def _tell_last_offsets(self) -> None:
        """All of them once more, waiting: the answer to those told last may not be here yet."""
        if self._p.block.phase()[1] is Phase.FENCED:
            return  # The group is the successor's, and it knows better.
        for _ in range(OFFSETS_LAST_TELLS_MAX):
            self._offsets_told = {}
            self._tell_offsets(wait=True)
            if not self._reporter.take_refusal():
                return

    def _publish(self) -> None:
        slot, now = self._slot, self._clock.monotonic()
        parts = [*self._prepared, *(self._out.parts if self._out is not None else ())]
        self._loan.hold(self._held())
        slot.set_report(Report.OPEN_BYTES, self._draft.bytes)
        slot.set_report(Report.OPEN_ROWS, self._draft.rows)
        slot.set_report(Report.CARRIED_FILES, sum(len(part.files) for part in parts))
        slot.set_report(Report.PAUSED, self._paused)
        slot.set_report(Report.PARTITIONS, len(self._assigned))
        if self._finished.record:
            slot.finish(self._finished)  # Once more: what was damaged since is mended.
        if self._started and now >= self._lag_at:
            self._lag_at = now + LAG_INTERVAL_S
            self._publish_lag()
            kept = self._p.source.retention()
            slot.set_report(Report.RETENTION_MS, kept.milliseconds)
            slot.set_report(Report.RETENTION, kept.kind)

    def _own_committed_through(self) -> None:
        """Keep what an earlier incarnation has told of the very same partitions, or nothing."""
        check = check_of(*sorted(self._assigned))
        if self._slot.report(Report.COMMITTED_OF) != check:
            self._slot.set_report(Report.COMMITTED_THROUGH_MS, UNKNOWN)
            self._slot.set_report(Report.COMMITTED_OF, check)

    def _committed_through(self, moment_ms: int) -> None:
        """The tables have all of the partitions up to this moment; UNKNOWN changes nothing."""
        before = self._slot.report(Report.COMMITTED_THROUGH_MS)
        self._slot.set_report(Report.COMMITTED_THROUGH_MS, max(before, moment_ms))

    def _publish_lag(self) -> None:
        """Messages not read yet; control records the client has passed over do not count."""
        ends, positions = self._p.source.ends(), self._p.source.positions()
        read = {**self._draft.book.ends, **positions}
        known = bool(self._assigned) and self._assigned <= ends.keys()
        lag = sum(max(0, ends[p] - read[p]) for p in self._assigned) if known else 0
        self._slot.set_report(Report.LAG, lag)
        self._slot.set_report(Report.LAG_KNOWN, int(known))
        self._slot.set_report(Report.VALID_THROUGH_MS, self._read_through.moment(
            self._assigned, read, ends, self._clock.unix_ms()))
