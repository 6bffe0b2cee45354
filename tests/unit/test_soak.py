"""The soak's plan: the same seed gives the same plan, every fault comes, one period in four rests."""

from __future__ import annotations

from tests.soak.plan import DECK, PERIOD_S, QUIET_ONE_IN, Fault, Period, Planner

PERIODS = 120
"""An hour of them."""
SEEDS = range(20)


def plan(seed: int, count: int = PERIODS) -> list[Period]:
    """That many periods."""
    planner = Planner(seed)
    return [planner.next() for _ in range(count)]


def test_a_seed_gives_the_same_plan_again_and_another_seed_another() -> None:
    """What a run planned can be planned again; otherwise its seed would say nothing."""
    assert plan(3) == plan(3)
    assert plan(3) != plan(4)


def test_one_period_in_four_is_quiet() -> None:
    """Recovery from a quiet time is a state, too; there is neither less nor more of it."""
    for seed in SEEDS:
        periods = plan(seed)
        for at in range(0, PERIODS, QUIET_ONE_IN):
            assert sum(not period.blows for period in periods[at : at + QUIET_ONE_IN]) == 1


def test_every_rare_fault_comes_before_any_comes_twice() -> None:
    """Short runs must have met every kind, and long ones each about as often."""
    for seed in SEEDS:
        rare = [blow.fault for period in plan(seed)
                for blow in period.blows if blow.fault in DECK]
        counts = [rare.count(fault) for fault in DECK]
        assert min(counts) >= 1
        planner = Planner(seed)
        dealt: list[Fault] = []
        while not planner.is_round:
            dealt += [blow.fault for blow in planner.next().blows if blow.fault in DECK]
        assert sorted(dealt) == sorted(DECK)


def test_an_hour_plans_a_thousand_kills_and_a_thousand_failing_requests() -> None:
    """The least that the page claims of an hour, with room for blows that find no victim."""
    for seed in SEEDS:
        blows = [blow.fault for period in plan(seed) for blow in period.blows]
        assert blows.count(Fault.WORKER_KILLED) > 1_300
        assert blows.count(Fault.STORE_REQUESTS) > 3_000


def test_blows_lie_inside_their_period_in_order() -> None:
    """One that came after the healing would strike the judge."""
    for period in plan(1):
        moments = [blow.at_s for blow in period.blows]
        assert moments == sorted(moments)
        assert all(0 <= moment < PERIOD_S for moment in moments)
