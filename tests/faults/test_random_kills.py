"""SIGKILL at moments nobody chose: workers, supervisor, forkserver and sidecar, under load."""

from __future__ import annotations

import random
import time

import psutil
import pytest

from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.recovery import (
    WORKER_RECOVERY_S, commits, committed_again, judged, note, quantile,
)
from tests.rig.scene import ORPHANS_END_S, START_S, Scene, kill
from tests.rig.service import Service
from tests.services import KafkaService, MinioService

TOPICS = 8
PARTITIONS = 4
BACKLOG = 60_000
BACKGROUND_PER_S = 3_000
KILLS = 24
PAUSE_S = (0.2, 1.8)
"""Between two kills: shorter than a start and longer than a cycle both happen."""
LANDING_S = 90
VICTIMS = ("worker",) * 6 + ("supervisor",) * 2 + ("sidecar", "forkserver")
SEED = 20261124
ROUNDS, KILLED_AT_ONCE = 50, 3
"""Of the many kills: workers of different topics, so that each one's recovery can be measured."""
SPREAD_S = 1.0
"""Within a round; as long as a cycle, so that a kill may come anywhere in it."""
INTERVAL_S = 1
"""BATCH_INTERVAL_SECONDS of the scene."""


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.fault("P1")
def test_everything_lands_once_when_processes_are_killed_at_random_moments(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    evidence: Evidence,
) -> None:
    """Whatever dies and whenever, every offset ends up in exactly one table, cycles are whole."""
    generator = random.Random(SEED)
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS,
                  settings={"KEEPER_INTERVAL_SECONDS": "2"})
    killed: dict[str, int] = {}
    with scene.producer(SEED) as producer, scene.service() as service:
        producer.produce(BACKLOG)
        producer.start_background(BACKGROUND_PER_S)
        while sum(killed.values()) < KILLS:
            pause(generator.uniform(*PAUSE_S))
            victim = generator.choice(VICTIMS)
            if strike(service, victim, generator):
                killed[victim] = killed.get(victim, 0) + 1
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
    print(f"seed {SEED}, killed {killed}")
    assert killed.keys() == set(VICTIMS), "a kind of process was never killed"
    judged(scene, evidence)
    for victim, count in killed.items():
        evidence.struck(Strike.KILL, f"{victim} at a random moment", count)


@pytest.mark.slow
@pytest.mark.extended
@pytest.mark.timeout(900)
@pytest.mark.fault("P1")
def test_each_of_many_killed_workers_commits_again_within_seconds(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    evidence: Evidence,
) -> None:
    """150 workers die under load; how long each topic then shows nothing new is measured."""
    generator = random.Random(SEED)
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS)
    seconds: list[float] = []
    with scene.producer(SEED) as producer, scene.service() as service:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        committed_again(service, scene.topics, {}, time.monotonic())
        for _ in range(ROUNDS):
            seconds += kill_some(service, generator)
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        page = service.wait_healthy(START_S)
        restarts = sum(entry["restarts"] for entry in page["topics"].values())
        assert service.terminate() == 0
    print(f"seed {SEED}, recovery {[round(quantile(seconds, share), 2) for share in (.5, .95, 1)]}")
    assert restarts == ROUNDS * KILLED_AT_ONCE, "a worker died that nobody killed"
    judged(scene, evidence)
    assert quantile(seconds) <= INTERVAL_S + WORKER_RECOVERY_S, sorted(seconds)[-20:]
    evidence.struck(Strike.KILL, "worker under load", len(seconds))
    note(evidence, "worker killed", seconds)


def kill_some(service: Service, generator: random.Random) -> list[float]:
    """Kill workers of some topics, and return how long each topic took to commit again."""
    pids = service.worker_pids()
    seconds: list[float] = []
    struck_at: dict[str, float] = {}
    since: dict[str, int] = {}
    for topic in generator.sample(sorted(pids), KILLED_AT_ONCE):
        pause(generator.uniform(0, SPREAD_S / KILLED_AT_ONCE))
        kill(pids[topic])
        struck_at[topic] = time.monotonic()
        since[topic] = commits(service)[topic]
    first = min(struck_at.values())
    for topic, taken in committed_again(service, struck_at, since, first).items():
        seconds.append(taken - (struck_at[topic] - first))
    return seconds


def strike(service: Service, victim: str, generator: random.Random) -> bool:
    """Kill one process of the kind; False when there is none at this moment."""
    if victim == "supervisor":
        service.kill_supervisor()
        service.wait_gone(ORPHANS_END_S)
        service.start()
        return True
    pids = find(service, victim)
    if not pids:
        return False
    kill(generator.choice(pids))
    return True


def find(service: Service, victim: str) -> list[int]:
    """Pids of the service's processes of a kind, from the process table: the page may be away."""
    if victim == "sidecar":
        pid = service.sidecar_pid()
        return [] if pid is None else [pid]
    forkservers = [child for child in psutil.Process(service.pid).children() if is_forkserver(child)]
    if victim == "forkserver":
        return [process.pid for process in forkservers]
    page = service.sidecar_pid()
    return sorted(child.pid for process in forkservers for child in children_of(process)
                  if child.pid != page)


def is_forkserver(process: psutil.Process) -> bool:
    """Whether workers are forked from it; a process that is just ending is not."""
    try:
        return "multiprocess.forkserver" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def children_of(process: psutil.Process) -> list[psutil.Process]:
    """Its children, none when it is just ending."""
    try:
        return list(process.children())
    except psutil.Error:
        return []


def pause(seconds: float) -> None:
    """Let time pass: here the moment is the point, so there is no condition to wait for."""
    time.sleep(seconds)
