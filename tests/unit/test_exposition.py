"""/metrics: complete from the first scrape, each word in its metric, legible for Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from math import inf, isnan, nan
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from healthcheck.exposition import Exposition
from healthcheck.metrics import METRICS, Kind
from healthcheck.moment import Observer
from healthcheck.render import rewritten
from shared.block import Block
from shared.clock import SystemClock
from shared.layout import (
    BUCKET_BOUNDS_S, Header, Histogram, Order, Paused, Report, Retention,
)
from shared.protocol import Phase, Standing
from tests.fakes.clock import FakeClock

TOPICS = ("orders", "pay.ments-2")
DOCS = Path(__file__).parents[2] / "docs" / "http.md"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

# Words that are no figures: identities, votes, and what /health or the page alone show.
NOT_EXPOSED: frozenset[object] = frozenset({
    Report.BALLOT, Report.DONE_RECORD, Report.FINISHED_CHECK, Report.STARTED, Report.FLUSH_WANTED,
    Report.LAST_COMMIT_NS, Report.COMMITTED_OF,
    Order.INCLUDED_CYCLE, Order.INCLUDED_RECORD, Order.INCLUDED_CHECK, Order.RESET_CYCLE,
    Order.SPAWNED_AT_MS, Order.STANDING_SINCE_MS, Order.FOREIGN_RECORD,
    Header.MAGIC, Header.LAYOUT_VERSION, Header.TOPIC_COUNT, Header.SUPERVISOR_PID,
    Header.LAST_CYCLE_US, Header.LAST_COMPLETED_NS, Header.LAST_CONSUMING_US,
    Header.LAST_FLUSHING_US, Header.LAST_DECIDING_US, Header.LAST_COMMITTING_US,
})


class FrozenClock(SystemClock):
    """A clock that stands still, so that two scrapes differ by the block only."""

    def monotonic_ns(self) -> int:
        """Some moment."""
        return 10**15

    def unix_ms(self) -> int:
        """Some moment."""
        return 1_800_000_000_000


@pytest.fixture
def block(tmp_path: Path) -> Block:
    """Give a block in which nothing has happened yet."""
    about = {"topics": TOPICS, "instance": "0", "service_version": "1.2.3", "lake": "s3://lake",
             "batch_interval_seconds": 10.0, "cycle_deadline_seconds": 30.0,
             "heartbeat_limit_seconds": 60.0, "memory_limit_mb": 256,
             "loan_budget_bytes": 26_000_000}
    return Block.create(tmp_path / "block", len(TOPICS), json.dumps(about).encode())


@pytest.fixture
def scrape(block: Block) -> Callable[[], dict[str, Family]]:
    """Give a scrape, parsed by prometheus_client's own parser."""
    exposition = Exposition(Observer(block, FrozenClock()).look)

    def do() -> dict[str, Family]:
        families = list(text_string_to_metric_families(exposition.render().decode()))
        assert len({family.name for family in families}) == len(families)
        return {family.name: family for family in families}

    return do


def samples(families: dict[str, Family]) -> Samples:
    """All samples as (name, sorted labels) -> value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values() for sample in family.samples
    }


def value(families: dict[str, Family], name: str, **labels: str) -> float:
    """One sample."""
    return samples(families)[name, tuple(sorted(labels.items()))]


def test_every_declared_metric_is_scraped_with_its_help(
    scrape: Callable[[], dict[str, Family]]
) -> None:
    """The table is the promise; nothing else is in the scrape."""
    found = {(family.name, family.documentation) for family in scrape().values()}
    assert found == {(metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER
                      else metric.name, metric.help) for metric in METRICS}


def test_names_follow_the_rules_of_prometheus() -> None:
    """Prefix, base units, `_total` for counters and for nothing else."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"bronze_[a-z][a-z_]*[a-z]", metric.name)
        assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
        assert not re.search(r"_(ms|us|ns|milliseconds|kilobytes|count|sum|bucket)$", metric.name)
        assert metric.kind is not Kind.HISTOGRAM or metric.name.endswith("_seconds")
        assert metric.tells.endswith(".")
        assert metric.action.endswith(".")


