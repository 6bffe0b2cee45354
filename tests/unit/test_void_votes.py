"""Votes of workers that died in the cycle: void at once, inside the quorum and outside of it."""

from __future__ import annotations

import pytest

from shared.protocol import Ballot, Member, Verdict, Vote, judge_flush

CYCLE = 7


@pytest.mark.parametrize("vote", list(Vote))
def test_death_of_a_topic_in_the_quorum_aborts_at_once_whatever_it_voted(vote: Vote) -> None:
    """Nobody waits for the deadline, and the others are told whose fault it was."""
    members = {"dead": Member(started=True), "well": Member(started=True)}
    ballots = {"dead": Ballot(CYCLE, vote), "well": Ballot(CYCLE, Vote.PREPARED)}
    flush = judge_flush(members, ballots, {"dead"}, CYCLE, deadline_passed=False)
    assert flush.verdict is Verdict.ABORT
    assert dict(flush.culprits) == {"dead": "its worker died"}


@pytest.mark.parametrize("vote", list(Vote))
def test_vote_of_a_dead_worker_outside_the_quorum_is_not_part_of_the_record(vote: Vote) -> None:
    """Nobody waits for an isolated topic, and nobody takes its dead worker's word either."""
    members = {"dead": Member(isolated=True), "well": Member(started=True)}
    ballots = {"dead": Ballot(CYCLE, vote), "well": Ballot(CYCLE, Vote.PREPARED)}
    flush = judge_flush(members, ballots, {"dead"}, CYCLE, deadline_passed=False)
    assert flush.verdict is Verdict.DECIDE
    assert flush.included == ("well",)
    assert dict(flush.excluded) == {"dead": "isolated"}
