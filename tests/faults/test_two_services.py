"""Two services on one lake: by mistake under one identity, and on purpose under two."""

from __future__ import annotations

import pytest

from shared.exit_codes import ExitCode
from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.recovery import judged
from tests.rig.scene import ORPHANS_END_S, START_S, Scene
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 2
PARTITIONS = 4
MESSAGES = 2_000
BACKGROUND_PER_S = 500
FENCED_S = 90
LANDING_S = 60
SHARED_S = 60


@pytest.fixture
def scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> Scene:
    """Give a scene of two topics."""
    return Scene(kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS)


@pytest.mark.fault("P10")
def test_of_two_services_with_one_identity_the_older_is_fenced(
    scene: Scene, evidence: Evidence
) -> None:
    """The store decides, by the newer start record; no lock file, no timing."""
    with scene.service() as older, scene.producer() as producer:
        older.wait_healthy(START_S)
        producer.produce(MESSAGES)
        producer.start_background(BACKGROUND_PER_S)
        with scene.service() as newer:
            wait_until(lambda: not older.is_running(), FENCED_S, "the older one ended")
            assert older.exit_code == ExitCode.FENCED
            older.wait_gone(ORPHANS_END_S)
            producer.stop_background()
            newer.wait_healthy(START_S)
            scene.wait_landed(newer, LANDING_S)
            assert newer.is_running()
            assert newer.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "second service of the same identity")


@pytest.mark.fault("P10")
def test_an_idle_service_is_fenced_too(scene: Scene, evidence: Evidence) -> None:
    """It writes no record that could be refused, so it must learn of it another way."""
    with scene.service() as older:
        older.wait_healthy(START_S)
        with scene.service() as newer:
            wait_until(lambda: not older.is_running(), FENCED_S, "the older one ended")
            assert older.exit_code == ExitCode.FENCED
            newer.wait_healthy(START_S)
            assert newer.terminate() == 0
    evidence.struck(Strike.HOST, "second service of the same identity")


@pytest.mark.fault("P10")
@pytest.mark.parametrize(
    "how", ["killed", pytest.param("stopped", marks=pytest.mark.extended)])
def test_two_instances_share_partitions_and_one_takes_over_when_the_other_ends(
    how: str, scene: Scene, evidence: Evidence
) -> None:
    """Ranges of a lost partition are read again by its next owner, or left to the record."""
    settings = {"KAFKA_PROPERTY_SESSION_TIMEOUT_MS": "6000"}
    with scene.service(INSTANCE_ID="one", **settings) as one, scene.producer() as producer:
        one.wait_healthy(START_S)
        producer.produce(MESSAGES)
        producer.start_background(BACKGROUND_PER_S)
        with scene.service(INSTANCE_ID="two", **settings) as two:
            wait_until(
                lambda: partitions_of(one) | partitions_of(two) == {PARTITIONS // 2},
                SHARED_S, "each has half of the partitions")
            two.wait_healthy(START_S)
            if how == "killed":
                two.kill_supervisor()
                two.wait_gone(ORPHANS_END_S)
            else:
                assert two.terminate() == 0
        wait_until(lambda: partitions_of(one) == {PARTITIONS}, SHARED_S, "one has them all")
        producer.stop_background()
        scene.wait_landed(one, LANDING_S)
        one.wait_healthy(LANDING_S)
        assert one.terminate() == 0
    judged(scene, evidence)
    evidence.struck(Strike.KILL, f"one of two instances is {how}")


def partitions_of(service: Service) -> set[int]:
    """How many partitions each of its topics has, empty while its page is not there."""
    return {entry["partitions"] for entry in service.topics().values()}
