"""Alerts and dashboard ask for metrics, labels and label values that /metrics has.

Prometheus answers a misspelt name with nothing, which looks like a service that is well. What
promtool finds is tested in tests/integration/test_promtool.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from healthcheck import dashboard
from healthcheck.metrics import METRICS, Kind
from healthcheck.moment import Observer
from healthcheck.verdict import STALE_CYCLES
from shared.block import Block
from shared.clock import SystemClock

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "bronze-ingestion.json"
ABOUT = {"topics": ["orders"], "instance": "0", "service_version": "1.2.3", "lake": "s3://lake",
         "batch_interval_seconds": 10.0, "cycle_deadline_seconds": 30.0,
         "heartbeat_limit_seconds": 60.0, "memory_limit_mb": 256, "loan_budget_bytes": 26_000_000}

SCRAPED = {"job", "instance"}
"""Labels that every series gets by being scraped."""
OF_PROMETHEUS = {"up": SCRAPED}
"""Series that Prometheus makes itself."""
SELECTOR = re.compile(r"([a-z_:][\w:]*)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^)]*)\)")
RANGE = re.compile(r"\[[^]]*\]|\boffset \w+")
FUNCTION = re.compile(r"[a-z_]\w*\s*\(")
WORDS = {"unless", "and", "or", "bool", "offset"}


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Every name that a scrape has, with the label sets of its series."""
    place = tmp_path_factory.mktemp("monitoring") / "block"
    block = Block.create(place, 1, json.dumps(ABOUT).encode())
    moment = Observer(block, SystemClock()).look()
    found: dict[str, list[dict[str, str]]] = {
        name: [dict.fromkeys(labels, "")] for name, labels in OF_PROMETHEUS.items()}
    for metric in METRICS:
        sets = [dict(zip(metric.labels, labels, strict=True))
                for labels, _ in metric.values(moment)]
        names = [metric.name]
        if metric.kind is Kind.HISTOGRAM:
            names = [f"{metric.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")]
        for name in names:
            bucket = {"le": ""} if name.endswith("_bucket") else {}
            found[name] = [{**dict.fromkeys(SCRAPED, ""), **bucket, **each} for each in sets]
    return found


