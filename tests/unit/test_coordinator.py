"""The cycle as the coordinator drives it, phase by phase, with scripted votes and a fake log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared.block import Block, Finished
from shared.errors import Fenced, LogOvertaken, StorageUnavailable
from shared.layout import Header, Order, Report
from shared.protocol import Ballot, Phase, Standing, Vote
from shared.records import Manifest, Range, encode
from supervisor.coordinator import RECYCLED_WAIT_S, WATCH_INTERVAL_S, Coordinator, Timing
from supervisor.decider import Decision, Proposal
from tests.fakes.clock import FakeClock

TOPICS = ("a", "b")
LAST_US = (Header.LAST_CONSUMING_US, Header.LAST_FLUSHING_US, Header.LAST_DECIDING_US,
           Header.LAST_COMMITTING_US)
INTERVAL_S, CYCLE_DEADLINE_S, START_DEADLINE_S, ISOLATE_AFTER = 10.0, 30.0, 60.0, 3


class FakeDecider:
    """Decides everything it is asked, or raises what `trouble` holds, once each."""

    def __init__(self) -> None:
        self.cycle_id = 0
        self.undone: frozenset[str] = frozenset()
        self.trouble: list[Exception] = []
        self.proposals: list[Proposal] = []
        self.drop: frozenset[str] = frozenset()
        self.number = 0
        self.recovered_topics: list[str] = []
        self.looked = self.trimmed = 0

    def _meet_trouble(self) -> None:
        if self.trouble:
            raise self.trouble.pop(0)

    def claim_start(self) -> frozenset[str]:
        """Claim, or meet trouble."""
        self._meet_trouble()
        return self.undone

    def decide(self, proposal: Proposal) -> Decision:
        """Decide with the next number."""
        self.proposals.append(proposal)
        self._meet_trouble()
        included = tuple(t for t in proposal.manifests if t not in self.drop)
        dropped = tuple(t for t in proposal.manifests if t in self.drop)
        if not included:
            return Decision(None, (), dropped)
        self.number += 1
        return Decision(self.number, included, dropped)

    def watch(self) -> None:
        """Look at the log."""
        self.looked += 1
        self._meet_trouble()

    def trim(self, entered_through: int | None = None) -> int:
        """Nothing to trim."""
        self.trimmed += 1
        return 0

    def recovered(self, topic: str) -> None:
        """Note it."""
        self.recovered_topics.append(topic)


class FakeJobs:
    """Runs a job at once; its result is there with the next turn."""

    def __init__(self) -> None:
        self._outcome: tuple[Any, Exception | None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a result waits."""
        return self._outcome is not None

    @property
    def finished(self) -> bool:
        """The same: every job ends at once."""
        return self._outcome is not None

    def start(self, action: Callable[[], Any]) -> None:
        """Do the job and keep what came of it."""
        assert self._outcome is None
        try:
            self._outcome = action(), None
        except Exception as error:
            self._outcome = None, error

    def take(self) -> Any:
        """Its result, or what it raised."""
        assert self._outcome is not None
        (result, error), self._outcome = self._outcome, None
        if error is not None:
            raise error
        return result


