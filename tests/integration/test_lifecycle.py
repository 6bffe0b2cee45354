"""Starting, stopping, dying and surviving: the service as systemd and the person on call see it.

Many tests look at one long run (`steady`), each leaving it healthy; the last of them stops it and
has everything judged that was ever written to it. The others have runs of their own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from confluent_kafka import ConsumerGroupState
from deltalake import Field, write_deltalake
from deltalake.schema import PrimitiveType

from shared.config import load
from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.checker import check, check_log, group_offsets_equal_txn
from tests.rig.evidence import Evidence, Strike
from tests.rig.lake import bronze_table, open_lake, read_commits
from tests.rig.producer import LoadProducer
from tests.rig.s3_proxy import S3Proxy, fail_before, hang
from tests.rig.scene import forkserver_pid, kill
from tests.rig.service import ROOT, Service
from tests.services import KafkaService, MinioService
from tests.services.ports import free_ports
from tests.waiting import wait_until
from workers.kafka_source import REQUEST_TIMEOUT_S, KafkaSource

PARTITIONS = 2
HEARTBEAT_LIMIT_S = 5
IDLE_S = 10
IDLE_LOOKS = 3
IDLE_WAKE_UPS_MAX = 1500
"""Per second: the whole service at rest is no dearer than one process that wakes up so often.

Both are measured in the same seconds, for a crowded host makes the same work many times dearer.
Here that many cost 0.02 of a core, and the service 0.01.
"""
ORPHANS_END_S = 5
FILES_MIN = 2
"""Files that compaction must find, or it does nothing."""
CONFIG_EXIT_S = 2
PORT_EXIT_S = 15
AGES = 300
"""Seconds that a held request hangs; every test ends long before."""


@pytest.fixture(scope="module")
def kept() -> Iterator[ls.Kept]:
    """Keep what several tests of this module look at."""
    with ExitStack() as stack:
        yield ls.Kept(stack)


class NotifySocket:
    """The other end of sd_notify: takes every datagram, from the start."""

    def __init__(self) -> None:
        self.address = f"@bronze-test-{uuid.uuid4().hex}"
        self.lines: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:])
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(4096):
                moment = time.monotonic()
                self.lines += [(moment, line) for line in data.decode().splitlines()]

    def times(self, beginning: str) -> list[float]:
        """When lines came that begin so."""
        return [moment for moment, line in self.lines if line.startswith(beginning)]

    def close(self) -> None:
        """End the thread with its socket."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@dataclass(frozen=True)
class Steady:
    """The long run: three topics in a folder, with a ledger of all that was written."""

    service: Service
    kafka: KafkaService
    lake: ls.Lake
    topics: list[str]
    group: str
    producer: LoadProducer
    notify: NotifySocket

    def land(self, count: int = 300, timeout_s: float = ls.LAND_S) -> None:
        """Write more messages, and wait until they and all before are in."""
        self.producer.produce(count)
        for topic in self.topics:
            for number, part in self.producer.ledger.partitions(topic):
                ls.wait_for_position(
                    self.service, self.lake, topic, len(part), number, timeout_s)

    def restarts(self) -> dict[str, int]:
        """Restarts per topic, as /health has them."""
        return {topic: entry["restarts"] for topic, entry in self.service.topics().items()}


@pytest.fixture
def steady(
    kafka: KafkaService, kept: ls.Kept, topic_names: TopicNames,
    tmp_path_factory: pytest.TempPathFactory,
) -> Steady:
    """Give the long run, healthy and with nothing left to do."""
    if "steady" not in kept.things:
        topics = topic_names(3)
        ls.create_topics(kafka, topics, PARTITIONS)
        lake = ls.folder_lake(tmp_path_factory.mktemp("steady"))
        notify = NotifySocket()
        kept.closing.callback(notify.close)
        environ = ls.settings(
            kafka.bootstrap, lake, topics, NOTIFY_SOCKET=notify.address,
            STORE_TIMEOUT_SECONDS="1.5", HEARTBEAT_LIMIT_SECONDS=HEARTBEAT_LIMIT_S)
        producer = kept.closing.enter_context(LoadProducer(kafka.bootstrap, topics, PARTITIONS))
        service = kept.closing.enter_context(Service(environ, len(topics)))
        kept.things["steady"] = Steady(
            service, kafka, lake, topics, ls.group_of(topics), producer, notify)
        service.wait_healthy(ls.START_S)
    run: Steady = kept.things["steady"]
    run.land()
    run.service.wait_healthy(20)
    return run


