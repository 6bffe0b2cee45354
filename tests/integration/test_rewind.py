"""`rewind` on a real Kafka and a real MinIO: each offset exactly once, whatever is killed.

The rig's judge holds every row against what was written, by two readers, as it does for the
service's own tables.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.conftest import TopicNames
from tests.rig.checker import check
from tests.rig.environment import clean_environment
from tests.rig.lake import bronze_table, list_numbers, open_lake, read_numbered
from tests.rig.ledger import ROW_KINDS, Kind
from tests.rig.s3_proxy import PASS, RESET_AFTER, RESET_BEFORE, Action, S3Proxy
from tests.rig.scene import START_S, Scene
from tests.rig.service import ROOT
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

PARTITIONS = 2
MESSAGES = 1_500
"""Before and after the middle of each scene, over all partitions."""
LANDING_S = 60
TOOL_S = 120
SMALL_CHUNKS = {"CYCLE_BYTES_MAX": "40000"}
"""So that a rewind has several commits."""


def rewind(environ: Mapping[str, str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Run the tool as people do: its exit code and its report."""
    return run("rewind", environ, *argv)


def verify(environ: Mapping[str, str], *argv: str) -> tuple[int, dict[str, Any]]:
    """The same of `verify`."""
    return run("verify", environ, *argv)


