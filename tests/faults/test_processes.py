"""Processes that die, hang, wake up late, come twice, or meet a block that is not theirs.

What a process of the service leaves behind is judged by the rows that landed, and by how soon rows
land again. Deaths at named points of the cycle are in test_protocol_points.py, deaths at random
moments in test_random_kills.py, two whole services in test_two_services.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared import layout
from shared.block import Block
from shared.exit_codes import ExitCode
from supervisor.fleet import Child
from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.lake import bronze_table, open_lake, read_commits
from tests.rig.recovery import (
    SERVICE_RECOVERY_S, commits, committed_again, judged, note, quantile,
)
from tests.rig.s3_proxy import Request, S3Proxy
from tests.rig.scene import ORPHANS_END_S, START_S, Scene, kill, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 3
PARTITIONS = 2
MESSAGES = 600
BACKGROUND_PER_S = 300
INTERVAL_S = 1
"""BATCH_INTERVAL_SECONDS of the scenes."""
FIRE_S = 20
LANDING_S = 60
FENCED_S = 30
SESSION_S = 10
"""Kafka's session time-out as the service sets it; members silent for longer are out."""
HEARTBEAT_LIMIT_S = 6
SIDECAR_BACK_S = 5
STOP_DEADLINE_S = 5
STOP_GRACE_S = 4
"""What a stop may take beyond its deadline: ending sidecar and workers, and a busy machine."""
SEED = 20261124

COMMIT_OF = r"/bronze_{topic}/_delta_log/\d+\.json$"


@pytest.fixture
def scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> Scene:
    """Give a small scene whose service reaches the store directly."""
    return Scene(
        kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
        settings={"STOP_DEADLINE_SECONDS": str(STOP_DEADLINE_S)})


# Frozen, replaced, woken up


@pytest.mark.fault("P8")
def test_frozen_worker_with_a_commit_under_way_changes_nothing_when_it_wakes_after_a_new_start(
    scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """Nobody is left who could kill it in time: the table itself must refuse what comes late."""
    victim = scene.topics[0]
    may_arrive, held, answers = threading.Event(), [], []
    with scene.service(AWS_ENDPOINT_URL=proxy.endpoint) as older, scene.producer() as producer:
        older.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(older, LANDING_S)
        zombie = psutil.Process(older.worker_pids()[victim])

        def hold(request: Request) -> None:
            zombie.suspend()
            held.append(request)
            assert may_arrive.wait(LANDING_S), "nobody released the request"

        proxy.rule(method="PUT", path_regex=COMMIT_OF.format(topic=victim), times=1,
                   on_match=hold, on_effect=lambda answer: answers.append(answer.status))
        producer.produce(MESSAGES)
        wait_until(lambda: held, FIRE_S, "the commit was held")
        older.kill_supervisor()
        wait_until(lambda: not others_of(older, zombie.pid), ORPHANS_END_S, "the others ended")

        with scene.service() as newer:
            newer.wait_healthy(START_S)
            producer.produce(MESSAGES)
            scene.wait_landed(newer, LANDING_S)
            before = table_versions(scene)
            assert zombie.status() == psutil.STATUS_STOPPED and not answers
            may_arrive.set()
            wait_until(lambda: answers, FIRE_S, "the late commit has reached the store")
            zombie.resume()
            older.wait_gone(ORPHANS_END_S)
            assert answers == [412]
            assert table_versions(scene) == before
            producer.produce(MESSAGES)
            scene.wait_landed(newer, LANDING_S)
            assert newer.wait_healthy(START_S)["topics"][victim]["restarts"] == 0
            assert newer.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.FREEZE, "worker frozen between vote and commit, woken after a new start")
    evidence.struck(Strike.KILL, "supervisor while one of its workers is frozen")


def others_of(service: Service, zombie: int) -> list[int]:
    """Workers, sidecar and supervisor that live, but the frozen one.

    The forkserver stays while a child of its own holds the other end of its life line.
    """
    found = []
    for pid in service.all_pids():
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            is_helper = pid == zombie or process.children() or "tracker" in " ".join(
                process.cmdline())
            found += [] if is_helper else [pid]
    return found


def table_versions(scene: Scene) -> dict[str, int]:
    """Topic -> number of commits in the bronze table's log."""
    lake = open_lake(scene.lake_uri, scene.options)
    return {topic: len(read_commits(lake, bronze_table(topic))) for topic in scene.topics}


