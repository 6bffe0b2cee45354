"""The Grafana dashboard, made from the declared metrics.

    python -m healthcheck.dashboard deploy/grafana/bronze-ingestion.json

writes it anew; a test checks that this was not forgotten.  Only metrics and labels that exist can
be asked for, and what a panel shows is explained by the metrics' own words.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from healthcheck.metrics import METRICS
from healthcheck.verdict import STALE_CYCLES
from shared.protocol import Standing

_BY_NAME = {metric.name: metric for metric in METRICS}
_SUFFIX = re.compile(r"_(bucket|sum|count)$")
_NAME = re.compile(r"\bbronze_\w+")
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
"""Columns of Grafana's grid."""
_COLOURS = {
    Standing.STARTING: "blue", Standing.ACTIVE: "green", Standing.BEHIND: "yellow",
    Standing.ISOLATED: "orange", Standing.STOPPED: "red",
}
_RATE = "[$__rate_interval]"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of Prometheus, and how a line of the answer is called."""

    expr: str
    legend: str = "{{topic}}"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `kind` is Grafana's type, `unit` is Grafana's name for it."""

    title: str
    kind: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 8
    stacked: bool = False
    mappings: tuple[tuple[str, str, str], ...] = ()
    """(value, text, colour)."""

    @property
    def description(self) -> str:
        """What the metrics in it tell, and what to do."""
        names = dict.fromkeys(
            _metric_of(found) for query in self.queries for found in _NAME.findall(query.expr))
        return "\n\n".join(f"`{name}`: {_BY_NAME[name].help}" for name in names)


def of(name: str, **labels: str) -> str:
    """A selector of the chosen instances and topics.  Raises KeyError where it does not exist."""
    known = _BY_NAME[_metric_of(name)].labels
    if unknown := labels.keys() - set(known):
        raise KeyError(f"{name} has no {sorted(unknown)}")
    wanted = ['job=~"$job"', 'instance=~"$instance"']
    wanted += ['topic=~"$topic"'] if "topic" in known else []
    wanted += [f'{label}="{value}"' for label, value in labels.items()]
    return f"{name}{{{', '.join(wanted)}}}"


def _metric_of(name: str) -> str:
    return name if name in _BY_NAME else _SUFFIX.sub("", name)


def _rate(name: str, by: str = "topic", function: str = "rate") -> str:
    return f"sum by ({by}) ({function}({of(name)}{_RATE}))"


def _quantiles(name: str) -> tuple[Query, ...]:
    buckets = _rate(f"{name}_bucket", "le")
    return tuple(
        Query(f"histogram_quantile({share / 100:g}, {buckets})", f"{share} %")
        for share in (50, 95, 99))


def _lines(
    title: str, unit: str, *queries: Query, width: int = 8, stacked: bool = False
) -> Panel:
    return Panel(title, "timeseries", unit, queries, width, stacked=stacked)


def _by_topic(title: str, unit: str, name: str) -> Panel:
    """A gauge as it is, one line for each topic."""
    return _lines(title, unit, Query(f"max by (topic) ({of(name)})"))


def _figure(title: str, unit: str, expr: str, legend: str = "") -> Panel:
    return Panel(title, "stat", unit, (Query(expr, legend),), width=4, height=4)


def _heatmap(title: str, name: str) -> Panel:
    buckets = _rate(f"{name}_bucket", "le", function="increase")
    return Panel(title, "heatmap", "s", (Query(buckets, "{{le}}"),))


def _standings() -> Panel:
    """One coloured bar for each topic; a number stands for the state."""
    terms = (f'{number} * max by (topic) ({of("bronze_topic_state", state=standing.value)})'
             for number, standing in enumerate(Standing))
    mappings = tuple((str(number), standing.value, _COLOURS[standing])
                     for number, standing in enumerate(Standing))
    return Panel("How each topic takes part", "state-timeline", "none",
                 (Query(" + ".join(terms)),), width=16, mappings=mappings)


def _glance() -> Iterator[Panel]:
    health = of("bronze_healthy")
    yield Panel("Health", "stat", "none", (Query(f"min({health})", ""),), width=4, height=4,
                mappings=(("0", "unhealthy", "red"), ("1", "healthy", "green")))
    yield _figure("Since the last cycle with data", "s",
                  f'time() - max({of("bronze_last_cycle_completed_timestamp_seconds")})')
    yield _figure("Rows", "rowsps", f'sum(rate({of("bronze_rows_total")}{_RATE}))')
    yield _figure("Lag, messages", "short", f'sum({of("bronze_lag_messages")})')
    yield _figure("Running for", "s", f'time() - max({of("bronze_start_time_seconds")})')
    yield Panel("Release", "stat", "none",
                (Query(f'count by (version) ({of("bronze_build_info")})', "{{version}}"),),
                width=4, height=4)
    yield _standings()
    yield _by_topic("Last error not followed by success", "none", "bronze_error_active")


