"""The judge's memory of what never changes: a trimmed log is judged in full, and nothing is missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.rig.checker import Report, check_log
from tests.rig.lake import RECORDS, Kept
from tests.rig.toy_lake import ToyLake


@pytest.fixture
def lake(tmp_path: Path) -> ToyLake:
    """Give a lake with three good cycles."""
    made = ToyLake(tmp_path)
    for _ in range(3):
        made.cycle(20)
    return made


def judge(lake: ToyLake, **arguments: Any) -> Report:
    """The judgement with the ledger."""
    return check_log(str(lake.folder), topics=lake.topics, ledger=lake.ledger, **arguments)


def trim(lake: ToyLake, count: int) -> None:
    """Delete the oldest records."""
    for number in range(count):
        (lake.folder / RECORDS / f"{number:020d}.json").unlink()


def test_trimmed_log_is_judged_with_the_records_that_were_kept(lake: ToyLake) -> None:
    """Without them the commits of trimmed records look like nobody's decision."""
    kept = Kept()
    judge(lake, kept=kept).assert_ok()
    whole = judge(lake)
    trim(lake, 2)
    assert "visible_unrecorded" in judge(lake).kinds()
    report = judge(lake, kept=Kept(records=dict(kept.records)))
    report.assert_ok()
    assert report.checked == whole.checked


def test_looks_on_the_way_read_only_what_is_new(lake: ToyLake) -> None:
    """Files once found right are not opened again; commits and records are still all judged."""
    kept = Kept(commits={}, files=set())
    first = judge(lake, settled=False, kept=kept)
    lake.cycle(20)
    second = judge(lake, settled=False, kept=kept)
    first.assert_ok()
    second.assert_ok()
    whole = judge(lake)
    assert second.checked["commits"] == whole.checked["commits"] > first.checked["commits"]
    assert second.checked["records"] == whole.checked["records"]
    assert first.checked["files"] + second.checked["files"] == whole.checked["files"]


def test_what_is_wrong_with_a_new_commit_is_found_beside_what_was_kept(lake: ToyLake) -> None:
    """Memory must not make the judge look away."""
    kept = Kept(commits={}, files=set())
    judge(lake, settled=False, kept=kept).assert_ok()
    parts = [lake.prepare(topic, 10) for topic in lake.topics]
    record = lake.decide(parts)
    for topic in lake.topics:
        lake.carry_out(record, topic)
        lake.carry_out(record, topic)
    assert "recommitted" in judge(lake, settled=False, kept=kept).kinds()


def test_a_file_that_was_wrong_is_looked_at_again(lake: ToyLake) -> None:
    """Only what was found right is remembered."""
    kept = Kept(commits={}, files=set())
    judge(lake, settled=False, kept=kept).assert_ok()
    before = set((lake.folder / "bronze_a").glob("*/*.parquet"))
    lake.cycle(10)
    (new,) = set((lake.folder / "bronze_a").glob("*/*.parquet")) - before
    new.unlink()
    for _ in range(2):
        assert judge(lake, settled=False, kept=kept).kinds() == {"file_missing"}