# The long run


def test_systemd_hears_ready_status_and_the_watchdog(steady: Steady) -> None:
    """Type=notify: without READY the unit never starts, without WATCHDOG it is killed."""
    notify = steady.notify
    assert len(notify.times("READY=1")) == 1
    wait_until(
        lambda: "STATUS=3 of 3 topics active" in [line for _, line in notify.lines], 10,
        lambda: f"the status is told: {notify.lines[-5:]}")
    seen = len(notify.times("WATCHDOG=1"))
    wait_until(lambda: len(notify.times("WATCHDOG=1")) > seen + 2, 10, "the watchdog is fed")
    assert not notify.times("STOPPING=1")


def test_sighup_is_logged_and_ignored(steady: Steady) -> None:
    """Its default would end the service, for instance with the terminal it was started from."""
    os.kill(steady.service.pid, signal.SIGHUP)
    wait_until(lambda: steady.service.log_events("signal_ignored"), 5, "SIGHUP is logged")
    steady.land()
    assert set(steady.restarts().values()) == {0}


def test_idle_service_uses_no_cpu_and_writes_nothing(steady: Steady) -> None:
    """Eight topics at rest on a small machine must not cost what others need."""
    store = open_lake(steady.lake.uri)
    versions = {t: len(read_commits(store, bronze_table(t))) for t in steady.topics}
    written = ls.records(steady.lake)
    looks = []
    with _waking_up(IDLE_WAKE_UPS_MAX) as yardstick:
        while len(looks) < IDLE_LOOKS and not any(used < limit for used, limit, _ in looks):
            before, limit_before = steady.service.cpu_seconds(), _cpu_seconds(yardstick)
            time.sleep(IDLE_S)  # A rate over time is measured: nothing could end the wait early.
            used = {name: seconds - before.get(name, 0.0)
                    for name, seconds in steady.service.cpu_seconds().items()}
            looks.append((sum(used.values()), _cpu_seconds(yardstick) - limit_before, used))
    assert any(used < limit for used, limit, _ in looks), str(looks)
    assert versions == {t: len(read_commits(store, bronze_table(t))) for t in steady.topics}
    assert written == ls.records(steady.lake)


@contextlib.contextmanager
def _waking_up(times_per_s: int) -> Iterator[psutil.Popen]:
    """A process that does nothing else."""
    program = f"import time\nwhile True: time.sleep({1 / times_per_s})"
    with psutil.Popen([sys.executable, "-c", program]) as process:
        try:
            yield process
        finally:
            process.kill()


def _cpu_seconds(process: psutil.Popen) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_processes_are_listed_with_what_each_is_for(steady: Steady) -> None:
    """`ps` at night: which topic a process is for, and nothing of its environment."""
    for topic, pid in steady.service.worker_pids().items():
        process = psutil.Process(pid)
        assert " ".join(process.cmdline()) == f"{sys.executable} -m workers {topic}"
        assert not any(process.environ().values())


