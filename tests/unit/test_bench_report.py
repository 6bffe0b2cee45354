"""The benchmark's verdicts, its reading of logs and stacks, its files, page and charts."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from xml.etree import ElementTree

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from minio import Minio
from minio.datatypes import Object
from pyarrow import fs
from urllib3 import HTTPResponse

from bench import plots, report
from bench.commits import Ages, Entry, LogGap, TableLog, parse_entry, quantile, windows
from bench.contract import MB, at_most, memory, no_growth, trend
from bench.facts import Facts
from bench.processes import Memory, Role
from bench.results import FOLDER, Run, from_json, newest, read_all, to_json, write
from bench.sampler import Watched
from bench.scenarios import SCENARIOS, Result
from bench.scenarios.drain import Drain, Idle
from bench.scenarios.files import Files
from bench.scenarios.freshness import Freshness
from bench.scenarios.growth import Growth
from bench.scenarios.growth import Point as GrowthPoint
from bench.scenarios.large import Large
from bench.scenarios.outage import Outage
from bench.scenarios.steady import Steady
from bench.scenarios.topics import Point as TopicsPoint
from bench.scenarios.topics import Topics
from bench.scenarios.window import Window
from bench.sections import SECTIONS
from bench.stacks import Profile, fold, newest_profile, parse, write_profile
from bench.stream import SHARES, Stream
from bench.svg import Chart, Line, stacked, ticks

CPU = {Role.MAIN: 0.5, Role.WORKER: 18.0, Role.SIDECAR: 0.25}
FACTS = Facts("2026-01-02T03:04:05Z", "abc1234", False, "python -m bench all", "CPU", 2, "8 GiB",
              "Linux 6", 0.1, {"Python": "3.11"})


def watched(peak: int = 200 * MB) -> Watched:
    seen = Watched(steps=20, watching_s=2.0, watching_cpu_s=0.02)
    for pss in (peak // 2, peak, peak // 3):
        seen.add([Memory(1, Role.MAIN, pss // 4, 1, 1, 1),
                  Memory(2, Role.WORKER, pss - pss // 4, 1, 1, 1)])
    return seen


def a_stream(
    age_s: float = 1.5, window_s: float = 0.05, cores_s: float = 20.0, interval_s: float = 1.0
) -> Stream:
    return Stream(interval_s, 1000, 100.0, 100_000, {Role.WORKER: cores_s}, 0.7, 0.02, watched(),
                  [window_s] * 100, [age_s] * len(SHARES))


def a_growth(last: float = 1.0) -> Growth:
    points = [GrowthPoint(100 * (number + 1), 20.0, 40_000, 50 + number * (last - 1) * 5,
                          0.02, 150.0 * MB) for number in range(11)]
    return Growth(0.25, 2000, points, 77, watched())


def some_results(peak: int = 200 * MB) -> dict[str, Result]:
    return {
        "drain": Drain(10_000_000, 1_000_000, 8, 4, 206.0, 10.0, 4.0, 25.0, 30.0, CPU, CPU, 0.5,
                       8, watched(peak), Idle(20.0, CPU, 0, 0, 0, watched()), 9_990_000, 10_000),
        "steady": Steady(a_stream(10.5, interval_s=10.0)),
        "window": Window(a_stream(), a_stream(window_s=0.08)),
        "freshness": Freshness(a_stream(), a_stream()),
        "files": Files(10_000, 100, a_stream(), a_stream()),
        "large": Large(2000, 1_000_000, 1_000_000, 9.0, watched()),
        "topics": Topics(3_200_000, [TopicsPoint(count, 3.0, 2.0, 9.0, watched(count * 20 * MB),
                                                 watched(count * 10 * MB)) for count in (8, 32)]),
        "outage": Outage(20_000, 1_000_000, 10.0, 20.0, 25.0, watched()),
        "growth": a_growth(),
    }


def a_run(results: dict[str, Result], at: str = FACTS.at, is_full: bool = True) -> Run:
    facts = Facts(at, *[getattr(FACTS, name) for name in Facts.__slots__[1:]])
    return Run(facts, is_full, 256, results, {})


def test_verdicts_hold_at_the_limit_and_not_beyond() -> None:
    """A limit is what may be reached."""
    assert memory("idle", 256 * MB, 256).is_kept
    assert not memory("idle", 256 * MB + 1, 256).is_kept
    assert at_most("x", 2.0, 2.0, "us").is_kept
    assert not at_most("x", 2.01, 2.0, "us").is_kept
    assert no_growth("x", -0.5).is_kept
    assert not no_growth("x", 0.11).is_kept


def test_every_scenario_that_keeps_the_contract_says_so() -> None:
    """And every scenario but `topics`, where no limit is named, is judged."""
    for name, result in some_results().items():
        verdicts = result.verdicts(256)
        assert all(verdict.is_kept for verdict in verdicts), (name, verdicts)
        assert verdicts or name == "topics"


@pytest.mark.parametrize(("result", "missed"), [
    (some_results(257 * MB)["drain"], 1),
    (Steady(a_stream(11.1, interval_s=10.0)), 1),
    (Window(a_stream(), a_stream(window_s=0.101)), 1),
    (Freshness(a_stream(2.6), a_stream(cores_s=25.1)), 2),
    (Files(10_000, 100, a_stream(cores_s=10.0), a_stream(cores_s=11.5)), 1),
    (a_growth(2.0), 1),
])
def test_a_missed_contract_is_seen(result: Result, missed: int) -> None:
    """Each promise has a number that breaks it."""
    assert [verdict.is_kept for verdict in result.verdicts(256)].count(False) == missed


def test_a_trend_is_that_of_the_line() -> None:
    """Growth is the fitted line's, so that one outlier at an end does not decide."""
    line = trend([0, 10, 20, 30], [100, 110, 120, 130])
    assert (line.first, line.last, line.growth) == pytest.approx((100, 130, 0.3))
    assert line.error == pytest.approx(0, abs=1e-9)
    assert trend([1, 2, 3, 4], [5, 6, 5, 6]).error > 0.1


