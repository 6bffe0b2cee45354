"""What the limit of memory does to a whole service on a real Kafka and a real MinIO."""

from __future__ import annotations

import pytest

from tests.conftest import TopicNames
from tests.rig.scene import START_S, Scene, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 2
PARTITIONS = 2
BACKGROUND_PER_S = 500
RECYCLED_EACH = 3
RECYCLING_S = 90
LANDING_S = 60


@pytest.mark.slow
def test_workers_that_are_recycled_all_the_time_lose_and_double_nothing(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """Each ends while messages come in, and its successor reads on from the table."""
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS)
    environ = {**scene.environ, "BATCH_INTERVAL_SECONDS": "2"}
    with (scene.producer() as producer,
          Service(environ, TOPICS, module="tests.rig.tiny_shares") as service):
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)

        def recycled() -> list[float]:
            return [metric(service, "bronze_worker_recycled_total", topic=topic)
                    for topic in scene.topics]

        wait_until(lambda: min(recycled()) >= RECYCLED_EACH, RECYCLING_S,
                   lambda: f"all were recycled, until now {recycled()}")
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        assert metric(service, "bronze_worker_restarts_total") == 0
        assert metric(service, "bronze_topic_failures") == 0
        assert service.terminate() == 0
        lines = service.log_events("worker_outgrew_its_share")
        assert lines and all(line["private_mb"] > line["allowed_mb"] for line in lines)
        blamed = [why for line in service.log_events("cycle_aborted")
                  for why in line["because"].values()]
        assert "its worker died" not in blamed
    scene.judge()
