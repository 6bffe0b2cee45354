"""What the status page shows, made from one moment and the trends up to it.  Pure.

Texts are still as the block has them; the template makes them harmless (`healthcheck.html`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from healthcheck.drawing import Segment, Spark, segments, spark
from healthcheck.history import Trend
from healthcheck.moment import Moment, Trends
from healthcheck.snapshot import TopicSnapshot
from healthcheck.verdict import Reason, Status, loss_is_near, shown_trouble, state_of
from shared.layout import Header, Order, Paused, Report, Retention
from shared.protocol import Standing
from shared.trouble import Trouble

REASONS_MAX = 6
LATE_NAMED_MAX = 8
WHICH_STATUS = {
    Status.HEALTHY: "Messages get to their tables.",
    Status.STARTING: "The service has not started yet.",
    Status.STOPPING: "The service stops.",
    Status.UNHEALTHY: "Something is in the way.",
}
_TONES = {
    Status.HEALTHY: "well", Status.STARTING: "wait", Status.STOPPING: "wait",
    Status.UNHEALTHY: "bad",
    Standing.ACTIVE: "well", Standing.STARTING: "wait", Standing.BEHIND: "wait",
    Standing.ISOLATED: "bad", Standing.STOPPED: "bad",
}
_PHASES = (
    ("reading", Header.LAST_CONSUMING_US), ("flushing", Header.LAST_FLUSHING_US),
    ("deciding", Header.LAST_DECIDING_US), ("committing", Header.LAST_COMMITTING_US),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Reasons that say the same of several topics; no topic: it concerns the whole service."""

    topics: tuple[str, ...]
    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Row:
    """A topic's line of the table; ages and times in seconds, None while not known.

    loss_s: until Kafka may delete what is in no table, infinite for never; may_outgrow: or earlier,
    when a partition outgrows its size.
    """

    name: str
    state: str
    tone: str
    paused: str | None
    failures: int
    spark: Spark | None
    trend: Trend
    lag: int | None
    lag_s: float | None
    is_late: bool
    loss_s: float | None
    loss_is_near: bool
    may_outgrow: bool
    committed_s: float | None
    dead_letters: int
    borrowed: int
    trouble: Trouble | None
    is_active_trouble: bool
    trouble_s: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that the template shows."""

    moment: Moment
    span_s: float
    tone: str
    sentence: str
    reasons: tuple[Group, ...]
    late: tuple[tuple[str, float], ...]
    rows: tuple[Row, ...]
    phases: tuple[Segment, ...]
    completed_s: float | None
    cycle_s: float | None
    uptime_s: float | None
    borrowed: int


def page_of(moment: Moment, trends: Trends) -> Page:
    """Everything that the template shows."""
    snapshot, header = moment.snapshot, moment.snapshot.header
    completed_s = since_s(header[Header.LAST_COMPLETED_AT_MS], moment.now_ms)
    late = {topic.name: late_s(moment, topic) for topic in snapshot.topics}
    return Page(
        moment=moment,
        span_s=trends.span_s,
        tone=_TONES[moment.health.status],
        sentence=WHICH_STATUS[moment.health.status],
        reasons=tuple(grouped(moment.health.reasons)),
        late=tuple((name, seconds) for name, seconds in late.items() if seconds),
        rows=tuple(_row(moment, topic, trend) for topic, trend in zip(
            snapshot.topics, trends.topics, strict=True)),
        phases=tuple(segments([(name, header[word] / 1e6) for name, word in _PHASES])),
        completed_s=completed_s,
        cycle_s=None if completed_s is None else header[Header.LAST_CYCLE_US] / 1e6,
        uptime_s=since_s(header[Header.STARTED_AT_MS], moment.now_ms),
        borrowed=sum(topic.report[Report.BORROWED] for topic in snapshot.topics))


def grouped(reasons: Iterable[Reason]) -> Iterator[Group]:
    """Reasons that differ by their topic only become one; in order of their first."""
    topics: dict[tuple[str, str], list[str]] = {}
    for reason in reasons:
        named = topics.setdefault((reason.code.value, reason.sentence), [])
        named += [] if reason.topic is None else [reason.topic]
    for (code, sentence), named in topics.items():
        yield Group(tuple(named), code, sentence)


def late_s(moment: Moment, topic: TopicSnapshot) -> float:
    """For how long something of the topic waits; 0 while not longer than a cycle may take."""
    about = moment.snapshot.about
    waits_s = max(moment.waiting.seconds(topic.name, moment.now_ns),
                  topic.lag_seconds(moment.now_ms) or 0.0)
    return waits_s if waits_s > about.batch_interval_seconds + about.cycle_deadline_seconds else 0.0


def since_s(moment_ms: int, now_ms: int) -> float | None:
    """Seconds since a date of the block; None where it has none."""
    return max(0, now_ms - moment_ms) / 1e3 if moment_ms else None


def _row(moment: Moment, topic: TopicSnapshot, trend: Trend) -> Row:
    state = state_of(moment.snapshot, topic, moment.now_ms)
    trouble = shown_trouble(topic)
    return Row(
        name=topic.name,
        state=state.value,
        tone=_TONES[state],
        paused=None if topic.paused is Paused.NO else topic.paused.name.lower().replace("_", " "),
        failures=topic.order[Order.FAILURES],
        spark=spark(trend.chart),
        trend=trend,
        lag=topic.lag,
        lag_s=topic.lag_seconds(moment.now_ms),
        is_late=late_s(moment, topic) > 0,
        loss_s=topic.loss_seconds(moment.now_ms),
        loss_is_near=loss_is_near(moment.snapshot, topic, moment.now_ms),
        may_outgrow=topic.retention in (Retention.TIME_OR_SIZE, Retention.SIZE),
        committed_s=since_s(topic.report[Report.LAST_COMMIT_AT_MS], moment.now_ms),
        dead_letters=topic.dead_letters,
        borrowed=topic.report[Report.BORROWED],
        trouble=trouble,
        is_active_trouble=bool(topic.report[Report.ERROR_ACTIVE]) or topic.verdict is not None,
        trouble_s=_age_s(trouble, moment.now_ms))


def _age_s(trouble: Trouble | None, now_ms: int) -> float | None:
    """Age of an error; None where its date is none."""
    try:
        at = datetime.fromisoformat(trouble.at).timestamp() if trouble else 0.0
    except (ValueError, OverflowError):
        return None
    return since_s(int(at * 1e3), now_ms)
