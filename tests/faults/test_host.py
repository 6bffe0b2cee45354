"""The host that refuses or misleads: space, pipes, memory, CPU, clocks, names, descriptors, power.

Where the kernel would need root or harm others, a preloaded library plays the host (host_shim.py);
limits of single processes are the kernel's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.exit_codes import ExitCode
from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.folder_store import FolderStore
from tests.rig.host_shim import NAME, HostShim, Switch, compiler
from tests.rig.recovery import (
    SERVICE_RECOVERY_S, commits, committed_again, judged, note, quantile,
)
from tests.rig.scene import START_S, Scene, forkserver_pid, kill
from tests.rig.service import ROOT, Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 2
PARTITIONS = 2
MESSAGES = 600
BACKGROUND_PER_S = 300
INTERVAL_S = 1
"""BATCH_INTERVAL_SECONDS of the scenes."""
FIRE_S = 20
LANDING_S = 60
EXIT_S = 15
HOUR_NS = 3600 * 10**9
PIPE_BYTES = 4096
"""The smallest pipe there is: a dozen lines of the log fill it."""
LINE_BYTES_MAX = 600
ROUNDS_MAX, ROUNDS_WHEN_FULL = 40, 6
"""Of messages that land: until the pipe is full, and then."""
DESCRIPTORS = 10
"""The supervisor holds all numbers below this from its start to its end, so none is free; and
it waits for fewer than that, which is what the kernel allows."""
HEARTBEAT_LIMIT_S = 6

pytestmark = [pytest.mark.slow, pytest.mark.extended]


@pytest.fixture
def scene(kafka: KafkaService, topic_names: TopicNames, tmp_path: Path) -> Scene:
    """Give a small scene on a lake in a folder: nothing here is about the store."""
    return Scene(
        kafka, FolderStore(tmp_path), topic_names(TOPICS, "t"), "lake", partitions=PARTITIONS)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostShim]:
    """Give a host that misbehaves on command; skipped without a C compiler."""
    if compiler() is None:
        pytest.skip("no C compiler to build the library with that plays the host")
    with HostShim(tmp_path) as made:
        yield made


# Space


@pytest.mark.fault("H1")
@pytest.mark.parametrize("where", ["memory folder", "runtime folder"])
def test_start_without_room_for_the_block_is_refused_by_name(
    where: str, scene: Scene, host: HostShim, evidence: Evidence, tmp_path: Path
) -> None:
    """One line that says what is full and where, at once, and nothing left behind."""
    runtime = {"RUNTIME_DIRECTORY": str(tmp_path)} if where == "runtime folder" else {}
    host.set(Switch.NO_SPACE)
    with scene.service(**host.environment, **runtime) as service:
        assert service.wait(EXIT_S) == ExitCode.CONFIG, service.log_tail()
        assert "No space left on device" in service.log_tail()
        assert "Traceback" not in service.log_tail()
        assert not list(tmp_path.glob("block*"))
        evidence.struck(Strike.HOST, "no space for the block", host.struck(Switch.NO_SPACE))
        host.clear()
        service.start()
        service.wait_healthy(START_S)
        with scene.producer() as producer:
            producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
        assert service.terminate() == 0
    judged(scene, evidence)


# The log's reader


@pytest.mark.fault("H2")
@pytest.mark.parametrize("how", ["reader gone", "reader asleep"])
def test_ingestion_goes_on_when_nobody_reads_the_log(
    how: str, scene: Scene, evidence: Evidence
) -> None:
    """A journal that is down or stuck costs its lines, never rows."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    service = Service(scene.environ, TOPICS, stderr=writer)
    draining = threading.Event()
    drain = threading.Thread(target=empty_until, args=(reader, draining))
    drain.start()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, writer)
        stack.callback(draining.set)
        stack.enter_context(service)
        producer = stack.enter_context(scene.producer())
        service.wait_healthy(START_S)
        draining.set()
        drain.join()
        if how == "reader gone":
            os.close(reader)
        else:
            stack.callback(os.close, reader)
        for _ in range(ROUNDS_MAX):
            if how == "reader gone" or is_full(reader):
                break
            producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
        for _ in range(ROUNDS_WHEN_FULL):
            producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
        kill(service.worker_pids()[scene.topics[0]])
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
        if how == "reader asleep":
            assert is_full(reader), "the pipe was never full"
    judged(scene, evidence)
    evidence.struck(Strike.HOST, f"log: {how}")


def empty_until(reader: int, over: threading.Event) -> None:
    """Read a pipe until told to stop."""
    while not over.is_set():
        if select.select([reader], [], [], 0.1)[0]:
            os.read(reader, 65_536)


