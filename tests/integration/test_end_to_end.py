"""The main job: eight topics into sixteen tables on a real Kafka and a real MinIO."""

from __future__ import annotations

import pytest

from tests.conftest import TopicNames
from tests.rig.ledger import MALFORMED, Kind
from tests.rig.scene import START_S, Scene, metric
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 8
PARTITIONS = 4
BEFORE = 200_000
BACKGROUND_PER_S = 20_000
MEANWHILE = 200_000
PRODUCING_S = 120
LANDING_S = 120
SEED = "end to end"


@pytest.mark.slow
def test_service_lands_every_offset_of_eight_topics_once(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """A backlog and a running load end up as rows, byte for byte, each in exactly one table."""
    scene = Scene(
        kafka,
        minio,
        topic_names(TOPICS),
        lake_prefix,
        partitions=PARTITIONS,
    )
    with scene.producer(SEED) as producer:
        producer.produce(BEFORE)
        with scene.service() as service:
            producer.start_background(BACKGROUND_PER_S)
            service.wait_healthy(START_S)
            wait_until(
                lambda: producer.produced >= BEFORE + MEANWHILE,
                PRODUCING_S,
                f"{BEFORE + MEANWHILE} messages were produced",
            )
            producer.stop_background()
            scene.wait_landed(service, LANDING_S)
            page = service.wait_healthy(START_S)
            assert {entry["state"] for entry in page["topics"].values()} == {"active"}
            assert sum(entry["rows"] for entry in page["topics"].values()) == scene.ledger.count(
                Kind.VALID
            )
            # A plain topic's offsets are dense: one without a row would be a loss explained away.
            assert metric(service, "bronze_gap_offsets_total") == 0
            assert metric(service, "bronze_messages_consumed_total") == scene.ledger.rows()
            assert metric(service, "bronze_worker_restarts_total") == 0
            assert service.terminate() == 0
            service.wait_gone(1)
            assert service.log_strays() == []
    report = scene.judge()
    assert scene.ledger.rows() >= BEFORE + MEANWHILE
    # Every kind must have been there in every topic, or nothing was shown about it.
    for kind in MALFORMED:
        assert all(scene.ledger.count(kind, topic) for topic in scene.topics), kind
    assert report.checked["records"] >= 5
