"""How the demo looks: a live table on a terminal, plain lines elsewhere.

Pure: every function turns a frozen snapshot into text, time included.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo.feeder import FeederState
from demo.health import Report, TopicReport

_STATUS_STYLE = {"healthy": "bold green", "unhealthy": "bold red"}
_UNKNOWN = "-"
_QUERY_ROWS = 3
_REASONS_SHOWN = 4
_SUMMARY_INDENT = "  "


@dataclass(frozen=True)
class Place:
    """Where things are: what the reader needs to go on alone."""

    health_url: str
    lake: Path
    log: Path
    python: Path


@dataclass(frozen=True)
class Snapshot:
    """Everything one frame shows. `rates` are rows per second, per topic."""

    now: datetime
    elapsed_seconds: float
    report: Report
    rates: Mapping[str, float]
    feeder: FeederState
    place: Place


@dataclass(frozen=True)
class TableCount:
    """Rows that the tables of a topic hold, counted in the lake; None: no such table."""

    topic: str
    rows: int | None
    dead_letters: int | None


def live(snapshot: Snapshot, topics: Sequence[str]) -> RenderableType:
    """The frame for a terminal."""
    report = snapshot.report
    parts: list[RenderableType] = [_header(snapshot)]
    parts += [Text(reason, style="yellow") for reason in report.reasons[:_REASONS_SHOWN]]
    parts += [_topic_table(snapshot, topics), *_errors(report), _feeder_line(snapshot.feeder)]
    place = snapshot.place
    parts.append(Text(f"service log: {place.log}    Ctrl-C stops the demo", style="dim"))
    parts.append(Text("query a table, in DuckDB (or with the command printed above):", "dim"))
    # Cut rather than wrapped: a wrapped command cannot be pasted.
    parts.append(Text(sql(place.lake, "orders"), no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def line(snapshot: Snapshot) -> str:
    """One line for where there is no terminal."""
    report = snapshot.report
    lag = sum(report.lag().values())
    letters = sum(topic.dead_letters for topic in report.topics.values())
    reason = f" ({report.reasons[0]})" if report.reasons else ""
    return (
        f"{snapshot.elapsed_seconds:6.1f} s  {report.status}{reason}"
        f"  cycle {_or_dash(report.cycle_id)} {_or_dash(report.phase)}"
        f"  sent {sum(snapshot.feeder.sent.values())}  rows {report.rows}"
        f"  rows/s {sum(snapshot.rates.values()):.0f}  lag {lag}  dead letters {letters}"
    )


def sql(lake: Path, topic: str) -> str:
    """A query for DuckDB with its delta extension."""
    table = str(lake / f"bronze_{topic}").replace("'", "''")
    return f"SELECT key, value FROM delta_scan('{table}') LIMIT {_QUERY_ROWS};"


def python_query(place: Place, topic: str) -> str:
    """A shell command, in one line, that prints rows with nothing but the requirements."""
    code = (
        "from deltalake import DeltaTable, QueryBuilder; "
        f"t = DeltaTable({str(place.lake / f'bronze_{topic}')!r}); "
        "print(QueryBuilder().register('t', t)"
        f".execute('SELECT _kafka_offset, value FROM t LIMIT {_QUERY_ROWS}').read_all())"
    )
    # Inside double quotes a shell expands these four; a path may hold any of them.
    for special in ("\\", '"', "$", "`"):
        code = code.replace(special, "\\" + special)
    return f'{shlex.quote(str(place.python))} -c "{code}"'


def queries(place: Place, topic: str) -> list[str]:
    """How to look into a table, as lines to print unwrapped."""
    return [
        "Query a table while the demo runs, or afterwards (paste):",
        _SUMMARY_INDENT + python_query(place, topic),
        "The same in DuckDB, after INSTALL delta; LOAD delta;",
        _SUMMARY_INDENT + sql(place.lake, topic),
    ]


def summary(counts: Sequence[TableCount], feeder: FeederState, place: Place) -> list[str]:
    """What is left at the end: rows in the tables, and where the tables are."""
    lines = [f"{'topic':<10} {'sent':>9} {'rows':>9} {'dead letters':>13}"]
    for count in counts:
        lines.append(
            f"{count.topic:<10} {feeder.sent.get(count.topic, 0):>9}"
            f" {_or_dash(count.rows):>9} {_or_dash(count.dead_letters):>13}"
        )
    sent = sum(feeder.sent.values())
    rows = sum(count.rows or 0 for count in counts)
    letters = sum(count.dead_letters or 0 for count in counts)
    lines.append(f"{'total':<10} {sent:>9} {rows:>9} {letters:>13}")
    missing = sent - rows - letters
    if missing > 0:
        lines.append(
            f"{missing} messages were sent but are in no table. What came after the last cycle"
            " ended with the demo's Kafka; a real Kafka would still hold it."
        )
    if feeder.undelivered:
        lines.append(f"{feeder.undelivered} messages did not reach the embedded Kafka.")
    lines += [f"Tables: {place.lake}", f"Service log: {place.log}"]
    return lines + queries(place, counts[0].topic if counts else "orders")


def _header(snapshot: Snapshot) -> Text:
    report = snapshot.report
    return Text.assemble(
        (report.status, _STATUS_STYLE.get(report.status, "bold yellow")),
        f"  cycle {_or_dash(report.cycle_id)}  phase {_or_dash(report.phase)}"
        f"  rows {report.rows:,}  {snapshot.elapsed_seconds:.0f} s\n",
        f"health page: {snapshot.place.health_url}",
    )


def _topic_table(snapshot: Snapshot, topics: Sequence[str]) -> Table:
    table = Table(expand=False)
    table.add_column("topic", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("rows", "rows/s", "lag", "DLQ", "commit", "version"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in topics:
        topic = snapshot.report.topics.get(name, TopicReport(_UNKNOWN))
        table.add_row(
            name,
            topic.state,
            f"{topic.rows:,}",
            f"{snapshot.rates.get(name, 0.0):,.0f}",
            _or_dash(topic.lag),
            str(topic.dead_letters),
            _age(topic.last_commit, snapshot.now),
            _or_dash(topic.table_version),
        )
    return table


def _errors(report: Report) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for name, topic in report.topics.items():
        if topic.error:
            advice = f" ({topic.what_to_do})" if topic.what_to_do else ""
            lines.append(Text(f"{name}: {topic.error}{advice}", style="red"))
    return lines


def _feeder_line(feeder: FeederState) -> Text:
    said = f"generator: {sum(feeder.sent.values()):,} sent, {feeder.malformed} of them malformed"
    if feeder.finished:
        said += ", finished"
    elif feeder.held:
        said += ", waiting for the service to catch up"
    return Text(said, style="dim")


def _age(moment: datetime | None, now: datetime) -> str:
    """How long ago, in seconds; a clock that moved back shows as zero."""
    if moment is None:
        return _UNKNOWN
    return f"{max(0.0, (now - moment).total_seconds()):.0f} s ago"


def _or_dash(value: object) -> str:
    return _UNKNOWN if value is None else str(value)
