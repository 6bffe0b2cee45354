"""What the limit of memory does to a whole service on a real Kafka and a real MinIO."""

from __future__ import annotations

import random

import pytest

from bench.load import Load
from shared.memory import BATCH_COPIES, FLOOR_BYTES, MB, least_limit_mb, plan
from tests.conftest import TopicNames
from tests.integration import lakeside as ls
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


DRAIN_TOPICS, DRAIN_PARTITIONS = 8, 4
DRAIN_MESSAGES = 300_000
DRAIN_S = 120
LOOK_S = 0.1
DRAIN_LOOKS_MIN = 20
MEMORY_LIMIT_MB = 256


def test_a_short_drain_stays_within_the_default_limit(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """All processes counted, from the start on.  This process has loaded the same libraries, which
    makes the sum some megabytes too small: `make bench` measures it, this notices what is lost."""
    topics = topic_names(DRAIN_TOPICS)
    for topic in topics:
        kafka.create_topic(topic, DRAIN_PARTITIONS)
    Load(kafka.bootstrap, list(topics), DRAIN_PARTITIONS).produce(DRAIN_MESSAGES, lambda sent: None)
    looks: list[int] = []

    def is_drained(service: Service) -> bool:
        looks.append(service.pss_bytes())
        told = service.topics().values()
        return sum(entry["rows"] + entry["dead_letters"] for entry in told) == DRAIN_MESSAGES

    lake = ls.store_lake(minio, lake_prefix)
    with Service(ls.settings(kafka.bootstrap, lake, topics), DRAIN_TOPICS) as service:
        wait_until(lambda: is_drained(service), DRAIN_S, "everything has landed", LOOK_S)
    assert max(looks) <= MEMORY_LIMIT_MB * MB, f"{max(looks) / MB:.0f} MB"
    assert len(looks) > DRAIN_LOOKS_MIN


LARGE_TOPICS = 4
LARGE_EACH = 30
LARGE_BYTES = 900_000
HUGE_EVERY = 5
"""So many huge ones in every topic that no two of them meeting would be a miracle."""
HUGE_BYTES = 6_000_000
"""Beyond all that four topics may borrow with the least limit, however it is divided."""


def incompressible(size: int, seed: int) -> bytes:
    """A JSON string of about that size."""
    return b'"%s"' % random.Random(seed).randbytes(size // 2).hex().encode()


def test_large_messages_land_within_the_least_limit(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """Topics take turns at the common budget, many messages are larger than it, and all get on."""
    topics = topic_names(LARGE_TOPICS)
    limit_mb = least_limit_mb(LARGE_TOPICS)
    assert BATCH_COPIES * HUGE_BYTES > plan(limit_mb, LARGE_TOPICS).loan_budget_bytes + FLOOR_BYTES
    lake = ls.store_lake(minio, lake_prefix)
    values = {topic: [incompressible(HUGE_BYTES if number % HUGE_EVERY == 0 else LARGE_BYTES,
                                     number * LARGE_TOPICS + index)
                      for number in range(LARGE_EACH)] for index, topic in enumerate(topics)}
    for topic in topics:
        kafka.create_topic(topic, config={"max.message.bytes": 2 * HUGE_BYTES})
        ls.send(kafka.bootstrap, topic, values[topic],
                client={"message.max.bytes": 2 * HUGE_BYTES})
    environ = ls.settings(kafka.bootstrap, lake, topics, MEMORY_LIMIT_MB=limit_mb)
    with Service(environ, LARGE_TOPICS) as service:
        for topic in topics:
            ls.wait_for_position(service, lake, topic, len(values[topic]), timeout_s=LANDING_S)
        assert metric(service, "bronze_pauses_total") > 0, "nobody met the end of the budget"
        assert metric(service, "bronze_worker_restarts_total") == 0
        service.wait_for(lambda page: metric(service, "bronze_memory_borrowed_bytes") == 0, 10,
                         "everything borrowed is given back")
        assert service.terminate() == 0
    for topic in topics:
        assert [row["value"].encode() for row in ls.rows(lake, topic)] == values[topic]
