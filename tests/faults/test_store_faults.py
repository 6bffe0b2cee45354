"""The object store refuses, is late, cuts, or loses its answer: operation by operation.

A proxy between service and store strikes on the wire. A request that goes wrong is repeated by
the store's client, twice, so a strike is three in a row: what is tested is the service.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.conftest import TopicNames
from tests.faults.store_scenes import (
    CHECKPOINT, COMMIT, FIRE_S, LANDING_S, MESSAGES, RECORD, UPLOAD, commit_beside, finish,
    produce_large, settle, wait_recovered,
)
from tests.rig.evidence import Evidence, Strike
from tests.rig.producer import LoadProducer
from tests.rig.s3_proxy import (
    CUT_ANSWER, CUT_REQUEST, RESET_AFTER, RESET_BEFORE, Action, Request, S3Proxy, delay, fail_after,
    fail_before, hang, slow,
)
from tests.rig.scene import Scene, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 3
PARTITIONS = 2
TRIES = 3
"""The store's client sends a request at most so often; then the service hears of it."""
SILENCE_S = 3
"""Longer than STORE_TIMEOUT_SECONDS of the scene."""
TRICKLE_BYTES_PER_S = 300
LARGE_VALUES = 200
"""Twenty megabytes that do not compress: files are full long before their cycle ends."""

LOAD_TOPICS = 8
LOAD_PER_S = 2_000
LOAD_S = 30
MIXED_FAULTS_MIN = 100

OUTAGE_S = 6
QUICK_CYCLES = {"BATCH_INTERVAL_SECONDS": "0.2"}
"""A checkpoint comes with every twentieth commit, so cycles are made short."""