class Stage:
    """A coordinator on a real block, and hands to play its workers."""

    def __init__(self, path: Path, topics: tuple[str, ...] = TOPICS) -> None:
        self.clock, self.decider = FakeClock(), FakeDecider()
        self.block = Block.create(path / "block", len(topics), b"{}")
        self.topics, self.entered_through = topics, 7
        self.slots = {topic: self.block.slot(index) for index, topic in enumerate(topics)}
        self.coordinator = Coordinator(
            topics, self.block, self.decider, FakeJobs(),  # type: ignore[arg-type]
            Timing(INTERVAL_S, CYCLE_DEADLINE_S, START_DEADLINE_S, ISOLATE_AFTER), self.clock,
            lambda: self.entered_through)

    def turn(self, times: int = 1) -> Phase:
        """Let the coordinator turn; the phase it is in then."""
        for _ in range(times):
            self.coordinator.advance(self.clock.monotonic())
        assert self.block.phase()[1] is self.coordinator.phase
        return self.coordinator.phase

    def born(self, topic: str) -> None:
        """A new incarnation of a worker is there and has joined."""
        slot = self.slots[topic]
        slot.set_order(Order.INCARNATION, slot.order(Order.INCARNATION) + 1)
        self.coordinator.worker_born(topic)
        slot.set_report(Report.INCARNATION, slot.order(Order.INCARNATION))
        slot.set_report(Report.STARTED, slot.order(Order.INCARNATION))

    def consuming(self) -> None:
        """Go through the start."""
        self.turn(2)
        for topic in self.topics:
            self.born(topic)
        assert self.turn(2) is Phase.CONSUMING

    def flushing(self) -> int:
        """Let the interval pass; the cycle_id."""
        self.clock.advance(INTERVAL_S)
        assert self.turn() is Phase.FLUSHING
        return self.block.phase()[0]

    def vote(self, topic: str, vote: Vote) -> None:
        """Vote on the present cycle, with a manifest where it needs one."""
        slot = self.slots[topic]
        if vote is Vote.PREPARED:
            slot.manifest.write(encode(Manifest(
                topic, "id", slot.order(Order.INCARNATION), (), (Range(0, 0, 5, 5),))))
        slot.cast(Ballot(self.block.phase()[0], vote))

    def votes(self, **votes: Vote) -> Phase:
        """Everybody votes, then a turn."""
        for topic, vote in votes.items():
            self.vote(topic, vote)
        return self.turn()

    def done(self, *topics: str) -> None:
        """Workers report the last record as done."""
        for topic in topics:
            slot = self.slots[topic]
            slot.finish(replace(slot.finished() or Finished(), record=self.decider.number))

    def standing(self, topic: str) -> Standing:
        """The topic's standing."""
        return self.coordinator.members[topic].standing

    def abort_once(self, topic: str) -> None:
        """A cycle that fails for a topic's sake."""
        self.flushing()
        others = {t: Vote.EMPTY for t in self.topics if t != topic}
        assert self.votes(**{topic: Vote.FAILED}, **others) is Phase.ABORTING
        assert self.turn() is Phase.CONSUMING


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Give a stage of two topics."""
    return Stage(tmp_path)


def test_nothing_is_read_before_the_start_is_claimed_and_all_have_joined(stage: Stage) -> None:
    """READY means that messages are read."""
    stage.decider.trouble = [StorageUnavailable("put", "log", "away")]
    assert stage.turn(2) is Phase.RECOVERING
    assert not stage.coordinator.claimed
    stage.clock.advance(1.0)
    stage.turn(2)
    assert stage.coordinator.claimed
    stage.born("a")
    assert stage.turn(3) is Phase.RECOVERING
    assert stage.block.get(Header.READY) == 0
    stage.born("b")
    assert stage.turn() is Phase.CONSUMING
    assert stage.block.get(Header.READY) == 1


def test_a_topic_configured_no_more_is_rolled_forward_before_reading(stage: Stage) -> None:
    """Its decided rows must land, whoever is configured today."""
    stage.decider.undone = frozenset({"a", "gone"})
    stage.turn(2)
    for topic in TOPICS:
        stage.born(topic)
    assert stage.turn(3) is Phase.RECOVERING
    assert stage.coordinator.foreign_topics == {"gone"}
    stage.coordinator.foreign_recovered("gone")
    assert stage.decider.recovered_topics == ["gone"]
    assert stage.turn() is Phase.CONSUMING


@pytest.mark.parametrize("claimed", [False, True])
def test_a_start_nobody_answers_ends_as_unavailable(stage: Stage, claimed: bool) -> None:
    """systemd starts it again; waiting for ever would look like running."""
    if not claimed:
        stage.decider.trouble = [StorageUnavailable("list", "log", "away")] * 1000
    stage.turn(2)
    stage.clock.advance(START_DEADLINE_S + 1)
    assert stage.turn(2) is Phase.HALTED
    assert stage.coordinator.unavailable


def test_a_start_goes_on_without_the_others_when_all_that_started_were_stopped(
    stage: Stage
) -> None:
    """Kafka and the store did come: that one topic then stopped is no outage."""
    stage.turn(2)
    stage.born("a")
    stage.turn()
    stage.coordinator.topic_stopped("a")
    stage.clock.advance(START_DEADLINE_S + 1)
    assert stage.turn(2) is Phase.CONSUMING
    assert not stage.coordinator.unavailable


def test_one_topic_that_cannot_start_does_not_keep_the_others_from_starting(stage: Stage) -> None:
    """It holds cycles until it is isolated, like any topic that fails."""
    stage.turn(2)
    stage.born("a")
    stage.clock.advance(START_DEADLINE_S + 1)
    assert stage.turn() is Phase.CONSUMING
    assert stage.standing("b") is Standing.STARTING


def test_a_cycle_is_decided_when_all_have_voted_and_committed_by_those_in_it(
    stage: Stage
) -> None:
    """The usual way round, with one idle topic."""
    stage.consuming()
    cycle_id = stage.flushing()
    assert stage.votes(a=Vote.PREPARED) is Phase.FLUSHING
    assert stage.votes(b=Vote.EMPTY) is Phase.DECIDING
    assert stage.slots["a"].order(Order.INCLUDED_CYCLE) == 0
    assert stage.turn() is Phase.COMMITTING
    assert stage.slots["a"].order(Order.INCLUDED_CYCLE) == cycle_id
    assert stage.slots["a"].order(Order.INCLUDED_RECORD) == 1
    assert stage.slots["b"].order(Order.INCLUDED_CYCLE) == 0
    assert list(stage.decider.proposals[0].manifests) == ["a"]
    assert stage.turn(3) is Phase.COMMITTING
    stage.done("a")
    assert stage.turn() is Phase.CONSUMING
    assert stage.block.get(Header.CYCLES_COMPLETED) == 1


def test_the_phases_of_a_cycle_are_timed(stage: Stage) -> None:
    """Each phase counts its own time, from when it was entered to when it was left."""
    stage.consuming()
    stage.flushing()
    stage.clock.advance(2)
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    stage.clock.advance(0.5)
    assert stage.turn() is Phase.COMMITTING
    assert [stage.block.get(word) for word in LAST_US] == [0, 0, 0, 0]
    stage.clock.advance(0.125)
    stage.done("a")
    assert stage.turn() is Phase.CONSUMING
    assert [stage.block.get(word) for word in LAST_US] == [
        INTERVAL_S * 1e6, 2_000_000, 500_000, 125_000]
    assert {phase: seconds.snapshot()[1] for phase, seconds in stage.block.phase_seconds.items()
            } == {Phase.FLUSHING: 2, Phase.DECIDING: 0.5, Phase.COMMITTING: 0.125}


def test_phases_of_cycles_that_commit_nothing_count_and_do_not_hide_the_last_that_did(
    stage: Stage
) -> None:
    """An idle hour must not take away what the last commit was like; slow flushes are seen."""
    stage.consuming()
    stage.flushing()
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    stage.turn()
    stage.clock.advance(4)
    stage.done("a")
    stage.turn()
    told = [stage.block.get(word) for word in LAST_US]
    stage.flushing()
    stage.clock.advance(3)
    assert stage.votes(a=Vote.EMPTY, b=Vote.EMPTY) is Phase.CONSUMING
    stage.flushing()
    stage.clock.advance(CYCLE_DEADLINE_S)
    assert stage.turn() is Phase.ABORTING
    assert [stage.block.get(word) for word in LAST_US] == told
    counts, total_s = stage.block.phase_seconds[Phase.FLUSHING].snapshot()
    assert (sum(counts), total_s) == (3, 3 + CYCLE_DEADLINE_S)


def test_nothing_is_written_when_nothing_moved(stage: Stage) -> None:
    """Idle costs nothing in the lake."""
    stage.consuming()
    stage.flushing()
    assert stage.votes(a=Vote.EMPTY, b=Vote.EMPTY) is Phase.CONSUMING
    assert stage.decider.proposals == []
    assert stage.block.get(Header.CYCLES_EMPTY) == 1


@pytest.mark.parametrize("how", ["failed", "died", "late", "died and came back"])
def test_a_cycle_is_aborted_for_a_topic_that_cannot_vote_well(stage: Stage, how: str) -> None:
    """And its failure is counted, the others' is not."""
    stage.consuming()
    stage.flushing()
    stage.vote("b", Vote.PREPARED)
    if how == "failed":
        stage.vote("a", Vote.FAILED)
    elif how == "late":
        stage.clock.advance(CYCLE_DEADLINE_S)
    else:
        stage.vote("a", Vote.PREPARED)
        stage.coordinator.worker_died("a")
        if how == "died and came back":
            stage.born("a")
    assert stage.turn() is Phase.ABORTING
    assert stage.turn() is Phase.CONSUMING
    assert stage.decider.proposals == []
    failures = {topic: member.failures for topic, member in stage.coordinator.members.items()}
    assert failures == {"a": 1, "b": 0}


