"""The engines on a lake in a real MinIO that a running service has filled from a real Kafka."""

from __future__ import annotations

import pytest

import bronze_reader
from tests.conftest import TopicNames
from tests.examples.conftest import Run
from tests.examples.test_engines import SPARK_S, Engine, shows
from tests.integration.lakeside import (
    START_S, Lake, create_topics, numbered, send, settings, store_lake, wait_for_position,
)
from tests.rig.service import Service
from tests.services import KafkaService, MinioService

GOOD, BAD, MORE = 40, 3, 25
ENTERING_S = 60


@pytest.mark.slow
@pytest.mark.timeout(SPARK_S)
@pytest.mark.parametrize("name", ["duckdb", "polars", "pyspark"])
def test_each_engine_reads_a_lake_in_a_store_with_keys_from_the_environment(
    name: str, kafka: KafkaService, minio: MinioService, topic_names: TopicNames,
    lake_prefix: str, run: Run,
) -> None:
    """Two topics, malformed messages among them, and what came after a cycle."""
    engine, topics = Engine(name), topic_names(2)
    lake = store_lake(minio, lake_prefix)
    first = fill(kafka, lake, topics)
    environ = {**engine.environ, **lake.environment}
    ended = run(*engine.command(lake.uri), environ=environ)
    assert ended.returncode == 0, ended.stderr
    found = shows(ended.stdout, "rows", topics)
    assert {topic: (int(cells["rows"]), int(cells["dead_letters"]))
            for topic, cells in found.items()} == dict.fromkeys(topics, (GOOD + MORE, BAD))
    ended = run(*engine.command(lake.uri, "--since", str(first)), environ=environ)
    new = shows(ended.stdout, "new_rows", topics)
    assert {topic: int(cells["new_rows"]) for topic, cells in new.items()} == dict.fromkeys(
        topics, MORE)
    assert minio.secret_key not in ended.stdout + ended.stderr


def fill(kafka: KafkaService, lake: Lake, topics: list[str]) -> int:
    """Two lots of messages by a service of its own; the cycle_id that the first lot ended with."""
    create_topics(kafka, topics)
    with Service(settings(kafka.bootstrap, lake, topics, KEEPER_INTERVAL_SECONDS=1),
                 len(topics)) as service:
        service.wait_healthy(START_S)
        land(kafka, lake, service, topics, [*numbered(GOOD), *[b"{"] * BAD])
        first = bronze_reader.Lake(lake.uri, lake.options).cut()
        land(kafka, lake, service, topics, numbered(MORE, GOOD))
        assert service.terminate() == 0
    return first.cycle_id


def land(
    kafka: KafkaService, lake: Lake, service: Service, topics: list[str], values: list[bytes],
) -> None:
    """Send values to each topic, and wait until they are rows and in the ledger."""
    for topic in topics:
        offsets = send(kafka.bootstrap, topic, values)
        wait_for_position(service, lake, topic, offsets[-1] + 1)
    service.wait_for(lambda page: page["keeper"]["ledger_behind"] == 0, ENTERING_S,
                     "everything is in the ledger")
