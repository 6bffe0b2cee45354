"""The protocol holds in every interleaving of the model, and each of its rules is needed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.model import configurations as c
from tests.model.rules import RULE_NAMES, Rules
from tests.model.search import Found, search

BROKEN_WITHOUT = {
    "compare_from_with_txn": (c.FIRST_START_WITH_OFFSETS, "visible twice"),
    "compare_and_set": (c.FIRST_START_WITH_OFFSETS, "visible twice"),
    "decide_before_commit": (c.FIRST_START_WITH_OFFSETS, "is decided"),
    "start_record_claims_number": (c.TWO_INSTANCES_CRASH, "has taken over"),
    "fenced_service_stops": (c.TRIMMING_FROZEN, "has taken over"),
    "second_listing_looks_for_newer_start": (c.TRIMMING_FROZEN, "has taken over"),
    "start_record_lands_behind_claims": (c.TRIMMING_FROZEN, "has taken over"),
    "frontier_rule": (c.TWO_INSTANCES_LOSSES, "can never be committed"),
    "frontier_learns_from_taken_numbers": (c.TWO_INSTANCES_LOSSES, "can never be committed"),
    "roll_forward_before_reading": (c.FIRST_START_WITH_OFFSETS, "block"),
    "roll_forward_whoever_wrote_it": (c.TWO_INSTANCES_CRASH, "block"),
    "read_back_after_put_error": (c.TRIMMING_FROZEN, "has taken over"),
    "read_back_after_commit_error": (c.FIRST_START, "visible twice"),
    "one_incarnation_per_manifest": (c.FIRST_START, "visible twice"),
    "dead_votes_are_void": (c.FIRST_START, "block"),
    "no_reposition_while_deciding": (c.FIRST_START, "block"),
    "behind_votes_failed": (c.REFUSED_TABLE, "owes two records"),
    "failing_topic_is_isolated": (c.REFUSED_TABLE, "block"),
    "good_vote_rejoins": (c.REFUSED_FOR_A_WHILE, "block"),
    "dlq_before_bronze": (c.WORKERS_ONLY, "in no table"),
    "reset_drops_undecided": (c.TWO_INSTANCES_LOSSES, "block"),
    "carry_over_keeps_files": (c.FIRST_START, "can never be committed"),
    "kafka_after_delta": (c.TRIMMING_FROZEN, "ahead of txn"),
    "first_position_is_committed": (c.FIRST_START, "torn"),
    "complete_through_truthful": (c.REFUSED_TABLE, "claimed to be complete"),
    "complete_records_are_ignored": (c.TRIMMING_FROZEN, "torn"),
    "trim_only_complete": (c.TRIMMING_FROZEN, "is missing"),
    "trim_below_written_claims": (c.TRIMMING_FROZEN, "is missing"),
    "trim_oldest_first": (c.TRIMMING_FROZEN, "torn"),
    "predecessor_check": (c.TRIMMING_FROZEN, "torn"),
}
"""Rule -> where its absence is found, and words of the violation."""

NOT_SHOWN_NECESSARY = {
    "list_after_start_record":
        "workers list the log themselves, after the start record, and that covers for it",
    "frontier_from_listing":
        "a worker rolls everything listed forward before it reads, so its range follows anyway",
}
"""Rules whose absence no configuration punishes, and why."""

COVERED_IN = (c.TWO_INSTANCES_LOSSES, c.TRIMMING)
"""Where that is looked at."""

SEARCHES = [
    *((config, Rules()) for config in c.ALL),
    *((config, Rules().without(rule)) for rule, (config, _) in BROKEN_WITHOUT.items()),
    *((config, Rules().without(rule)) for rule in NOT_SHOWN_NECESSARY for config in COVERED_IN),
]
"""In the order in which the tests below ask for them."""
AHEAD = 2
"""Searches begun beyond the one that is asked for."""

Search = Callable[[c.Config, Rules], Found]


@pytest.fixture(scope="module")
def searched() -> Iterator[Search]:
    """Give `search`, done in other processes, and begun while a test before still waits."""
    begun: dict[int, Future[Found]] = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:

        def found(config: c.Config, rules: Rules) -> Found:
            asked = SEARCHES.index((config, rules))
            for number in range(asked, min(asked + AHEAD + 1, len(SEARCHES))):
                if number not in begun:
                    begun[number] = pool.submit(search, *SEARCHES[number])
            return begun[asked].result()

        yield found
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("config", c.ALL, ids=lambda config: config.name)
def test_no_interleaving_breaks_an_invariant_or_blocks(
    config: c.Config, searched: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loss, doubling, tears and blocks hide in orders of events nobody thinks of."""
    found = searched(config, Rules())
    with capsys.disabled():
        print(f"\nmodel, {config.name}: {found}")
    assert not found.fault, str(found)
    assert found.ends, "the goal was never reached, so nothing was shown"


@pytest.mark.parametrize("rule", BROKEN_WITHOUT)
def test_without_rule_a_violation_is_found(rule: str, searched: Search) -> None:
    """A model that finds nothing without a rule would not notice the rule's loss in the code."""
    config, words = BROKEN_WITHOUT[rule]
    found = searched(config, Rules().without(rule))
    assert words in found.fault, f"without {rule}: {found}"
    assert found.trace


@pytest.mark.parametrize("rule", NOT_SHOWN_NECESSARY)
def test_without_rule_covered_by_others_nothing_is_found(rule: str, searched: Search) -> None:
    """Once such a rule becomes necessary, the documentation must say why."""
    for config in COVERED_IN:
        assert not searched(config, Rules().without(rule)).fault


def test_every_rule_is_accounted_for() -> None:
    """A rule added to the model without an answer whether it is needed is no rule."""
    assert set(RULE_NAMES) == set(BROKEN_WITHOUT) | set(NOT_SHOWN_NECESSARY)


def test_a_violation_prints_the_shortest_trace_step_by_step() -> None:
    """A person must be able to follow how the fault comes about."""
    found = search(c.WORKERS_ONLY, Rules().without("dlq_before_bronze"))
    lines = str(found).splitlines()
    assert lines[0] == found.fault
    assert lines[2].split(maxsplit=1) == ["1", "service 0 of instance 0 starts"]
    assert len(lines) == len(found.trace) + 2