@pytest.fixture
def scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> Scene:
    """Give a small scene whose service reaches the store through the proxy."""
    return Scene(
        kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
        store_endpoint=proxy.endpoint)


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of request as it looks on the wire; `large` ones need a file that is full, those that
    open a table are made when another writer has moved it on."""

    method: str
    path: str = ""
    query: str | None = None
    large: bool = False
    opens: bool = False


OPERATIONS = {
    "put of a data file": Operation("PUT", UPLOAD, "^$"),
    "put of a full data file": Operation("PUT", UPLOAD, "^$", large=True),
    "put of a commit": Operation("PUT", COMMIT),
    "put of a record": Operation("PUT", RECORD),
    "get": Operation("GET", r"\.json$", opens=True),
    "list": Operation("GET", query="list-type=2", opens=True),
    "head": Operation("HEAD"),
}

REFUSALS = {"500": fail_before(500), "503": fail_before(503), "429": fail_before(429)}

BAD_LINES = {
    "answer later than the limit": (hang(SILENCE_S, after=False), "put of a data file"),
    "request held back for long": (delay(SILENCE_S), "put of a commit"),
    "connection reset before the effect": (RESET_BEFORE, "put of a record"),
    "request cut in its body": (CUT_REQUEST, "put of a data file"),
    "full file cut in its body": (CUT_REQUEST, "put of a full data file"),
    "commit cut in its body": (CUT_REQUEST, "put of a commit"),
    "record cut in its body": (CUT_REQUEST, "put of a record"),
    "answer cut in its body": (CUT_ANSWER, "get"),
    "list cut in its body": (CUT_ANSWER, "list"),
    "answer that trickles": (slow(TRICKLE_BYTES_PER_S), "get"),
    "list that trickles": (slow(TRICKLE_BYTES_PER_S), "list"),
}


@dataclass(frozen=True, slots=True)
class Stage:
    """What a test of the store works with."""

    scene: Scene
    service: Service
    producer: LoadProducer
    proxy: S3Proxy
    evidence: Evidence
    bootstrap: str

    def strike(self, what: str, action: Action, operation: Operation, seed: int) -> None:
        """Have an operation go wrong `TRIES` times in a row, and see everything land."""
        if operation.opens:
            commit_beside(self.scene, self.scene.topics[0], "beside")
        rule = self.proxy.rule(
            method=operation.method, path_regex=operation.path, query_regex=operation.query,
            action=action, times=TRIES)
        if operation.large:
            produce_large(
                self.bootstrap, self.scene, self.scene.topics[0], LARGE_VALUES, seed)
        self.producer.produce(MESSAGES)
        wait_until(lambda: rule.fired == TRIES, FIRE_S, lambda: f"{what}: {rule.fired} fired")
        since_s = time.monotonic()
        wait_recovered(self.scene, self.service, self.evidence, what, since_s)
        self.evidence.struck(Strike.STORE, what, rule.fired)
        self.proxy.remove(rule)


@pytest.mark.fault("S1")
@pytest.mark.parametrize("status", [
    "503", pytest.param("500", marks=pytest.mark.extended),
    pytest.param("429", marks=pytest.mark.extended)])
def test_everything_lands_once_when_the_store_refuses_each_kind_of_request(
    status: str, scene: Scene, proxy: S3Proxy, kafka: KafkaService, evidence: Evidence
) -> None:
    """Each operation fails until the service itself has to repeat it; no worker dies of it."""
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        stage = Stage(scene, service, producer, proxy, evidence, kafka.bootstrap)
        for seed, (name, operation) in enumerate(OPERATIONS.items()):
            stage.strike(f"{status} at {name}", REFUSALS[status], operation, seed)
        finish(scene, service, producer, evidence)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S3")
def test_everything_lands_once_when_requests_and_answers_are_late_or_cut(
    scene: Scene, proxy: S3Proxy, kafka: KafkaService, evidence: Evidence
) -> None:
    """No half of anything is ever taken for the whole."""
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        stage = Stage(scene, service, producer, proxy, evidence, kafka.bootstrap)
        for seed, (what, (action, name)) in enumerate(BAD_LINES.items()):
            stage.strike(what, action, OPERATIONS[name], seed)
        finish(scene, service, producer, evidence)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S1")
@pytest.mark.parametrize("status", REFUSALS)
def test_everything_lands_once_after_the_store_has_refused_everything_for_a_while(
    status: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """Under load, and with every operation refused at once; nobody touches the service."""
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        before = service.worker_pids()
        producer.start_background(LOAD_PER_S)
        rule = proxy.rule(action=REFUSALS[status])
        page = service.wait_unhealthy(FIRE_S)
        assert any("StorageUnavailable" in reason for reason in page["reasons"]), page["reasons"]
        pause(OUTAGE_S)
        proxy.clear()
        since_s = time.monotonic()
        producer.stop_background()
        what = f"{status} at everything"
        wait_recovered(scene, service, evidence, what, since_s)
        evidence.struck(Strike.STORE, what, rule.fired)
        assert service.worker_pids() == before
        finish(scene, service, producer, evidence)


MIX = {
    "503 at a share of requests": (fail_before(503), 0.12),
    "500 at a share of requests": (fail_before(500), 0.06),
    "429 at a share of requests": (fail_before(429), 0.06),
    "500 after the effect, at a share": (fail_after(500), 0.08),
    "reset, at a share": (RESET_BEFORE, 0.06),
    "reset after the effect, at a share": (RESET_AFTER, 0.08),
    "request cut, at a share": (CUT_REQUEST, 0.05),
    "answer cut, at a share": (CUT_ANSWER, 0.05),
    "no answer, at a share": (hang(SILENCE_S, after=False), 0.01),
    "no answer after the effect, at a share": (hang(SILENCE_S, after=True), 0.01),
}


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S1", "S2", "S3")
def test_everything_lands_once_when_a_large_share_of_requests_goes_wrong_under_load(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy, evidence: Evidence,
) -> None:
    """Hundreds of faults of all kinds in one run, some in the middle of handling others."""
    scene = Scene(
        kafka, minio, topic_names(LOAD_TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
        store_endpoint=proxy.endpoint, settings={"ISOLATE_AFTER": "0"})
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        producer.start_background(LOAD_PER_S)
        rules = {what: proxy.rule(action=action, share=share)
                 for what, (action, share) in MIX.items()}
        wait_until(
            lambda: sum(rule.fired for rule in rules.values()) >= MIXED_FAULTS_MIN
            and all(rule.fired for rule in rules.values()), LANDING_S, "all have fired")
        pause(LOAD_S)
        scene.judge_halfway()
        proxy.clear()
        since_s = time.monotonic()
        producer.stop_background()
        wait_recovered(scene, service, evidence, "a large share goes wrong", since_s)
        for what, rule in rules.items():
            evidence.struck(Strike.STORE, what, rule.fired)
        finish(scene, service, producer, evidence)


CHECKPOINT_FAULTS = {
    "refused for good": (fail_before(500), "S16"),
    "500 after the effect": (fail_after(500), "S2"),
    "reset after the effect": (RESET_AFTER, "S2"),
    "no answer after the effect": (hang(SILENCE_S, after=True), "S2"),
}


@pytest.mark.extended
@pytest.mark.parametrize("how", [
    pytest.param(how, marks=pytest.mark.fault(row)) for how, (_, row) in CHECKPOINT_FAULTS.items()])
def test_commit_stands_when_its_checkpoint_goes_wrong(
    how: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """The keeper writes it, beside the workers: its errors are no commit's."""
    action, _ = CHECKPOINT_FAULTS[how]
    settings = {**QUICK_CYCLES, "KEEPER_INTERVAL_SECONDS": "1"}
    with scene.service(**settings) as service, scene.producer() as producer:
        settle(scene, service, producer)
        rule = proxy.rule(method="PUT", path_regex=CHECKPOINT, action=action)
        producer.start_background(LOAD_PER_S)
        wait_until(
            lambda: len({table_of(request) for request in rule.requests}) >= TOPICS, FIRE_S,
            "the checkpoint of each topic went wrong")
        producer.stop_background()
        since_s = time.monotonic()
        scene.wait_landed(service, LANDING_S)
        proxy.clear()
        what = f"checkpoint {how}"
        wait_recovered(scene, service, evidence, what, since_s)
        evidence.struck(Strike.STORE, what, rule.fired)
        assert metric(service, "bronze_cycles_total", outcome="aborted") == 0
        finish(scene, service, producer, evidence)


def table_of(request: Request) -> str:
    """The table's folder in the path of a request for its log."""
    return request.path.split("/_delta_log/")[0]


def pause(seconds: float) -> None:
    """Let time pass with the fault on: its length is what is being tried."""
    time.sleep(seconds)
