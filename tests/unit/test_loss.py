"""When unread messages go: from what is unread, how old it is, and how long Kafka keeps it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.config import GapPolicy
from tests.fakes.config import make_config
from tools.findings import Backlog, Failure, Finding, Key, NoRight, NotTold, Retention, Unread
from tools.loss import judge_loss
from tools.report import Line, Status

CONFIG = make_config(environ={"BATCH_INTERVAL_SECONDS": "10", "CYCLE_DEADLINE_SECONDS": "30"})
NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
WEEK = Retention(7 * 24 * HOUR_MS, -1, "delete")
DAY = Retention(24 * HOUR_MS, -1, "delete")


def unread(age_ms: int | None, *, partition: int = 0, committed: int = 5, low: int = 0) -> Unread:
    """Five messages that nobody has read, the oldest of this age."""
    return Unread(partition, committed, low, 10, None if age_ms is None else NOW_MS - age_ms)


def line(
    *found: Unread, retention: Finding | None = WEEK, unknown: int = 0,
    policy: GapPolicy = GapPolicy.FAIL,
) -> Line:
    """The line on a topic with these partitions."""
    findings: dict[Key, Finding] = {Key("loss", "orders"): Backlog(found, unknown)}
    if retention is not None:
        findings[Key("retention", "orders")] = retention
    return judge_loss(replace(CONFIG, gap_policy=policy), "orders", findings, NOW_MS)


@pytest.mark.parametrize(("age_ms", "retention", "status", "words"), [
    (HOUR_MS, WEEK, Status.OK, "5 unread messages, the oldest 1 h old (partition 0, offset 5)"),
    (144 * HOUR_MS, WEEK, Status.OK, "will be lost in 1 d at the earliest"),
    (144 * HOUR_MS + 1, WEEK, Status.WARN, "will be lost in 24 h at the earliest"),
    (167 * HOUR_MS, WEEK, Status.WARN, "in 1 h at the earliest"),
    (167 * HOUR_MS + 1, WEEK, Status.FAIL, "in 60 min at the earliest"),
    (168 * HOUR_MS - 41 * 60_000, WEEK, Status.FAIL, "will be lost in 41 min"),
    (168 * HOUR_MS, WEEK, Status.FAIL, "at any moment"),
    (999 * HOUR_MS, WEEK, Status.FAIL, "at any moment"),
    (HOUR_MS, replace(DAY, retention_bytes=10**9), Status.WARN,
     "or until a partition outgrows 1000 MB"),
])
def test_the_time_that_is_left_is_that_of_the_oldest_unread_message(
    age_ms: int, retention: Retention, status: Status, words: str
) -> None:
    """A day is a warning, an hour a failure."""
    found = line(unread(1, partition=1), unread(age_ms), retention=retention)
    assert found.status is status
    assert words.replace("5 unread", "10 unread") in found.found
    assert bool(found.what_to_do) is (status is not Status.OK)
    if status is not Status.OK:
        assert "--entity-name orders --add-config retention.ms=604800000" in found.what_to_do


@pytest.mark.parametrize(("age_ms", "status"), [(120_000, Status.OK), (120_001, Status.FAIL)])
def test_what_waits_no_longer_than_usual_tells_nothing(age_ms: int, status: Status) -> None:
    """A topic that is kept for minutes is not lost while the service keeps up."""
    assert line(unread(age_ms), retention=Retention(600_000, -1, "delete")).status is status


def test_a_message_of_the_future_is_new() -> None:
    """Producers choose their timestamps."""
    assert "oldest 0 s old" in line(unread(-HOUR_MS)).found


@pytest.mark.parametrize(("policy", "words"), [
    (GapPolicy.FAIL, "the topic stops"), (GapPolicy.CONTINUE, "goes on and records the gap")])
def test_what_was_deleted_unread_is_lost_already(policy: GapPolicy, words: str) -> None:
    """However long the rest will stay."""
    found = line(unread(1, low=8), unread(1, low=7, partition=3), policy=policy)
    assert found.status is Status.FAIL
    assert found.found == (
        "5 offsets deleted unread: in partition 0 the group waits for 5, Kafka begins at 8, "
        "and in 1 more partition")
    assert words in found.what_to_do and "OffsetGap" in found.what_to_do
    assert line(unread(1, low=5)).status is Status.OK


@pytest.mark.parametrize(("retention", "words"), [
    (Retention(-1, -1, "delete"), "; kept for ever"),
    (Retention(-1, 10**9, "delete"), "when a partition outgrows 1000 MB"),
    (Retention(1, 1, "compact"), "kept for ever, compacted"),
    (NotTold(), "how long Kafka keeps it is not known"),
    (NoRight("DescribeConfigs", "orders"), "is not known"),
    (None, "is not known"),
])
def test_without_a_time_to_live_what_is_known_is_told(
    retention: Finding | None, words: str
) -> None:
    """No time can be told, so none is."""
    found = line(unread(999 * HOUR_MS), retention=retention)
    assert (found.status, found.what_to_do) == (Status.OK, "")
    assert words in found.found


def test_what_is_not_known_is_not_taken_for_well() -> None:
    """A partition without a committed offset, a message that did not come in time."""
    assert line(unknown=2).found == "nothing is unread; nothing is known of 2 partitions"
    assert "the age is not known" in line(unread(None)).found
    assert "nothing is known of 1 partition" in line(unread(1), unknown=1).found
    assert line().found == "nothing is unread"


@pytest.mark.parametrize(("findings", "status", "words"), [
    ({Key("loss", "orders"): NoRight("Read", "g")}, Status.WARN, "not known"),
    ({Key("loss", "orders"): NotTold()}, Status.WARN, "not known"),
    ({Key("loss", "orders"): Failure("A", "b", "Do.")}, Status.FAIL, "A: b"),
    ({Key("broker"): Failure("A", "b")}, Status.WARN, "not looked at: `broker` failed"),
    ({Key("topic", "orders"): Failure("A", "b")}, Status.WARN, "`topic orders` failed"),
    ({Key("topic", "orders"): NoRight("Describe", "orders")}, Status.WARN, "`topic orders`"),
    ({}, Status.FAIL, "no answer in time"),
])
def test_what_was_not_found_out_says_why(
    findings: dict[Key, Finding], status: Status, words: str
) -> None:
    """As `check` does."""
    found = judge_loss(CONFIG, "orders", findings, NOW_MS)
    assert found.status is status and words in found.found
    assert bool(found.what_to_do) is (status is Status.FAIL)