def selectors(expr: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """Each series that an expression asks for: its name, and (label, operator, value)."""
    bare = FUNCTION.sub(" (", GROUPING.sub(" ", RANGE.sub(" ", expr)))
    # A number in scientific notation is the only other thing that has letters.
    for name, matchers in SELECTOR.findall(bare):
        if name not in WORDS:
            yield name, MATCHER.findall(matchers)


def complaints(expr: str, series: dict[str, list[dict[str, str]]]) -> list[str]:
    """What an expression asks for and no scrape has."""
    wrong = []
    labels = {"topic"}
    for name, matchers in selectors(expr):
        if name not in series:
            wrong.append(f"no metric {name}")
            continue
        labels |= series[name][0].keys()
        for label, operator, value in matchers:
            known = {each[label] for each in series[name] if label in each}
            if not known:
                wrong.append(f"{name} has no label {label}")
            elif label not in SCRAPED | {"topic"} and "!" not in operator:
                wrong += [f"{name} is never {label}={each}" for each in value.split("|")
                          if each not in known and not each.startswith("$")]
    for listed in GROUPING.findall(expr):
        wrong += [f"no label {label}" for label in re.findall(r"\w+", listed)
                  if label not in labels]
    return wrong


def rules() -> list[dict[str, Any]]:
    """The alerts, in order."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alert_tests() -> dict[str, list[dict[str, Any]]]:
    """promtool's tests by the alert that they are named after."""
    text = (PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8")
    found: dict[str, list[dict[str, Any]]] = {}
    for test in yaml.safe_load(text)["tests"]:
        found.setdefault(test["name"].split()[0], []).append(test)
    return found


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the headings of its rows."""
    shown = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in shown if panel["type"] != "row"]


# --- what is asked for


@pytest.mark.parametrize(("expr", "complaint"), [
    ("rate(bronze_rows_totals[5m])", "no metric bronze_rows_totals"),
    ("bronze_commit_duration_seconds > 1", "no metric bronze_commit_duration_seconds"),
    ("rate(bronze_rows_total_bucket[5m])", "no metric bronze_rows_total_bucket"),
    ('bronze_rows_total{state="x"}', "bronze_rows_total has no label state"),
    ('bronze_topic_state{state="idle"}', "bronze_topic_state is never state=idle"),
    ('bronze_topic_state{state=~"stopped|idle"}', "bronze_topic_state is never state=idle"),
    ("sum by (table) (bronze_rows_total)", "no label table"),
    ("sum(bronze_rows_total) / rows", "no metric rows"),
])
def test_what_no_scrape_has_is_found(
    expr: str, complaint: str, series: dict[str, list[dict[str, str]]]
) -> None:
    """A test that finds nothing in broken expressions would find nothing in ours."""
    assert complaints(expr, series) == [complaint]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_the_service_has(
    rule: dict[str, Any], series: dict[str, list[dict[str, str]]]
) -> None:
    """An alert on a series that does not exist never fires."""
    assert list(selectors(rule["expr"]))
    assert complaints(rule["expr"], series) == []


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: f"{panel['id']}-{panel['title']}")
def test_a_panel_asks_for_what_the_service_has(
    panel: dict[str, Any], series: dict[str, list[dict[str, str]]]
) -> None:
    """An empty panel is found in the first night it is needed."""
    assert panel["targets"]
    for target in panel["targets"]:
        assert list(selectors(target["expr"]))
        assert complaints(target["expr"], series) == []
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = set(re.findall(r"\w+", " ".join(GROUPING.findall(target["expr"]))))
        assert legend <= kept, "the legend names a label that the sum has dropped"


# --- alerts


def test_each_alert_says_who_sees_to_it_and_where_to_read_on() -> None:
    """Names are unique; a page or a ticket; the entry of its name in the runbook."""
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_is_tested_with_a_series_that_fires_and_one_that_does_not(
    rule: dict[str, Any]
) -> None:
    """promtool judges the tests; here it is seen that none is missing, and that each can fail."""
    tests = alert_tests()[rule["alert"]]
    given = " ".join(entry["series"] for test in tests for entry in test["input_series"])
    assert '="fires"' in given and '="silent' in given
    looks = [look for test in tests for look in test["promql_expr_test"]]
    ask = f'ALERTS{{alertname="{rule["alert"]}", alertstate="firing"}}'
    assert {look["expr"] for look in looks} == {ask}
    assert "for" not in rule or not all(look["exp_samples"] for look in looks)
    fired = [sample["labels"] for look in looks for sample in look["exp_samples"]]
    assert any('="fires"' in labels for labels in fired)
    assert not any("silent" in labels for labels in fired)
    # What the texts name must be among the labels that the expression leaves, or they have a hole.
    words = rule["annotations"]["summary"] + rule["annotations"]["description"]
    named = set(re.findall(r"{{ \$labels\.(\w+) }}", words))
    for labels in fired:
        assert named <= set(re.findall(r"(\w+)=", labels))


def test_waiting_alarms_when_health_says_so_and_not_before() -> None:
    """/health and the pager must not disagree on what is too long."""
    exprs = {rule["alert"]: rule["expr"] for rule in rules()}
    limit = f"{STALE_CYCLES} * (bronze_batch_interval_seconds + bronze_cycle_deadline_seconds)"
    assert limit in exprs["BronzeTopicNotCommitting"]
    assert limit in exprs["BronzeLagGrows"]


def test_no_test_is_left_of_an_alert_that_is_gone() -> None:
    """It would test nothing and look as if it did."""
    assert alert_tests().keys() == {rule["alert"] for rule in rules()}


# --- the dashboard


def test_the_dashboard_is_that_of_the_code() -> None:
    """`python -m healthcheck.dashboard deploy/grafana/bronze-ingestion.json` was run since."""
    assert DASHBOARD.read_text(encoding="utf-8") == dashboard.text()


@pytest.mark.parametrize(("name", "labels"), [
    ("bronze_nothing", {}), ("bronze_rows_total", {"state": "active"}),
    ("bronze_rows_total_nothing", {}),
])
def test_a_panel_cannot_be_made_of_what_is_not_declared(
    name: str, labels: dict[str, str]
) -> None:
    """The mistake shows where it is made."""
    with pytest.raises(KeyError):
        dashboard.of(name, **labels)


def test_panels_have_places_of_their_own_and_the_chosen_data_source() -> None:
    """Grafana draws overlapping panels over each other, and guesses a missing source."""
    shown = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    taken: set[tuple[int, int]] = set()
    for panel in shown["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= dashboard.WIDTH
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in shown["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}
        assert panel["description"]
    names = [variable["name"] for variable in shown["templating"]["list"]]
    assert names == ["datasource", "job", "instance", "topic"]