def test_a_vote_of_another_incarnation_is_not_counted(stage: Stage) -> None:
    """The slot may still say what a predecessor of the worker that was ordered voted."""
    stage.consuming()
    stage.flushing()
    stage.vote("a", Vote.EMPTY)
    stage.vote("b", Vote.EMPTY)
    slot = stage.slots["a"]
    slot.set_order(Order.INCARNATION, slot.order(Order.INCARNATION) + 1)
    assert stage.turn() is Phase.FLUSHING
    slot.set_report(Report.INCARNATION, slot.order(Order.INCARNATION))
    assert stage.votes(a=Vote.EMPTY) is Phase.CONSUMING


def test_a_manifest_of_another_incarnation_is_never_decided(stage: Stage) -> None:
    """A defect that must stop the service, not lose rows."""
    stage.consuming()
    stage.flushing()
    stage.vote("a", Vote.PREPARED)
    stage.vote("b", Vote.EMPTY)
    stage.slots["a"].manifest.write(encode(Manifest("a", "id", 77, (), (Range(0, 0, 5, 5),))))
    assert stage.turn() is Phase.HALTED
    assert stage.decider.proposals == []


def test_a_store_that_is_away_holds_the_decision_and_never_aborts_it(stage: Stage) -> None:
    """The put may have taken effect; only the store knows, so it is asked until it answers."""
    stage.consuming()
    stage.flushing()
    stage.decider.trouble = [StorageUnavailable("put", "record", "away")] * 5
    assert stage.votes(a=Vote.PREPARED, b=Vote.PREPARED) is Phase.DECIDING
    for _ in range(5):
        assert stage.turn(2) is Phase.DECIDING
        stage.clock.advance(CYCLE_DEADLINE_S)
    assert stage.turn(2) is Phase.COMMITTING
    assert len({id(proposal) for proposal in stage.decider.proposals}) == 1
    assert stage.block.get(Header.RECORD_RETRIES) == 5


