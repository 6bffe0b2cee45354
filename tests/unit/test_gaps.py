"""Offsets without a row are told with their reason, and nothing else is."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bronze_reader import Cut, Lake
from shared.records import Lost, Range
from tests.rig.made_lake import MadeLake
from tools import cut_command, gaps_command
from tools.gaps import LINES_MAX, as_lines
from tools.report import Status
from tools.tiling import Claim


def lines(*ranges: Range) -> list[tuple[Status, str]]:
    """What is told of a topic with these ranges."""
    claims = [Claim(number, (part,), ()) for number, part in enumerate(ranges, 1)]
    return [(line.status, line.found) for line in as_lines({"orders": claims})]


def test_a_topic_without_gaps_says_so() -> None:
    """Silence would leave a doubt."""
    assert lines(Range(0, 0, 10, rows=9, dead_letters=1)) == [
        (Status.OK, "every offset is a row or a dead letter")]


def test_a_lost_range_is_told_with_offsets_cause_and_record() -> None:
    """It is what must be looked for at the source."""
    assert lines(Range(3, 0, 100, rows=20, lost=(Lost(0, 80, "retention"),))) == [
        (Status.WARN, "partition 3: offsets [0, 80) were lost upstream, 80 of them (retention, "
                      "record 1)")]


def test_dropped_messages_are_a_warning_and_undelivered_offsets_are_none() -> None:
    """The one is a policy that drops data; the other is how Kafka works."""
    assert lines(Range(0, 0, 10, rows=5, skipped=2)) == [
        (Status.WARN, "2 malformed messages were dropped (ON_MALFORMED=skip)"),
        (Status.OK, "3 offsets never held a message that Kafka delivers: control records, aborted "
                    "or compacted messages")]


def test_many_lost_ranges_are_listed_up_to_a_bound() -> None:
    """The rest is counted."""
    gaps = tuple(Lost(2 * n, 2 * n + 1, "retention") for n in range(LINES_MAX + 5))
    found = lines(Range(0, 0, 2 * LINES_MAX + 10, rows=LINES_MAX + 5, lost=gaps))
    assert len(found) == LINES_MAX + 1
    assert found[-1] == (Status.WARN, "and 5 further ranges of 5 offsets")


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeLake:
    """Give a lake of two cycles, with the environment that names it."""
    made = MadeLake(tmp_path / "lake", ("orders", "payments"))
    made.cycle()
    made.cycle()
    made.enter()
    for name, value in made.environ.items():
        monkeypatch.setenv(name, value)
    return made


def test_the_tool_reads_them_from_a_lake(
    lake: MadeLake, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the topics that were asked for."""
    assert gaps_command.main(["--json", "orders", "nothing"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tool"] == "gaps"
    assert [(line["subject"], line["status"]) for line in report["lines"]] == [
        ("orders", "ok"), ("nothing", "warn")]
    assert report["lines"][0]["found"].startswith("2 offsets never held a message")


def test_the_cut_of_a_lake_is_that_of_the_readers_helper(
    lake: MadeLake, capsys: pytest.CaptureFixture[str]
) -> None:
    """One truth for people and for programs."""
    assert cut_command.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {line["subject"]: line["found"] for line in report["lines"] if line["check"] == "table"}
    assert found == {table: f"version {version}" for table, version
                     in Lake(str(lake.folder)).cut().versions.items()}
    assert found["bronze_orders"] == "version 3"
    assert "record 2" in report["lines"][0]["found"]
    assert cut_command.main(["--record", "1"]) == 0
    assert "version 2" in capsys.readouterr().out


def test_a_cut_that_does_not_exist_is_a_failure_with_advice(
    lake: MadeLake, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its name."""
    assert cut_command.main(["--cycle", "99"]) == 1
    assert "CycleNotFound" in capsys.readouterr().out


@pytest.mark.parametrize("argument", [
    ["--at", "noon"], ["--at", "2026-11-28T12:00:00"], ["--cycle", "-1"], ["--record", "x"],
    ["--record", "1", "--cycle", "1"]])
def test_arguments_that_name_no_cut_are_refused(
    argument: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the code of bad configuration, as everywhere."""
    with pytest.raises(SystemExit) as left:
        cut_command.main(argument)
    assert left.value.code == 78
    assert capsys.readouterr().err.count("\n") == 1


def test_a_version_that_nobody_knows_is_a_warning() -> None:
    """The others can still be used."""
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    cut = Cut(1, 1, moment, None, {"a": None}, {"bronze_a": None, "dlq_bronze_a": 0}, Lake("x"))
    assert [line.status for line in cut_command.as_lines(cut)] == [
        Status.OK, Status.WARN, Status.OK]