def test_killed_worker_disturbs_no_other_topic(steady: Steady) -> None:
    """One group of static members: a death moves nobody's partitions."""
    victim, *others = steady.topics
    restarts, pids = steady.restarts(), steady.service.worker_pids()
    revoked = len(steady.service.log_events("partitions_revoked"))
    moved = {t: ls.metric(steady.service, "bronze_rebalances_total", topic=t) for t in others}
    members = _members(steady)
    assert set(members) == {f"bronze-0-{topic}" for topic in steady.topics}
    kill(pids[victim])
    steady.land()
    after = steady.service.worker_pids()
    assert after[victim] != pids[victim]
    assert [after[t] for t in others] == [pids[t] for t in others]
    assert steady.restarts() == {**restarts, victim: restarts[victim] + 1}
    assert len(steady.service.log_events("partitions_revoked")) == revoked
    assert moved == {
        t: ls.metric(steady.service, "bronze_rebalances_total", topic=t) for t in others}
    now = _members(steady)
    assert {n: m for n, m in now.items() if victim not in n} == {
        n: m for n, m in members.items() if victim not in n}


def _members(steady: Steady) -> dict[str, str]:
    """Static member to the id that the broker gave it, of the one group."""
    (answer,) = steady.kafka.admin().describe_consumer_groups([steady.group]).values()
    group = answer.result(timeout=20)
    assert group.state is ConsumerGroupState.STABLE
    return {str(member.group_instance_id): member.member_id for member in group.members}


@pytest.mark.fault("P8")
def test_stopped_worker_is_replaced_and_never_comes_back(
    steady: Steady, evidence: Evidence
) -> None:
    """A process that hangs without dying is as good as dead, and must not wake up later."""
    victim = steady.topics[1]
    restarts, pids = steady.restarts(), steady.service.worker_pids()
    old = psutil.Process(pids[victim])
    old.suspend()
    steady.service.wait_for(
        lambda page: page["topics"][victim]["pid"] not in (0, pids[victim]),
        HEARTBEAT_LIMIT_S + 20, "the worker is replaced")
    assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE
    with contextlib.suppress(psutil.NoSuchProcess):
        old.resume()
    assert [e["topic"] for e in steady.service.log_events("worker_stalled")] == [victim]
    steady.land()
    assert steady.restarts() == {**restarts, victim: restarts[victim] + 1}
    assert ls.metric(steady.service, "bronze_worker_stalls_total", topic=victim) == 1
    evidence.struck(Strike.FREEZE, "worker frozen for longer than its limit")


@pytest.mark.fault("P9")
def test_whole_service_survives_being_stopped_for_longer_than_every_limit(
    steady: Steady, evidence: Evidence
) -> None:
    """A virtual machine that was suspended: nobody's silence counts, nobody is killed."""
    restarts, pids = steady.restarts(), steady.service.worker_pids()
    everybody = [psutil.Process(pid) for pid in steady.service.all_pids()]
    for process in everybody:
        process.suspend()
    time.sleep(HEARTBEAT_LIMIT_S + 2)  # Frozen: there is nothing to wait for but the time itself.
    for process in everybody:
        process.resume()
    steady.land()
    steady.service.wait_healthy(10)
    assert steady.restarts() == restarts
    assert steady.service.worker_pids() == pids
    assert len(steady.service.log_events("supervisor_was_frozen")) == 1
    evidence.struck(Strike.FREEZE, "whole service frozen", len(everybody))


@pytest.mark.fault("P7")
def test_killed_forkserver_and_sidecar_come_back(steady: Steady, evidence: Evidence) -> None:
    """Helpers are processes like others: whatever dies, the service mends itself."""
    server, sidecar = forkserver_pid(steady.service), steady.service.sidecar_pid()
    assert server is not None and sidecar is not None
    kill(server)
    kill(sidecar)
    steady.service.wait_healthy(30)
    steady.land()
    assert steady.service.sidecar_pid() not in (None, sidecar)
    kill(steady.service.worker_pids()[steady.topics[0]])
    steady.land(timeout_s=40)
    assert len(steady.service.worker_pids()) == 3
    evidence.struck(Strike.KILL, "forkserver")
    evidence.struck(Strike.KILL, "sidecar")