def test_retries_of_a_decision_keep_a_distance(stage: Stage) -> None:
    """A store that is down must not be hammered."""
    stage.consuming()
    stage.flushing()
    stage.decider.trouble = [StorageUnavailable("put", "record", "away")] * 100
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    stage.turn(50)
    assert len(stage.decider.proposals) == 1


def test_a_worker_in_a_proposal_is_not_respawned_before_the_outcome(stage: Stage) -> None:
    """Its successor would read rows again that may be decided."""
    stage.consuming()
    stage.flushing()
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    assert stage.coordinator.phase is Phase.DECIDING
    assert not stage.coordinator.may_respawn("a")
    assert stage.coordinator.may_respawn("b")
    stage.turn()
    assert stage.coordinator.may_respawn("a")


def test_dropped_manifests_are_ordered_to_be_read_again(stage: Stage) -> None:
    """Another instance has decided those offsets."""
    stage.consuming()
    cycle_id = stage.flushing()
    stage.decider.drop = frozenset({"a"})
    stage.votes(a=Vote.PREPARED, b=Vote.PREPARED)
    assert stage.turn() is Phase.COMMITTING
    assert stage.slots["a"].order(Order.RESET_CYCLE) == cycle_id
    assert stage.slots["a"].order(Order.INCLUDED_CYCLE) == 0


def test_a_cycle_with_nothing_left_to_decide_ends_without_a_record(stage: Stage) -> None:
    """And is nobody's failure."""
    stage.consuming()
    stage.flushing()
    stage.decider.drop = frozenset(TOPICS)
    stage.votes(a=Vote.PREPARED, b=Vote.PREPARED)
    assert stage.turn() is Phase.ABORTING
    assert stage.turn() is Phase.CONSUMING
    assert not any(member.failures for member in stage.coordinator.members.values())


