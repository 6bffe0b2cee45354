"""Prometheus' own tool judges the rules that are shipped and the figures that the service gives."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.service import ROOT, Service
from tests.services import KafkaService

RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "bronze-ingestion.json"
TIMEOUT_S = 60
MESSAGES = 200
TOPICS = 2
LABEL = re.compile(r'\w+="(?:[^"\\]|\\.)*"')
OF_THE_SERVICE = {"BronzeUnhealthy", "BronzeStoreErrors", "BronzeUndecided"}
"""Alerts that fire once and not for each topic."""


@pytest.fixture(scope="module")
def kept() -> dict[str, bytes]:
    """Keep one look at a service for all tests of this module."""
    return {}


@pytest.fixture
def figures(
    kept: dict[str, bytes], kafka: KafkaService, topic_names: TopicNames, tmp_path: Path
) -> bytes:
    """Give /metrics of a service that has written rows and a dead letter and is well."""
    if not kept:
        topics = topic_names(TOPICS)
        ls.create_topics(kafka, topics)
        lake = ls.folder_lake(tmp_path)
        with Service(ls.settings(kafka.bootstrap, lake, topics), len(topics)) as service:
            service.wait_healthy(ls.START_S)
            ls.send(kafka.bootstrap, topics[0], [*[b"{}"] * MESSAGES, b"not json"])
            ls.wait_for_position(service, lake, topics[0], MESSAGES + 1)
            service.wait_healthy(ls.START_S)
            assert ls.metric(service, "bronze_rows_total", topic=topics[0]) == MESSAGES
            status, kept["figures"] = service.get("/metrics")
            assert status == 200
            assert service.terminate() == 0
    return kept["figures"]


def ordered(name: str) -> str:
    """A series with its labels in another order: the topic, which is any, comes last."""
    before, brace, labels = name.partition("{")
    parts = sorted(LABEL.findall(labels), key=lambda part: part.startswith("topic="))
    return f"{before}{brace}{','.join(parts)}"


def scraped(name: str) -> str:
    """A series as Prometheus keeps it, with the labels of its target."""
    before, _, labels = name.partition("{")
    target = ['job="bronze-ingestion"', 'instance="a"']
    return f"{before}{{{', '.join([*LABEL.findall(labels), *target])}}}"


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


def test_panels_ask_in_valid_promql(promtool: Path, tmp_path: Path) -> None:
    """A panel with a fault shows a red corner and no line; as rules all are read at once."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    exprs = [target["expr"].replace("$__rate_interval", "5m")
             for panel in panels for target in panel.get("targets", [])]
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps({"groups": [{"name": "panels", "rules": [
        {"record": f"panel_{number}", "expr": expr} for number, expr in enumerate(exprs)]}]}))
    done = run(promtool, "check", "rules", str(rules))
    assert done.returncode == 0, said(done)
    assert f"{len(exprs)} rules found" in said(done)


def test_each_alert_fires_when_it_must_and_else_is_silent(promtool: Path) -> None:
    """The tests are written beside the rules, for those who change a threshold."""
    done = run(promtool, "test", "rules", "alerts_test.yml")
    assert done.returncode == 0, said(done)


def test_figures_of_a_running_service_are_as_prometheus_wants_them(
    promtool: Path, figures: bytes
) -> None:
    """Names, units, types and help texts, of rows, dead letters and durations that happened."""
    done = run(promtool, "check", "metrics", given=figures)
    assert (done.returncode, said(done)) == (0, "")
    # That a fault would be found is not for granted: without input it is content, too.
    broken = figures.replace(b"bronze_rows_total", b"bronze_rows")
    assert "bronze_rows" in said(run(promtool, "check", "metrics", given=broken))


@pytest.mark.parametrize(("changed", "fires"), [
    ({}, set()),
    ({'bronze_topic_state{state="stopped"': "1"}, {"BronzeTopicStopped"}),
    ({"bronze_uncommitted_seconds": "1000"}, {"BronzeTopicNotCommitting"}),
    ({"bronze_uncommitted_seconds": "1000", 'bronze_topic_state{state="isolated"': "1"},
     {"BronzeTopicIsolated"}),
    ({"bronze_healthy": "0", "bronze_error_active": "1"},
     {"BronzeTopicFailing", "BronzeUnhealthy"}),
    ({"bronze_lag_messages": "1+100x120"}, {"BronzeLagGrows"}),
    ({"bronze_memory_wait_seconds": "100", "bronze_topic_failures": "4"},
     {"BronzeMemoryShort", "BronzeCyclesAborted"}),
    ({"bronze_upload_failures_total": "0+1x120", "bronze_deciding_seconds": "60"},
     {"BronzeStoreErrors", "BronzeUndecided"}),
])
def test_a_service_that_is_well_fires_nothing_and_one_that_is_not_what_it_must(
    promtool: Path, figures: bytes, tmp_path: Path, changed: dict[str, str], fires: set[str]
) -> None:
    """On the series as they are, with all their labels, for two hours as they were at one look."""
    given = [{"series": 'up{job="bronze-ingestion", instance="a"}', "values": "1x120"}]
    touched = set()
    for sample in figures.decode().splitlines():
        name, _, value = sample.rpartition(" ")
        if not sample.startswith("#"):
            for beginning in changed:
                if ordered(name).startswith(beginning):
                    touched.add(beginning)
                    value = changed[beginning]
            # promtool has no notation for a series of unknowns other than that of gaps.
            value = "_" if value == "NaN" else value
            given.append({"series": scraped(name),
                          "values": value if "x" in value else f"{value}x120"})
    assert touched == changed.keys()
    looks = [{"expr": 'count by (alertname) (ALERTS{alertstate="firing"})', "eval_time": "2h",
              "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": TOPICS
                               if alert not in OF_THE_SERVICE else 1} for alert in fires]}]
    tests = tmp_path / "tests.json"
    tests.write_text(json.dumps({
        "rule_files": [str(RULES / "alerts.yml")], "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "promql_expr_test": looks}]}))
    done = run(promtool, "test", "rules", str(tests))
    assert done.returncode == 0, said(done)