def _flow() -> Iterator[Panel]:
    yield _lines("Rows committed", "rowsps", Query(_rate("bronze_rows_total")))
    yield _lines("Messages read", "mps", Query(_rate("bronze_messages_consumed_total")))
    yield _lines("Lag, messages", "short", Query(f'sum by (topic) ({of("bronze_lag_messages")})'))
    cycle = f'{of("bronze_batch_interval_seconds")} + {of("bronze_cycle_deadline_seconds")}'
    yield _lines("Waiting without a commit", "s",
                 Query(f'max by (topic) ({of("bronze_uncommitted_seconds")})'),
                 Query(f"{STALE_CYCLES} * max({cycle})", "unhealthy from here"))
    yield _by_topic("Lag, seconds", "s", "bronze_lag_seconds")
    yield _lines("Value bytes committed", "Bps", Query(_rate("bronze_value_bytes_total")))
    yield _lines("Bytes uploaded", "Bps", Query(_rate("bronze_uploaded_bytes_total")))


def _cycles() -> Iterator[Panel]:
    yield _lines("Cycles by outcome", "ops",
                 Query(_rate("bronze_cycles_total", "outcome"), "{{outcome}}"))
    yield _lines("Cycle duration: flush to last commit", "s",
                 *_quantiles("bronze_cycle_duration_seconds"),
                 Query(f'max({of("bronze_cycle_deadline_seconds")})', "deadline"))
    yield _heatmap("Cycle duration", "bronze_cycle_duration_seconds")
    phases = _rate("bronze_phase_seconds_bucket", "le, phase")
    yield _lines("Phase duration, 95 %", "s",
                 Query(f"histogram_quantile(0.95, {phases})", "{{phase}}"))
    yield _lines("Share of time in each phase", "percentunit",
                 Query(f'avg by (phase) (avg_over_time({of("bronze_phase")}{_RATE}))',
                       "{{phase}}"), stacked=True)
    yield _lines("Record being written", "s",
                 Query(f'max by (instance) ({of("bronze_deciding_seconds")})', "{{instance}}"))
    yield _by_topic("Cycles failed in a row", "short", "bronze_topic_failures")


def _store() -> Iterator[Panel]:
    yield _lines("Commit", "s", *_quantiles("bronze_commit_duration_seconds"))
    yield _heatmap("Commit", "bronze_commit_duration_seconds")
    commit = "bronze_commit_duration_seconds"
    yield _lines("Commit, mean of each topic", "s",
                 Query(f'{_rate(f"{commit}_sum")} / {_rate(f"{commit}_count")}'))
    yield _lines("Upload", "s", *_quantiles("bronze_upload_duration_seconds"))
    yield _heatmap("Upload", "bronze_upload_duration_seconds")
    yield _lines("What failed and was repeated", "ops", *(
        Query(f"sum(rate({of(name)}{_RATE}))", legend) for name, legend in (
            ("bronze_upload_failures_total", "uploads"),
            ("bronze_commit_failures_total", "commits"),
            ("bronze_commits_ambiguous_total", "commits read back"),
            ("bronze_commit_conflicts_total", "commits overtaken"),
            ("bronze_log_record_retries_total", "records"),
            ("bronze_kafka_offset_commit_failures_total", "offsets"))))


def _malformed() -> Iterator[Panel]:
    dead = "bronze_dead_letters_total"
    yield _lines("Dead letters by class", "mps",
                 Query(_rate(dead, "error_class"), "{{error_class}}"), stacked=True)
    yield _lines("Dead letters, share of what is read", "percentunit",
                 Query(f'{_rate(dead)} / {_rate("bronze_messages_consumed_total")}'))
    yield _lines("Messages that never became a row", "short",
                 Query(f'sum by (topic) ({of("bronze_gap_offsets_total", cause="lost")})',
                       "{{topic}}: lost"),
                 Query(f'sum by (topic) ({of("bronze_messages_skipped_total")})',
                       "{{topic}}: skipped"))


def _memory() -> Iterator[Panel]:
    yield _lines("Common budget", "bytes",
                 Query(f'sum by (topic) ({of("bronze_memory_borrowed_bytes")})'),
                 Query(f'sum({of("bronze_keeper_borrowed_bytes")})', "keeper"),
                 Query(f'sum({of("bronze_memory_budget_bytes")})', "budget"),
                 Query(f'sum({of("bronze_memory_limit_bytes")})', "MEMORY_LIMIT_MB"))
    yield _by_topic("Waiting for memory", "s", "bronze_memory_wait_seconds")
    yield _lines("Share of time not reading, by cause", "percentunit",
                 Query(f'avg by (cause) (avg_over_time({of("bronze_paused")}{_RATE}))',
                       "{{cause}}"), stacked=True)
    yield _by_topic("Open files", "bytes", "bronze_open_file_bytes")
    yield _by_topic("Files that wait for a cycle", "short", "bronze_carried_files")
    yield _lines("Pauses", "ops", Query(_rate("bronze_pauses_total")))