def is_full(reader: int) -> bool:
    """Whether one more line may not fit into a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))
    return bool(count > PIPE_BYTES - LINE_BYTES_MAX)


# Memory, descriptors, processes, threads


@pytest.mark.fault("H3")
def test_worker_out_of_memory_ends_alone_and_is_replaced(
    scene: Scene, evidence: Evidence
) -> None:
    """The limit is this one process's, as when the kernel picks it; its successor has room."""
    victim, other = scene.topics
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        pids = service.worker_pids()
        used = psutil.Process(pids[victim]).memory_info().vms
        resource.prlimit(pids[victim], resource.RLIMIT_AS, (used, used))
        producer.start_background(20 * BACKGROUND_PER_S)
        began = time.monotonic()
        wait_until(
            lambda: service.worker_pids().get(victim, pids[victim]) != pids[victim], LANDING_S,
            lambda: f"it is replaced\n{service.log_tail()}")
        committed_again(service, scene.topics, commits(service), time.monotonic())
        seconds = time.monotonic() - began
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.worker_pids()[other] == pids[other]
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "worker out of address space")
    evidence.recovered("worker out of memory", seconds)


@pytest.mark.fault("P18")
def test_worker_without_descriptors_is_named_and_lands_everything_afterwards(
    scene: Scene, evidence: Evidence
) -> None:
    """It may retry or die, as long as it says so and everybody else goes on."""
    victim = scene.topics[0]
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        pid = service.worker_pids()[victim]
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        producer.produce(MESSAGES)
        page = service.wait_unhealthy(FIRE_S)
        error = page["topics"][victim]["last_error"]
        assert error["name"] in ("StorageUnavailable", "WorkerDied"), error
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        began = time.monotonic()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        evidence.recovered("worker out of descriptors", time.monotonic() - began)
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "worker out of descriptors")


@pytest.mark.fault("P18")
def test_supervisor_without_descriptors_survives_deaths_of_its_children(
    scene: Scene, evidence: Evidence
) -> None:
    """What it cannot start now it starts later; in between the page of others still answers."""
    victim, other = scene.topics
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        pids = service.worker_pids()
        before = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, before[1]))
        kill(pids[victim])
        wait_until(lambda: service.log_events("worker_not_spawned"), FIRE_S, "refused")
        assert service.get("/livez")[0] == 200
        kill(service.sidecar_pid())
        pause(3)
        assert service.is_running(), service.log_tail()
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, before)
        began = time.monotonic()
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        evidence.recovered("supervisor out of descriptors", time.monotonic() - began)
        assert service.worker_pids()[other] == pids[other]
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "supervisor out of descriptors")


@pytest.mark.fault("P19")
@pytest.mark.parametrize("dies", ["worker", "sidecar", "forkserver"])
def test_host_that_gives_no_process_is_asked_again_later(
    dies: str, scene: Scene, host: HostShim, evidence: Evidence
) -> None:
    """A limit on tasks is met by waiting, without a tight loop, and heals by itself."""
    victim = scene.topics[0]
    with scene.service(**host.environment) as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        if dies == "sidecar":
            pid = service.sidecar_pid()
        else:
            forkserver = forkserver_pid(service)
            pid = forkserver if dies == "forkserver" else service.worker_pids()[victim]
        host.set(Switch.NO_PROCESSES)
        kill(pid)
        pause(6)
        assert service.is_running(), service.log_tail()
        refused = host.struck(Switch.NO_PROCESSES)
        assert refused < 40, "a tight loop"
        evidence.struck(Strike.HOST, f"no process to be had when a {dies} died", refused)
        host.clear()
        began = time.monotonic()
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(LANDING_S)
        evidence.recovered("no process to be had", time.monotonic() - began)
        assert service.terminate() == 0
    judged(scene, evidence)


@pytest.mark.fault("H10")
def test_process_under_the_limits_of_the_unit_leaves_no_core_when_it_crashes(
    tmp_path: Path, evidence: Evidence
) -> None:
    """A core would hold payloads and secrets; the same crash with room for one shows the limit."""
    unit = (ROOT / "deploy" / "bronze-ingestion.service").read_text()
    (limit,) = re.findall(r"^LimitCORE=(\d+)$", unit, re.MULTILINE)

    def crash(core_bytes: int) -> tuple[int, bool]:
        """Crash an interpreter; its exit code, and whether the kernel wrote a core of it."""
        code = (f"import os, resource; _, most = resource.getrlimit(resource.RLIMIT_CORE);"
                f"resource.setrlimit(resource.RLIMIT_CORE, ({core_bytes}, most)); os.abort()")
        process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
        _, status = os.waitpid(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode, os.WCOREDUMP(status)

    evidence.notes["control"] = "a core" if crash(1 << 20)[1] else "this machine writes no cores"
    assert crash(int(limit)) == (-signal.SIGABRT, False)
    evidence.struck(Strike.HOST, "crash under the unit's core limit")


# CPU and clocks


@pytest.mark.fault("H4")
def test_starved_service_kills_nobody_and_lands_everything(
    scene: Scene, evidence: Evidence
) -> None:
    """A tenth of the CPU, as a quota gives it: slow is not dead."""
    with scene.service(
        HEARTBEAT_LIMIT_SECONDS=str(HEARTBEAT_LIMIT_S), CYCLE_DEADLINE_SECONDS="30"
    ) as service, scene.producer() as producer:
        pids = service.wait_healthy(START_S) and service.worker_pids()
        producer.start_background(BACKGROUND_PER_S)
        since, over = commits(service), time.monotonic() + 30
        slices = 0
        while time.monotonic() < over:
            service.freeze()
            pause(0.9)
            service.thaw()
            pause(0.1)
            slices += 1
        starved = commits(service)
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert all(starved[topic] > since[topic] for topic in scene.topics), (since, starved)
        assert service.worker_pids() == pids
        assert not service.log_events("worker_stalled")
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "CPU taken away for 0.9 s of each second", slices)