def test_other_writers_on_the_tables_do_not_disturb(steady: Steady) -> None:
    """Maintenance runs beside us: compaction, vacuum, a column somebody adds."""
    topic = steady.topics[2]
    restarts = steady.restarts()
    for _ in range(FILES_MIN):
        steady.land()
    steady.producer.start_background(200)
    try:
        table = ls.open_table(steady.lake, bronze_table(topic))
        assert table.optimize.compact()["numFilesRemoved"] >= FILES_MIN
        added = Field("_added_by_others", PrimitiveType("string"), nullable=True)
        ls.open_table(steady.lake, bronze_table(topic)).alter.add_columns([added])
        at = ls.position(steady.lake, topic) or 0
        ls.wait_for_position(steady.service, steady.lake, topic, at + 50)
        table = ls.open_table(steady.lake, bronze_table(topic))
        assert table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
        table.create_checkpoint()
        table.cleanup_metadata()
        at = ls.position(steady.lake, topic) or 0
        ls.wait_for_position(steady.service, steady.lake, topic, at + 50)
    finally:
        steady.producer.stop_background()
    steady.land()
    steady.service.wait_healthy(10)
    assert steady.restarts() == restarts
    kill(steady.service.worker_pids()[topic])
    steady.land()


def test_sigterm_ends_the_long_run_cleanly_and_everything_is_there_once(steady: Steady) -> None:
    """After all that was done to it: exit 0, nobody left, and every row exactly once."""
    assert steady.service.terminate(20) == 0
    steady.service.wait_gone(2)
    assert len(steady.notify.times("STOPPING=1")) == 1
    ledger, lake = steady.producer.ledger, steady.lake
    # Of the topic that others wrote to, the judge would only say that it has a column more.
    *own, shared = steady.topics
    check(ledger, lake.uri, None, own).assert_ok()
    commits = check_log(lake.uri, None, own, ledger=ledger)
    # Records name files that were compacted since, and vacuumed: of the shared table, no others.
    assert commits.kinds() <= {"file_missing"}, str(commits)
    assert {found.where for found in commits.anomalies} <= {bronze_table(shared)}
    landed = [*ls.rows(lake, shared), *ls.dead_letters(lake, shared)]
    for number, part in ledger.partitions(shared):
        assert sorted(ls.offsets_of(landed, number)) == list(range(len(part)))
    group_offsets_equal_txn(
        steady.kafka.bootstrap, steady.group, lake.uri, None,
        dict.fromkeys(steady.topics, PARTITIONS)).assert_ok()


# Exit codes


@pytest.mark.fault("H7")
def test_bad_configuration_ends_with_78_within_two_seconds(
    tmp_path: Path, evidence: Evidence
) -> None:
    """systemd must not restart it, and whoever typed it should not have to wait."""
    environ = {"PATH": os.environ["PATH"], "KAFKA_TOPICS": "a,a", "BATCH_INTERVAL_SECONDS": "soon"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "supervisor"], cwd=ROOT, env=environ, capture_output=True,
        text=True, timeout=20)
    assert time.monotonic() - began < CONFIG_EXIT_S
    assert done.returncode == 78
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_TOPICS", "LAKE_URI", "BATCH_INTERVAL_SECONDS"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
    evidence.struck(Strike.HOST, "bad configuration")