def test_every_label_set_is_there_before_anything_has_happened(
    block: Block, scrape: Callable[[], dict[str, Family]]
) -> None:
    """A series that appears with its first event hides that event from every rate."""
    before = samples(scrape())
    for index in range(len(TOPICS)):
        slot = block.slot(index)
        for report in Report:
            slot.set_report(report, 1)
        for order in Order:
            slot.set_order(order, 1)
        for view in slot.histograms.values():
            view.observe(0.3)
    block.set_phase(3, Phase.DECIDING)
    assert set(samples(scrape())) == set(before)
    topics = {label for _name, labels in before for key, label in labels if key == "topic"}
    assert topics == set(TOPICS)


def test_counters_of_a_new_service_are_zero(scrape: Callable[[], dict[str, Family]]) -> None:
    """Zero is a value here and never a missing series."""
    counters = [sample for family in scrape().values() for sample in family.samples
                if family.type in ("counter", "histogram")]
    assert counters
    assert {sample.value for sample in counters} == {0.0}


@pytest.mark.parametrize("word", [
    word for kind in (Report, Order, Header) for word in kind if word not in NOT_EXPOSED])
def test_every_figure_of_the_block_shows_in_the_metrics(
    block: Block, scrape: Callable[[], dict[str, Family]], word: Report | Order | Header
) -> None:
    """A counter that somebody adds to the block and forgets here is a counter for nobody."""
    slot = block.slot(1)
    slot.set_order(Order.INCARNATION, 5)
    slot.set_order(Order.PID, 0 if word is Order.PID else 9)
    if word not in (Report.INCARNATION, Order.INCARNATION):
        slot.set_report(Report.INCARNATION, 5)
    if word is not Report.HEARTBEAT_NS:
        slot.set_report(Report.HEARTBEAT_NS, 10**15 - 5 * 10**9)
    if word is Report.RETENTION_MS or word is Report.COMMITTED_THROUGH_MS:
        slot.set_report(Report.RETENTION, Retention.TIME)
    if word is Header.DECIDING_SINCE_NS:
        block.set_phase(3, Phase.DECIDING)
    before = samples(scrape())
    if isinstance(word, Report):
        slot.set_report(word, {
            Report.PAUSED: 2, Report.INCARNATION: 5, Report.RETENTION: 4}.get(word, 7))
    elif isinstance(word, Order):
        slot.set_order(word, {Order.STANDING: 3, Order.INCARNATION: 0}.get(word, 7))
    else:
        block.set(word, 7)
    changed = {key for key, new in samples(scrape()).items()
               if new != before[key] and not (isnan(new) and isnan(before[key]))}
    assert changed
    if not isinstance(word, Header):
        assert all(("topic", TOPICS[1]) in labels for _name, labels in changed
                   if _name not in ("bronze_healthy",))


@pytest.mark.parametrize(("word", "name", "labels"), [
    (Report.ROWS, "bronze_rows_total", {}),
    (Report.VALUE_BYTES, "bronze_value_bytes_total", {}),
    (Report.DEAD_LETTERS_ENCODING, "bronze_dead_letters_total", {"error_class": "encoding"}),
    (Report.DEAD_LETTERS_JSON, "bronze_dead_letters_total", {"error_class": "json"}),
    (Report.DEAD_LETTERS_EMPTY, "bronze_dead_letters_total", {"error_class": "empty"}),
    (Report.DEAD_LETTERS_HEADERS, "bronze_dead_letters_total", {"error_class": "headers"}),
    (Report.OFFSETS_ABSENT, "bronze_gap_offsets_total", {"cause": "absent"}),
    (Report.OFFSETS_LOST, "bronze_gap_offsets_total", {"cause": "lost"}),
    (Report.COMMITS, "bronze_commits_total", {}),
    (Report.COMMIT_FAILURES, "bronze_commit_failures_total", {}),
    (Report.COMMITS_AMBIGUOUS, "bronze_commits_ambiguous_total", {}),
    (Report.COMMIT_CONFLICTS, "bronze_commit_conflicts_total", {}),
    (Report.LAG, "bronze_lag_messages", {}),
    (Report.TABLE_VERSION, "bronze_table_version", {"table": "bronze"}),
    (Report.DLQ_TABLE_VERSION, "bronze_table_version", {"table": "dlq"}),
    (Report.OPEN_BYTES, "bronze_open_file_bytes", {}),
    (Report.OPEN_ROWS, "bronze_open_file_rows", {}),
    (Report.CARRIED_FILES, "bronze_carried_files", {}),
    (Report.PAUSES, "bronze_pauses_total", {}),
    (Report.BORROWED, "bronze_memory_borrowed_bytes", {}),
])
def test_a_word_is_shown_under_its_own_name(
    block: Block, scrape: Callable[[], dict[str, Family]], word: Report, name: str,
    labels: dict[str, str],
) -> None:
    """Two counters that changed places would look right everywhere but here."""
    for other in Report:
        block.slot(0).set_report(other, 1000 + other)
    assert value(scrape(), name, topic=TOPICS[0], **labels) == 1000 + word


