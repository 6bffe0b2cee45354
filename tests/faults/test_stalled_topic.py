"""One topic cannot write, before the decision or after it: what the others may do meanwhile."""

from __future__ import annotations

import time

import pytest

from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.s3_proxy import RESET_BEFORE, S3Proxy
from tests.rig.scene import START_S, Scene, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 3
PARTITIONS = 2
MESSAGES = 900
STALL_S = 30
LANDING_S = 60
ISOLATE_AFTER = "3"
BEFORE, AFTER = "before it is isolated", "after it is isolated"
"""When it heals. Each comes once every day, and with the other kind of stall in `make faults`."""


@pytest.fixture
def scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> Scene:
    """Give a scene whose service reaches the store through the proxy."""
    return Scene(
        kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
        store_endpoint=proxy.endpoint,
        settings={"CYCLE_DEADLINE_SECONDS": "3", "ISOLATE_AFTER": ISOLATE_AFTER},
    )


@pytest.mark.fault("S1")
@pytest.mark.parametrize("heals", [BEFORE, pytest.param(AFTER, marks=pytest.mark.extended)])
def test_nothing_newer_shows_while_a_topic_cannot_upload(
    heals: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """All or nothing: before the decision a topic that cannot prepare holds all the others."""
    stalled, *others = scene.topics
    # Waiting for ever is the way to look at the time before isolation without a race.
    settings = {"ISOLATE_AFTER": "0"} if heals == BEFORE else {}
    with scene.service(**settings) as service, scene.producer() as producer:
        settle(scene, service, producer)
        before = scene.all_positions()
        rule = proxy.rule(
            method="PUT", path_regex=rf"/bronze_{stalled}/.*\.parquet$", action=RESET_BEFORE)
        producer.produce(MESSAGES)
        if heals == BEFORE:
            wait_until(lambda: aborted(service) >= 4, STALL_S, "cycles were aborted")
            assert scene.all_positions() == before
            assert_unhealthy(service, stalled, "failing")
        else:
            wait_until(lambda: standing(service, stalled) == "isolated", STALL_S, "isolated")
            scene.wait_landed(service, LANDING_S, others)
            assert scene.positions(stalled) == before[stalled]
            assert_unhealthy(service, stalled, "isolated")
        proxy.clear()
        evidence.struck(Strike.STORE, "uploads of one topic refused", rule.fired)
        finish(scene, service, producer, others, evidence, "uploads of one topic refused")


@pytest.mark.fault("S1")
@pytest.mark.parametrize("heals", [pytest.param(BEFORE, marks=pytest.mark.extended), AFTER])
def test_others_complete_a_decided_cycle_and_nothing_newer_is_decided_while_a_topic_is_behind(
    heals: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """After the decision the others commit; what is newer waits for the one that cannot."""
    stalled, *others = scene.topics
    settings = {"ISOLATE_AFTER": "0"} if heals == BEFORE else {}
    with scene.service(**settings) as service, scene.producer() as producer:
        settle(scene, service, producer)
        before = scene.positions(stalled)
        rule = proxy.rule(
            method="PUT", path_regex=rf"/bronze_{stalled}/_delta_log/", action=RESET_BEFORE)
        producer.produce(MESSAGES)
        wait_until(lambda: cycles_left_behind(service), STALL_S, "a cycle left it behind")
        assert cycles_left_behind(service)[0]["behind"] == [stalled]
        decided = scene.record_numbers()
        scene.wait_landed(service, LANDING_S, others)
        producer.produce(MESSAGES)
        if heals == BEFORE:
            seen = aborted(service)
            wait_until(lambda: aborted(service) >= seen + 3, STALL_S, "newer cycles aborted")
            assert scene.record_numbers() == decided
            wait_until(lambda: standing(service, stalled) == "behind", STALL_S, "said")
            assert_unhealthy(service, stalled, "behind")
        else:
            wait_until(lambda: standing(service, stalled) == "isolated", STALL_S, "isolated")
            events = [line["event"] for line in service.log_events()]
            assert events.count("cycle_aborted") >= int(ISOLATE_AFTER)
            scene.wait_landed(service, LANDING_S, others)
            assert_unhealthy(service, stalled, "isolated")
        assert scene.positions(stalled) == before
        proxy.clear()
        evidence.struck(Strike.STORE, "commits of one topic refused", rule.fired)
        finish(scene, service, producer, others, evidence, "commits of one topic refused")


def settle(scene: Scene, service: Service, producer: object) -> None:
    """Have a first part land while everything is well."""
    service.wait_healthy(START_S)
    producer.produce(MESSAGES)
    scene.wait_landed(service, LANDING_S)


def finish(
    scene: Scene, service: Service, producer: object, others: list[str], evidence: Evidence,
    what: str,
) -> None:
    """The stall has been lifted: everything lands by itself, and nobody else read twice."""
    since_s = time.monotonic()
    scene.wait_landed(service, LANDING_S)
    service.wait_healthy(LANDING_S)
    evidence.recovered(what, time.monotonic() - since_s)
    producer.produce(MESSAGES)
    scene.wait_landed(service, LANDING_S)
    service.wait_healthy(LANDING_S)
    for topic in others:
        consumed = metric(service, "bronze_messages_consumed_total", topic=topic)
        assert consumed == scene.ledger.rows(topic), f"{topic} was read again"
        assert service.topics()[topic]["restarts"] == 0
    assert service.terminate() == 0
    scene.judge()
    evidence.judged(scene.ledger.rows(), len(scene.record_numbers()))


def standing(service: Service, topic: str) -> str:
    """The topic's state as the page says it."""
    return str(service.topics()[topic]["state"])


def cycles_left_behind(service: Service) -> list[dict]:
    """The log's lines on cycles that some topic did not complete in time."""
    return [line for line in service.log_events("cycle_committed") if "behind" in line]


def aborted(service: Service) -> float:
    """Cycles aborted so far."""
    return metric(service, "bronze_cycles_total", outcome="aborted")


def assert_unhealthy(service: Service, topic: str, code: str) -> None:
    """503, with a reason that names the topic, what it suffers from, and what to do."""
    status, _ = service.get("/health")
    page = service.health()
    assert status == 503
    assert any(f"{topic}: {code}" in reason for reason in page["reasons"]), page["reasons"]
    error = page["topics"][topic]["last_error"]
    assert error["name"] == "StorageUnavailable"
    assert error["what_to_do"]
