"""`rewind` on a real Kafka and a real MinIO: each offset exactly once, whatever is killed.

The rig's judge holds every row against what was written, by two readers, as it does for the
service's own tables.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.conftest import TopicNames
from tests.rig.checker import check
from tests.rig.environment import clean_environment
from tests.rig.lake import bronze_table, list_numbers, open_lake, read_numbered
from tests.rig.ledger import Kind
from tests.rig.s3_proxy import PASS, RESET_AFTER, RESET_BEFORE, Action, S3Proxy
from tests.rig.scene import START_S, Scene
from tests.rig.service import ROOT
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

PARTITIONS = 2
MESSAGES = 1_500
"""Before and after the middle of each scene, over all partitions."""
LANDING_S = 60
TOOL_S = 120
SMALL_CHUNKS = {"CYCLE_BYTES_MAX": "40000"}
"""So that a rewind has several commits."""


def rewind(environ: Mapping[str, str], *argv: str) -> tuple[int, dict[str, Any]]:
    """Run the tool as people do: its exit code and its report."""
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "rewind", "--json", *argv], cwd=ROOT,
        env=clean_environment() | dict(environ), capture_output=True, text=True,
        timeout=TOOL_S, check=False)
    assert done.stdout, done.stderr
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def texts(report: dict[str, Any]) -> str:
    """All that was found, for a test to search in."""
    return "\n".join(f"{line['subject']} {line['status']} {line['found']}"
                     for line in report["lines"])


class Past:
    """A scene whose service has brought everything into bronze, in two parts, and has ended.

    middle: partition -> the offset behind the first part; ends: behind all; between: Unix time.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.topic = scene, scene.topics[0]
        with scene.service(KEEPER_INTERVAL_SECONDS="1") as service:
            service.wait_healthy(START_S)
            with scene.producer(1) as producer:
                producer.produce_transaction(self.topic, 0, 20, commit=False)
                producer.produce_transaction(self.topic, 1, 20, commit=True)
                producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
            self.middle = self._positions()
            self.between_s = time.time()
            service.wait_for(
                lambda page: page["keeper"]["ledger_behind"] == 0
                and page["keeper"]["last_turn"] is not None, LANDING_S, "all is in the ledger")
            self.cycle = self._newest_cycle()
            wait_until(lambda: time.time() > self.between_s + 1, 5, "time has passed")
            with scene.producer(2) as producer:
                producer.produce_transaction(self.topic, 0, 20, commit=False)
                producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
            service.wait_for(lambda page: page["keeper"]["ledger_behind"] == 0, LANDING_S,
                             "all is in the ledger")
            self.ends = self._positions()
            assert service.terminate() == 0

    def _positions(self) -> dict[int, int]:
        found = self.scene.positions(self.topic)
        return {partition: position for partition, position in found.items()
                if position is not None}

    def _newest_cycle(self) -> int:
        lake = open_lake(self.scene.lake_uri, self.scene.options)
        records = [json.loads(data) for data in read_numbered(lake, "_bronze/log").values()]
        return max(record["cycle_id"] for record in records if record["kind"] == "cycle")

    @property
    def environ(self) -> dict[str, str]:
        """For the tool."""
        return self.scene.environ

    def judge(self, name: str, starts: Mapping[int, int], ends: Mapping[int, int]) -> int:
        """Each offset of these ranges is in the rewind's tables once, by both readers; how many
        rows there are."""
        spans = {partition: (start, ends[partition]) for partition, start in starts.items()}
        report = check(self.scene.ledger, self.scene.lake_uri, self.scene.options, [self.topic],
                       prefix=f"rewind_{name}_", spans=spans)
        report.assert_ok()
        rows = report.checked["rows by duckdb"]
        assert rows == report.checked["rows by deltalake"] > 0
        assert rows == sum(part.kinds[start:ends[partition]].count(kind)
                           for partition, part in self.scene.ledger.partitions(self.topic)
                           for start in [starts.get(partition, ends[partition])]
                           for kind in Kind if kind not in (Kind.ABSENT, Kind.ABORTED))
        return rows

    def commits(self, name: str) -> int:
        """How many records the rewind has made."""
        lake = open_lake(self.scene.lake_uri, self.scene.options)
        return len(list_numbers(lake, f"_bronze/rewinds/{name}/{self.topic}"))


@pytest.fixture
def past(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> Past:
    """Give a scene whose service has ended well."""
    return Past(Scene(kafka, minio, topic_names(1), lake_prefix, partitions=PARTITIONS))


def test_back_to_an_offset_a_time_and_a_cycle(past: Past) -> None:
    """Each offset behind it, once, in tables of its own; bronze stays as it was; again, and
    nothing is done."""
    before = past.scene.positions(past.topic)
    listed = ",".join(f"{part}:{offset - 5}" for part, offset in past.middle.items())
    code, report = rewind(past.environ, past.topic, "--to-offset", listed, "--into", "a",
                          "--dry-run")
    assert code == 0 and "into rewind_a_bronze_" in texts(report)
    assert past.commits("a") == 0
    code, report = rewind(past.environ, past.topic, "--to-offset", listed, "--into", "a")
    assert code == 0, report
    past.judge("a", {part: offset - 5 for part, offset in past.middle.items()}, past.ends)
    commits = past.commits("a")
    code, report = rewind(past.environ, past.topic, "--to-offset", listed, "--into", "a")
    assert code == 0 and "complete already, nothing was done" in texts(report)
    assert past.commits("a") == commits > 0

    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(past.between_s + 1))
    code, report = rewind(past.environ, past.topic, "--to-time", moment, "--into", "b")
    assert code == 0, report
    past.judge("b", past.middle, past.ends)

    code, report = rewind(past.environ, past.topic, "--to-cycle", str(past.cycle), "--into", "c")
    assert code == 0, report
    past.judge("c", past.middle, past.ends)

    code, report = rewind(past.environ, past.topic, "--to-offset", "0:0,1:0", "--into", "d",
                          "--until-cycle", str(past.cycle))
    assert code == 0, report
    past.judge("d", {0: 0, 1: 0}, past.middle)
    assert past.scene.positions(past.topic) == before
    past.scene.judge()