@pytest.mark.fault("H5")
def test_steps_of_the_wall_clock_change_nothing_but_what_it_shows(
    scene: Scene, host: HostShim, evidence: Evidence
) -> None:
    """An hour ahead, an hour back, to 1970: cycles, limits and health go by other clocks."""
    steps = [HOUR_NS, -HOUR_NS, 0, -1_700_000_000 * 10**9, 24 * 365 * HOUR_NS, 0]
    with scene.service(
        **host.environment, HEARTBEAT_LIMIT_SECONDS=str(HEARTBEAT_LIMIT_S)
    ) as service, scene.producer() as producer:
        pids = service.wait_healthy(START_S) and service.worker_pids()
        producer.start_background(BACKGROUND_PER_S)
        for step in steps:
            host.set(Switch.CLOCK_OFFSET_NS, step)
            began = time.monotonic()
            seconds = committed_again(service, scene.topics, commits(service), began)
            assert max(seconds.values()) < 10, f"after a step to {step / 1e9:g} s: {seconds}"
            note(evidence, "step of the wall clock", seconds.values())
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.worker_pids() == pids
        assert not service.log_events("worker_stalled")
        shown = {event["ts"][:4] for event in service.log_events()}
        assert service.terminate() == 0
    assert len(shown) >= 3, f"the clock did not step for the service: {shown}"
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "step of the wall clock", len(steps))


# Names


@pytest.fixture
def named_scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> Scene:
    """Give a scene whose store has a name instead of a number."""
    port = minio.endpoint.rpartition(":")[2]
    return Scene(
        kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
        store_endpoint=f"http://{NAME}:{port}")


@pytest.mark.fault("H9")
def test_names_that_do_not_resolve_are_waited_for_at_start_and_while_running(
    named_scene: Scene, host: HostShim, evidence: Evidence
) -> None:
    """A start gives up with 75, which systemd tries again; a run never gives up."""
    scene = named_scene
    host.set(Switch.NO_NAMES)
    with scene.service(**host.environment, START_DEADLINE_SECONDS="4") as service:
        assert service.wait(EXIT_S) == ExitCode.UNAVAILABLE
        assert service.log_events("dependency_never_came")
        at_start = host.struck(Switch.NO_NAMES)
        evidence.struck(Strike.HOST, "name of the store did not resolve at start", at_start)
    with scene.service(**host.environment) as service, scene.producer() as producer:
        page = service.wait_for(lambda page: bool(page.get("status")), FIRE_S, "the page is there")
        assert page["status"] == "starting"
        wait_until(lambda: host.struck(Switch.NO_NAMES) > at_start, FIRE_S, "it was asked")
        host.clear()
        began = time.monotonic()
        service.wait_healthy(START_S)
        evidence.recovered("names resolve again during the start", time.monotonic() - began)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)

        host.set(Switch.NO_NAMES)
        for pid in service.worker_pids().values():
            kill(pid)  # What is connected needs no names; who comes new does.
        producer.produce(MESSAGES)
        page = service.wait_unhealthy(FIRE_S)
        pause(5)
        host.clear()
        began = time.monotonic()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        evidence.recovered("names resolve again while running", time.monotonic() - began)
        assert service.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "names did not resolve", host.struck(Switch.NO_NAMES))


# Power


@pytest.mark.timeout(600)
@pytest.mark.fault("H8")
def test_everything_lands_once_after_power_cuts(
    own_kafka: KafkaService, own_minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    evidence: Evidence,
) -> None:
    """Broker, store and service die in one moment, under load, three times."""
    scene = Scene(own_kafka, own_minio, topic_names(TOPICS, "t"), lake_prefix,
                  partitions=PARTITIONS)
    seconds: list[float] = []
    with scene.service() as service:
        for number in range(3):
            service.wait_healthy(START_S)
            with scene.producer(number) as producer:
                producer.produce(10 * MESSAGES)
            pause(0.4 * number)
            own_minio.kill()
            service.kill_all()
            own_kafka.kill()
            own_kafka.start()
            own_minio.start()
            began = time.monotonic()
            service.start()
            scene.wait_landed(service, LANDING_S)
            seconds.append(time.monotonic() - began)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
    judged(scene, evidence)
    assert quantile(seconds) <= INTERVAL_S + SERVICE_RECOVERY_S, seconds
    evidence.struck(Strike.KILL, "power cut: every process", 3)
    evidence.struck(Strike.STORE, "power cut: store killed", 3)
    evidence.struck(Strike.KAFKA, "power cut: broker killed", 3)
    note(evidence, "power cut", seconds)


def pause(seconds: float) -> None:
    """Let time pass: here the time itself is the point."""
    time.sleep(seconds)