@pytest.mark.fault("H6")
def test_taken_port_ends_with_78_after_a_bounded_wait(
    tmp_path: Path, evidence: Evidence
) -> None:
    """Two services on one port: the second one must say so, and not run without a page."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environ = ls.settings("127.0.0.1:1", ls.folder_lake(tmp_path), ["t"],
                              HEALTH_PORT=taken.getsockname()[1])
        with Service(environ) as service:
            assert service.wait(PORT_EXIT_S) == 78
            assert "HEALTH_PORT" in service.log_tail()
            assert "Traceback" not in service.log_tail()
            evidence.struck(Strike.HOST, "port in use")


@pytest.mark.parametrize("missing", ["kafka", "store"])
def test_dependency_that_never_comes_ends_with_75(
    kafka: KafkaService, tmp_path: Path, missing: str
) -> None:
    """systemd restarts it: it may be up by then."""
    (closed,) = free_ports(1)
    lake = ls.folder_lake(tmp_path)
    bootstrap = f"127.0.0.1:{closed}"
    if missing == "store":
        bootstrap = kafka.bootstrap
        lake = ls.Lake("s3://nowhere/lake", {}, {
            "LAKE_URI": "s3://nowhere/lake", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed}",
            "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ALLOW_HTTP": "true"})
    environ = ls.settings(bootstrap, lake, [f"none-{uuid.uuid4().hex}"], START_DEADLINE_SECONDS=5)
    with Service(environ) as service:
        began = time.monotonic()
        page = service.wait_for(lambda page: bool(page.get("status")), 10, "the page is there")
        assert (page["http_status"], page["status"]) == (503, "starting")
        assert service.wait(30) == 75
        assert 4 < time.monotonic() - began < 20
        assert service.log_events("dependency_never_came")
        assert service.log_strays() == []
        service.wait_gone(2)


# Stopping in every phase


STOP_DEADLINE_S = 3
RECORD = r"/_bronze/log/\d+\.json$"
PHASES = {
    "recovering": RECORD,
    "flushing": r"/_ingestion_date=.*\.parquet$",
    "deciding": RECORD,
    "committing": r"/bronze_[^/]+/_delta_log/\d+\.json$",
}
"""Phase to the requests that hold the service in it when they hang."""


@dataclass(frozen=True)
class Held:
    """A service whose requests to the store can be held."""

    service: Service
    proxy: S3Proxy
    kafka: KafkaService
    lake: ls.Lake
    topics: list[str]

    def hold_in(self, phase: str) -> int:
        """Start, and hold the service in a phase with new messages; give how many there are."""
        if phase == "recovering":
            self.proxy.rule(method="PUT", path_regex=PHASES[phase], action=hang(AGES, after=False))
            self.service.start()
        else:
            self.service.start()
            self.service.wait_healthy(ls.START_S)
            self.proxy.rule(method="PUT", path_regex=PHASES[phase], action=hang(AGES, after=False))
        for topic in self.topics:
            ends = ls.send(self.kafka.bootstrap, topic, ls.numbered(10))
        self.service.wait_for(
            lambda page: page["cycle"]["phase"] == phase and self.proxy.requests > 0, 20,
            f"it is held in {phase}")
        return ends[-1] + 1

    def release(self) -> None:
        """Let everything through again."""
        self.proxy.clear()
        self.proxy.reset_connections()

    def judge(self, count: int) -> None:
        """Start unheld: everything lands once."""
        self.service.start()
        for topic in self.topics:
            ls.wait_for_position(self.service, self.lake, topic, count, timeout_s=ls.START_S)
        assert self.service.terminate(20) == 0
        for topic in self.topics:
            assert ls.offsets_of(ls.rows(self.lake, topic)) == list(range(count))


@pytest.fixture
def held(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    request: pytest.FixtureRequest,
) -> Iterator[Held]:
    """Give a service behind a proxy; not started."""
    topics = topic_names(2)
    ls.create_topics(kafka, topics)
    lake = ls.store_lake(minio, lake_prefix)
    with S3Proxy(minio.endpoint) as proxy:
        environ = ls.settings(kafka.bootstrap, lake, topics, **{
            "AWS_ENDPOINT_URL": proxy.endpoint, "STOP_DEADLINE_SECONDS": str(STOP_DEADLINE_S),
            "STORE_TIMEOUT_SECONDS": "2", **getattr(request, "param", {})})
        service = Service(environ, 2)
        try:
            yield Held(service, proxy, kafka, lake, topics)
        finally:
            service.close()


@pytest.mark.fault("P14")
def test_sigterm_in_any_phase_ends_in_time_and_loses_nothing(
    held: Held, evidence: Evidence
) -> None:
    """The unit's stop time is bounded; what was decided is rolled forward by the next start."""
    count = 0
    for phase in PHASES:
        count = held.hold_in(phase)
        began = time.monotonic()
        assert held.service.terminate(15) == 0, phase
        assert time.monotonic() - began < STOP_DEADLINE_S + 4, phase
        held.service.wait_gone(2)
        held.release()
    held.judge(count)
    evidence.struck(Strike.KILL, "SIGTERM in a phase held open", len(PHASES))