def _processes() -> Iterator[Panel]:
    for title, name in (("Workers restarted", "bronze_worker_restarts_total"),
                        ("Workers recycled", "bronze_worker_recycled_total"),
                        ("Workers killed for silence", "bronze_worker_stalls_total")):
        yield _lines(title, "short", Query(_rate(name, function="increase")))
    yield _by_topic("Silence of workers", "s", "bronze_worker_heartbeat_age_seconds")
    yield _lines("Silence of the supervisor", "s", Query(
        f'max by (instance) ({of("bronze_supervisor_heartbeat_age_seconds")})', "{{instance}}"))
    starts = of("bronze_start_time_seconds")
    yield _lines("Starts", "short",
                 Query(f"sum by (instance) (changes({starts}{_RATE}))", "{{instance}}: service"),
                 Query(_rate("bronze_sidecar_restarts_total", "instance", function="increase"),
                       "{{instance}}: health page"))


def _keeping() -> Iterator[Panel]:
    yield _lines("Records not in the ledger", "short", Query(
        f'max by (instance) ({of("bronze_ledger_behind_records")})', "{{instance}}"))
    yield _lines("Turns of the keeper", "short",
                 Query(_rate("bronze_keeper_turns_total", "instance", function="increase"),
                       "{{instance}}: begun"),
                 Query(_rate("bronze_keeper_failures_total", "instance", function="increase"),
                       "{{instance}}: failed"))
    yield _lines("Files compacted and vacuumed", "short",
                 Query(_rate("bronze_keeper_files_compacted_total", "instance",
                             function="increase"), "{{instance}}: small ones replaced"),
                 Query(_rate("bronze_keeper_files_made_total", "instance", function="increase"),
                       "{{instance}}: made of them"),
                 Query(_rate("bronze_keeper_files_vacuumed_total", "instance",
                             function="increase"), "{{instance}}: deleted"))
    yield _lines("Length of a turn", "s", Query(
        f'max by (instance) ({of("bronze_keeper_last_turn_duration_seconds")})', "{{instance}}"))


ROWS = (
    ("At a glance", _glance), ("Flow", _flow), ("Cycles", _cycles), ("Object store", _store),
    ("Malformed and missing", _malformed), ("Memory and pauses", _memory),
    ("Keeper", _keeping), ("Processes", _processes),
)


def dashboard() -> Json:
    """The whole dashboard, as Grafana reads it from a provisioned file."""
    return {
        "uid": "bronze-ingestion", "title": "Bronze ingestion", "tags": ["bronze-ingestion"],
        "schemaVersion": 39, "editable": True, "refresh": "30s", "graphTooltip": 1,
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_placed()),
    }


def _variables() -> Iterator[Json]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource",
           "query": "prometheus"}
    for name, query in (
        ("job", "label_values(bronze_up, job)"),
        ("instance", 'label_values(bronze_up{job=~"$job"}, instance)'),
        ("topic", 'label_values(bronze_worker_up{job=~"$job", instance=~"$instance"}, topic)'),
    ):
        yield {"name": name, "label": name.capitalize(), "type": "query", "query": query,
               "datasource": _SOURCE, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
               "current": {"text": "All", "value": "$__all"}}


def _placed() -> Iterator[Json]:
    """All panels, row after row and from left to right."""
    top, number = 0, 0
    for title, make in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}}
        top, left, height = top + 1, 0, 0
        for panel in make():
            if left + panel.width > WIDTH:
                top, left, height = top + height, 0, 0
            number += 1
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": number, "gridPos": place, **_drawn(panel)}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _drawn(panel: Panel) -> Json:
    return {
        "type": panel.kind, "title": panel.title, "description": panel.description,
        "datasource": _SOURCE, "targets": list(_targets(panel)),
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS.get(panel.kind, {}),
    }


_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value",
        "graphMode": "none", "textMode": "auto"},
    "heatmap": {
        "calculate": False, "color": {"mode": "scheme", "scheme": "Blues"},
        "yAxis": {"unit": "s"}},
    "state-timeline": {"mergeValues": True, "showValue": "never"},
}


def _targets(panel: Panel) -> Iterable[Json]:
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target: Json = {"refId": letter, "expr": query.expr, "legendFormat": query.legend,
                        "datasource": _SOURCE}
        yield {**target, "format": "heatmap"} if panel.kind == "heatmap" else target


def _defaults(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit}
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        defaults |= {"min": 0, "custom": {
            "fillOpacity": 30 if panel.stacked else 0, "stacking": stacking}}
    if panel.mappings:
        values = {value: {"text": text, "color": colour, "index": int(value)}
                  for value, text, colour in panel.mappings}
        defaults["mappings"] = [{"type": "value", "options": values}]
    return defaults


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(text(), encoding="utf-8")
