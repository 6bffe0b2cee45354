"""Compaction beside a running service on a real Kafka and MinIO, both killed on the way.

`COMPACT_SECONDS=3600 make test ARGS=tests/integration/test_compaction.py` does it for an hour.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import TopicNames
from tests.rig.cycles_checker import check_cycles
from tests.rig.scene import START_S, Scene, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SECONDS = float(os.environ.get("COMPACT_SECONDS", "30"))
TOPICS, PARTITIONS = 2, 2
BACKGROUND_PER_S = 400
LANDING_S, ENTERING_S, VERIFY_S = 60, 30, 120
LIVES_S = (5.0, 15.0)
"""How long a compactor lives before it is killed."""


class Compactor:
    """The rig's compactor, killed and started again now and then; `lines` is what it said."""

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        self._environ, self._log = environ, log

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """One life of it."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.rig.compactor"], cwd=ROOT, stdout=log,
                env={**os.environ, **self._environ})
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def lines(self) -> list[dict[str, object]]:
        """What all of its lives said; the last line of a life may be half."""
        found = []
        for line in self._log.read_bytes().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def failed_commits(service: Service, topics: list[str]) -> dict[str, float]:
    """Commits of workers that were refused or failed, by metric."""
    return {name: sum(metric(service, name, topic=topic) for topic in topics)
            for name in ("bronze_commit_conflicts_total", "bronze_commit_failures_total")}


@pytest.mark.slow
@pytest.mark.fault("P1")
@pytest.mark.timeout(SECONDS * 1.5 + 300)
def test_no_commit_fails_and_no_row_is_lost_or_doubled_while_files_are_compacted(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    tmp_path: Path,
) -> None:
    """In the very partition that workers write to; keeper and compactor are killed anywhere."""
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS,
                  settings={"KEEPER_INTERVAL_SECONDS": "2"})
    compactor, chance = Compactor(scene.environ, tmp_path / "compactor"), random.Random(7)
    with scene.producer() as producer, scene.service() as service:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            with compactor.running() as process:
                life_ends = time.monotonic() + chance.uniform(*LIVES_S)
                wait_until(lambda: time.monotonic() >= life_ends or process.poll() is not None,  # noqa: B023
                           LIVES_S[1] + 10, "a life is over")
                assert process.poll() is None
            scene.remember_records()
        failed = failed_commits(service, scene.topics)
        os.kill(next(iter(service.worker_pids().values())), 9)
        with compactor.running():
            producer.stop_background()
            scene.wait_landed(service, LANDING_S)
        service.wait_for(lambda page: page["keeper"]["ledger_behind"] == 0, ENTERING_S,
                         "everything is in the ledger")
        assert service.health()["keeper"]["last_error"] is None
        assert service.terminate() == 0
        assert service.log_strays() == []
    assert failed == {"bronze_commit_conflicts_total": 0, "bronze_commit_failures_total": 0}
    compactions = [line for line in compactor.lines() if "old" in line]
    tables = {line["folder"] for line in compactions}
    assert tables >= {f"bronze_{topic}" for topic in scene.topics} | {"bronze_cycles"}
    scene.judge()
    check_cycles(scene.lake_uri, scene.options).assert_ok()
    assert verified(scene.environ) == 0
    print(f"\n{len(compactions)} compactions of {sum(int(str(c['old'])) for c in compactions)} "
          f"files in {SECONDS:.0f} s; {failed}")


def verified(environ: dict[str, str]) -> int:
    """The exit code of the tool that proves every offset's fate, reading all data."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor", "verify", "--deep"], cwd=ROOT, timeout=VERIFY_S,
        env={**os.environ, **environ}, capture_output=True, check=False).returncode