def test_a_log_entry_tells_its_record_and_files() -> None:
    """Commits of others belong to no cycle."""
    actions = [{"commitInfo": {"timestamp": 1, "bronze": {"record": 7}}},
               {"add": {"path": "_ingestion_date=2026-01-01/a.parquet"}}, {"txn": {"version": 3}}]
    content = "\n".join(map(json.dumps, actions)).encode()
    assert parse_entry(5, 12.345, content) == Entry(
        5, 7, 12.345, ("_ingestion_date=2026-01-01/a.parquet",))
    assert parse_entry(6, 1.0, json.dumps({"commitInfo": {"operation": "OPTIMIZE"}}).encode()) is None


class Shelf:
    """As much of a MinIO client as following a log needs."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def list_objects(self, bucket: str, prefix: str, start_after: str | None) -> list[Object]:
        return [Object(bucket, name, last_modified=datetime(2026, 1, 1, 0, 0, 1, 250_000, UTC))
                for name in sorted(self.objects)
                if name.startswith(prefix) and name > (start_after or "")]

    def get_object(self, bucket: str, name: str) -> HTTPResponse:
        return HTTPResponse(body=self.objects[name], preload_content=True)


def put(shelf: Shelf, version: int, record: int) -> None:
    line = {"commitInfo": {"bronze": {"record": record}}}
    shelf.objects[f"t/_delta_log/{version:020d}.json"] = json.dumps(line).encode()


def test_a_log_is_followed_to_the_millisecond_and_each_entry_read_once() -> None:
    """Checkpoints lie between the entries and are none."""
    shelf = Shelf()
    log = TableLog(cast(Minio, shelf), "b", "t")
    log.follow()
    for version in range(3):
        put(shelf, version, 10 + version)
    shelf.objects[f"t/_delta_log/{1:020d}.checkpoint.parquet"] = b""
    log.follow()
    put(shelf, 3, 13)
    log.follow()
    assert [(entry.version, entry.record) for entry in log.entries] == [
        (0, 10), (1, 11), (2, 12), (3, 13)]
    assert log.entries[0].visible_at % 1 == 0.25


def test_a_log_that_was_cleaned_before_it_was_seen_gives_no_number() -> None:
    """The windows of what is left would be of chosen cycles."""
    shelf = Shelf()
    log = TableLog(cast(Minio, shelf), "b", "t")
    put(shelf, 0, 1)
    log.follow()
    put(shelf, 2, 3)
    with pytest.raises(LogGap, match="version 1 is gone"):
        log.follow()


def test_what_was_there_before_is_passed_over() -> None:
    """Also where the first entries are gone: a service before us has cleaned the log."""
    shelf = Shelf()
    put(shelf, 7, 1)
    log = TableLog(cast(Minio, shelf), "b", "t")
    log.skip()
    put(shelf, 8, 2)
    log.follow()
    assert [entry.version for entry in log.entries] == [8]


def test_a_log_that_was_cleaned_after_it_was_seen_is_followed() -> None:
    """Production cleans its logs, too."""
    shelf = Shelf()
    log = TableLog(cast(Minio, shelf), "b", "t")
    put(shelf, 0, 1)
    log.follow()
    shelf.objects.clear()
    put(shelf, 1, 2)
    log.follow()
    assert [entry.version for entry in log.entries] == [0, 1]


def test_windows_are_those_of_whole_cycles() -> None:
    """A cycle in which a topic had nothing says nothing about eight tables."""
    logs = {"a": [Entry(1, 1, 10.0, ()), Entry(2, 2, 20.0, ())],
            "b": [Entry(1, 1, 10.25, ()), Entry(2, 3, 30.0, ())],
            "c": [Entry(4, 1, 9.5, ())]}
    assert windows(logs) == [0.75]


def test_a_quantile_is_a_value_that_was_seen() -> None:
    """p99 of a hundred is the second highest; of a few, the highest."""
    assert quantile(range(1, 101), 0.99) == 99
    assert quantile([3, 1, 2], 0.99) == 3
    assert quantile([3, 1, 2], 0.0) == 1


def test_ages_weigh_every_row(tmp_path: Path) -> None:
    """A file of many fresh rows must not count as much as one of a single old row."""
    for name, stamps in (("a", [1_000] * 99), ("b", [500])):
        column = pa.array([stamp * 1000 for stamp in stamps], pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"_kafka_timestamp": column}), tmp_path / f"{name}.parquet")
    ages = Ages()
    ages.add(fs.LocalFileSystem(), str(tmp_path), Entry(1, 1, 2.5, ("a.parquet", "b.parquet")))
    assert ages.rows == 100
    assert ages.quantiles_s([0.0, 0.5, 0.99, 1.0]) == [1.5, 1.5, 1.5, 2.0]


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    """The page is made from files, also those of earlier runs."""
    run = a_run(some_results())
    assert from_json(to_json(run)) == run
    assert from_json(json.dumps({"facts": {}})) is None
    first, second = write(run, tmp_path), write(run, tmp_path)
    assert first != second
    assert read_all(tmp_path) == [run, run]


def test_the_page_takes_the_newest_numbers_of_each_scenario() -> None:
    """A long scenario need not be run again with the short ones."""
    results = some_results()
    old = a_run({name: results[name] for name in ("drain", "growth")}, "2026-01-01T00:00:00Z")
    new = a_run({"drain": results["drain"]}, "2026-01-02T00:00:00Z")
    assert newest([new, old]) == {"drain": new, "growth": old}


def test_the_page_shows_every_scenario_and_every_verdict(tmp_path: Path) -> None:
    """Numbers that are missed, that failed or that nobody took are told apart."""
    run = a_run(some_results(300 * MB))
    del run.results["large"]
    del run.results["outage"]
    run.failures["large"] = "lost\nmuch"
    write(run, tmp_path)
    write_profile(Profile("2026", "abc", 8.0, 1000, 2.5, [("zstd", 0.4)]), tmp_path)
    files = report.write_page(tmp_path)
    page = (tmp_path / report.PAGE).read_text()
    assert page.count("contract: missed") == 1
    assert "**not measured**: lost | large" in page
    assert "not measured yet | outage" in page
    assert "| zstd | 40.0 % | 1.000 |" in page
    for path in files[1:]:
        assert f"images/{path.name}" in page
        ElementTree.parse(path)
    assert newest_profile(tmp_path / "nowhere") is None


def test_the_page_shows_the_first_drain_that_was_kept_beside_the_newest(tmp_path: Path) -> None:
    """Whatever has become of the format since; alone, a drain has nothing beside it."""
    write(a_run(some_results(200 * MB), "2026-01-02T00:00:00Z"), tmp_path)
    report.write_page(tmp_path)
    assert "## Before and after" not in (tmp_path / report.PAGE).read_text()
    worker = {"pid": 1, "role": "worker", "pss": 40 * MB, "anonymous": 0, "file": 0, "private": 0}
    tracker = {**worker, "role": "resource tracker", "pss": 11 * MB}
    first = {"facts": {"at": "2026-01-01T00:00:00Z", "commit": "0dd", "cpu": "slow"}, "drain": {
        "messages": 300, "early": 100, "cpu": {"worker": 0.002},
        "memory": {"at_peak": [worker, worker, tracker]}}}
    (tmp_path / FOLDER / "first.json").write_text(json.dumps(first))
    report.write_page(tmp_path)
    page = (tmp_path / report.PAGE).read_text()
    assert "| worker | 2 x, 80.0 |" in page
    assert "| resource tracker | 1 x, 11.0 | - |" in page
    assert "| **all** | 3 x, 91.0 |" in page
    assert "| CPU of the workers | 10.00 us/message |" in page


def test_every_scenario_has_a_part_of_the_page() -> None:
    """And a line in the list of sections for it."""
    assert SECTIONS.keys() == SCENARIOS.keys()
    for name, result in some_results().items():
        assert isinstance(result, SCENARIOS[name].result)
        assert SECTIONS[name](result).startswith("## ")


def test_charts_are_the_same_for_the_same_numbers() -> None:
    """A page made twice does not differ."""
    assert plots.charts(some_results(), 256) == plots.charts(some_results(), 256)


def test_areas_lie_upon_each_other() -> None:
    """The top of the highest is the sum."""
    lines = [Line("a", [(0, 1), (1, 2)]), Line("b", [(0, 10), (1, 20)])]
    assert [line.points for line in stacked(lines)] == [[(0, 1), (1, 2)], [(0, 11), (1, 22)]]
    assert Chart("", "", "", lines).y_max is None


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 256, [0, 50, 100, 150, 200, 250]),
    (95, 105, [96, 98, 100, 102, 104])])
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    """About six, whatever the unit."""
    assert ticks(low, high) == pytest.approx(expected)


PERF = """\
python  6069 13442.988824: 
\t  213b2e std::vector<(anonymous namespace)::X>::~vector (/v/site-packages/pyarrow/libparquet.so.2600)
\t     301 [unknown] ([unknown])

