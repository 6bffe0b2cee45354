"""Prometheus' own tool judges the rules that are shipped and the figures that the service gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.service import ROOT, Service
from tests.services import KafkaService

RULES = ROOT / "deploy" / "prometheus"
TIMEOUT_S = 60
MESSAGES = 200


def run(promtool: Path, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run promtool in the folder of the rules."""
    return subprocess.run(
        [str(promtool), *arguments], input=given, capture_output=True, cwd=RULES, check=False,
        timeout=TIMEOUT_S)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Everything that it wrote."""
    return (done.stdout + done.stderr).decode()


def test_rules_are_valid_and_without_a_fault_of_style(promtool: Path) -> None:
    """Prometheus refuses its whole configuration for one rule that it cannot read."""
    done = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
    assert done.returncode == 0, said(done)


def test_each_alert_fires_when_it_must_and_else_is_silent(promtool: Path) -> None:
    """The tests are written beside the rules, for those who change a threshold."""
    done = run(promtool, "test", "rules", "alerts_test.yml")
    assert done.returncode == 0, said(done)


def test_figures_of_a_running_service_are_as_prometheus_wants_them(
    promtool: Path, kafka: KafkaService, topic_names: TopicNames, tmp_path: Path
) -> None:
    """Names, units, types and help texts, of rows, dead letters and durations that happened."""
    topics = topic_names(2)
    ls.create_topics(kafka, topics)
    lake = ls.folder_lake(tmp_path)
    with Service(ls.settings(kafka.bootstrap, lake, topics), len(topics)) as service:
        service.wait_healthy(ls.START_S)
        ls.send(kafka.bootstrap, topics[0], [*[b"{}"] * MESSAGES, b"not json"])
        ls.wait_for_position(service, lake, topics[0], MESSAGES + 1)
        assert ls.metric(service, "bronze_rows_total", topic=topics[0]) == MESSAGES
        status, figures = service.get("/metrics")
        assert service.terminate() == 0
    assert status == 200
    done = run(promtool, "check", "metrics", given=figures)
    assert (done.returncode, said(done)) == (0, "")
    # That a fault would be found is not for granted: without input it is content, too.
    broken = figures.replace(b"bronze_rows_total", b"bronze_rows")
    assert "bronze_rows" in said(run(promtool, "check", "metrics", given=broken))
