"""The laws of the protocol's pure functions; how they play together is tests/model's."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st

from shared.protocol import (
    TERMINAL, TRANSITIONS, Ballot, IllegalTransition, Member, NumberTaken, Outcome, Phase, Span,
    Standing, Tiling, Verdict, Vote, advance_frontier, after_abort, after_decision, after_done,
    after_good_vote, check_transition, complete_through, fits_frontier, judge_dead_letters,
    judge_flush, judge_taken_number, judge_tiling, outcome, resolve_start, undone,
)

CYCLE = 7
TOPICS = ("a", "b", "c", "d")
MEMBERS = st.fixed_dictionaries({topic: st.builds(
    Member, failures=st.integers(0, 5), isolated=st.booleans(), stopped=st.booleans(),
    started=st.booleans(), undone_record=st.integers(0, 3)) for topic in TOPICS})
BALLOTS = st.dictionaries(st.sampled_from(TOPICS), st.builds(
    Ballot, st.integers(CYCLE - 1, CYCLE), st.sampled_from(Vote)))
SOME_TOPICS = st.sets(st.sampled_from(TOPICS))
SPANS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=4).map(
        lambda parts: [Span(i, start, start + length)
                       for i, (start, length) in enumerate(parts)])


def prepared(*topics: str) -> dict[str, Ballot]:
    """PREPARED ballots of this cycle."""
    return {topic: Ballot(CYCLE, Vote.PREPARED) for topic in topics}


@pytest.mark.parametrize("old", Phase)
@pytest.mark.parametrize("new", Phase)
def test_only_listed_transitions_are_allowed(old: Phase, new: Phase) -> None:
    """A phase reached from where nobody expects it is a defect, not a state."""
    if new in TRANSITIONS[old]:
        assert check_transition(old, new, CYCLE) is new
    else:
        with pytest.raises(IllegalTransition, match=f"{old.name} .* {new.name} .*{CYCLE}"):
            check_transition(old, new, CYCLE)


def test_terminal_phases_are_never_left_and_the_others_are() -> None:
    """A fenced service that goes on is a second writer."""
    assert TERMINAL == {Phase.STOPPING, Phase.FENCED, Phase.HALTED}
    assert set(TRANSITIONS) == set(Phase)
    assert all(TERMINAL <= TRANSITIONS[phase] for phase in set(Phase) - TERMINAL)


def test_nothing_is_committed_that_was_not_decided() -> None:
    """COMMITTING has one door, and the record stands in it."""
    assert [old for old in Phase if Phase.COMMITTING in TRANSITIONS[old]] == [Phase.DECIDING]


@given(MEMBERS, BALLOTS, SOME_TOPICS, st.booleans())
def test_flush_never_decides_without_every_vote_of_the_quorum(
    members: Mapping[str, Member], ballots: Mapping[str, Ballot], died: set[str], late: bool
) -> None:
    """One topic left out silently is a cycle that is not all or nothing."""
    flush = judge_flush(members, ballots, died, CYCLE, late)
    if flush.verdict not in (Verdict.DECIDE, Verdict.NOTHING):
        return
    for topic, member in members.items():
        if member.in_quorum:
            assert topic not in died
            assert ballots[topic].cycle_id == CYCLE
            assert ballots[topic].vote in (Vote.PREPARED, Vote.EMPTY)


@given(MEMBERS, BALLOTS, SOME_TOPICS, st.booleans())
def test_dead_stale_and_stopped_are_never_included(
    members: Mapping[str, Member], ballots: Mapping[str, Ballot], died: set[str], late: bool
) -> None:
    """A manifest counts only as the living word of this cycle."""
    flush = judge_flush(members, ballots, died, CYCLE, late)
    for topic in flush.included:
        assert topic not in died and not members[topic].stopped
        assert ballots[topic] == Ballot(CYCLE, Vote.PREPARED)
    assert bool(flush.included) == (flush.verdict is Verdict.DECIDE)


@given(MEMBERS, BALLOTS, SOME_TOPICS, st.booleans())
def test_every_topic_is_accounted_for_when_a_cycle_is_decided(
    members: Mapping[str, Member], ballots: Mapping[str, Ballot], died: set[str], late: bool
) -> None:
    """In, left out with a reason, or with nothing to give: never silently missing."""
    flush = judge_flush(members, ballots, died, CYCLE, late)
    if flush.verdict is not Verdict.DECIDE:
        return
    for topic, member in members.items():
        ballot = ballots.get(topic, Ballot())
        gave = topic not in died and ballot.cycle_id == CYCLE
        silent = topic not in flush.included and topic not in flush.excluded
        if silent and ballot.vote is Vote.PREPARED:
            assert member.stopped
        elif silent:
            assert gave and ballot.vote is Vote.EMPTY
        assert not (topic in flush.included and topic in flush.excluded)


@given(MEMBERS, BALLOTS, SOME_TOPICS)
def test_after_the_deadline_a_flush_never_waits(
    members: Mapping[str, Member], ballots: Mapping[str, Ballot], died: set[str]
) -> None:
    """One silent worker must not hold the others."""
    assert judge_flush(members, ballots, died, CYCLE, True).verdict is not Verdict.WAIT


@given(MEMBERS, BALLOTS, SOME_TOPICS, st.booleans())
def test_only_topics_of_the_quorum_make_a_cycle_abort(
    members: Mapping[str, Member], ballots: Mapping[str, Ballot], died: set[str], late: bool
) -> None:
    """An isolated topic that fails on costs the others nothing."""
    flush = judge_flush(members, ballots, died, CYCLE, late)
    assert all(members[topic].in_quorum for topic in flush.culprits)
    assert bool(flush.culprits) == (flush.verdict is Verdict.ABORT)


def test_isolated_topic_with_a_prepared_vote_is_part_of_the_cycle() -> None:
    """That is how it comes back."""
    members = {"a": Member(), "b": Member(isolated=True, failures=3)}
    assert judge_flush(members, prepared("a", "b"), (), CYCLE, False).included == ("a", "b")


def test_isolated_topic_is_not_waited_for_and_is_named() -> None:
    """The others go on, and the record says without whom."""
    members = {"a": Member(), "b": Member(isolated=True)}
    flush = judge_flush(members, prepared("a"), (), CYCLE, False)
    assert (flush.verdict, flush.excluded) == (Verdict.DECIDE, {"b": "isolated"})


def test_where_all_are_isolated_a_cycle_waits_for_those_who_can_still_vote() -> None:
    """After an outage that isolated everybody, a cycle that waits for nobody lets nobody back."""
    members = {topic: Member(isolated=True) for topic in TOPICS}
    ballots = {"a": Ballot(CYCLE, Vote.FAILED), "b": Ballot(CYCLE, Vote.PREPARED)}
    assert judge_flush(members, ballots, {"c"}, CYCLE, False).verdict is Verdict.WAIT
    late = judge_flush(members, ballots, {"c"}, CYCLE, True)
    assert (late.verdict, late.included) == (Verdict.DECIDE, ("b",))
    members["d"] = Member(stopped=True)
    assert judge_flush(members, ballots, {"c"}, CYCLE, False).verdict is Verdict.DECIDE


@given(st.integers(1, 6))
def test_topic_is_isolated_after_exactly_that_many_failures(limit: int) -> None:
    """One fewer would punish a hiccup, one more would hold the others longer than promised."""
    members: Mapping[str, Member] = {"a": Member(), "b": Member()}
    for failures in range(1, limit + 1):
        members = after_abort(members, ["a"], limit)
        assert members["a"].failures == failures
        assert members["a"].isolated == (failures == limit)
    assert members["b"] == Member()


@given(st.integers(1, 50))
def test_zero_means_a_topic_is_never_isolated(failures: int) -> None:
    """Some would rather wait than go on without a topic."""
    members: Mapping[str, Member] = {"a": Member()}
    for _ in range(failures):
        members = after_abort(members, ["a"], 0)
    assert members["a"].in_quorum and members["a"].failures == failures


@given(MEMBERS, SOME_TOPICS, st.integers(1, 99))
def test_decision_is_owed_by_the_included_and_by_nobody_else(
    members: Mapping[str, Member], included: set[str], number: int
) -> None:
    """A debt on the wrong topic would hold it for ever; a missing one would lose a record."""
    after = after_decision(members, included, number)
    for topic in TOPICS:
        if topic in included:
            assert (after[topic].undone_record, after[topic].failures) == (number, 0)
            assert not after[topic].isolated
            assert after[topic].stopped == members[topic].stopped
        else:
            assert after[topic] == members[topic]


@given(MEMBERS, st.dictionaries(st.sampled_from(TOPICS), st.integers(0, 4)))
def test_debt_is_cleared_by_its_own_record_or_a_later_one_only(
    members: Mapping[str, Member], done: Mapping[str, int]
) -> None:
    """An old report must not settle a new debt."""
    after = after_done(members, done)
    for topic, member in members.items():
        paid = 0 < member.undone_record <= done.get(topic, 0)
        assert after[topic].undone_record == (0 if paid else member.undone_record)
    assert set(undone(after)) == {t for t in TOPICS if after[t].undone_record}


@given(MEMBERS, BALLOTS)
def test_isolated_topic_rejoins_with_a_good_vote_on_this_cycle_only(
    members: Mapping[str, Member], ballots: Mapping[str, Ballot]
) -> None:
    """A good vote of last week proves nothing; EMPTY of today does."""
    after = after_good_vote(members, ballots, CYCLE)
    for topic, member in members.items():
        good = ballots.get(topic) in (Ballot(CYCLE, Vote.PREPARED), Ballot(CYCLE, Vote.EMPTY))
        assert after[topic].isolated == (member.isolated and not good)
        assert after[topic].stopped == member.stopped


@pytest.mark.parametrize(("member", "standing"), [
    (Member(), Standing.STARTING), (Member(started=True), Standing.ACTIVE),
    (Member(started=True, undone_record=4), Standing.BEHIND),
    (Member(isolated=True, undone_record=4), Standing.ISOLATED),
    (Member(stopped=True, isolated=True), Standing.STOPPED),
])
def test_standing_names_the_gravest_fact(member: Member, standing: Standing) -> None:
    """The page shows one word."""
    assert member.standing is standing


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("cycle", [CYCLE - 1, CYCLE, CYCLE + 1])
@pytest.mark.parametrize("included", [0, CYCLE, CYCLE + 1])
def test_outcome_of_a_vote_is_one_of_three(phase: Phase, cycle: int, included: int) -> None:
    """Included: commit.  Still open in this very cycle: wait.  Everything else: carry over."""
    fate = outcome(CYCLE, phase, cycle, included)
    if included == CYCLE:
        assert fate is Outcome.COMMIT
    elif cycle == CYCLE and phase in (Phase.FLUSHING, Phase.DECIDING):
        assert fate is Outcome.WAIT
    else:
        assert fate is Outcome.CARRY_OVER


@pytest.mark.parametrize("bounds", [(0, 0), (5, 4), (-1, 3)])
def test_span_that_covers_nothing_is_refused(bounds: tuple[int, int]) -> None:
    """An empty range in a record could be committed for ever."""
    with pytest.raises(ValueError, match="not a span"):
        Span(0, *bounds)


@given(SPANS)
def test_committing_a_manifest_once_makes_it_done(spans: list[Span]) -> None:
    """Rolling a record forward twice changes nothing the second time."""
    before = {span.partition: span.start for span in spans}
    after = {span.partition: span.end for span in spans}
    assert judge_tiling(spans, before) is Tiling.COMMIT
    assert judge_tiling(spans, after) is Tiling.DONE
    assert judge_dead_letters(spans, before) is Tiling.COMMIT
    assert judge_dead_letters(spans, after) is Tiling.DONE


@given(SPANS, st.data())
def test_bronze_commits_only_where_every_partition_stands_at_its_start(
    spans: list[Span], data: st.DataObject
) -> None:
    """Anything else is an overlap or a hole."""
    txn = data.draw(st.fixed_dictionaries(
        {span.partition: st.none() | st.integers(0, 60) for span in spans}))
    tiling = judge_tiling(spans, txn)
    assert (tiling is Tiling.COMMIT) == all(txn[s.partition] == s.start for s in spans)
    assert (tiling is Tiling.DONE) == all(
        txn[s.partition] is not None and txn[s.partition] >= s.end for s in spans)


@given(SPANS)
def test_one_partition_ahead_of_the_others_is_torn(spans: list[Span]) -> None:
    """One commit moves all partitions, so half of them is damage and not progress."""
    spans = spans + [Span(99, 4, 8)]
    txn: dict[int, int | None] = {span.partition: span.start for span in spans} | {99: 8}
    assert judge_tiling(spans, txn) is Tiling.TORN
    assert judge_dead_letters(spans, txn) is Tiling.TORN


def test_missing_position_is_fine_for_dead_letters_and_torn_for_rows() -> None:
    """The first position is committed before the first read; the DLQ has none until it needs."""
    assert judge_dead_letters([Span(0, 3, 5)], {}) is Tiling.COMMIT
    assert judge_dead_letters([Span(0, 3, 5)], {0: 4}) is Tiling.TORN
    assert judge_tiling([Span(0, 3, 5)], {}) is Tiling.TORN


@given(SPANS, SPANS)
def test_frontier_fits_what_follows_and_nothing_else(
    first: list[Span], second: list[Span]
) -> None:
    """A record that can never be committed must never be written."""
    frontier = advance_frontier({("b", 0): 3}, {"a": first})
    ends = {span.partition: span.end for span in first}
    expected = all(ends.get(span.partition, span.start) == span.start for span in second)
    assert fits_frontier(frontier, "a", second) == expected
    assert frontier["b", 0] == 3
    assert not fits_frontier(frontier, "a", first)


@pytest.mark.parametrize(("same", "start", "instance", "uuid", "expected"), [
    (True, False, "i", "me", NumberTaken.OURS), (True, True, "i", "me", NumberTaken.OURS),
    (False, True, "i", "other", NumberTaken.FENCED),
    (False, True, "j", "other", NumberTaken.NEXT),
    (False, False, "i", "other", NumberTaken.NEXT), (False, True, "i", "me", NumberTaken.NEXT),
    (False, False, "i", "me", NumberTaken.NEXT),
])
def test_only_a_newer_start_of_our_own_identity_fences(
    same: bool, start: bool, instance: str, uuid: str, expected: NumberTaken
) -> None:
    """Stopping for a neighbour would let any two instances stop each other."""
    assert judge_taken_number(
        found_uuid=uuid, found_instance=instance, found_is_start=start, found_same_bytes=same,
        own_uuid="me", own_instance="i") is expected


NUMBERS = st.lists(st.integers(0, 30), max_size=20)


@given(NUMBERS, NUMBERS, st.integers(0, 30))
def test_knowing_more_never_lowers_what_is_complete(
    claims: list[int], done: list[int], number: int
) -> None:
    """Trimming acts on it, and cannot be taken back."""
    before = complete_through(claims, done)
    assert complete_through([*claims, number], done) >= before
    assert complete_through(claims, [*done, number]) >= before


@given(NUMBERS, NUMBERS)
def test_complete_through_stops_at_the_first_record_not_known_done(
    claims: list[int], done: list[int]
) -> None:
    """One undone record below it would be trimmed with its rows still missing."""
    highest = complete_through(claims, done)
    claimed = max(claims, default=-1)
    assert highest >= claimed and highest + 1 not in done
    assert all(number in done for number in range(claimed + 1, highest + 1))


@pytest.mark.parametrize(("committed", "is_new", "earliest", "expected"), [
    (None, True, True, 3), (None, True, False, 9), (5, True, True, 5), (5, True, False, 5),
    (-1001, True, True, 3), (5, False, False, 3), (None, False, False, 3),
])
def test_first_position(
    committed: int | None, is_new: bool, earliest: bool, expected: int
) -> None:
    """The group's offset, else the policy; a partition that came later starts at its beginning."""
    assert resolve_start(committed, 3, 9, is_new, earliest) == expected