@pytest.mark.fault("P9", "P10")
def test_frozen_service_is_fenced_when_it_wakes_after_it_was_replaced(
    scene: Scene, evidence: Evidence
) -> None:
    """A suspended machine that comes back, with its work under way and another in its place."""
    with scene.service() as older, scene.producer() as producer:
        older.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        wait_until(lambda: min(commits(older).values(), default=0) > 1, LANDING_S, "it commits")
        frozen_at = time.monotonic()
        frozen = older.freeze()
        with scene.service() as newer:
            newer.wait_healthy(START_S)
            seconds = committed_again(newer, scene.topics, {}, time.monotonic())
            pause(SESSION_S + 1 - (time.monotonic() - frozen_at))
            woken_at = time.monotonic()
            older.thaw()
            wait_until(lambda: not older.is_running(), FENCED_S, "the older one ended")
            fenced_after_s = time.monotonic() - woken_at
            assert older.exit_code == ExitCode.FENCED
            older.wait_gone(ORPHANS_END_S)
            since = commits(newer)
            committed_again(newer, scene.topics, since, time.monotonic())
            producer.stop_background()
            scene.wait_landed(newer, LANDING_S)
            newer.wait_healthy(START_S)
            assert newer.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.FREEZE, "whole service frozen, replaced, woken", len(frozen))
    evidence.recovered("frozen service fenced", fenced_after_s)
    note(evidence, "service started beside a frozen one", seconds.values())


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P9")
@pytest.mark.parametrize("frozen_s", [SESSION_S / 2, SESSION_S * 1.5])
def test_frozen_service_goes_on_where_it_was_when_it_wakes(
    frozen_s: float, scene: Scene, evidence: Evidence
) -> None:
    """Kafka has given its partitions away meanwhile, or not: nobody dies, nothing is read twice."""
    with scene.service(HEARTBEAT_LIMIT_SECONDS=str(HEARTBEAT_LIMIT_S)) as service, \
            scene.producer() as producer:
        pids = service.wait_healthy(START_S) and service.worker_pids()
        producer.start_background(BACKGROUND_PER_S)
        wait_until(lambda: min(commits(service).values(), default=0) > 1, LANDING_S, "it commits")
        frozen = service.freeze()
        pause(frozen_s)
        service.thaw()
        began = time.monotonic()
        since = wait_until(lambda: commits(service), START_S, "the page answers")
        seconds = committed_again(service, scene.topics, since, began)
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.worker_pids() == pids
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.FREEZE, f"whole service frozen for {frozen_s:g} s", len(frozen))
    note(evidence, "whole service frozen", seconds.values())


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P8")
def test_worker_frozen_beyond_its_limit_is_replaced_and_a_shorter_freeze_is_forgiven(
    scene: Scene, evidence: Evidence
) -> None:
    """The limit tells a slow worker from one that hangs; both ends of it are tried under load."""
    victim = scene.topics[0]
    with scene.service(HEARTBEAT_LIMIT_SECONDS=str(HEARTBEAT_LIMIT_S)) as service, \
            scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        forgiven = psutil.Process(service.worker_pids()[victim])
        since = commits(service)
        forgiven.suspend()
        pause(HEARTBEAT_LIMIT_S / 2)
        forgiven.resume()
        committed_again(service, scene.topics, since, time.monotonic())
        assert service.worker_pids()[victim] == forgiven.pid

        since, began = commits(service), time.monotonic()
        forgiven.suspend()
        wait_until(lambda: service.log_events("worker_stalled"), HEARTBEAT_LIMIT_S + 5, "stalled")
        seconds = committed_again(service, [victim], since, began)
        assert not forgiven.is_running() or forgiven.status() == psutil.STATUS_ZOMBIE
        assert metric(service, "bronze_worker_stalls_total", topic=victim) == 1
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.FREEZE, "worker frozen for less than its limit")
    evidence.struck(Strike.FREEZE, "worker frozen for longer than its limit")
    note(evidence, "worker frozen for longer than its limit", seconds.values())


# Whoever dies


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P6", "P11")
def test_service_started_anew_commits_soon_after_each_death_of_its_supervisor(
    scene: Scene, evidence: Evidence, tmp_path: Path
) -> None:
    """Orphans end by themselves, and what the dead left in the runtime folder is nobody's."""
    gone, seconds = [], []
    leave_junk(tmp_path)
    with scene.service(RUNTIME_DIRECTORY=str(tmp_path)) as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        for round_ in range(6):
            committed_again(service, scene.topics, commits(service), time.monotonic())
            began = time.monotonic()
            if round_ % 2:
                service.kill_all()
            else:
                service.kill_supervisor()
                service.wait_gone(ORPHANS_END_S)
                gone.append(time.monotonic() - began)
            began = time.monotonic()
            service.start()
            seconds += committed_again(service, scene.topics, {}, began).values()
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
    judged(scene, evidence)
    assert quantile(seconds) <= INTERVAL_S + SERVICE_RECOVERY_S, seconds
    evidence.struck(Strike.KILL, "supervisor", len(gone))
    evidence.struck(Strike.KILL, "every process", 6 - len(gone))
    evidence.struck(Strike.HOST, "leftovers in the runtime folder", 4)
    note(evidence, "orphans gone", gone)
    note(evidence, "service started anew", seconds)