python  6069 13442.996962: 
\t 1cdc4b0 ZSTD_encodeSequences_bmi2 (/v/site-packages/pyarrow/libarrow.so.2600)

rdk:main  6070 13443.003078: 
\tffffffff81 copy_user ([kernel.kallsyms])
\tffffffff82 tcp_recvmsg ([kernel.kallsyms])
\t  2e68c4 recvmsg (/usr/lib/x86_64-linux-gnu/libc.so.6)

python  6069 13443.014480: 
\t   3bd27 __memmove_avx (/usr/lib/x86_64-linux-gnu/libc.so.6)
\t   3bd28 rd_kafka_q_serve (/v/site-packages/confluent_kafka.libs/librdkafka-1.so.1)

python  6069 13443.020000: 
\tffffffff83 asm_exc_page_fault ([kernel.kallsyms])

python  6069 13443.030000: 
\t  2e68c4 _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
"""


def test_samples_are_folded_by_stage() -> None:
    """The innermost frame decides; the C library works for whoever called it."""
    samples, shares = fold(parse(PERF.splitlines()))
    assert samples == 6
    assert dict(shares) == pytest.approx(dict.fromkeys(
        ("Arrow", "zstd", "kernel: network", "librdkafka", "kernel: memory", "interpreter"), 1 / 6))
