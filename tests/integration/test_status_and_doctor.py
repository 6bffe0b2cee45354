"""`status` and `doctor` beside a real service on a real Kafka and a real MinIO."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.environment import clean_environment
from tests.rig.service import ROOT, Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

LIMIT_S = 30
HOUR_MS = 3_600_000


def run(environ: Mapping[str, str], *argv: str) -> tuple[int, dict[str, Any]]:
    """The exit code of a tool, and its JSON; it ends in time, and shows no secret."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", *argv, "--json"], cwd=ROOT,
        env=clean_environment() | dict(environ), capture_output=True, text=True,
        timeout=3 * LIMIT_S, check=False)
    assert time.monotonic() - began < LIMIT_S + 5, "the rest is for Python to start"
    assert done.stderr == ""
    assert environ.get("AWS_SECRET_ACCESS_KEY", "\0") not in done.stdout
    return done.returncode, json.loads(done.stdout)


def found(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Diagnoses by name."""
    return {each["name"]: each for each in told["diagnoses"]}


@pytest.fixture
def topics(kafka: KafkaService, topic_names: TopicNames) -> list[str]:
    """Give two topics that are kept for a week."""
    names = topic_names(2)
    ls.create_topics(kafka, names, partitions=2)
    return names


@pytest.fixture
def environ(
    kafka: KafkaService, minio: MinioService, lake_prefix: str, topics: list[str]
) -> dict[str, str]:
    """Give the variables of a service to which nothing is wrong."""
    return ls.settings(kafka.bootstrap, ls.store_lake(minio, lake_prefix), topics)


def test_a_service_that_is_well_and_then_is_gone(
    environ: dict[str, str], kafka: KafkaService, topics: list[str]
) -> None:
    """Both tools say so, find nothing wrong, and disturb nobody; afterwards nobody answers."""
    with Service(environ, 2) as service:
        service.wait_healthy(ls.START_S)
        ls.send(kafka.bootstrap, topics[0], ls.numbered(7))
        service.wait_for(lambda page: page["topics"][topics[0]]["rows"] == 7, ls.LAND_S, "landed")
        code, told = run(service.environ, "status")
        assert (code, told["status"], told["error"], told["reasons"]) == (0, "healthy", None, [])
        topic = told["topics"][topics[0]]
        assert (topic["state"], topic["rows"], topic["restarts"]) == ("active", 7, 0)
        assert topic["rows_per_second"] == 0 and topic["last_commit_age_seconds"] < 60
        assert run({}, "status", "--url", f"http://127.0.0.1:{service.port}")[0] == 0

        code, told = run(service.environ, "doctor")
        assert (code, told["diagnoses"]) == (0, [])
        assert {line["check"] for line in told["lines"]} >= {"service", "broker", "store", "loss"}
        assert {line["status"] for line in told["lines"]} == {"ok"}
        service.wait_healthy(5)
        assert all(entry["restarts"] == 0 for entry in service.topics().values())
        assert service.terminate() == 0

    assert run(service.environ, "status")[0] == 75
    code, told = run(service.environ, "doctor")
    assert code == 1 and list(found(told)) == ["service"]
    assert any("refused" in text for text in found(told)["service"]["evidence"])
    assert any("record" in text for text in found(told)["service"]["evidence"]), "it ended just now"


def test_a_deleted_topic_is_the_cause_of_a_red_page(
    environ: dict[str, str], kafka: KafkaService, topics: list[str]
) -> None:
    """The page's reason is evidence for it, and the other topic is left out of it."""
    with Service(environ, 2) as service:
        service.wait_healthy(ls.START_S)
        kafka.delete_topic(topics[0])
        ls.wait_for_error(service, topics[0], "TopicMissing", ls.LAND_S)
        code, told = run(service.environ, "doctor")
    diagnoses = found(told)
    assert (code, list(diagnoses)) == (1, ["topic"])
    assert diagnoses["topic"]["subjects"] == [topics[0]]
    assert any(text.startswith(f"/health: {topics[0]}: ")
               for text in diagnoses["topic"]["evidence"])
    assert "KAFKA_TOPICS" in diagnoses["topic"]["what_to_do"]


def test_a_loss_is_foretold_and_then_told(
    environ: dict[str, str], kafka: KafkaService, topics: list[str]
) -> None:
    """A service that is away does not see how its topic's retention runs out."""
    topic = topics[0]
    with Service(environ, 2) as service:
        service.wait_healthy(ls.START_S)
        ls.send(kafka.bootstrap, topic, ls.numbered(3))
        wait_until(
            lambda: kafka.committed_offsets(ls.group_of(topics), topic).get(0) == 3, ls.LAND_S,
            "the group has the offsets")
        assert service.terminate() == 0
    written_ms = round(time.time() * 1000) - 9 * HOUR_MS
    messages = [{"value": b"{}", "timestamp": written_ms + number} for number in range(5)]
    ls.send_messages(kafka.bootstrap, topic, messages)

    def loss() -> tuple[str, str]:
        _, told = run(service.environ, "doctor")
        line = next(line for line in told["lines"]
                    if (line["check"], line["subject"]) == ("loss", topic))
        assert ("loss" in found(told)) == (line["status"] != "ok")
        return line["status"], line["found"]

    # The broker deletes only what is older than these.
    for retention_ms, status, words in (
        (7 * 24 * HOUR_MS, "ok", "5 unread messages, the oldest 9 h old"),
        (20 * HOUR_MS, "warn", "will be lost in 11 h"),
        (9 * HOUR_MS + 41 * 60_000, "fail", "will be lost in 4"),
    ):
        kafka.alter_topic_config(topic, {"retention.ms": retention_ms})
        wait_until(lambda status=status: loss()[0] == status, LIMIT_S, f"it is {status}")
        assert words in loss()[1]
    kafka.delete_records(topic, {0: 6})
    status, words = loss()
    assert status == "fail"
    assert "3 offsets deleted unread: in partition 0 the group waits for 3" in words


def test_a_store_that_is_away_is_the_cause_of_a_red_page(
    kafka: KafkaService, own_minio: MinioService, lake_prefix: str, topics: list[str]
) -> None:
    """All topics suffer, and there is one diagnosis."""
    environ = ls.settings(kafka.bootstrap, ls.store_lake(own_minio, lake_prefix), topics)
    with Service(environ, 2) as service:
        service.wait_healthy(ls.START_S)
        before = service.wait_for(
            lambda page: all(entry["retention"] == "time" and entry["time_to_loss_seconds"]
                             for entry in page["topics"].values()), ls.LAND_S,
            "it is known when something would be lost")["topics"]
        began = time.monotonic()
        own_minio.kill()
        for topic in topics:
            ls.send(kafka.bootstrap, topic, ls.numbered(5))
        for topic in topics:
            ls.wait_for_error(service, topic, "StorageUnavailable", ls.LAND_S)
        code, told = run(service.environ, "doctor")
        assert run(service.environ, "status")[0] == 1
        # Kafka keeps for a week; the time runs from the last moment all was in the tables.
        shrunk = service.wait_for(
            lambda page: all(entry["time_to_loss_seconds"] < 7 * 86_400 - 3
                             for entry in page["topics"].values()), ls.LAND_S,
            "the time to loss runs")["topics"]
        for topic, entry in shrunk.items():
            passed = before[topic]["time_to_loss_seconds"] - entry["time_to_loss_seconds"]
            assert 0 < passed < time.monotonic() - began + 30
    diagnoses = found(told)
    assert (code, list(diagnoses)) == (1, ["store"])
    assert diagnoses["store"]["subjects"] == ["list"]
    told_of = {text.split(": ")[1] for text in diagnoses["store"]["evidence"]
               if text.startswith("/health: ")}
    assert set(topics) <= told_of