@pytest.mark.fault("P14")
@pytest.mark.parametrize("held", [{"STOP_DEADLINE_SECONDS": "120"}], indirect=True)
def test_second_sigterm_hastens_the_stop(held: Held, evidence: Evidence) -> None:
    """Whoever is in a hurry need not reach for SIGKILL."""
    for phase in ("flushing", "deciding"):
        count = held.hold_in(phase)
        os.kill(held.service.pid, signal.SIGTERM)
        wait_until(lambda: held.service.log_events("stop_requested"), 5, "the stop has begun")
        assert held.service.is_running()
        began = time.monotonic()
        assert held.service.terminate(30) == 0
        assert time.monotonic() - began < 10, phase
        assert held.service.log_events("stop_hastened")
        held.release()
    held.judge(count)
    evidence.struck(Strike.KILL, "second SIGTERM", 2)


@pytest.mark.fault("P6")
def test_workers_end_by_themselves_when_the_supervisor_is_killed(
    held: Held, evidence: Evidence
) -> None:
    """Also one that hangs in a request: an orphan would fight with the next start."""
    for phase in ("flushing", "committing"):
        count = held.hold_in(phase)
        held.service.kill_supervisor()
        held.service.wait_gone(ORPHANS_END_S)
        held.release()
    held.judge(count)
    evidence.struck(Strike.KILL, "supervisor", 2)


# Limits and outages


BACKPRESSURE = {
    "CYCLE_BYTES_MAX": "65536", "CARRY_OVER_FILES_MAX": "2", "CARRY_OVER_BYTES_MAX": "1000000",
    "ISOLATE_AFTER": "0",
}


@pytest.mark.parametrize("held", [BACKPRESSURE], indirect=True)
def test_worker_pauses_at_its_limits_and_says_so(held: Held) -> None:
    """Memory is bounded by configuration: at a limit reading stops, and nothing is dropped."""
    held.service.start()
    held.service.wait_healthy(ls.START_S)
    first, second = held.topics
    big = [b'"%b"' % (b"x" * 1000)] * 400

    rule = held.proxy.rule(method="PUT", path_regex=RECORD, action=fail_before(503))
    for topic in held.topics:
        ls.send(held.kafka.bootstrap, topic, big)
    _wait_paused(held.service, first, "cycle_full")
    held.service.wait_for(
        lambda page: (page["topics"][first]["lag"] or 0) > 0, 10, "what is not read shows as lag")
    held.proxy.remove(rule)
    for topic in held.topics:
        ls.wait_for_position(held.service, held.lake, topic, 400)

    rule = held.proxy.rule(
        method="PUT", path_regex=rf"/bronze_{second}/_ingestion_date", action=fail_before(503))
    ls.send(held.kafka.bootstrap, second, big)
    wait_until(lambda: rule.fired, 20, "an upload failed")
    sent = {first: 400, second: 800}

    def feed(page: dict[str, Any]) -> bool:
        # A cycle that the second topic has nothing to give to commits what the first carried.
        if page["topics"][first]["lag"] == 0:
            ls.send(held.kafka.bootstrap, first, big[:100])
            sent[first] += 100
        return bool(page["topics"][first]["paused"] == "carry_over_full")

    held.service.wait_for(feed, 60, "the carry-over of the first topic is full")
    _wait_paused(held.service, first, "carry_over_full")
    held.service.wait_unhealthy(20)
    held.proxy.remove(rule)
    for topic in held.topics:
        ls.wait_for_position(held.service, held.lake, topic, sent[topic], timeout_s=60)
    page = held.service.wait_healthy(20)
    assert {entry["restarts"] for entry in page["topics"].values()} == {0}
    assert held.service.terminate(20) == 0
    for topic in held.topics:
        assert ls.offsets_of(ls.rows(held.lake, topic)) == list(range(sent[topic]))


