"""The ledger of a running service on a real Kafka and MinIO, its keeper killed on the way."""

from __future__ import annotations

import time

import psutil
import pytest

from tests.conftest import TopicNames
from tests.rig.cycles_checker import TABLE, check_cycles
from tests.rig.lake import table_uri
from tests.rig.readers import DuckdbReader
from tests.rig.scene import START_S, Scene, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS, PARTITIONS = 3, 2
BACKGROUND_PER_S = 500
KEEPER = {"KEEPER_INTERVAL_SECONDS": "1"}
KILLS = 6
LANDING_S, KILLING_S, ENTERING_S = 60, 90, 30
CYCLES_MIN = 8


def keeper_pids(service: Service) -> list[int]:
    """The keeper's process, while it works."""
    found = []
    for pid in service.all_pids():
        try:
            if "-m keeper" in " ".join(psutil.Process(pid).cmdline()):
                found.append(pid)
        except psutil.Error:
            continue
    return found


def kill_keepers(service: Service, count: int) -> int:
    """SIGKILL so many, wherever they are in their turn."""
    killed: set[int] = set()
    give_up_at = time.monotonic() + KILLING_S
    while len(killed) < count and time.monotonic() < give_up_at:
        for pid in set(keeper_pids(service)) - killed:
            try:
                psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                continue
            killed.add(pid)
    return len(killed)


def wait_entered(service: Service) -> None:
    """Wait until every record is in the ledger."""
    service.wait_for(lambda page: page["keeper"]["ledger_behind"] == 0, ENTERING_S,
                     "everything is in the ledger")


@pytest.mark.slow
@pytest.mark.fault("P1")
def test_every_cycle_is_in_the_ledger_once_while_keepers_and_services_are_killed(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """Rows, ranges, versions and position agree with the log of records, for both readers."""
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS,
                  settings=KEEPER)
    with scene.producer() as producer, scene.service() as service:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        assert kill_keepers(service, KILLS) == KILLS
        wait_until(lambda: metric(service, "bronze_keeper_failures_total") == KILLS, ENTERING_S,
                   "the supervisor has noticed each")
        service.restart()
        service.wait_healthy(START_S)
        wait_until(lambda: metric(service, "bronze_keeper_turns_total") >= 2, ENTERING_S,
                   "the keeper works again")
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        wait_entered(service)
        page = service.health()["keeper"]
        assert page["last_error"] is None
        assert page["last_turn"] is not None
        assert service.terminate() == 0
        assert service.log_strays() == []
    scene.judge()
    report = check_cycles(scene.lake_uri, scene.options)
    report.assert_ok()
    assert report.checked["ledger rows judged"] >= CYCLES_MIN
    assert report.checked["ledger chains"] == TOPICS * PARTITIONS


def test_the_ledger_tells_with_one_query_what_arrived_and_up_to_when(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """As a data engineer would ask it: rows and dead letters, and the valid-through time."""
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS,
                  settings=KEEPER)
    with scene.producer() as producer, scene.service() as service:
        service.wait_healthy(START_S)
        began = time.time()
        producer.produce(2_000)
        scene.wait_landed(service, LANDING_S)
        wait_entered(service)
        assert service.terminate() == 0
    uri = table_uri(scene.lake_uri, TABLE)
    rows = DuckdbReader(scene.options)._connection.execute(
        "select topic, sum(rows + dead_letters), max(epoch(valid_through)), "
        "bool_and(completed_at >= decided_at), bool_and(committed_at <= completed_at) "
        "from delta_scan($uri) where status = 'committed' group by topic", {"uri": uri}).fetchall()
    assert {row[0] for row in rows} == set(scene.topics)
    assert sum(row[1] for row in rows) == 2_000
    for _, _, through, after_decision, within in rows:
        # All of it was read, so the last cycle is valid through the moment of its vote.
        assert began - 60 <= through <= time.time()
        assert after_decision and within
    check_cycles(scene.lake_uri, scene.options).assert_ok()
