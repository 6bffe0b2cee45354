"""The benchmark's own reading and counting: a measure that errs is worse than none."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pyarrow as pa
import pytest

from bench.__main__ import parse
from bench.lake import faults_of
from bench.load import Load, make_malformed, make_payloads
from bench.processes import TICKS_PER_SECOND, Family, Role, parse_smaps, parse_stat, role_of
from bench.product import parse_metrics
from bench.sampler import Sampler, Watched, thinned
from bench.scenarios.window import skewed_rota
from bench.watch import difference
from tests.services import KafkaService
from tests.waiting import wait_until
from workers.decoder import find_flaw

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
PARENT = (
    "import subprocess, sys, time\n"
    f"subprocess.run([sys.executable, '-c', {BURN!r}], check=True)\n"
    "print('burnt', flush=True)\ntime.sleep(60)\n")


def places(*offsets: tuple[int, int]) -> pa.Table:
    return pa.table({
        "_kafka_partition": pa.array([part for part, _ in offsets], pa.int32()),
        "_kafka_offset": pa.array([offset for _, offset in offsets], pa.int64())})


def test_bench_reads_cpu_behind_a_name_with_blanks_and_parentheses() -> None:
    """The name is chosen by the process; fields are counted from behind it."""
    fields = ["S", "7", "6", "5", *["0"] * 7, "100", "50", "20", "30", *["0"] * 30]
    stat = parse_stat(f"12 (a) b (c d) {' '.join(fields)}")
    assert (stat.parent, stat.session) == (7, 5)
    assert stat.own_s == 150 / TICKS_PER_SECOND
    assert stat.ended_s == 50 / TICKS_PER_SECOND


def test_bench_reads_memory_in_bytes() -> None:
    """The kernel tells kB and means KiB."""
    text = "1000-2000 ---p 00000000 00:00 0 [rollup]\nRss: 10 kB\nPss: 3 kB\nPss_Anon: 2 kB\n"
    assert parse_smaps(text) == {"Rss": 10240, "Pss": 3072, "Pss_Anon": 2048}


@pytest.mark.parametrize(("pid", "parent", "command", "role"), [
    (1, None, "python -m supervisor --workers 8", Role.MAIN),
    (2, Role.MAIN, "python -c from multiprocess.forkserver import main", Role.FORKSERVER),
    (3, Role.FORKSERVER, "python -c from multiprocess.forkserver import main", Role.WORKER),
    (4, Role.MAIN, "python -c from multiprocess.resource_tracker import main", Role.TRACKER),
    (5, Role.MAIN, "python -m healthcheck --block b", Role.SIDECAR),
    (5, Role.FORKSERVER, "python -m healthcheck --block b", Role.SIDECAR),
    (6, Role.FORKSERVER, "python -m keeper", Role.KEEPER),
    (6, Role.MAIN, "python -m supervisor --workers 8", Role.OTHER),
])
def test_bench_tells_processes_apart(
    pid: int, parent: Role | None, command: str, role: Role
) -> None:
    """A worker has the command line of its forkserver; a fresh fork that of its parent."""
    assert role_of(pid, 1, parent, command) is role


def test_bench_counts_cpu_of_ended_children_and_memory_of_living_ones() -> None:
    """A worker that died and came back must not make its CPU time vanish."""
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"burnt\n"
            family = Family(process.pid)
            assert sum(family.cpu_s().values()) >= 0.3 - 3 / TICKS_PER_SECOND
            (memory,) = family.memory()
            assert memory.pid == process.pid
            assert 0 < memory.anonymous <= memory.pss
        finally:
            process.kill()
    wait_until(lambda: not family.members(), 5, "nobody is left")


def test_bench_sees_every_process_of_a_session() -> None:
    """What is not seen is not counted, and the figure looks better than it is."""
    script = "sleep 60 & sleep 60 & wait"
    with subprocess.Popen(["sh", "-c", script], start_new_session=True) as process:
        family = Family(process.pid)
        try:
            wait_until(lambda: len(family.members()) == 3, 5, "the shell and its two children")
            assert os.getpid() not in {member.pid for member in family.members()}
        finally:
            os.killpg(process.pid, 9)


def test_bench_peak_keeps_the_processes_of_its_moment() -> None:
    """The table by process must add up to the peak."""
    family = Family(os.getsid(0))
    now = family.memory()
    seen = Watched()
    seen.add(now)
    seen.add([])
    assert seen.peak == sum(process.pss for process in now)
    assert seen.at_peak == now
    assert (seen.samples, seen.last, seen.mean) == (2, 0, seen.peak / 2)


def test_bench_sums_metrics_over_labels() -> None:
    """Progress is over all topics; a time stamp is the latest of them."""
    text = '# HELP rows x\nrows{topic="a b"} 3\nrows{topic="c"} 4.0\nup 1\n'
    assert parse_metrics(text) == {"rows": 7.0, "max:rows": 4.0, "up": 1.0, "max:up": 1.0}


@pytest.mark.parametrize(("found", "is_right"), [
    (places((0, 5), (0, 6), (1, 0)), True),
    (places((0, 5), (1, 0)), False),
    (places((0, 5), (0, 5), (1, 0)), False),
    (places((0, 5), (0, 6), (0, 6), (1, 0)), False),
    (places((0, 4), (0, 5), (1, 0)), False),
    (places((0, 5), (0, 6)), False),
    (places((0, 5), (0, 6), (1, 0), (2, 0)), False),
])
def test_bench_finds_every_kind_of_incompleteness(found: pa.Table, is_right: bool) -> None:
    """Missing, doubled, missing and doubled at once, shifted, a partition too few or too many."""
    ranges = {0: (5, 7), 1: (0, 1), 3: (9, 9)}
    assert (not list(faults_of("t", ranges, found))) is is_right


def test_bench_payloads_are_what_the_page_says() -> None:
    """About 210 bytes of JSON, distinct, the same in every run; malformed ones are malformed."""
    good = make_payloads(500)
    assert len(set(good)) == 500
    assert good == make_payloads(500)
    assert all(190 <= len(value) <= 230 and find_flaw(value) is None for value in good)
    assert all(find_flaw(value) is not None for value in make_malformed(good[0]))


def test_bench_cpu_of_a_phase_holds_roles_born_in_it() -> None:
    """A sidecar started anew in a phase counts from zero."""
    used = difference({Role.MAIN: 3.0, Role.SIDECAR: 1.0}, {Role.MAIN: 1.0})
    assert used == {Role.MAIN: 2.0, Role.SIDECAR: 1.0}


def test_bench_quick_run_does_not_count_as_a_full_one() -> None:
    """Only a full run may replace the page in the repository."""
    assert parse([]).is_full
    assert not parse(["--quick"]).is_full
    assert not parse(["--messages", "100000"]).is_full
    with pytest.raises(SystemExit):
        parse(["--messages", "0"])


def test_bench_knows_its_scenarios() -> None:
    """A misspelt one must not be left out silently."""
    assert parse(["growth", "drain", "growth"]).scenarios == ["growth", "drain"]
    assert set(parse(["all"]).scenarios) > set(parse([]).scenarios)
    with pytest.raises(SystemExit):
        parse(["drian"])


def test_bench_sampler_sees_a_peak_between_two_looks() -> None:
    """PSS is read rarely; what comes and goes in between must be seen all the same."""
    script = ("import time\ntime.sleep(1)\nkept = bytearray(80_000_000)\ntime.sleep(1)\n"
              "del kept\ntime.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", script], start_new_session=True) as process:
        try:
            with Sampler(process.pid, full_s=30.0) as sampler:
                wait_until(lambda: sampler.seen.steps > 30, 20, "the peak has come and gone")
        finally:
            process.kill()
    assert sampler.seen.peak > 80_000_000
    assert sampler.seen.samples < sampler.seen.steps / 2
    assert sampler.seen.highest_estimate <= sampler.seen.peak


def test_bench_thinned_series_keeps_its_peak() -> None:
    """The curve must reach what the table says."""
    series = [(float(number), {Role.MAIN: 5 if number == 37 else 1}) for number in range(101)]
    found = thinned(series, 10)
    assert len(found) <= 10
    assert (37.0, {Role.MAIN: 5}) in found
    assert thinned(series, 1000) == series
    assert thinned([], 10) == []


def test_bench_rota_gives_one_topic_nine_tenths() -> None:
    """Malformed messages included; every other topic gets as much as the others."""
    rota = skewed_rota(8)
    assert rota.count(0) == 0.9 * len(rota)
    assert {rota.count(other) for other in range(1, 8)} == {1}


@pytest.mark.real
def test_bench_load_sends_what_it_counts(kafka: KafkaService) -> None:
    """By topic and partition, by rota, and values of 1 MB as large as they are said to be."""
    topics = [f"load-{uuid.uuid4().hex[:6]}-{number}" for number in range(3)]
    for topic in topics:
        kafka.create_topic(topic, 2)
    load = Load(kafka.bootstrap, topics, 2, [0, 0, 0, 1])
    load.produce(4000, lambda _count: None)
    load.produce_large(topics[2], 3, 1_000_000, lambda _count: None)
    held = {topic: sum(end - first for first, end in kafka.offset_ranges(topic).values())
            for topic in topics}
    assert held == load.sent
    assert held[topics[0]] == 3 * held[topics[1]]
    assert held[topics[2]] == 3
    assert sum(load.malformed.values()) == 4