def _wait_paused(service: Service, topic: str, cause: str) -> None:
    service.wait_for(
        lambda page: page["topics"][topic]["paused"] == cause, 30, f"{topic} pauses: {cause}")
    # A cycle under way may lift a pause for a moment, so the two may not show it at once.
    wait_until(
        lambda: ls.metric(service, "bronze_paused", topic=topic, cause=cause) == 1, 10,
        f"the metrics show that {topic} pauses: {cause}")


def test_paused_worker_asks_a_silent_broker_once_however_many_partitions_it_has(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path
) -> None:
    """Store and broker away at once: a turn longer than a heartbeat would get the worker killed."""
    if not kafka.is_managed:
        pytest.skip("a given broker cannot be frozen")
    (topic,) = topic_names(1)
    kafka.create_topic(topic, 4)
    config = load(ls.settings(kafka.bootstrap, ls.folder_lake(tmp_path), [topic]))
    source = KafkaSource(config.kafka, config.limits, topic, "0", lambda cause: None)
    try:
        assigned: set[int] = set()

        def on_assign(partitions: tuple[int, ...]) -> dict[int, int]:
            assigned.update(partitions)
            return dict.fromkeys(partitions, 0)

        source.subscribe(on_assign, assigned.difference_update)
        wait_until(
            lambda: source.poll(1, 0.1) and len(assigned) == 4, 20, "it has its partitions")
        source.pause()
        wait_until(lambda: len(source.ends()) == 4, 10, "the ends are told")
        kafka.pause()
        began = time.monotonic()
        assert source.ends() == {}
        assert time.monotonic() - began < REQUEST_TIMEOUT_S + 2
    finally:
        kafka.resume()
        source.close()


OUTAGE_S = 20
ERROR_LINES_MAX = 6
"""Log lines of one topic about errors in an outage of that length."""