def test_a_topic_behind_is_isolated_and_comes_back_when_it_is_done(stage: Stage) -> None:
    """The others complete the decided cycle at once, newer ones after the isolation."""
    stage.consuming()
    stage.flushing()
    stage.votes(a=Vote.PREPARED, b=Vote.PREPARED)
    stage.turn()
    stage.done("b")
    assert stage.turn() is Phase.COMMITTING
    stage.clock.advance(CYCLE_DEADLINE_S)
    assert stage.turn() is Phase.CONSUMING
    assert stage.standing("a") is Standing.BEHIND
    for _ in range(ISOLATE_AFTER):
        stage.abort_once("a")
    assert stage.standing("a") is Standing.ISOLATED
    assert json.loads(stage.slots["a"].verdict.read() or b"")["name"] == "TopicIsolated"
    stage.flushing()
    assert stage.votes(a=Vote.FAILED, b=Vote.PREPARED) is Phase.DECIDING
    assert dict(stage.decider.proposals[-1].excluded) == {"a": "isolated"}
    stage.turn()
    stage.done("b")
    assert stage.turn() is Phase.CONSUMING
    stage.slots["a"].finish(Finished(1))
    stage.flushing()
    assert stage.votes(a=Vote.EMPTY, b=Vote.EMPTY) is Phase.CONSUMING
    assert stage.standing("a") is Standing.ACTIVE
    assert stage.slots["a"].verdict.read() is None


def test_no_cut_is_published_while_a_topic_owes_a_record(stage: Stage) -> None:
    """A reader of the published versions must see whole cycles."""
    stage.consuming()
    for topic, slot in stage.slots.items():
        slot.finish(Finished(0, 7 if topic == "a" else 9))
    stage.flushing()
    stage.votes(a=Vote.PREPARED, b=Vote.PREPARED)
    stage.turn()
    stage.done("b")
    stage.clock.advance(CYCLE_DEADLINE_S)
    stage.turn()
    stage.done("a")
    stage.flushing()
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    assert dict(stage.decider.proposals[-1].table_versions) == {}
    stage.turn()
    stage.done("a")
    stage.turn()
    stage.flushing()
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    assert dict(stage.decider.proposals[-1].table_versions) == {"bronze_a": 7, "bronze_b": 9}


def test_a_stopped_topic_leaves_at_once(stage: Stage) -> None:
    """A named error that no retry can mend must not hold the others for a single cycle."""
    stage.consuming()
    stage.coordinator.worker_died("a")
    stage.coordinator.topic_stopped("a")
    stage.flushing()
    assert stage.votes(b=Vote.PREPARED) is Phase.DECIDING
    assert dict(stage.decider.proposals[-1].excluded) == {"a": "stopped"}


def test_a_full_file_brings_a_cycle_forward_but_not_without_end(stage: Stage) -> None:
    """One that fails is not asked for again before its interval."""
    stage.consuming()
    stage.clock.advance(2.0)
    stage.slots["a"].set_report(Report.FLUSH_WANTED, 1)
    assert stage.turn() is Phase.FLUSHING
    stage.votes(a=Vote.FAILED, b=Vote.EMPTY)
    assert stage.turn(5) is Phase.CONSUMING
    stage.clock.advance(2.0)
    assert stage.turn() is Phase.CONSUMING
    stage.clock.advance(INTERVAL_S)
    assert stage.turn() is Phase.FLUSHING


def test_a_stop_flushes_once_more_and_ends(stage: Stage) -> None:
    """What was read is committed, so the next start reads little again."""
    stage.consuming()
    stage.coordinator.request_stop()
    assert stage.turn() is Phase.FLUSHING
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    assert stage.turn() is Phase.COMMITTING
    stage.done("a")
    assert stage.turn() is Phase.CONSUMING
    assert stage.turn() is Phase.STOPPING


@pytest.mark.parametrize("phase", [Phase.RECOVERING, Phase.CONSUMING, Phase.FLUSHING,
                                   Phase.DECIDING, Phase.COMMITTING])
def test_a_stop_can_be_hastened_in_every_phase(stage: Stage, phase: Phase) -> None:
    """What is decided is rolled forward by the next start."""
    steps: list[Callable[[], object]] = [
        stage.consuming, stage.flushing,
        lambda: stage.votes(a=Vote.PREPARED, b=Vote.EMPTY), stage.turn]
    for step in steps[:phase - Phase.RECOVERING]:
        step()
    assert stage.coordinator.phase is phase
    stage.coordinator.abandon()
    assert stage.turn() is Phase.STOPPING
    stage.coordinator.abandon()


def test_an_idle_service_looks_for_a_newer_one(stage: Stage) -> None:
    """It decides nothing, so no refused put would tell it; a suspicion makes it look at once."""
    stage.consuming()
    stage.clock.advance(5.0)
    stage.turn(2)
    assert stage.decider.looked == 0
    stage.coordinator.fencing_suspected()
    stage.decider.trouble = [Fenced("record 9 is the start of a newer service")]
    assert stage.turn(2) is Phase.FENCED
    assert stage.decider.looked == 1


