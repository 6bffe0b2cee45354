"""The soak's plan repeats and leaves nothing out; its verdict passes what is right and no more."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.rig.evidence import Strike
from tests.rig.report import Report
from tests.rig.toy_lake import ToyLake
from tests.soak import verdict as verdicts
from tests.soak.plan import DECK, PERIOD_S, QUIET_ONE_IN, Fault, Period, Planner
from tests.soak.run import Course
from tests.soak.verdict import Verdict, judge, keep_all, line_of

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


class End:
    """The end of a soak on a small lake: everything that `judge` asks, well unless changed."""

    def __init__(self, folder: Path) -> None:
        self.lake = ToyLake(folder / "lake")
        self.lake.cycle(30)
        self.cycles = Report()
        self.course = Course(periods=3, quiet=1, memory=[(30, 1 << 28)])
        self.world = SimpleNamespace(
            struck=Counter({fault: 2 for fault in Fault}), exits=Counter(),
            fired=Counter({(Strike.KILL, "worker"): 2}))
        self.service = SimpleNamespace(
            is_running=lambda: True, terminate=lambda timeout: 0, exit_code=None,
            log_path=folder / "service.log")
        self.service.log_path.write_text('{"event": "x"}\nTraceback\n')
        self.scene = SimpleNamespace(
            ledger=self.lake.ledger, lake_uri=str(self.lake.folder), options=None,
            topics=self.lake.topics, partitions=self.lake.partitions, group="g")
        self.kafka = SimpleNamespace(bootstrap="b", committed_offsets=lambda group, topic: {})

    def judge(self) -> Verdict:
        """The verdict."""
        return judge(*(self.typed(part) for part in (
            self.scene, self.kafka, self.service, self.world)), self.course)

    def line(self, verdict: Verdict) -> dict[str, Any]:
        """The line of evidence, read."""
        parts = [self.typed(part) for part in (self.scene, self.world)]
        text = line_of(
            verdict, *parts, self.course, self.typed(self.service), {"seed": 1}, 90.0)
        found: dict[str, Any] = json.loads(text)
        return found

    @staticmethod
    def typed(part: SimpleNamespace) -> Any:
        """A stand-in for what the annotations ask."""
        return part


@pytest.fixture
def end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> End:
    """Give an end at which nothing is wrong; the group is as the tables are."""
    made = End(tmp_path)
    group = Report()
    group.checked["group offsets"] = len(made.lake.topics) * made.lake.partitions
    monkeypatch.setattr(verdicts, "group_offsets_equal_txn", lambda *_: group)
    monkeypatch.setattr(verdicts, "check_cycles", lambda *_, caught_up: made.cycles)
    made.cycles.checked["ledger rows judged"] = len(made.lake.topics)
    return made


@pytest.fixture(scope="module")
def judges() -> Iterator[ProcessPoolExecutor]:
    """Keep the judging processes for several tests: they take most of two seconds to start."""
    with ProcessPoolExecutor(
        max_workers=verdicts.JUDGES, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def next_end(
    end: End, judges: ProcessPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> End:
    """Give an end whose judges have judged before; where the processes' age is not the point."""
    monkeypatch.setattr(verdicts, "ProcessPoolExecutor", lambda **_: nullcontext(judges))
    return end


def test_verdict_passes_a_lake_that_is_right_and_counts_what_it_saw(end: End) -> None:
    """The line says how much was judged, in the words of the page."""
    verdict = end.judge()
    assert verdict.wrong == []
    line = end.line(verdict)
    assert (line["outcome"], line["messages"], line["cycles"]) == (
        "passed", end.lake.ledger.rows(), 1)
    assert line["notes"]["log_lines_not_json"] == 1
    assert line["notes"]["memory_bytes_max"] == 1 << 28
    assert line["fired"] == [["kill", "worker", 2]]


@pytest.mark.parametrize("fault", list(Fault))
def test_a_fault_that_never_struck_voids_the_run(next_end: End, fault: Fault) -> None:
    """What was not tried has not been withstood."""
    next_end.world.struck[fault] = 0
    assert [text for text in next_end.judge().wrong if "void" in text and str(fault) in text]


def test_a_ledger_table_that_is_wrong_or_was_not_looked_at_fails_the_run(next_end: End) -> None:
    """What dbt and Airflow read of a cycle is as much a promise as the rows."""
    next_end.cycles.checked["ledger rows judged"] = 0
    assert any("no row of bronze_cycles" in text for text in next_end.judge().wrong)
    next_end.cycles.checked["ledger rows judged"] = 1
    next_end.cycles.add("missing", "bronze_cycles", "record 1")
    assert any("record 1" in text for text in next_end.judge().wrong)


def test_a_message_that_is_missing_fails_the_run_and_is_not_counted(end: End) -> None:
    """One is enough, and both readers must say so."""
    end.lake.write_messages(end.lake.topics[0], 1)
    verdict = end.judge()
    assert any("lost" in text for text in verdict.wrong)
    line = end.line(verdict)
    assert (line["outcome"], line["messages"]) == ("failed", 0)
    assert line["notes"]["wrong"] == verdict.wrong


@pytest.mark.parametrize("code", [0, 76, 78])
def test_an_end_by_itself_that_no_restart_is_for_fails_the_run(next_end: End, code: int) -> None:
    """Fenced without a second service, or halted: that is a fault, however whole the tables."""
    next_end.world.exits[code] = 1
    assert any("ended by itself" in text for text in next_end.judge().wrong)


def test_a_last_stop_that_is_not_clean_fails_the_run(next_end: End) -> None:
    """The tables may be whole; the promise of exit code 0 is broken."""
    next_end.service.terminate = lambda timeout: 1
    assert any("exit code 1" in text for text in next_end.judge().wrong)


def test_log_ledger_and_lake_are_kept_for_whoever_looks_for_the_reason(
    end: End, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Everything is deleted with the services, and the moment will not come again."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = keep_all(end.typed(end.scene), end.typed(end.service), lambda line: None)
    assert (folder / "service.log").read_text() == end.service.log_path.read_text()
    kept = pickle.loads((folder / "ledger.pickle").read_bytes())
    assert kept.rows() == end.lake.ledger.rows()
    files = {path.relative_to(folder / "lake") for path in (folder / "lake").rglob("*")
             if path.is_file()}
    assert files == {path.relative_to(end.lake.folder) for path in end.lake.folder.rglob("*")
                     if path.is_file()}