def leave_junk(folder: Path) -> None:
    """What a dead service, another release or a person may leave where blocks lie."""
    old = Block.create(folder / "block-of-another-layout", 2, b"{}")
    old.set(layout.Header.LAYOUT_VERSION, layout.LAYOUT_VERSION - 1)
    Block.create(folder / "block-cut-off", 2, b"{}")
    os.truncate(folder / "block-cut-off", 100)
    (folder / "block-empty").touch()
    (folder / "block-junk").write_bytes(random.Random(SEED).randbytes(100_000))


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P7")
def test_ingestion_goes_on_while_the_sidecar_hangs_or_dies(
    scene: Scene, evidence: Evidence
) -> None:
    """The page is a convenience: whatever happens to it costs nobody a row or a stop."""
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        total = metric(service, "bronze_rows_total")
        hanging = psutil.Process(service.sidecar_pid())
        hanging.suspend()
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        hanging.resume()
        wait_until(lambda: service.health(), SIDECAR_BACK_S, "the page answers again")
        assert metric(service, "bronze_rows_total") > total

        total, began = metric(service, "bronze_rows_total"), time.monotonic()
        kill(hanging.pid)
        wait_until(lambda: service.health(), SIDECAR_BACK_S, "the page answers again")
        back_s = time.monotonic() - began
        assert service.sidecar_pid() != hanging.pid
        assert metric(service, "bronze_rows_total") >= total

        psutil.Process(service.sidecar_pid()).suspend()
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        assert service.terminate(STOP_DEADLINE_S + STOP_GRACE_S) == 0
        service.wait_gone(ORPHANS_END_S)
    judged(scene, evidence)
    evidence.struck(Strike.FREEZE, "sidecar", 2)
    evidence.struck(Strike.KILL, "sidecar")
    evidence.recovered("sidecar", back_s)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P17")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_worker_that_crashes_is_named_with_its_stacks_and_replaced(
    number: signal.Signals, scene: Scene, evidence: Evidence
) -> None:
    """A defect in a library's native code ends one worker, and leaves word of where it was."""
    victim = scene.topics[1]
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        wait_until(lambda: min(commits(service).values(), default=0) > 1, LANDING_S, "it commits")
        os.kill(service.worker_pids()[victim], number)
        began = time.monotonic()
        wait_until(lambda: service.log_events("worker_died"), FIRE_S, "its death is seen")
        seconds = committed_again(service, [victim], commits(service), began)
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        (death,) = service.log_events("worker_died")
        assert (death["topic"], death["how"]) == (victim, f"killed by signal {int(number)}")
        strays = service.log_strays()
        assert any(line.startswith("Fatal Python error") for line in strays), strays
        assert any("workers/worker.py" in line for line in strays), strays
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.KILL, f"worker crashed: {number.name}")
    note(evidence, "worker crashed", seconds.values())


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P16")
def test_topic_whose_worker_dies_at_every_start_costs_the_others_a_few_cycles_only(
    scene: Scene, evidence: Evidence
) -> None:
    """It is tried again less and less often, named, left out, and comes back when it can."""
    victim, *others = scene.topics
    killed: list[int] = []
    with scene.service(ISOLATE_AFTER="2") as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        over = threading.Event()

        def kill_each() -> None:
            while not over.wait(0.05):
                born = [e["worker"] for e in service.log_events("worker_spawned")
                        if e["topic"] == victim]
                if born[-1] not in killed:
                    kill(born[-1])
                    killed.append(born[-1])

        killer = threading.Thread(target=kill_each)
        killer.start()
        try:
            wait_until(lambda: len(killed) >= 4, LANDING_S, "it died several times")
            producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S, others)
            page = service.wait_unhealthy(START_S)
            assert page["topics"][victim]["state"] == "isolated"
            assert page["topics"][victim]["last_error"]["name"] == "WorkerDied"
            assert {page["topics"][topic]["restarts"] for topic in others} == {0}
        finally:
            over.set()
            killer.join()
        waits = [e["respawn_in_s"] for e in service.log_events("worker_died")]
        assert waits[0] == 0 and max(waits[1:]) > 1, waits
        began = time.monotonic()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(LANDING_S)
        healed_s = time.monotonic() - began
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.KILL, "worker at each start", len(killed))
    evidence.recovered("topic whose worker died at each start", healed_s)


