"""Death and lost answers at each named point of the cycle's protocol.

A proxy between service and store sees the protocol on the wire, and acts between two of its
steps: no sleep, no hook in the product. Where the supervisor dies, everything stands still
afterwards, so the lake is looked at to prove that the point was the one named.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

import pytest

from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.producer import LoadProducer
from tests.rig.s3_proxy import (
    PASS,
    RESET_AFTER,
    RESET_BEFORE,
    Action,
    Request,
    Rule,
    S3Proxy,
    delay,
    fail_after,
    hang,
)
from tests.rig.scene import ORPHANS_END_S, START_S, Scene, kill, metric
from tests.rig.service import Service
from tests.rig.tcp_proxy import TcpProxy
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 3
PARTITIONS = 2
MESSAGES = 600
"""Per part: before the fault, in the cycle that meets it, and after it."""

FIRE_S = 20
LANDING_S = 40
LATE_S = 4
"""How late a put arrives whose sender died: after a new service has claimed the log."""
SILENCE_S = 3
"""Longer than STORE_TIMEOUT_SECONDS of the scene."""

UPLOAD = r"/bronze_(?P<topic>[^/]+)/_ingestion_date=.*\.parquet$"
RECORD = r"/_bronze/log/\d+\.json$"
ANY_COMMIT = r"/(dlq_)?bronze_(?P<topic>[^/]+)/_delta_log/\d+\.json$"
BRONZE_COMMIT = r"/bronze_(?P<topic>[^/]+)/_delta_log/\d+\.json$"


@pytest.fixture
def scene(
    kafka: KafkaService,
    minio: MinioService,
    topic_names: TopicNames,
    lake_prefix: str,
    proxy: S3Proxy,
) -> Scene:
    """Give a small scene whose service reaches the store through the proxy."""
    return Scene(
        kafka,
        minio,
        topic_names(TOPICS, "t"),
        lake_prefix,
        partitions=PARTITIONS,
        store_endpoint=proxy.endpoint,
    )


@dataclass(frozen=True, slots=True)
class Point:
    """A moment of the protocol as the proxy sees it.

    path: of the PUT that marks it; the first one to come is the one that strikes.
    after: the store has done the request, and its answer is held back; else it has not seen it.
    action: what then becomes of the request, or of its answer.
    hold: commits that are refused from then on until the service is back, so that what is found
        in between is certain.
    records, topics: how many records there are more right after the death of the whole service,
        and how many bronze tables show something of them; None is one or more.
    """

    path: str
    after: bool
    action: Action
    hold: str | None
    records: int
    topics: int | None


POINTS = {
    "uploaded, not voted": Point(UPLOAD, True, RESET_AFTER, None, 0, 0),
    "voted, record not sent": Point(RECORD, False, RESET_BEFORE, None, 0, 0),
    "decided, answer not heard": Point(RECORD, True, RESET_AFTER, ANY_COMMIT, 1, 0),
    "decided, no commit sent": Point(ANY_COMMIT, False, RESET_BEFORE, ANY_COMMIT, 1, 0),
    "between two topics' commits": Point(BRONZE_COMMIT, True, PASS, BRONZE_COMMIT, 1, 1),
    "committed, answer not heard": Point(BRONZE_COMMIT, True, RESET_AFTER, None, 1, None),
}
SUPERVISOR_DIES_DAILY = (
    "decided, answer not heard", "decided, no commit sent", "between two topics' commits")
WORKER_DIES_DAILY = (
    "uploaded, not voted", "voted, record not sent", "committed, answer not heard")
"""Each point is struck once every day, and by both deaths in `make faults`."""
assert {*SUPERVISOR_DIES_DAILY, *WORKER_DIES_DAILY} == POINTS.keys()


def points(daily: Collection[str]) -> list[object]:
    """All points as parameters; those that are not `daily` are left out of the everyday suite."""
    return [pytest.param(name, marks=[] if name in daily else [pytest.mark.extended])
            for name in POINTS]


def arm(
    proxy: S3Proxy, point: Point, action: Action, strike: Callable[[Request], None]
) -> tuple[Rule, Rule | None]:
    """Make the rule that strikes at a point, once, and the one that holds commits back."""
    rule = proxy.rule(
        method="PUT",
        path_regex=point.path,
        action=action,
        times=1,
        on_match=None if point.after else strike,
        on_effect=strike if point.after else None,
    )
    if point.hold is None:
        return rule, None
    return rule, proxy.rule(method="PUT", path_regex=point.hold, action=RESET_BEFORE)


@pytest.mark.fault("P6")
@pytest.mark.parametrize("name", points(SUPERVISOR_DIES_DAILY))
def test_service_lands_everything_once_when_supervisor_dies(
    name: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """A new start ends what a dead one decided, and reads again what it had not."""
    point = POINTS[name]
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        records, positions = scene.record_numbers(), scene.all_positions()

        rule, _ = arm(proxy, point, point.action, lambda _: service.kill_supervisor())
        producer.produce(MESSAGES)
        wait_until(lambda: rule.fired and not service.is_running(), FIRE_S, "it fired")
        service.wait_gone(ORPHANS_END_S)
        assert len(scene.record_numbers()) - len(records) == point.records
        moved = [t for t, held in scene.all_positions().items() if held != positions[t]]
        assert moved if point.topics is None else len(moved) == point.topics
        scene.judge_halfway()

        proxy.clear()
        since_s = time.monotonic()
        service.start()
        service.wait_healthy(START_S)
        what = f"supervisor killed: {name}"
        recovered(scene, service, evidence, what, since_s)
        evidence.struck(Strike.KILL, what, rule.fired)
        finish(scene, service, producer, evidence)


@pytest.mark.fault("P2", "P3", "P5")
@pytest.mark.parametrize("name", points(WORKER_DIES_DAILY))
def test_service_lands_everything_once_when_worker_dies(
    name: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """A worker's death costs its undecided rows at most, and nobody else's."""
    point = POINTS[name]
    # The supervisor lives, so its own requests go through; a dead worker's are lost with it.
    action = PASS if point.path == RECORD else point.action
    dead: list[tuple[str, int]] = []
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        pids = service.worker_pids()

        def strike(request: Request) -> None:
            match = re.search(point.path, request.path)
            seen = match["topic"] if match and match.groupdict() else scene.topics[0]
            others = [topic for topic in scene.topics if topic != seen]
            # Between two commits it is one that has not committed yet who dies.
            victim = others[0] if action is PASS and point.path == BRONZE_COMMIT else seen
            kill(pids[victim])
            dead.append((victim, pids[victim]))

        rule, held = arm(proxy, point, action, strike)
        producer.produce(MESSAGES)
        wait_until(lambda: rule.fired and dead, FIRE_S, "it fired")
        since_s = time.monotonic()
        if held is not None:
            proxy.remove(held)
        (victim, pid), = dead
        wait_until(
            lambda: service.worker_pids().get(victim, pid) != pid, FIRE_S, "the topic has a new one"
        )
        what = f"worker killed: {name}"
        recovered(scene, service, evidence, what, since_s)
        evidence.struck(Strike.KILL, what, len(dead))
        finish(scene, service, producer, evidence, restarted=victim)


@pytest.mark.fault("P3", "P4", "P6")
@pytest.mark.parametrize(
    "dies", ["worker", pytest.param("supervisor", marks=pytest.mark.extended)])
def test_group_offsets_catch_up_when_death_comes_before_they_are_told(
    dies: str, scene: Scene, proxy: S3Proxy, kafka: KafkaService, evidence: Evidence
) -> None:
    """The commit was answered and Kafka cut off: the table leads, and the group follows later."""
    if not kafka.is_managed:
        pytest.skip("a given Kafka has no listener for a proxy")
    with (
        TcpProxy(kafka.proxy_upstream, port_of(kafka.proxied_bootstrap)) as broker,
        scene.service(KAFKA_BOOTSTRAP_SERVERS=kafka.proxied_bootstrap) as service,
        scene.producer() as producer,
    ):
        settle(scene, service, producer)
        told = {topic: kafka.committed_offsets(scene.group, topic) for topic in scene.topics}
        pids = service.worker_pids()
        rule = proxy.rule(
            method="PUT", path_regex=RECORD, times=1, on_effect=lambda _: broker.black_hole()
        )
        producer.produce(MESSAGES)
        wait_until(lambda: rule.fired, FIRE_S, "it fired")
        scene.wait_landed(service, LANDING_S)
        for topic in scene.topics:
            assert kafka.committed_offsets(scene.group, topic) == told[topic]
            assert scene.positions(topic) != told[topic]
        if dies == "supervisor":
            service.kill_supervisor()
            service.wait_gone(ORPHANS_END_S)
            service.start()
        else:
            kill(pids[scene.topics[0]])
        broker.heal()
        since_s = time.monotonic()
        service.wait_healthy(LANDING_S)
        what = f"{dies} killed: committed, offsets not told"
        recovered(scene, service, evidence, what, since_s)
        evidence.struck(Strike.KILL, what)
        restarted = scene.topics[0] if dies == "worker" else None
        finish(scene, service, producer, evidence, restarted=restarted)


@pytest.mark.fault("P6")
def test_late_record_of_dead_supervisor_is_refused_by_the_next_start(
    scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """A put that arrives after a new service claimed the log cannot decide anything."""
    answers: list[Request] = []
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        rule = proxy.rule(
            method="PUT",
            path_regex=RECORD,
            action=delay(LATE_S),
            times=1,
            on_match=lambda _: service.kill_supervisor(),
            on_effect=answers.append,
        )
        producer.produce(MESSAGES)
        wait_until(lambda: rule.fired and not service.is_running(), FIRE_S, "it fired")
        since_s = time.monotonic()
        service.start()
        service.wait_healthy(START_S)
        what = "supervisor killed: its record arrives late"
        recovered(scene, service, evidence, what, since_s)
        wait_until(lambda: answers, FIRE_S, "the late put arrived")
        assert [answer.status for answer in answers] == [412]
        evidence.struck(Strike.KILL, what, rule.fired)
        finish(scene, service, producer, evidence)


LOST_ANSWERS = {
    "answered by 500": fail_after(500),
    "connection reset": RESET_AFTER,
    "no answer in time": hang(SILENCE_S, after=True),
}
LOST_DAILY = {"record": "no answer in time", "commit": "connection reset"}
"""How each of the two loses its answer every day; the other ways come in `make faults`."""


@pytest.mark.fault("S2")
@pytest.mark.parametrize(("what", "how"), [
    pytest.param(what, how, marks=[] if how == LOST_DAILY[what] else [pytest.mark.extended])
    for what in LOST_DAILY for how in LOST_ANSWERS])
def test_request_that_took_effect_is_not_repeated_when_its_answer_is_lost(
    what: str, how: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """An error is a question: the service reads back, and finds its own work done."""
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        records = scene.record_numbers()
        path = RECORD if what == "record" else BRONZE_COMMIT
        rule = proxy.rule(method="PUT", path_regex=path, action=LOST_ANSWERS[how], times=1)
        producer.produce(MESSAGES)
        wait_until(lambda: rule.fired, FIRE_S, "it fired")
        recovered(scene, service, evidence, f"{what} {how}", time.monotonic())
        assert rule.fired == 1
        evidence.struck(Strike.STORE, f"{what} {how}", rule.fired)
        if what == "record":
            # The store's client itself repeats what was answered by 500, and meets its own work.
            retries = metric(service, "bronze_log_record_retries_total")
            assert retries == 0 if how == "answered by 500" else retries >= 1
        else:
            # The rows are visible while the worker still waits for the answer that never comes.
            wait_until(lambda: commits_read_back(service), LANDING_S, "it was read back")
        assert metric(service, "bronze_cycles_total", outcome="aborted") == 0
        assert len(scene.record_numbers()) > len(records)
        finish(scene, service, producer, evidence)


def settle(scene: Scene, service: Service, producer: LoadProducer) -> None:
    """Have a first part land, so that the next request at a point belongs to the next part."""
    service.wait_healthy(START_S)
    producer.produce(MESSAGES)
    scene.wait_landed(service, LANDING_S)


def recovered(
    scene: Scene, service: Service, evidence: Evidence, what: str, since_s: float
) -> None:
    """Wait until all is visible, and tell how long that took since a moment."""
    scene.wait_landed(service, LANDING_S)
    evidence.recovered(what, time.monotonic() - since_s)


def finish(
    scene: Scene, service: Service, producer: LoadProducer, evidence: Evidence,
    restarted: str | None = None,
) -> None:
    """Produce once more, see all of it land, stop, and judge."""
    producer.produce(MESSAGES)
    scene.wait_landed(service, LANDING_S)
    page = service.wait_healthy(LANDING_S)
    for topic, entry in page["topics"].items():
        assert (entry["restarts"] > 0) is (topic == restarted), f"{topic}: {entry}"
    assert service.terminate() == 0
    scene.judge()
    evidence.judged(scene.ledger.rows(), len(scene.record_numbers()))


def commits_read_back(service: Service) -> float:
    """Commits that were answered by an error, and therefore looked for in the table."""
    return metric(service, "bronze_commit_conflicts_total") + metric(
        service, "bronze_commits_ambiguous_total"
    )


def port_of(address: str | None) -> int:
    """The port of ``host:port``."""
    assert address is not None
    return int(address.rpartition(":")[2])
