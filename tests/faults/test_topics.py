"""Topics that lose their tail, have odd names, or change under the service.

Deleted and created again, grown, overtaken by retention: see tests/integration.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from pyarrow import fs

from shared.exit_codes import ExitCode
from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.evidence import Evidence, Strike
from tests.rig.lake import open_lake
from tests.rig.scene import START_S, Scene
from tests.rig.service import Service
from tests.services import KafkaService, MinioService

LANDING_S = 40
CHECK_S = 10
SEGMENT_BYTES_MAX = 255
"""Of one name in a path, for file systems and for MinIO."""
NAME_CHARS_MAX = SEGMENT_BYTES_MAX - len("dlq_bronze_") - len(".json")
"""So that the table's birth certificate has a legal name, too."""
KAFKAS_CHARS_MAX = 249
MESSAGES = 500


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K9")
def test_log_that_lost_its_tail_stops_its_topic_by_name_and_no_other(
    own_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """The table holds messages that Kafka does not: their offsets will mean others some day."""
    lake = ls.folder_lake(tmp_path)
    torn, steady = topics = topic_names(2)
    ls.create_topics(own_kafka, topics)
    with Service(ls.settings(own_kafka.bootstrap, lake, topics), 2) as service:
        service.wait_healthy(ls.START_S)
        for topic in topics:
            for first in range(0, 20, 5):
                ls.send(own_kafka.bootstrap, topic, ls.numbered(5, first))
            ls.wait_for_position(service, lake, topic, 20)
        own_kafka.kill()
        cut_tail(own_kafka, torn)
        own_kafka.start()
        end = own_kafka.offset_ranges(torn)[0][1]
        assert 0 < end < 20
        began = time.monotonic()
        page = ls.wait_for_error(service, torn, "OffsetGap", ls.START_S, "stopped")
        error = page["topics"][torn]["last_error"]["message"]
        assert f"offset 20 is wanted, Kafka holds [0, {end})" in error
        evidence.recovered("a log that lost its tail, until named", time.monotonic() - began)
        ls.send(own_kafka.bootstrap, torn, ls.numbered(1, 1000))
        ls.send(own_kafka.bootstrap, steady, ls.numbered(5, 20))
        ls.wait_for_position(service, lake, steady, 25)
        assert service.topics()[torn]["restarts"] == 0
        assert service.terminate() == 0
    assert [row["value"].encode() for row in ls.rows(lake, torn)] == ls.numbered(20)
    assert ls.position(lake, torn) == 20
    assert [row["value"].encode() for row in ls.rows(lake, steady)] == ls.numbered(25)
    evidence.struck(Strike.KAFKA, "a log that lost its tail")
    evidence.judged(45, len(ls.records(lake)))


def cut_tail(kafka: KafkaService, topic: str) -> None:
    """Take the second half of partition 0 away, as a disk that had not been flushed does.

    The broker was killed, so it looks through its segments at the next start and believes them.
    """
    # A local broker keeps its data beside its certificates.
    segments = list(Path(str(kafka.ca_path)).parent.glob(f"data/{topic}-0/*.log"))
    if not segments:
        pytest.skip("the broker's data are inside a container")
    (segment,) = segments
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size // 2)


@pytest.mark.extended
@pytest.mark.fault("K19")
def test_every_legal_name_of_a_topic_gets_tables_of_its_own(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    evidence: Evidence,
) -> None:
    """Dots, dashes, underscores, 239 characters, and names that only look like each other."""
    own = topic_names(1, "")[0].replace("-", "")[-9:]
    names = [
        f"{own}.orders.v1", f"{own}-orders-v1", f"{own}ordersv1", f"{own.upper()}ORDERSV1",
        f"..{own}", f"-{own}", f"_{own}_", f"{own}.", f"bronze_{own}", f"dlq_bronze_{own}",
        f"{own}-{'x' * (NAME_CHARS_MAX - 1 - len(own))}",
    ]
    scene = Scene(kafka, minio, names, lake_prefix, partitions=1)
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(LANDING_S)
        assert set(service.topics()) == set(names)
        assert service.terminate() == 0
    lake = open_lake(scene.lake_uri, scene.options)
    folders = {info.base_name for info in lake.get_file_info(fs.FileSelector(""))}
    wanted = {f"{kind}_{name}" for name in names for kind in ("bronze", "dlq_bronze")}
    assert folders == {*wanted, "_bronze"}
    report = scene.judge()
    evidence.struck(Strike.KAFKA, "a topic with an odd name", len(names))
    evidence.judged(scene.ledger.rows(), report.checked["records"])


@pytest.mark.fault("K19")
def test_name_too_long_for_the_store_is_refused_at_the_start(
    tmp_path: Path, evidence: Evidence
) -> None:
    """Otherwise its topic fails for ever, with advice on credentials."""
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "LAKE_URI": str(tmp_path),
               "KAFKA_TOPICS": f"good,{'x' * KAFKAS_CHARS_MAX}"}
    service = Service(environ, arguments=["--check-config"])
    try:
        service.start()
        code = service.wait(CHECK_S)
        assert code == ExitCode.CONFIG
        assert "KAFKA_TOPICS" in service.log_tail()
    finally:
        service.close()
    evidence.struck(Strike.KAFKA, "a topic's name too long for the store")


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K8")
def test_retention_that_overtakes_a_running_reader_is_recorded_and_the_rest_lands(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """With GAP_POLICY=continue the record says which offsets were lost, and why."""
    lake = ls.folder_lake(tmp_path)
    gapped, steady = topics = topic_names(2)
    ls.create_topics(kafka, topics)
    with Service(ls.settings(kafka.bootstrap, lake, topics, GAP_POLICY="continue"), 2) as service:
        service.wait_healthy(ls.START_S)
        for topic in topics:
            ls.send(kafka.bootstrap, topic, ls.numbered(10))
            ls.wait_for_position(service, lake, topic, 10)
        worker = psutil.Process(service.worker_pids()[gapped])
        worker.suspend()
        try:
            # The first one answers the fetch that the broker holds already.
            ls.send(kafka.bootstrap, gapped, ls.numbered(1, 10))
            ls.send(kafka.bootstrap, gapped, ls.numbered(9, 11))
            kafka.delete_records(gapped, {0: 20})
        finally:
            worker.resume()
        began = time.monotonic()
        ls.send(kafka.bootstrap, gapped, ls.numbered(5, 20))
        ls.send(kafka.bootstrap, steady, ls.numbered(5, 10))
        ls.wait_for_position(service, lake, gapped, 25)
        ls.wait_for_position(service, lake, steady, 15)
        evidence.recovered("retention that overtook a reader", time.monotonic() - began)
        service.wait_healthy(20)
        assert service.terminate() == 0
    lost = [gap for part in ls.ranges(lake, gapped) for gap in part.get("lost", [])]
    found = ls.offsets_of(ls.rows(lake, gapped))
    assert lost in ([{"start": start, "end": 20, "cause": "retention"}] for start in (10, 11))
    assert found == [*range(lost[0]["start"]), *range(20, 25)]
    assert ls.offsets_of(ls.rows(lake, steady)) == list(range(15))
    evidence.struck(Strike.KAFKA, "retention that overtook a reader")
    evidence.judged(len(found) + 15, len(ls.records(lake)))