# Signals


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault("P14")
def test_sigterm_at_any_moment_ends_cleanly_in_time_and_loses_nothing(
    scene: Scene, evidence: Evidence
) -> None:
    """During the start, idle, in a flush, twice: exit 0, in time, nobody left, all rows once."""
    generator = random.Random(SEED)
    moments: list[str] = []
    with contextlib.ExitStack() as stack:
        producer = stack.enter_context(scene.producer())
        producer.start_background(BACKGROUND_PER_S)
        service = stack.enter_context(scene.service())
        for number in range(30):
            if number:
                service.start()
            pause(generator.uniform(0, 6))
            moments.append(terminate_and_check(service, twice=number % 3 == 2))
        producer.stop_background()
        service.start()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
    judged(scene, evidence)
    print(f"seed {SEED}, moments {moments}")
    assert {"starting", "running"} <= set(moments)
    evidence.struck(Strike.KILL, "SIGTERM at a random moment", len(moments))


def terminate_and_check(service: Service, *, twice: bool) -> str:
    """SIGTERM, once or twice; the stop is clean and in time. Say at which moment it came."""
    starts = len(service.log_events("service_started"))
    ready = len(service.log_events("service_ready"))
    began = time.monotonic()
    known = service.all_pids()
    os.kill(service.pid, signal.SIGTERM)
    if twice:
        pause(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(service.pid, signal.SIGTERM)
    code = service.wait(STOP_DEADLINE_S + STOP_GRACE_S)
    assert time.monotonic() - began < STOP_DEADLINE_S + STOP_GRACE_S
    service.wait_gone(ORPHANS_END_S)
    assert known, "it ran"
    stops = len(service.log_events("service_stopped"))
    if code == -signal.SIGTERM:
        # The interpreter was still loading our code: nothing had begun, and systemd takes this
        # for the clean end that it is.
        assert starts == stops, service.log_tail()
        return "before it listens to signals"
    assert code == ExitCode.OK
    return "running" if ready == starts else "starting"


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P15")
def test_storm_of_signals_neither_stops_ingestion_nor_floods_the_log(
    scene: Scene, evidence: Evidence
) -> None:
    """Handlers only note a number; what means nothing to us is taken for nothing."""
    harmless = (signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGWINCH, signal.SIGCONT)
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        pids = service.worker_pids()
        producer.start_background(BACKGROUND_PER_S)
        since = commits(service)
        for number in range(5_000):
            os.kill(service.pid, harmless[number % len(harmless)])
        for pid in pids.values():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        seconds = committed_again(service, scene.topics, since, time.monotonic())
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.worker_pids() == pids
        ignored = len(service.log_events("signal_ignored"))
        for _ in range(1_000):
            with contextlib.suppress(ProcessLookupError):
                os.kill(service.pid, signal.SIGTERM)
        assert service.wait(STOP_DEADLINE_S + STOP_GRACE_S) == 0
        hastened = len(service.log_events("stop_hastened"))
        service.wait_gone(ORPHANS_END_S)
    judged(scene, evidence)
    assert 1 <= ignored <= 200, f"{ignored} lines for 1,000 SIGHUPs"
    assert hastened <= 200, f"{hastened} lines for 1,000 SIGTERMs"
    evidence.struck(Strike.HOST, "signals in a storm", 6_009)
    note(evidence, "storm of signals", seconds.values())


# Identity


@pytest.mark.fault("P12")
def test_dead_child_is_never_mistaken_for_the_process_that_has_its_number_now(
    evidence: Evidence
) -> None:
    """Numbers are given away again; what we hold is a descriptor of the process itself."""
    with running() as dead, running() as stranger:
        descriptor = os.pidfd_open(dead.pid)
        dead.kill()
        dead.wait()

        class Reused:
            """The dead child as the process table shows it: its number is the stranger's."""

            pid = stranger.pid
            exitcode = -signal.SIGKILL

            def join(self, timeout: float) -> None:
                """It has ended."""

            def is_alive(self) -> bool:
                return False

        child = Child(Reused(), descriptor)
        assert child.ended
        child.send(signal.SIGKILL)
        assert child.make_certain() == -signal.SIGKILL
        assert stranger.poll() is None, "a process that is not ours was killed"
        evidence.struck(Strike.HOST, "number of a dead child given to another process")


@contextlib.contextmanager
def running() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def pause(seconds: float) -> None:
    """Let time pass: here the time itself, or the moment, is the point."""
    if seconds > 0:
        time.sleep(seconds)