def test_a_service_overtaken_while_frozen_halts(stage: Stage) -> None:
    """Its restart reads the log anew."""
    stage.consuming()
    stage.flushing()
    stage.decider.trouble = [LogOvertaken("record 4 is gone")]
    stage.votes(a=Vote.PREPARED, b=Vote.EMPTY)
    assert stage.turn() is Phase.HALTED
    assert isinstance(stage.coordinator.halted_by, LogOvertaken)
    assert stage.turn(3) is Phase.HALTED


def test_a_flush_waits_for_the_successor_of_a_recycled_worker(stage: Stage) -> None:
    """It could not vote yet, and the cycle would be aborted for no fault of anybody."""
    stage.consuming()
    first = stage.topics[0]
    stage.clock.advance(INTERVAL_S / 2)
    stage.coordinator.worker_recycled(first)
    slot = stage.slots[first]
    slot.set_order(Order.INCARNATION, slot.order(Order.INCARNATION) + 1)
    stage.coordinator.worker_born(first)
    stage.clock.advance(INTERVAL_S / 2)
    assert stage.turn(3) is Phase.CONSUMING
    slot.set_report(Report.INCARNATION, slot.order(Order.INCARNATION))
    slot.set_report(Report.STARTED, slot.order(Order.INCARNATION))
    assert stage.turn(2) is Phase.FLUSHING
    assert stage.votes(**dict.fromkeys(stage.topics, Vote.EMPTY)) is Phase.CONSUMING


def test_a_flush_does_not_wait_for_a_successor_for_ever(stage: Stage) -> None:
    """One that does not come up is a failure like any other."""
    stage.consuming()
    first = stage.topics[0]
    stage.coordinator.worker_recycled(first)
    stage.clock.advance(RECYCLED_WAIT_S + INTERVAL_S)
    assert stage.turn(2) is Phase.ABORTING
    assert stage.coordinator.members[first].failures == 1


def test_a_successor_that_dies_is_not_waited_for(stage: Stage) -> None:
    """A death is a death, whatever came before."""
    stage.consuming()
    first = stage.topics[0]
    stage.coordinator.worker_recycled(first)
    stage.coordinator.worker_died(first)
    stage.clock.advance(INTERVAL_S)
    assert stage.turn(2) is Phase.ABORTING
    assert stage.coordinator.members[first].failures == 1


def test_a_worker_that_was_recycled_just_as_a_flush_began_is_not_at_fault(stage: Stage) -> None:
    """The two did not know of each other; the cycle is aborted, and nobody is blamed."""
    stage.consuming()
    first = stage.topics[0]
    stage.flushing()
    stage.coordinator.worker_recycled(first)
    assert stage.turn() is Phase.ABORTING
    assert stage.coordinator.members[first].failures == 0


def test_a_damaged_vote_is_no_vote_and_ends_nothing(stage: Stage) -> None:
    """The worker writes its next one over it."""
    stage.consuming()
    stage.flushing()
    stage.slots["a"].set_report(Report.BALLOT, 99)
    stage.vote("b", Vote.EMPTY)
    assert stage.turn() is Phase.FLUSHING
    stage.clock.advance(CYCLE_DEADLINE_S)
    assert stage.turn() is Phase.ABORTING


def test_the_log_is_watched_and_trimmed_though_every_cycle_takes_as_long_as_the_interval(
    stage: Stage
) -> None:
    """A busy service that is fenced must notice, and its log must not grow for ever."""
    stage.consuming()
    for _ in range(20):
        stage.clock.advance(INTERVAL_S)
        assert stage.turn() is Phase.FLUSHING
        stage.clock.advance(INTERVAL_S)
        assert stage.votes(a=Vote.EMPTY, b=Vote.EMPTY) is Phase.CONSUMING
    assert stage.decider.looked >= 20 * 2 * INTERVAL_S / WATCH_INTERVAL_S / 2
    assert stage.decider.trimmed >= 2


def test_a_suspicion_of_being_fenced_is_looked_into_at_once(stage: Stage) -> None:
    """Also while the store makes everything wait."""
    stage.consuming()
    looked = stage.decider.looked
    stage.coordinator.fencing_suspected()
    stage.turn()
    assert stage.decider.looked == looked + 1