def test_memory_is_in_bytes_and_what_a_worker_waits_for_it_in_seconds(
    block: Block, scrape: Callable[[], dict[str, Family]]
) -> None:
    """The limit is given in megabytes; a wait is a moment in the block."""
    block.slot(1).set_report(Report.LOAN_WAITED_NS, FrozenClock().monotonic_ns() - 3 * 10**9)
    families = scrape()
    assert value(families, "bronze_memory_limit_bytes") == 256_000_000
    assert value(families, "bronze_memory_budget_bytes") == 26_000_000
    assert value(families, "bronze_memory_wait_seconds", topic=TOPICS[0]) == 0
    assert value(families, "bronze_memory_wait_seconds", topic=TOPICS[1]) == 3


def test_what_alerts_measure_against_is_what_was_configured(
    scrape: Callable[[], dict[str, Family]]
) -> None:
    """A threshold that does not follow the settings is wrong for whoever changed one."""
    families = scrape()
    assert value(families, "bronze_batch_interval_seconds") == 10
    assert value(families, "bronze_cycle_deadline_seconds") == 30


def test_waiting_is_counted_from_the_last_commit_while_messages_wait(block: Block) -> None:
    """An idle topic waits for nothing, however old its last commit is."""
    clock = FakeClock()
    look = Observer(block, clock).look
    slot = block.slot(1)

    def waited(topic: str) -> float:
        families = text_string_to_metric_families(Exposition(look).render().decode())
        return value({family.name: family for family in families},
                     "bronze_uncommitted_seconds", topic=topic)

    def later() -> float:
        clock.advance(40)
        return waited(TOPICS[1])

    assert (later(), later()) == (0, 0)
    slot.set_report(Report.OPEN_ROWS, 5)
    assert (later(), later(), waited(TOPICS[0])) == (0, 40, 0)
    slot.count(Report.COMMITS, 1)
    assert (later(), later()) == (0, 40)
    slot.set_report(Report.OPEN_ROWS, 0)
    assert later() == 0


def test_deciding_is_counted_while_a_record_is_being_written_only(
    block: Block, scrape: Callable[[], dict[str, Family]]
) -> None:
    """The moment stays in the block when the record is there."""
    block.set(Header.DECIDING_SINCE_NS, FrozenClock().monotonic_ns() - 31 * 10**9)
    block.set_phase(3, Phase.DECIDING)
    assert value(scrape(), "bronze_deciding_seconds") == 31
    block.set_phase(3, Phase.COMMITTING)
    assert value(scrape(), "bronze_deciding_seconds") == 0


def test_times_are_in_seconds(block: Block, scrape: Callable[[], dict[str, Family]]) -> None:
    """The block holds milliseconds; Prometheus' base unit is the second."""
    block.slot(0).set_report(Report.LAST_COMMIT_AT_MS, 1_700_000_000_500)
    block.set(Header.STARTED_AT_MS, 1_700_000_000_250)
    families = scrape()
    assert value(families, "bronze_last_commit_timestamp_seconds", topic=TOPICS[0]) == (
        1_700_000_000.5)
    assert value(families, "bronze_start_time_seconds") == 1_700_000_000.25


def test_histogram_buckets_add_up(block: Block, scrape: Callable[[], dict[str, Family]]) -> None:
    """Prometheus' buckets are cumulative, the block's are not."""
    view = block.slot(0).histograms[Histogram.COMMIT]
    for seconds in (0.001, 0.007, 0.007, 3.0, 1000.0):
        view.observe(seconds)
    families, name = scrape(), "bronze_commit_duration_seconds"
    buckets = [value(families, f"{name}_bucket", topic=TOPICS[0], le=str(bound))
               for bound in BUCKET_BOUNDS_S]
    assert buckets == [1, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4]
    assert value(families, f"{name}_bucket", topic=TOPICS[0], le="+Inf") == 5
    assert value(families, f"{name}_count", topic=TOPICS[0]) == 5
    assert value(families, f"{name}_sum", topic=TOPICS[0]) == pytest.approx(1003.015)
    assert value(families, f"{name}_count", topic=TOPICS[1]) == 0


