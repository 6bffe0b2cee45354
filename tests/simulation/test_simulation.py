"""Whatever goes wrong at whatever request: everything lands once, and it ends well by itself."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import pytest

from shared.layout import Header, Order
from tests.rig.evidence import Evidence
from tests.simulation.gate import ALL_MODES
from tests.simulation.schedules import RECYCLED, SMALL, TWO, of_seed, pairs, singles, some_pairs
from tests.simulation.service import Service
from tests.simulation.tally import Tally, run_spread
from tests.simulation.world import Schedule, World

PAIRS, PAIRS_SEED = 5_600, 11
SEEDS, SEEDS_EXTENDED = 2_660, 50_000
COUNTED = 0.88
"""Share of drawn schedules in which every planned fault struck, at least."""
ROWS = ("P1", "P2", "P3", "P4", "P5", "P6", "P10", "K10", "S1", "S2", "S3")


def run(
    schedules: Iterable[Schedule], at_least: int, evidence: Evidence,
    capsys: pytest.CaptureFixture[str],
) -> Tally:
    """Run them all, print what they were, and let none fail."""
    tally = run_spread(schedules)
    assert not tally.failures, tally.failures[0]
    with capsys.disabled():
        print(f"\nsimulation: {tally}")
    assert tally.schedules >= at_least
    tally.tell(evidence)
    return tally


@pytest.mark.fault(*ROWS)
def test_every_single_fault_heals(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mode at every request of a start and two cycles."""
    tally = run(singles(SMALL), 850, evidence, capsys)
    assert {mode for _, mode in tally.fired} == set(ALL_MODES)


@pytest.mark.fault(*ROWS)
def test_every_single_fault_heals_with_two_instances(
    evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    """They share a log, a group and a table, and meet at each of them."""
    run(singles(TWO), 900, evidence, capsys)


@pytest.mark.fault(*ROWS)
def test_every_single_fault_heals_while_a_worker_is_recycled(
    evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    """It leaves with what it has read and nobody has decided; its successor reads that again."""
    tally = run(singles(RECYCLED), 900, evidence, capsys)
    assert tally.recycled > tally.schedules / 2


def test_recycling_a_worker_aborts_no_cycle_and_counts_no_failure() -> None:
    """It is no fault, so no other topic may notice."""
    kept: list[Service] = []

    class Keeping(World):
        def start(self, instance: str = "0") -> None:
            super().start(instance)
            kept.append(self.services[-1])

    outcome = Keeping(RECYCLED).run()
    assert (outcome.violation, outcome.recycled) == ("", 1)
    (service,) = kept
    assert service.block.get(Header.CYCLES_ABORTED) == 0
    assert service.block.slot(0).order(Order.RECYCLED) == 1
    assert {member.failures for member in service.coordinator.members.values()} == {0}


@pytest.mark.fault(*ROWS)
def test_a_sample_of_pairs_of_faults_heals(
    evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second fault meets what the first one left behind."""
    run(some_pairs(SMALL, PAIRS, PAIRS_SEED), int(PAIRS * COUNTED), evidence, capsys)


@pytest.mark.fault(*ROWS)
def test_random_schedules_heal(evidence: Evidence, capsys: pytest.CaptureFixture[str]) -> None:
    """Topics, partitions, messages, rebalances, deaths, outages, second services by seed."""
    run((of_seed(seed) for seed in range(SEEDS)), int(SEEDS * COUNTED), evidence, capsys)


@pytest.mark.extended
@pytest.mark.timeout(7200)
@pytest.mark.fault(*ROWS)
def test_every_pair_of_faults_heals(
    evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same, without a gap."""
    run(pairs(SMALL), 100_000, evidence, capsys)


@pytest.mark.extended
@pytest.mark.timeout(7200)
@pytest.mark.fault(*ROWS)
def test_many_more_random_schedules_heal(
    evidence: Evidence, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other seeds than every day."""
    run((of_seed(seed) for seed in range(SEEDS, SEEDS + SEEDS_EXTENDED)),
        int(SEEDS_EXTENDED * COUNTED), evidence, capsys)


def test_the_same_schedule_gives_the_same_run() -> None:
    """A failure that cannot be replayed cannot be understood."""
    for schedule in (*islice(some_pairs(SMALL, 20, 5), 20), *(of_seed(n) for n in range(40))):
        first, second = (World(schedule, tracing=True).run() for _ in range(2))
        assert first.trace == second.trace
        assert first == second