def run(tool: str, environ: Mapping[str, str], *argv: str) -> tuple[int, dict[str, Any]]:
    """The same of any tool."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", tool, "--json", *argv], cwd=ROOT,
        env=clean_environment() | dict(environ), capture_output=True, text=True,
        timeout=TOOL_S, check=False)
    assert done.stdout, done.stderr
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def texts(report: dict[str, Any]) -> str:
    """All that was found, for a test to search in."""
    return "\n".join(f"{line['subject']} {line['status']} {line['found']}"
                     for line in report["lines"])


class Past:
    """A scene whose service has brought everything into bronze, in two parts, and has ended.

    middle: partition -> the offset behind the first part; ends: behind all; between: Unix time.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.topic = scene, scene.topics[0]
        with scene.service(KEEPER_INTERVAL_SECONDS="1") as service:
            service.wait_healthy(START_S)
            with scene.producer(1) as producer:
                producer.produce_transaction(self.topic, 0, 20, commit=False)
                producer.produce_transaction(self.topic, 1, 20, commit=True)
                producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
            self.middle = self._positions()
            self.between_s = time.time()
            service.wait_for(
                lambda page: page["keeper"]["ledger_behind"] == 0
                and page["keeper"]["last_turn"] is not None, LANDING_S, "all is in the ledger")
            self.cycle = self._newest_cycle()
            wait_until(lambda: time.time() > self.between_s + 1, 5, "time has passed")
            with scene.producer(2) as producer:
                producer.produce_transaction(self.topic, 0, 20, commit=False)
                producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
            service.wait_for(lambda page: page["keeper"]["ledger_behind"] == 0, LANDING_S,
                             "all is in the ledger")
            self.ends = self._positions()
            assert service.terminate() == 0

    def _positions(self) -> dict[int, int]:
        found = self.scene.positions(self.topic)
        return {partition: position for partition, position in found.items()
                if position is not None}

    def _newest_cycle(self) -> int:
        lake = open_lake(self.scene.lake_uri, self.scene.options)
        records = [json.loads(data) for data in read_numbered(lake, "_bronze/log").values()]
        return max(record["cycle_id"] for record in records if record["kind"] == "cycle")

    @property
    def environ(self) -> dict[str, str]:
        """For the tool."""
        return self.scene.environ

    def judge(self, name: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> int:
        """Each offset of these ranges is in the rewind's tables once, by both readers; how many
        rows there are."""
        spans = {partition: (start, ends[partition]) for partition, start in starts.items()}
        report = check(self.scene.ledger, self.scene.lake_uri, self.scene.options, [self.topic],
                       prefix=f"rewind_{name}_", spans=spans)
        report.assert_ok()
        rows = report.checked["rows by duckdb"]
        assert rows == report.checked["rows by deltalake"] > 0
        written = (self.scene.ledger.partition(self.topic, partition).kinds[start:end]
                   for partition, (start, end) in spans.items())
        assert rows == sum(kind in ROW_KINDS for kinds in written for kind in kinds)
        return rows

    def commits(self, name: str) -> int:
        """How many records the rewind has made."""
        lake = open_lake(self.scene.lake_uri, self.scene.options)
        return len(list_numbers(lake, f"_bronze/rewinds/{name}/{self.topic}"))


@pytest.fixture
def past(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> Past:
    """Give a scene whose service has ended well."""
    return Past(Scene(kafka, minio, topic_names(1), lake_prefix, partitions=PARTITIONS))


def test_back_to_an_offset_a_time_and_a_cycle(past: Past) -> None:
    """Each offset behind it, once, in tables of its own; bronze stays as it was; again, and
    nothing is done."""
    before = past.scene.positions(past.topic)
    listed = ",".join(f"{part}:{offset - 5}" for part, offset in past.middle.items())
    code, report = rewind(past.environ, past.topic, "--to-offset", listed, "--into", "a",
                          "--dry-run")
    assert code == 0 and "into rewind_a_bronze_" in texts(report)
    assert past.commits("a") == 0
    code, report = rewind(past.environ, past.topic, "--to-offset", listed, "--into", "a")
    assert code == 0, report
    past.judge("a", {part: offset - 5 for part, offset in past.middle.items()}, past.ends)
    commits = past.commits("a")
    code, report = rewind(past.environ, past.topic, "--to-offset", listed, "--into", "a")
    assert code == 0 and "complete already, nothing was done" in texts(report)
    assert past.commits("a") == commits > 0

    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(past.between_s + 1))
    code, report = rewind(past.environ, past.topic, "--to-time", moment, "--into", "b")
    assert code == 0, report
    past.judge("b", past.middle, past.ends)

    code, report = rewind(past.environ, past.topic, "--to-cycle", str(past.cycle), "--into", "c")
    assert code == 0, report
    past.judge("c", past.middle, past.ends)

    code, report = rewind(past.environ, past.topic, "--to-offset", "0:0,1:0", "--into", "d",
                          "--until-cycle", str(past.cycle))
    assert code == 0, report
    past.judge("d", {0: 0, 1: 0}, past.middle)
    assert past.scene.positions(past.topic) == before
    past.scene.judge()


@pytest.fixture(scope="module")
def kept(service_provider: Any) -> Iterator[dict[str, Past]]:
    """Give a place for a scene that is only read, so that it is made once."""
    yield {}


@pytest.fixture
def shared_past(
    kept: dict[str, Past], kafka: KafkaService, minio: MinioService, topic_names: TopicNames,
    lake_prefix: str,
) -> Past:
    """Give a scene that the tests of this module share; each rewinds into a name of its own."""
    if "past" not in kept:
        kept["past"] = Past(Scene(kafka, minio, topic_names(1), lake_prefix,
                                  partitions=PARTITIONS))
    return kept["past"]


REWIND = r"/_bronze/rewinds/[^/]+/[^/]+"
POINTS: Mapping[str, tuple[str, bool, Action, int]] = {
    "plan not sent": (REWIND + r"/plan\.json$", False, RESET_BEFORE, 0),
    "plan made": (REWIND + r"/plan\.json$", True, RESET_AFTER, 0),
    "table made": (r"/rewind_.*_bronze_.*/_delta_log/0{20}\.json$", True, PASS, 0),
    "tables made": (r"/rewind_.*_dlq_bronze_.*/_delta_log/0{20}\.json$", True, PASS, 0),
    "begin not sent": (r"/rewind_[^_]+_bronze_.*/_delta_log/0{19}1\.json$", False,
                       RESET_BEFORE, 0),
    "begun": (r"/rewind_[^_]+_bronze_.*/_delta_log/0{19}1\.json$", True, RESET_AFTER, 0),
    "uploaded": (r"/rewind_.*\.parquet$", True, PASS, 2),
    "record not sent": (REWIND + r"/\d+\.json$", False, RESET_BEFORE, 1),
    "decided": (REWIND + r"/\d+\.json$", True, RESET_AFTER, 1),
    "dead letters not sent": (r"/rewind_[^_]+_dlq_bronze_.*/_delta_log/\d{19}[1-9]\.json$", False,
                              RESET_BEFORE, 1),
    "dead letters in": (r"/rewind_[^_]+_dlq_bronze_.*/_delta_log/\d{19}[1-9]\.json$", True,
                        RESET_AFTER, 1),
    "rows in": (r"/rewind_[^_]+_bronze_.*/_delta_log/\d{19}[2-9]\.json$", True, RESET_AFTER, 1),
}
"""Step -> the PUT that marks it, whether it strikes before or after the store has it, what becomes
of the request or its answer, and how many such requests are let alone first."""


@pytest.fixture
def proxy(minio: MinioService) -> Iterator[S3Proxy]:
    """Give a proxy before the store, and fail when one of its callbacks failed."""
    with S3Proxy(minio.endpoint) as made:
        yield made
        assert made.errors == []


@pytest.mark.parametrize("step", POINTS)
def test_killed_at_a_step_and_run_again_every_offset_is_there_once(
    step: str, shared_past: Past, proxy: S3Proxy
) -> None:
    """SIGKILL between two requests; the next run goes on, by what the lake holds."""
    past, name = shared_past, step.replace(" ", "-")
    path, is_after, action, skip = POINTS[step]
    environ = past.environ | SMALL_CHUNKS | {"AWS_ENDPOINT_URL": proxy.endpoint}
    argv = [past.topic, "--to-offset", "0:7,1:11", "--into", name]
    tool = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "rewind", *argv], cwd=ROOT,
        env=clean_environment() | environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(_: object) -> None:
        os.kill(tool.pid, signal.SIGKILL)

    rule = proxy.rule(method="PUT", path_regex=path, action=action, times=1, skip=skip,
                      on_match=None if is_after else kill, on_effect=kill if is_after else None)
    assert tool.wait(TOOL_S) == -signal.SIGKILL
    assert rule.fired == 1
    proxy.clear()
    code, report = rewind(environ, *argv)
    assert code == 0, report
    past.judge(name, {0: 7, 1: 11}, past.ends)
    assert past.commits(name) > 3
    assert verify(past.environ, "--deep", "--rewind", name)[0] == 0


