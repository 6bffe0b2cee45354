"""Drives the flush-and-commit cycle over shared.protocol: no process, no signal, no clock.

`advance(now)` does what is due in the present phase and returns.  Votes come out of the block,
the decision is made durable by the decider in a job of its own, and every choice is a function of
shared.protocol.  What belongs to processes (who is alive, who died) is told by the supervisor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from shared import protocol
from shared.backoff import Backoff
from shared.block import Block, Finished
from shared.clock import SystemClock, rfc3339
from shared.errors import BlockError, Fenced, ServiceHalted, StorageUnavailable
from shared.layout import Header, Order, Report
from shared.logs import RateLimit, log_event
from shared.naming import bronze_table, dlq_table
from shared.protocol import Ballot, Member, Phase, Standing, Verdict, Vote
from shared.records import Manifest, decode_manifest
from shared.trouble import Trouble, encode
from supervisor.decider import Decider, Decision, Proposal
from supervisor.jobs import Jobs

logger = logging.getLogger("supervisor")

EARLY_FLUSH_GAP_S = 1.0
"""Least time between two cycles when a full file asks for one before the interval is over."""
WATCH_INTERVAL_S = 30.0
"""How often an idle service looks whether others wrote; trimming keeps far more than that."""
TRIM_INTERVAL_S = 60.0
"""Often enough that a record a second is trimmed as fast as it is written."""
RECYCLED_WAIT_S = 10.0
"""How long a flush waits for the successor of a recycled worker; a start takes about a second."""
DECIDE_FIRST_S, DECIDE_MAX_S = 0.2, 5.0

_STANDINGS = tuple(Standing)
_LAST_US = {
    Phase.CONSUMING: Header.LAST_CONSUMING_US, Phase.FLUSHING: Header.LAST_FLUSHING_US,
    Phase.DECIDING: Header.LAST_DECIDING_US, Phase.COMMITTING: Header.LAST_COMMITTING_US,
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; isolate_after in cycles."""

    batch_interval_s: float
    cycle_deadline_s: float
    start_deadline_s: float
    isolate_after: int