def test_outages_of_store_and_broker_heal_by_themselves(
    own_kafka: KafkaService, own_minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """At night both go away and come back; nobody is called, nothing piles up, nothing is lost."""
    topics = topic_names(2)
    ls.create_topics(own_kafka, topics, PARTITIONS)
    lake = ls.store_lake(own_minio, lake_prefix)
    environ = ls.settings(own_kafka.bootstrap, lake, topics)
    with LoadProducer(own_kafka.bootstrap, topics, PARTITIONS) as producer:
        with Service(environ, 2) as service:
            service.wait_healthy(ls.START_S)
            pids = service.all_pids()
            producer.start_background(200)
            _store_outage(service, own_minio, topics)
            producer.stop_background()
            _wait_landed(service, lake, producer)
            assert sorted(service.all_pids()) == sorted(pids)
            _broker_outage(service, own_kafka, producer)
            _wait_landed(service, lake, producer)
            page = service.wait_healthy(30)
            assert len(service.all_pids()) == len(pids)
            restarts = {topic: entry["restarts"] for topic, entry in page["topics"].items()}
            assert restarts == _fenced_by_a_killed_broker(service, topics)
            assert service.log_strays() == []
            assert service.terminate(20) == 0
    options = own_minio.storage_options()
    check(producer.ledger, lake.uri, options, topics).assert_ok()
    check_log(lake.uri, options, topics, ledger=producer.ledger).assert_ok()
    group_offsets_equal_txn(
        own_kafka.bootstrap, ls.group_of(topics), lake.uri, options,
        dict.fromkeys(topics, PARTITIONS)).assert_ok()


def _store_outage(service: Service, minio: MinioService, topics: list[str]) -> None:
    minio.stop()
    began = time.monotonic()
    page = service.wait_for(
        lambda page: page["http_status"] == 503
        and any("StorageUnavailable" in reason for reason in page["reasons"]), OUTAGE_S,
        "the outage is named")
    assert page["reasons"]
    for _ in range(OUTAGE_S):
        if time.monotonic() - began > OUTAGE_S:
            break
        time.sleep(1)  # The outage's length is what is tested.
    told = service.log_events("worker_error")
    for topic in topics:
        assert len([e for e in told if e["topic"] == topic]) <= ERROR_LINES_MAX
    assert len(service.log_events("log_unavailable")) <= ERROR_LINES_MAX
    assert service.health()["http_status"] == 503
    before = service.health()["cycle"]["completed"]
    minio.start()
    page = service.wait_healthy(60)
    assert page["cycle"]["completed"] > before


def _broker_outage(service: Service, kafka: KafkaService, producer: LoadProducer) -> None:
    kafka.kill()
    service.wait_for(
        lambda page: any("Kafka" in reason for reason in page["reasons"]), 60,
        "the broker's outage is named")
    kafka.start()
    service.wait_healthy(60)
    producer.produce(200)


def _fenced_by_a_killed_broker(service: Service, topics: list[str]) -> dict[str, int]:
    """Times each topic's worker was fenced, once at most: a killed broker may have lost its join."""
    told = [event["topic"] for event in service.log_events("worker_error")
            if event["error"] == "Fenced"]
    times = {topic: told.count(topic) for topic in topics}
    assert max(times.values()) <= 1, times
    return times


def _wait_landed(service: Service, lake: ls.Lake, producer: LoadProducer) -> None:
    for topic in producer.ledger.topics():
        for number, part in producer.ledger.partitions(topic):
            ls.wait_for_position(service, lake, topic, len(part), number, timeout_s=60)


# Tables that are not as they should be


def test_wrong_and_vanished_tables_stop_their_topics_only(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path
) -> None:
    """A table is never made anew over one that was: its positions would be gone with it."""
    lake = ls.folder_lake(tmp_path)
    wrong, gone, torn, well = topics = topic_names(4)
    ls.create_topics(kafka, topics)
    foreign = pa.table({"key": pa.array([1]), "value": pa.array(["x"])})
    write_deltalake(f"{lake.uri}/{bronze_table(wrong)}", foreign)
    environ = ls.settings(kafka.bootstrap, lake, topics)
    for topic in topics:
        ls.send(kafka.bootstrap, topic, ls.numbered(5))
    with Service(environ, 4) as service:
        page = ls.wait_for_error(service, wrong, "TableMismatch", ls.START_S, "stopped")
        assert "_kafka_offset" in page["topics"][wrong]["last_error"]["message"]
        for topic in (gone, torn, well):
            ls.wait_for_position(service, lake, topic, 5)

        shutil.rmtree(f"{lake.uri}/{bronze_table(torn)}")
        ls.send(kafka.bootstrap, torn, ls.numbered(5))
        ls.wait_for_error(service, torn, "TableVanished", 40, "stopped")
        ls.send(kafka.bootstrap, well, ls.numbered(5))
        ls.wait_for_position(service, lake, well, 10)
        assert service.terminate(20) == 0

    shutil.rmtree(f"{lake.uri}/{bronze_table(gone)}")
    with Service(environ, 4) as service:
        for topic in (gone, torn):
            ls.wait_for_error(service, topic, "TableVanished", ls.START_S, "stopped")
        ls.send(kafka.bootstrap, well, ls.numbered(5))
        ls.wait_for_position(service, lake, well, 15)
        for topic in (gone, torn):
            assert not list(Path(lake.uri).glob(f"{bronze_table(topic)}/_delta_log/*.json"))
        assert service.topics()[well]["restarts"] == 0
        assert service.terminate(20) == 0
