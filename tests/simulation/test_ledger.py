"""Whatever goes wrong: every complete cycle is in the ledger once, with the version that shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.decider import Decider
from tests.simulation.keeper_world import KeeperWorld
from tests.simulation.schedules import SMALL, of_seed, singles

SEEDS = range(90_000, 90_250)
TRIMMED = range(91_000, 91_060)


@pytest.mark.fault("P1", "P2", "S1", "S2")
def test_every_single_fault_leaves_a_whole_ledger() -> None:
    """Keepers and services are killed, answered by errors, frozen at any request."""
    entered = 0
    for schedule in list(singles(SMALL))[::7]:
        world = KeeperWorld(schedule)
        assert world.run().violation == "", schedule
        entered += world.entered
    assert entered > 100


@pytest.mark.fault("P1", "P2", "S1", "S2")
def test_random_schedules_leave_a_whole_ledger() -> None:
    """Two services enter the same records, topics come and go, outages come between."""
    entered = 0
    for seed in SEEDS:
        world = KeeperWorld(of_seed(seed))
        assert world.run().violation == "", seed
        entered += world.entered
    assert entered > len(SEEDS)


def trimmed(seed: int) -> str:
    """Run a schedule in which nearly every record is trimmed as soon as it may be."""
    return KeeperWorld(replace(
        of_seed(seed), records_kept=1, trim_interval_s=1.0, watch_interval_s=4.0)).run().violation


def test_no_record_is_trimmed_before_it_is_in_the_ledger() -> None:
    """What is gone nobody could enter any more."""
    assert {seed: found for seed in TRIMMED if (found := trimmed(seed))} == {}


def test_without_waiting_for_the_ledger_records_are_missing_in_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule is needed: taken out, the judge finds it."""
    real = Decider.trim
    monkeypatch.setattr(Decider, "trim", lambda self, entered_through=None: real(self))
    assert any(trimmed(seed) for seed in TRIMMED)