@pytest.mark.parametrize("step", ["plan made", "begun", "decided", "dead letters in", "rows in"])
def test_an_answer_that_is_lost_is_read_back(
    step: str, shared_past: Past, proxy: S3Proxy
) -> None:
    """An error of a commit is a question, not an answer."""
    past, name = shared_past, f"lost-{step.replace(' ', '-')}"
    path, _, _, skip = POINTS[step]
    rule = proxy.rule(method="PUT", path_regex=path, action=RESET_AFTER, times=2, skip=skip)
    code, report = rewind(
        past.environ | SMALL_CHUNKS | {"AWS_ENDPOINT_URL": proxy.endpoint},
        past.topic, "--to-offset", "0:7,1:11", "--into", name)
    assert code == 0, report
    assert rule.fired >= 1
    past.judge(name, {0: 7, 1: 11}, past.ends)


def test_two_runs_at_once_put_no_row_twice(shared_past: Past) -> None:
    """What one of them has decided, the other one leaves to it."""
    past = shared_past
    argv = [sys.executable, "-m", "supervisor", "rewind", "--json", past.topic, "--to-offset",
            "0:0,1:0", "--into", "twins"]
    tools = [subprocess.Popen(argv, cwd=ROOT, env=clean_environment() | past.environ | SMALL_CHUNKS,
                              stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [tool.communicate(timeout=TOOL_S)[0] for tool in tools]
    assert [tool.returncode for tool in tools] == [0, 0], told
    past.judge("twins", {0: 0, 1: 0}, past.ends)


def test_what_must_not_be_begun_is_refused_and_nothing_is_made(shared_past: Past) -> None:
    """Nothing behind it; a partition that is not there; another request of the same name."""
    past = shared_past
    ends = ",".join(f"{part}:{offset}" for part, offset in past.ends.items())
    for argv in (["--to-offset", ends], ["--to-time", "2100-01-01T00:00:00Z"],
                 ["--to-cycle", str(past._newest_cycle())]):
        code, report = rewind(past.environ, past.topic, *argv, "--into", "nothing")
        assert code == 0 and "nothing is to be read again" in texts(report), report
    for argv, words in (
        (["--to-offset", "7:0"], "has no position for 1 partition: 7"),
        (["--to-cycle", "99999"], "CycleNotFound"),
        (["--to-offset", "0:0", "--until-offset", "9:1"], "has no position"),
    ):
        code, report = rewind(past.environ, past.topic, *argv, "--into", "nothing")
        assert code == 1 and words in texts(report), report
    assert past.commits("nothing") == 0
    code, report = rewind(past.environ, "no-such-topic", "--to-offset", "0:0")
    assert code == 1 and "KAFKA_TOPICS" in texts(report)

    begin = ["--until-offset", "0:40", "--into", "taken"]
    assert rewind(past.environ, past.topic, "--to-offset", "0:0", *begin)[0] == 0
    past.judge("taken", {0: 0}, {0: 40})
    code, report = rewind(past.environ, past.topic, "--to-offset", "0:1", *begin)
    assert code == 1 and "was begun to offset 0:0 until offset 0:40" in texts(report)


def test_beside_a_running_service_nobody_notices(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """Its group, its offsets and its tables are its own; both are judged, and verify passes."""
    scene = Scene(kafka, minio, topic_names(1), lake_prefix, partitions=PARTITIONS)
    topic = scene.topics[0]
    with scene.service(KEEPER_INTERVAL_SECONDS="1") as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.start_background(400)
        wait_until(lambda: min((position or 0 for position in scene.positions(topic).values()),
                               default=0) > 300, LANDING_S, "something has landed")
        rebalances = service.get("/metrics")[1].decode().count("rebalance")
        code, report = rewind(scene.environ | SMALL_CHUNKS, topic, "--to-offset", "0:0,1:0",
                              "--into", "beside")
        assert code == 0, report
        plan = json.loads(open_lake(scene.lake_uri, scene.options).open_input_stream(
            f"_bronze/rewinds/beside/{topic}/plan.json").read())
        assert service.get("/metrics")[1].decode().count("rebalance") == rebalances
        assert kafka.committed_offsets("bronze-rewind", topic) == {}
        page = service.health()
        assert page["status"] == "healthy" and page["topics"][topic]["restarts"] == 0
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        assert service.terminate() == 0
    scene.judge()
    ends = {part["partition"]: part["end"] for part in plan["parts"]}
    check(scene.ledger, scene.lake_uri, scene.options, [topic], prefix="rewind_beside_",
          spans={partition: (0, end) for partition, end in ends.items()}).assert_ok()
    for options in ([], ["--rewind", "beside"]):
        code, told = verify(scene.environ, "--deep", *options)
        assert code == 0 and topic in texts(told), told


def test_what_kafka_has_deleted_is_named_and_takes_a_word_to_go_on(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """By offset and by time, exactly; with --allow-gaps the rest is read and the loss recorded."""
    past = Past(Scene(kafka, minio, topic_names(1), lake_prefix, partitions=PARTITIONS))
    low = past.middle[0] - 100
    kafka.delete_records(past.topic, {0: low})
    argv = [past.topic, "--to-offset", "0:10,1:0", "--into", "gap"]
    code, report = rewind(past.environ, *argv)
    assert code == 1
    assert f"Kafka no longer has {low - 10} offsets of it: partition 0: [10, {low})" in texts(report)
    assert past.commits("gap") == 0
    first = past.scene.ledger.partition(past.topic, 0).kinds.find(Kind.VALID)
    code, report = rewind(past.environ, past.topic, "--to-time", "2000-01-01T00:00:00Z",
                          "--into", "time", "--dry-run")
    assert code == 1 and f"partition 0: [{first}, {low})" in texts(report), report

    code, report = rewind(past.environ, *argv, "--allow-gaps")
    assert code == 0, report
    assert f"offsets [10, {low}) are in none: retention" in texts(report)
    past.judge("gap", {0: low, 1: 0}, past.ends)
    code, report = rewind(past.environ, *argv)
    assert code == 0 and "complete already" in texts(report)


def test_retention_that_overtakes_a_run_stops_the_next_one(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> None:
    """A killed run's rest may be gone when it is gone on with: it is named before it is passed."""
    past = Past(Scene(kafka, minio, topic_names(1), lake_prefix, partitions=PARTITIONS))
    argv = [past.topic, "--to-offset", "0:0,1:0", "--into", "late"]
    tool = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "rewind", *argv], cwd=ROOT,
        env=clean_environment() | past.environ | SMALL_CHUNKS
        | {"AWS_ENDPOINT_URL": proxy.endpoint},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy.rule(method="PUT", path_regex=REWIND + r"/\d+\.json$", action=RESET_BEFORE, skip=2,
               on_match=lambda _: os.kill(tool.pid, signal.SIGKILL))
    assert tool.wait(TOOL_S) == -signal.SIGKILL
    low = past.ends[0] - 50
    kafka.delete_records(past.topic, {0: low})
    code, report = rewind(past.environ, *argv)
    assert code == 1 and f", {low})" in texts(report), report
    code, report = rewind(past.environ, *argv, "--allow-gaps")
    assert code == 0, report
    lost = [line["found"] for line in report["lines"] if "are in none" in line["found"]]
    assert len(lost) == 1 and f", {low}) are in none" in lost[0]
    start = int(lost[0].split("[")[1].split(",")[0])
    past.scene.ledger.partition(past.topic, 0).forgive(start, low)
    check(past.scene.ledger, past.scene.lake_uri, past.scene.options, [past.topic],
          prefix="rewind_late_", spans={0: (0, past.ends[0]), 1: (0, past.ends[1])}).assert_ok()
