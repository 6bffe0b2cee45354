"""Releases that follow each other on one lake: forward, back, and one that is too old."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from shared.exit_codes import ExitCode
from shared.naming import record_path
from tests.conftest import TopicNames
from tests.integration.test_ledger import wait_entered
from tests.rig.cycles_checker import check_cycles
from tests.rig.scene import START_S, Scene
from tests.rig.service import ROOT, Service
from tests.services import KafkaService, MinioService

EARLIER = "058c8f5"
"""A commit of the same forms in the lake (record_version 1, the ledger) and without lineage."""
TOPICS, PARTITIONS = 2, 2
LANDING_S, END_S = 60, 60
MESSAGES = 300
GIT_S = 60


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Give the folder of an earlier release; it runs with the libraries of this one."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", EARLIER], capture_output=True,
                             timeout=GIT_S, check=False)
    if archive.returncode:
        pytest.skip(f"NOT CHECKED: no history with {EARLIER} here, {archive.stderr.decode()[:200]}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, timeout=GIT_S,
                   check=True)
    return folder


@pytest.mark.slow
def test_two_releases_alternate_on_one_lake(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    earlier: Path, tmp_path: Path,
) -> None:
    """Upgrade, rollback, upgrade: every message is there once, and every cycle in the ledger;
    the earlier one leaves lineage alone, and the later one tells of its cycles, too."""
    told = tmp_path / "lineage.jsonl"
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS,
                  settings={"KEEPER_INTERVAL_SECONDS": "1"})
    later = {**scene.environ, "LINEAGE_URL": str(told)}
    runs = [(ROOT, later), (earlier, scene.environ), (ROOT, later), (earlier, scene.environ),
            (ROOT, later)]
    with scene.producer() as producer:
        for folder, environ in runs:
            with Service(environ, TOPICS, folder=folder) as service:
                service.wait_healthy(START_S)
                producer.produce(MESSAGES)
                scene.wait_landed(service, LANDING_S)
                wait_entered(service)
                if folder == ROOT:
                    entered = service.health()["cycle"]["last_record"]
                    service.wait_for(
                        lambda page, entered=entered: last_told(told) >= entered, LANDING_S,
                        "the newest cycle is told of")
                assert service.terminate() == 0
    scene.judge()
    report = check_cycles(scene.lake_uri, scene.options)
    report.assert_ok()
    records = [json.loads(line)["run"]["facets"]["bronze_cycle"]["record"]
               for line in told.read_text().splitlines()]
    assert len(records) == len(set(records)) and records == sorted(records)
    assert report.checked["ledger rows judged"] >= len(runs) * TOPICS


def last_told(path: Path) -> int:
    """The newest record in a file of events; -1 without one."""
    lines = path.read_text().splitlines() if path.exists() else []
    return int(json.loads(lines[-1])["run"]["facets"]["bronze_cycle"]["record"]) if lines else -1


def test_an_older_release_refuses_newer_records_by_name_and_writes_nothing(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """Records of a later form mean something it cannot know: it ends with 78, and says so."""
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS)
    with scene.producer() as producer, scene.service() as service:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        assert service.terminate() == 0
        store = minio.object_store(lake_prefix)
        numbers = scene.record_numbers()
        newest = json.loads(bytes(store.get(record_path(numbers[-1])).bytes()))
        number = numbers[-1] + 1
        store.put(record_path(number), json.dumps({**newest, "record_version": 2}).encode())
        positions = scene.all_positions()
        producer.produce(MESSAGES)
        service.start()
        assert service.wait(END_S) == ExitCode.CONFIG
        said = [line for line in service.log_events() if "UnsupportedRecord" in json.dumps(line)]
        assert f"record {number} has record_version 2" in json.dumps(said)
        assert "run that release or a later one" in json.dumps(said)
        assert scene.record_numbers() == [*numbers, number]
        assert scene.all_positions() == positions
