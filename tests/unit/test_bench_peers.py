"""The comparison's pure parts: no number without completeness, and the right one with it."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from bench.facts import Facts
from bench.lake import Counted
from bench.peers import bars, report, tools
from bench.peers.__main__ import TRIAL_SHARE, parse
from bench.peers.report import Comparison, HeapTry
from bench.peers.run import FULL_MESSAGES
from bench.peers.systems import (
    Spark,
    SystemRun,
    Task,
    limit_s,
    reason_in,
    spark_command,
    spark_settings,
)

FACTS = Facts("2025-01-02T03:04:05Z", "abc1234", False, "python -m bench.peers", "a CPU", 2,
              "8 GiB", "Linux", 0.5, {"Spark": "4.2.0"})
OURS = SystemRun(report.SERVICE, 1000, 10.0, 0.004, 100_000_000)
SPARK = SystemRun(report.SPARK, 1000, 40.0, 0.02, 1_000_000_000)
TASK = Task("host:9092", {"a": {0: 5}}, 5, 10.0,
            {"AWS_ENDPOINT_URL": "http://store:9000", "AWS_SECRET_ACCESS_KEY": "hush"},
            "s3://bucket/lake", Path("/tmp"))


def comparison() -> Comparison:
    return Comparison(
        FACTS, 8, 4, 1000, 10.0, [OURS, SPARK],
        {report.SPARK_SMALL: "none of 512m is enough"},
        [HeapTry("512m", 100, "OutOfMemoryError"), HeapTry("640m", 100, "")])


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of every table row that begins with a title."""
    return [[cell.strip() for cell in line.strip("|").split("|")][1:]
            for line in page.splitlines() if line.startswith(f"| {title} ")]


def test_peers_rates_hold_the_start() -> None:
    """Who starts slowly is slower: nothing is taken off."""
    assert OURS.per_second == 100.0
    assert OURS.cpu_us == 4.0


def test_peers_page_has_each_value_and_its_ratio() -> None:
    """A ratio above 1 is more than the service's, whatever it is of."""
    page = report.as_markdown(comparison())
    assert rows_of(page, "Messages/s") == [["100", "25"], ["1.00", "0.25"]]
    assert rows_of(page, "CPU, us/message") == [["4.00", "20.00"]]
    assert rows_of(page, "CPU") == [["1.00", "5.00"], ["a CPU, 2 cores"]]
    assert rows_of(page, "Peak memory (PSS), MB") == [["100.0", "1,000.0"]]
    assert rows_of(page, "Peak memory (PSS)") == [["1.00", "10.00"]]


def test_peers_page_says_who_has_no_number_and_why() -> None:
    """A column that is silently missing would look like nobody tried."""
    page = report.as_markdown(comparison())
    assert "Spark, smallest heap: no number. none of 512m is enough" in page
    assert "- Spark, 512m heap, 100 messages: OutOfMemoryError" in page
    assert "- Spark, 640m heap, 100 messages: complete" in page


def test_peers_page_says_when_the_checkout_was_changed() -> None:
    """The commit alone would name code that was not measured."""
    found = replace(comparison(), facts=replace(FACTS, is_dirty=True))
    assert "`abc1234` with uncommitted changes" in report.as_markdown(found)
    assert "uncommitted" not in report.as_markdown(comparison())


@pytest.mark.parametrize(("counted", "expected"), [
    (Counted(999, 1, []), []),
    (Counted(999, 0, []), ["999 rows and dead letters, 1,000 messages were sent"]),
    (Counted(1000, 1, []), ["1,001 rows and dead letters, 1,000 messages were sent"]),
    (Counted(999, 1, ["a/0: twice"]), ["a/0: twice"]),
    (Counted(999, 1, ["a", "b", "c", "d", "e"]), ["a", "b", "c", "and 2 more"]),
])
def test_peers_only_what_is_complete_has_a_number(counted: Counted, expected: list[str]) -> None:
    """Less would flatter who lost something, more who wrote it twice."""
    assert report.faults_of(1000, counted) == expected


def test_peers_json_is_told_apart_from_other_results() -> None:
    """It lies in the same folder as the files of `python -m bench`."""
    found = json.loads(report.as_json(comparison()))
    assert found["format"] == report.FORMAT
    assert found["runs"][1]["name"] == report.SPARK
    assert found["facts"]["commit"] == "abc1234"


def test_peers_bars_are_as_long_as_their_values() -> None:
    """Every panel begins at 0, so lengths can be compared."""
    root = ElementTree.fromstring(bars.svg([bars.Panel("a < b", [
        ("one", 10.0, "10"), ("two", 40.0, "40"), ("none", 0.0, "0")])]))
    drawn = [float(one.get("width", "")) for one in root.iter() if one.get("y")
             and one.tag.endswith("rect")]
    assert drawn[0] == pytest.approx(drawn[1] / 4, abs=0.1)
    assert drawn[2] == 0.0
    assert "a < b" in [one.text for one in root.iter()]