class Coordinator:
    """See the module.  `phase` is what the block says; the end is a terminal phase."""

    def __init__(
        self, topics: tuple[str, ...], block: Block, decider: Decider, jobs: Jobs, timing: Timing,
        clock: SystemClock, entered_through: Callable[[], int],
    ) -> None:
        """entered_through: see `Decider.trim`."""
        self._block, self._decider, self._jobs = block, decider, jobs
        self._entered_through = entered_through
        self._timing, self._clock = timing, clock
        self._slots = {topic: block.slot(index) for index, topic in enumerate(topics)}
        self.members: dict[str, Member] = {topic: Member() for topic in topics}
        self._topics_of_log: frozenset[str] = frozenset()
        self.claimed = False
        self.unavailable = False
        self._some_topic_started = False
        self.halted_by: Exception | None = None
        self._recovering: set[str] = set()
        self._job_kind = ""
        self._began = clock.monotonic()
        self._entered = self._began
        self._cycle_began = self._began
        self._spent: dict[Phase, float] = {}
        self._next_flush = self._began
        self._retry = Backoff(DECIDE_FIRST_S, DECIDE_MAX_S)
        self._retry_at = 0.0
        self._dead: set[str] = set(topics)
        self._died_in_cycle: set[str] = set()
        self._recycled: dict[str, float] = {}
        self._proposal: Proposal | None = None
        self._decision: Decision | None = None
        self._table_versions: dict[str, int] = {}
        self._stopping = False
        self._final_flush = False
        self._watch_at = self._trim_at = self._began + WATCH_INTERVAL_S
        self._log_limit = RateLimit()
        self._standings: dict[str, Standing] = {}
        self._finished = {topic: Finished() for topic in topics}
        self._phase, self._cycle_id = Phase.RECOVERING, 0
        block.set_phase(0, Phase.RECOVERING)

    # -- what the supervisor tells ----------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self._phase

    @property
    def cycle_id(self) -> int:
        """The present cycle."""
        return self._cycle_id

    @property
    def foreign_topics(self) -> frozenset[str]:
        """Topics named by undone records and configured no more, still to be rolled forward."""
        return frozenset(self._recovering)

    def foreign_recovered(self, topic: str) -> None:
        """Such a topic is done."""
        self._recovering.discard(topic)
        self._decider.recovered(topic)

    def worker_died(self, topic: str) -> None:
        """A worker's vote dies with it, and so does what it had started."""
        self._dead.add(topic)
        self._died_in_cycle.add(topic)
        self._recycled.pop(topic, None)
        self.members[topic] = replace(self.members[topic], started=False)

    def worker_recycled(self, topic: str) -> None:
        """It left between two cycles: none of them is its failure, and the next one waits a while
        for its successor."""
        self.worker_died(topic)
        self._recycled[topic] = self._clock.monotonic() + RECYCLED_WAIT_S

    def worker_born(self, topic: str) -> None:
        """A new incarnation runs; it votes from the next cycle on."""
        self._dead.discard(topic)

    def topic_stopped(self, topic: str) -> None:
        """A named error stopped a topic: it leaves the quorum at once."""
        self.members[topic] = replace(self.members[topic], stopped=True, started=False)

    def may_respawn(self, topic: str) -> bool:
        """Not while a record naming the topic is being decided: its positions are in the air."""
        return not (self._phase is Phase.DECIDING and self._proposal is not None
                    and topic in self._proposal.manifests)

    def fencing_suspected(self) -> None:
        """Kafka gave a membership away: look at the log as soon as may be."""
        self._watch_at = 0.0

    def request_stop(self) -> None:
        """Finish what is under way, flush once more, then stop."""
        self._stopping = True

    def abandon(self) -> None:
        """Stop now; what is decided will be rolled forward by the next start."""
        if self._phase not in protocol.TERMINAL:
            self._enter(Phase.STOPPING)

    # -- the cycle --------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Do what is due."""
        if self._phase in protocol.TERMINAL:
            return
        self._observe()
        try:
            self._collect_job()
            step = {
                Phase.RECOVERING: self._recover, Phase.CONSUMING: self._consume,
                Phase.FLUSHING: self._flush, Phase.DECIDING: self._decide,
                Phase.COMMITTING: self._commit, Phase.ABORTING: self._abort,
            }[self._phase]
            step(now)
        except Fenced as error:
            self._end(Phase.FENCED, error)
        except ServiceHalted as error:
            self._end(Phase.HALTED, error)
        self._publish()

    def _observe(self) -> None:
        for topic, slot in self._slots.items():
            # Where it is just being written, or damaged, what was known stays known.
            self._finished[topic] = slot.finished() or self._finished[topic]
            incarnation = slot.order(Order.INCARNATION)
            started = bool(incarnation) and slot.report(Report.STARTED) == incarnation
            self._some_topic_started |= started
            if started and not self.members[topic].started and topic not in self._dead:
                self.members[topic] = replace(self.members[topic], started=True)
        self.members = protocol.after_done(self.members, self._done_records())

    def _done_records(self) -> dict[str, int]:
        return {topic: finished.record for topic, finished in self._finished.items()}

    def _collect_job(self) -> None:
        """Take a finished job's result; a store that is away is a reason to try again."""
        if not self._jobs.finished:
            return
        kind, self._job_kind = self._job_kind, ""
        try:
            result = self._jobs.take()
        except StorageUnavailable as error:
            self._retry = self._retry.failed()
            self._retry_at = self._clock.monotonic() + self._retry.delay_s()
            self._block.add(Header.RECORD_RETRIES)
            held_back = self._log_limit.admit(kind, self._clock.monotonic())
            if held_back is not None:
                log_event(logger, logging.WARNING, "log_unavailable", doing=kind, cause=error,
                          what_to_do=error.what_to_do, suppressed=held_back)
            return
        self._retry, self._retry_at = self._retry.reset(), 0.0
        if kind == "claim":
            self._claim_done(result)
        elif kind == "decide":
            self._decision = result

    def _start_job(self, kind: str, now: float) -> bool:
        """Begin the decider's work, unless it still does some or the back-off has not passed."""
        if self._jobs.busy or now < self._retry_at:
            return False
        actions = {
            "claim": self._decider.claim_start,
            "watch": self._decider.watch,
            "trim": lambda: self._decider.trim(self._entered_through()),
            "decide": lambda proposal=self._proposal: self._decider.decide(proposal),
        }
        self._job_kind = kind
        self._jobs.start(actions[kind])
        return True

    def _claim_done(self, topics: frozenset[str]) -> None:
        self.claimed = True
        self._cycle_id = self._decider.cycle_id
        self._recovering = set(topics - self.members.keys())
        log_event(logger, logging.INFO, "start_claimed", undone_topics=sorted(topics),
                  cycle_id=self._cycle_id)

    def _recover(self, now: float) -> None:
        if self._stopping:
            self._enter(Phase.STOPPING)
        elif not self.claimed:
            self._start_job("claim", now)
            self._give_up_if_late(now)
        else:
            waited_for = [t for t, m in self.members.items() if not (m.started or m.stopped)]
            if not waited_for and not self._recovering:
                self._begin_consuming(now)
            else:
                self._give_up_if_late(now)

    def _give_up_if_late(self, now: float) -> None:
        """At the start deadline: without any topic's start a dependency never came."""
        if now - self._began < self._timing.start_deadline_s:
            return
        all_stopped = all(member.stopped for member in self.members.values())
        if not self._some_topic_started and not all_stopped:
            self.unavailable = True
            self._enter(Phase.HALTED)
        else:
            self._begin_consuming(now)

    def _begin_consuming(self, now: float) -> None:
        self._next_flush = now + self._timing.batch_interval_s
        self._block.set(Header.READY, 1)
        self._enter(Phase.CONSUMING)

    def _consume(self, now: float) -> None:
        self._look_after_log(now)
        if self._stopping and self._final_flush:
            self._enter(Phase.STOPPING)
        elif self._awaits_successor(now):
            return
        elif self._stopping or now >= self._next_flush or self._wanted_early(now):
            self._final_flush = self._stopping
            self._begin_flush(now)

    def _awaits_successor(self, now: float) -> bool:
        """Whether a recycled worker's successor is on its way; it could not vote yet."""
        self._recycled = {topic: until for topic, until in self._recycled.items()
                          if now < until and not self.members[topic].started}
        return bool(self._recycled)

    def _look_after_log(self, now: float) -> None:
        """Watch and trim when due, also when cycles follow each other without a pause."""
        if now >= self._watch_at and self._start_job("watch", now):
            self._watch_at = now + WATCH_INTERVAL_S
        elif now >= self._trim_at and self._start_job("trim", now):
            self._trim_at = now + TRIM_INTERVAL_S

    def _wanted_early(self, now: float) -> bool:
        if now - self._cycle_began < EARLY_FLUSH_GAP_S:
            return False
        return any(
            slot.report(Report.FLUSH_WANTED) and self.members[topic].in_quorum
            and not self.members[topic].failures
            for topic, slot in self._slots.items())

    def _begin_flush(self, now: float) -> None:
        self._cycle_id += 1
        self._cycle_began = now
        self._next_flush = now + self._timing.batch_interval_s
        self._died_in_cycle = set()
        self._enter(Phase.FLUSHING)

    def _is_running(self, topic: str) -> bool:
        slot = self._slots[topic]
        return (topic not in self._dead
                and slot.report(Report.INCARNATION) == slot.order(Order.INCARNATION))

    def _ballots(self) -> dict[str, Ballot]:
        ballots = {}
        for topic, slot in self._slots.items():
            if not self._is_running(topic):
                continue
            try:
                ballots[topic] = slot.ballot()
            except BlockError as error:
                # No vote; it is written anew with the next cycle.
                self._log_damage(topic, error)
        return ballots

    def _log_damage(self, topic: str, error: BlockError) -> None:
        held_back = self._log_limit.admit(("damage", topic), self._clock.monotonic())
        if held_back is not None:
            log_event(logger, logging.ERROR, "ballot_damaged", topic=topic, cause=error,
                      suppressed=held_back)

    def _flush(self, now: float) -> None:
        ballots = self._ballots()
        late = now - self._cycle_began >= self._timing.cycle_deadline_s
        died = self._dead | self._died_in_cycle
        flush = protocol.judge_flush(self.members, ballots, died, self._cycle_id, late)
        if flush.verdict is Verdict.WAIT:
            return
        if flush.verdict is Verdict.ABORT:
            self._count_abort(flush.culprits)
            self._enter(Phase.ABORTING)
            return
        self.members = protocol.after_good_vote(self.members, ballots, self._cycle_id)
        if flush.verdict is Verdict.NOTHING:
            self._block.add(Header.CYCLES_EMPTY)
            self._completed(now)
            self._enter(Phase.CONSUMING)
            return
        manifests = self._manifests(flush.included, ballots)
        self._proposal = Proposal(
            self._cycle_id, manifests, flush.excluded, dict(self._table_versions),
            self._done_records())
        self._decision = None
        self._enter(Phase.DECIDING)
        self._decide(now)

    def _manifests(
        self, included: tuple[str, ...], ballots: Mapping[str, Ballot]
    ) -> dict[str, Manifest]:
        """The manifests of those that voted PREPARED, as they wrote them before their vote."""
        manifests = {}
        for topic in included:
            slot = self._slots[topic]
            content = slot.manifest.read()
            if content is None or ballots[topic].vote is not Vote.PREPARED:
                raise ServiceHalted(f"topic {topic} voted PREPARED without a readable manifest")
            manifest = decode_manifest(content)
            if (manifest.topic != topic
                    or manifest.incarnation != slot.order(Order.INCARNATION)):
                raise ServiceHalted(f"the manifest in the slot of topic {topic} is another's")
            manifests[topic] = manifest
        return manifests

    def _count_abort(self, culprits: Mapping[str, str]) -> None:
        at_fault = culprits.keys() - self._recycled.keys()
        self.members = protocol.after_abort(self.members, at_fault, self._timing.isolate_after)
        self._block.add(Header.CYCLES_ABORTED)
        log_event(logger, logging.WARNING, "cycle_aborted", cycle_id=self._cycle_id,
                  because=dict(culprits),
                  failures={topic: self.members[topic].failures for topic in culprits})

    def _abort(self, now: float) -> None:
        self._enter(Phase.CONSUMING)

    def _decide(self, now: float) -> None:
        if self._decision is None:
            self._start_job_for_decision(now)
            return
        decision = self._decision
        for topic in decision.dropped:
            self._slots[topic].set_order(Order.RESET_CYCLE, self._cycle_id)
        if decision.number is None:
            log_event(logger, logging.WARNING, "cycle_overtaken", cycle_id=self._cycle_id,
                      topics=list(decision.dropped))
            self._enter(Phase.ABORTING)
            return
        for topic in decision.included:
            self._slots[topic].set_order(Order.FOREIGN_RECORD, decision.foreign_record)
            self._slots[topic].include(self._cycle_id, decision.number)
        self.members = protocol.after_decision(
            self.members, decision.included, decision.number)
        self._block.set(Header.LAST_RECORD, decision.number)
        self._block.add(Header.RECORDS_WRITTEN)
        self._enter(Phase.COMMITTING)

    def _start_job_for_decision(self, now: float) -> None:
        if self._job_kind != "decide":
            self._start_job("decide", now)

    def _commit(self, now: float) -> None:
        owing = protocol.undone(self.members)
        late = now - self._entered >= self._timing.cycle_deadline_s
        # A topic that was behind before this cycle does not hold it up.
        number = self._decision.number if self._decision is not None else 0
        waited_for = [t for t in owing if self.members[t].undone_record == number]
        if waited_for and not late:
            return
        if not owing:
            self._table_versions = self._cut()
        self._block.add(Header.CYCLES_COMPLETED)
        self._completed(now)
        self._log_cycle(now, waited_for)
        self._enter(Phase.CONSUMING)

    def _cut(self) -> dict[str, int]:
        """Table versions that hold exactly the records up to now: nobody owes one."""
        versions = {}
        for topic, finished in self._finished.items():
            for table, version in ((bronze_table(topic), finished.table_version),
                                   (dlq_table(topic), finished.dlq_table_version)):
                if version:
                    versions[table] = version
        return versions

    def _completed(self, now: float) -> None:
        self._block.set(Header.LAST_COMPLETED_AT_MS, self._clock.unix_ms())
        self._block.set(Header.LAST_COMPLETED_NS, self._clock.monotonic_ns())
        self._block.set(Header.LAST_CYCLE_US, int((now - self._cycle_began) * 1e6))
        self._block.cycle_seconds.observe(now - self._cycle_began)

    def _log_cycle(self, now: float, behind: list[str]) -> None:
        if self._proposal is None or self._decision is None:
            return
        included = [self._proposal.manifests[topic] for topic in self._decision.included]
        ranges = [part for manifest in included for part in manifest.ranges]
        log_event(
            logger, logging.WARNING if behind else logging.INFO, "cycle_committed",
            cycle_id=self._cycle_id, record=self._decision.number, topics=len(included),
            rows=sum(part.rows for part in ranges),
            dead_letters=sum(part.dead_letters for part in ranges),
            duration_s=round(now - self._cycle_began, 3), behind=behind or None,
            excluded=dict(self._proposal.excluded) or None)

    # -- telling ----------------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        left, entered = self._phase, self._entered
        self._phase = protocol.check_transition(left, phase, self._cycle_id)
        self._entered = self._clock.monotonic()
        self._tell_duration(left, self._entered - entered)
        if left is Phase.COMMITTING and phase is Phase.CONSUMING:
            for each, word in _LAST_US.items():
                self._block.set(word, int(self._spent[each] * 1e6))
        deciding_since = self._clock.monotonic_ns() if phase is Phase.DECIDING else 0
        self._block.set(Header.DECIDING_SINCE_NS, deciding_since)
        self._block.set_phase(self._cycle_id, phase)

    def _tell_duration(self, phase: Phase, seconds: float) -> None:
        self._spent[phase] = seconds
        if phase in self._block.phase_seconds:
            self._block.phase_seconds[phase].observe(seconds)

    def _end(self, phase: Phase, error: Fenced | ServiceHalted) -> None:
        self.halted_by = error
        log_event(logger, logging.CRITICAL, phase.name.lower(), error=error.name, message=error,
                  what_to_do=error.what_to_do)
        self._enter(phase)

    def _publish(self) -> None:
        for topic, member in self.members.items():
            slot, standing = self._slots[topic], member.standing
            slot.set_order(Order.FAILURES, member.failures)
            # That a topic owes a record for the milliseconds of a commit is no news.
            in_time = standing is Standing.BEHIND and self._phase is Phase.COMMITTING
            if self._standings.get(topic) is standing or in_time:
                continue
            before, self._standings[topic] = self._standings.get(topic), standing
            slot.set_order(Order.STANDING, _STANDINGS.index(standing))
            slot.set_order(Order.STANDING_SINCE_MS, self._clock.unix_ms())
            if before is not None:
                bad = standing in (Standing.ISOLATED, Standing.STOPPED)
                log_event(logger, logging.ERROR if bad else logging.INFO, "topic_standing_changed",
                          topic=topic, before=before.value, now=standing.value,
                          failures=member.failures)
            if standing is Standing.ISOLATED:
                self._publish_isolation(topic)
            elif standing in (Standing.ACTIVE, Standing.STOPPED):
                slot.verdict.clear()

    def _publish_isolation(self, topic: str) -> None:
        self._slots[topic].verdict.write(encode(Trouble(
            rfc3339(self._clock.unix_ms()), "TopicIsolated",
            f"it failed {self.members[topic].failures} cycles in a row, so the other topics go on "
            "without it",
            "See the topic's last error; it rejoins by itself when it is well.")))