def test_lag_in_seconds_is_not_known_before_the_worker_says_so(
    block: Block, scrape: Callable[[], dict[str, Family]]
) -> None:
    """0 would say that nothing waits; a clock that was set back makes no negative lag."""
    now_ms = FrozenClock().unix_ms()
    assert isnan(value(scrape(), "bronze_lag_seconds", topic=TOPICS[0]))
    block.slot(0).set_report(Report.VALID_THROUGH_MS, now_ms - 4_500)
    block.slot(1).set_report(Report.VALID_THROUGH_MS, now_ms + 4_500)
    families = scrape()
    assert value(families, "bronze_lag_seconds", topic=TOPICS[0]) == 4.5
    assert value(families, "bronze_lag_seconds", topic=TOPICS[1]) == 0


@pytest.mark.parametrize(("kind", "age_ms", "expected", "kept"), [
    (Retention.TIME, 4_500, 95.5, 100), (Retention.TIME_OR_SIZE, 4_500, 95.5, 100),
    (Retention.TIME, 200_000, 0, 100), (Retention.TIME, -4_500, 100, 100),
    (Retention.TIME, None, nan, 100), (Retention.UNKNOWN, 4_500, nan, nan),
    (Retention.SIZE, 4_500, nan, nan), (Retention.FOREVER, 4_500, inf, inf),
    (Retention.FOREVER, None, inf, inf), (max(Retention) + 1, 4_500, nan, nan)])
def test_time_to_loss_is_what_is_left_of_the_retention(
    block: Block, scrape: Callable[[], dict[str, Family]], kind: int, age_ms: int | None,
    expected: float, kept: float,
) -> None:
    """Never a number where one of the two is not known; a clock set back adds nothing."""
    now_ms = FrozenClock().unix_ms()
    slot = block.slot(0)
    slot.set_report(Report.RETENTION, kind)
    slot.set_report(Report.RETENTION_MS, 100_000)
    slot.set_report(Report.COMMITTED_THROUGH_MS, 0 if age_ms is None else now_ms - age_ms)
    families = scrape()
    found = value(families, "bronze_time_to_loss_seconds", topic=TOPICS[0])
    assert found == pytest.approx(expected, nan_ok=True)
    assert value(families, "bronze_retention_seconds", topic=TOPICS[0]) == pytest.approx(
        kept, nan_ok=True)


def test_each_phase_has_its_own_durations(
    block: Block, scrape: Callable[[], dict[str, Family]]
) -> None:
    """Histograms that changed places would look right everywhere but here."""
    for phase, seconds in ((Phase.FLUSHING, 1), (Phase.DECIDING, 2), (Phase.COMMITTING, 4)):
        block.phase_seconds[phase].observe(seconds)
    families = scrape()
    sums = {phase: value(families, "bronze_phase_seconds_sum", phase=phase)
            for phase in ("flushing", "deciding", "committing")}
    assert sums == {"flushing": 1, "deciding": 2, "committing": 4}
    assert value(families, "bronze_phase_seconds_count", phase="flushing") == 1


def test_exactly_one_state_phase_and_cause_is_set(
    block: Block, scrape: Callable[[], dict[str, Family]]
) -> None:
    """An enumeration is shown as one series per member, one of which is 1."""
    block.set_phase(4, Phase.ABORTING)
    block.slot(0).set_order(Order.STANDING, list(Standing).index(Standing.ISOLATED))
    block.slot(0).set_report(Report.PAUSED, Paused.CYCLE_FULL)
    ones = {labels for (name, labels), number in samples(scrape()).items() if number == 1
            and name in ("bronze_phase", "bronze_topic_state", "bronze_paused")}
    assert ones == {
        (("phase", "aborting"),),
        (("state", "isolated"), ("topic", TOPICS[0])),
        (("state", "starting"), ("topic", TOPICS[1])),
        (("cause", "cycle_full"), ("topic", TOPICS[0])),
    }


def test_the_documented_tables_are_those_of_the_code() -> None:
    """`python -m healthcheck.render docs/http.md` was run after the last change."""
    text = DOCS.read_text(encoding="utf-8")
    assert rewritten(text) == text


def test_a_page_without_marks_is_refused() -> None:
    """Else the tables would silently be written nowhere."""
    with pytest.raises(ValueError, match="lacks its marks"):
        rewritten("# A page")