def test_peers_chart_has_every_system_in_every_panel() -> None:
    """One missing bar would be read as zero."""
    panels = report.panels(comparison())
    assert [panel.title for panel in panels] == [title for title, _, _ in report.MEASURES[1:]]
    assert all([name for name, _, _ in panel.bars] == [report.SERVICE, report.SPARK]
               for panel in panels)


@pytest.mark.parametrize(("log", "expected"), [
    ("WARN a\njava.lang.OutOfMemoryError: Java heap space\nfoo.Exception: later\n",
     "java.lang.OutOfMemoryError: Java heap space"),
    ("WARN a\npyspark.errors.StreamingQueryException: [X] query ended\n  at b\n",
     "pyspark.errors.StreamingQueryException: [X] query ended"),
    ("first\nlast\n\n", "last"),
    ("", ""),
])
def test_peers_reason_is_the_line_that_tells_most(log: str, expected: str) -> None:
    """A Java log ends with the hundredth line of a stack, which says nothing."""
    assert reason_in(log) == expected


def test_peers_limits_grow_with_the_work() -> None:
    """Every wait is bounded, and a long run is not cut for being long."""
    assert limit_s(10_000_000) - limit_s(2_000_000) == 1000.0


def test_peers_spark_gets_no_secret_on_its_command_line() -> None:
    """Everybody on a machine can read command lines."""
    command = spark_command(TASK, Spark("640m"), Path("/jars"), Path("/run"))
    assert "hush" not in " ".join(command)
    assert command[command.index("--lake") + 1] == "s3a://bucket/lake"
    assert json.loads(command[command.index("--ends") + 1]) == {"a": {"0": 5}}


def test_peers_spark_caches_only_where_told() -> None:
    """Two columns of the page differ by nothing else."""
    plain, cached = (spark_command(TASK, Spark("4g", is_cached), Path("/jars"), Path("/run"))
                     for is_cached in (False, True))
    assert [*plain, "--cached"] == cached


def test_peers_spark_encrypts_where_the_store_does() -> None:
    """A given store may have an https address."""
    name = "spark.hadoop.fs.s3a.connection.ssl.enabled"
    assert spark_settings(TASK, Path("/run"))[name] == "false"
    safe = replace(TASK, store={"AWS_ENDPOINT_URL": "https://store"})
    assert spark_settings(safe, Path("/run"))[name] == "true"


def test_peers_spark_is_started_without_the_settings_of_another() -> None:
    """Somebody's SPARK_HOME would be measured instead."""
    found = tools.spark_environment({"SPARK_HOME": "/opt", "PYSPARK_PYTHON": "x", "PATH": "/bin"})
    assert "SPARK_HOME" not in found and "PYSPARK_PYTHON" not in found
    assert found["PATH"] == "/bin"


def test_peers_pins_agree() -> None:
    """PySpark brings Spark's jars along; the connector's must be of the same release."""
    assert f"pyspark=={tools.SPARK_VERSION}" in tools.REQUIREMENTS.read_text().splitlines()
    pom = ElementTree.fromstring(tools.pom())
    versions = {one.findtext("artifactId"): one.findtext("version")
                for one in pom.iter("dependency")}
    assert versions[f"spark-sql-kafka-0-10_{tools.SCALA_VERSION}"] == tools.SPARK_VERSION
    assert all(version for version in versions.values())


def test_peers_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Half an hour later is too late to learn that Maven is missing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert [line.split(":")[0] for line in tools.missing_tools()] == ["Java", "Maven"]


def test_peers_only_a_full_run_writes_into_the_repository() -> None:
    """Numbers of a trial must not replace those of a run."""
    full, quick, small = parse([]), parse(["--quick"]), parse(["--messages", "9,000"])
    assert full is not None and quick is not None and small is not None
    assert (full.messages, full.is_full) == (FULL_MESSAGES, True)
    assert (quick.is_full, small.is_full, small.messages) == (False, False, 9000)
    assert full.trial_messages == FULL_MESSAGES // TRIAL_SHARE
    assert parse(["--check-tools"]) is None


def test_peers_jobs_end_with_their_starter() -> None:
    """A job whose starter was killed would go on for ever beside the next measurement."""
    code = "from bench.peers import job; job.end_with_starter(); job.done(1.5)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tools.ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"at": 1.5}
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 1
    process.stdout.close()


@pytest.mark.parametrize("argv", [["--messages", "10"], ["--interval", "0"], ["--nonsense"]])
def test_peers_refuses_nonsense(argv: list[str]) -> None:
    """Before minutes of work, not after."""
    with pytest.raises(SystemExit) as raised:
        parse(argv)
    assert raised.value.code == 2
