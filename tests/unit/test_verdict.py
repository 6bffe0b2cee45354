"""The verdict on a snapshot: what makes a service unhealthy, when it heals, and what it says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from healthcheck.snapshot import TopicSnapshot
from healthcheck.verdict import (
    BEHIND_GRACE_S, NOTHING_WAITS, STALE_CYCLES, SUPERVISOR_SILENCE_S, Code, Health, Status,
    Waiting, is_live, is_ready, is_worker_up, judge, shown_trouble, state_of,
)
from shared.layout import Header, Order, Paused, Report
from shared.protocol import Phase, Standing
from tests.fakes.snapshots import (
    DEADLINE_S, DIED, HEARTBEAT_LIMIT_S, INTERVAL_S, NOW_MS, NOW_NS, REFUSED, S_NS, a_service,
    a_topic, words,
)

STALE_NS = int(STALE_CYCLES * (INTERVAL_S + DEADLINE_S) * S_NS)


def verdict(*topics: TopicSnapshot, waiting: Waiting = NOTHING_WAITS, **service: Any) -> Health:
    """The verdict now."""
    return judge(a_service(*topics, **service), NOW_NS, NOW_MS, waiting)


def codes(health: Health) -> list[tuple[str | None, Code]]:
    """(topic, code) of each reason."""
    return [(reason.topic, reason.code) for reason in health.reasons]


def test_health_of_a_service_that_gets_on_is_200_without_reasons() -> None:
    """Otherwise every other test here proves nothing."""
    health = verdict(a_topic("a"), a_topic("b"))
    assert (health.status, health.http_status, health.reasons) == (Status.HEALTHY, 200, ())


@pytest.mark.parametrize(("service", "status"), [
    ({"READY": 0, "phase": Phase.RECOVERING}, Status.STARTING),
    ({"READY": 0, "phase": None, "HEARTBEAT_NS": 0}, Status.STARTING),
    ({"phase": Phase.STOPPING}, Status.STOPPING),
    ({"READY": 0, "phase": Phase.STOPPING}, Status.STOPPING),
    ({"phase": Phase.FENCED}, Status.UNHEALTHY),
    ({"phase": Phase.HALTED}, Status.UNHEALTHY),
    ({"READY": 0, "phase": Phase.FENCED}, Status.UNHEALTHY),
])
def test_health_is_503_while_the_service_starts_and_ends(
    service: dict[str, Any], status: Status
) -> None:
    """Whoever waits for the service must not take it for one that works."""
    health = verdict(**service)
    assert (health.status, health.http_status) == (status, 503)


@pytest.mark.parametrize(("phase", "code"), [
    (Phase.FENCED, Code.FENCED), (Phase.HALTED, Code.HALTED),
])
def test_health_says_why_a_service_ends_by_itself(phase: Phase, code: Code) -> None:
    """The page is there for some seconds yet; it should tell what to do about it."""
    assert codes(verdict(phase=phase)) == [(None, code)]


def test_a_starting_service_tells_what_it_waits_for() -> None:
    """A start that hangs on a missing topic looks like any other start without this."""
    health = verdict(a_topic(standing=Standing.STARTING, error=REFUSED,
                             order={"STANDING_SINCE_MS": NOW_MS - 5_000},
                             report={"ERROR_ACTIVE": 1}), READY=0)
    assert (health.status, codes(health)) == (Status.STARTING, [("orders", Code.FAILING)])


@pytest.mark.parametrize(("age_s", "is_well"), [
    (SUPERVISOR_SILENCE_S - 1, True), (SUPERVISOR_SILENCE_S + 1, False),
])
def test_a_silent_supervisor_is_unhealthy_and_not_live(age_s: float, is_well: bool) -> None:
    """A heartbeat tells that the loop runs; a pid tells nothing."""
    service = a_service(HEARTBEAT_NS=NOW_NS - int(age_s * S_NS))
    health = judge(service, NOW_NS, NOW_MS)
    assert codes(health) == ([] if is_well else [(None, Code.SUPERVISOR_SILENT)])
    assert is_live(service, NOW_NS) is is_well


def test_a_supervisor_that_has_not_begun_is_not_live() -> None:
    """Zero is no heartbeat, and not one of long ago either."""
    service = a_service(HEARTBEAT_NS=0, READY=0)
    assert not is_live(service, NOW_NS)
    assert codes(judge(service, NOW_NS, NOW_MS)) == []


def test_a_heartbeat_written_during_the_look_is_not_an_age() -> None:
    """Copy and clock are not read at once, so a heartbeat may be newer than `now`."""
    assert is_live(a_service(HEARTBEAT_NS=NOW_NS + S_NS), NOW_NS)


@pytest.mark.parametrize(("service", "is_it"), [
    ({}, True), ({"READY": 0}, False), ({"phase": Phase.STOPPING}, False),
    ({"phase": Phase.FENCED}, False), ({"phase": Phase.HALTED}, False),
    ({"phase": Phase.DECIDING}, True),
])
def test_ready_means_started_and_not_ending(service: dict[str, Any], is_it: bool) -> None:
    """Readiness is about taking part; whether all is well is /health's to say."""
    assert is_ready(a_service(**service)) is is_it


def test_an_active_error_is_unhealthy_and_its_end_heals() -> None:
    """Unhealthy after a failed write, healthy with the next good one, by nobody's hand."""
    failing = verdict(a_topic(error=REFUSED, report={"ERROR_ACTIVE": 1}))
    healed = verdict(a_topic(error=REFUSED))
    assert codes(failing) == [("orders", Code.FAILING)]
    assert healed.status is Status.HEALTHY
    assert shown_trouble(a_topic(error=REFUSED)) == REFUSED


def test_an_active_error_without_readable_text_is_still_unhealthy() -> None:
    """The worker may have died while it wrote the text."""
    health = verdict(a_topic(report={"ERROR_ACTIVE": 1}))
    assert codes(health) == [("orders", Code.FAILING)]
    assert "what to do" in str(health.reasons[0])


def test_what_the_supervisor_holds_against_a_topic_is_unhealthy() -> None:
    """A dead worker cannot speak for itself."""
    assert codes(verdict(a_topic(verdict=DIED))) == [("orders", Code.HELD)]


@pytest.mark.parametrize(("standing", "code"), [
    (Standing.ISOLATED, Code.ISOLATED), (Standing.STOPPED, Code.STOPPED),
    (Standing.BEHIND, Code.BEHIND), (Standing.STARTING, Code.NOT_STARTED),
])
def test_a_topic_that_does_not_take_part_is_unhealthy_and_told_once(
    standing: Standing, code: Code
) -> None:
    """One cause is one line, however many words of the block show it."""
    health = verdict(
        a_topic("good"),
        a_topic("bad", standing=standing, error=REFUSED, verdict=DIED,
                paused=Paused.BACKING_OFF, report={"ERROR_ACTIVE": 1}))
    assert codes(health) == [("bad", code)]
    assert health.http_status == 503


def test_a_reason_names_topic_code_cause_and_what_to_do() -> None:
    """It is what a person reads first at night."""
    health = verdict(a_topic(standing=Standing.ISOLATED, error=REFUSED, order={"FAILURES": 3},
                             report={"ERROR_ACTIVE": 1}))
    assert [str(reason) for reason in health.reasons] == [
        "orders: isolated: it failed 3 cycles; last error StorageUnavailable: "
        "put bronze_orders: 403; what to do: Check the rights."]


@pytest.mark.parametrize(("phase", "for_s", "state"), [
    (Phase.COMMITTING, 1.0, Standing.ACTIVE),
    (Phase.DECIDING, 1.0, Standing.ACTIVE),
    (Phase.COMMITTING, DEADLINE_S - 1, Standing.ACTIVE),
    (Phase.COMMITTING, DEADLINE_S + 1, Standing.BEHIND),
    (Phase.CONSUMING, BEHIND_GRACE_S - 1, Standing.ACTIVE),
    (Phase.CONSUMING, BEHIND_GRACE_S + 1, Standing.BEHIND),
    (Phase.FLUSHING, BEHIND_GRACE_S + 1, Standing.BEHIND),
    (Phase.ABORTING, BEHIND_GRACE_S + 1, Standing.BEHIND),
])
def test_every_topic_is_behind_between_decision_and_commit_without_being_unhealthy(
    phase: Phase, for_s: float, state: Standing
) -> None:
    """Else each good cycle would flash red."""
    topic = a_topic(standing=Standing.BEHIND,
                    order={"STANDING_SINCE_MS": NOW_MS - int(for_s * 1000)})
    service = a_service(topic, phase=phase)
    assert state_of(service, topic, NOW_MS) is state
    assert bool(judge(service, NOW_NS, NOW_MS).reasons) is (state is Standing.BEHIND)


def test_a_topic_whose_worker_has_just_been_started_is_not_unhealthy() -> None:
    """A restart takes some seconds and is told by the supervisor, if at all."""
    assert verdict(a_topic(standing=Standing.STARTING,
                           order={"STANDING_SINCE_MS": NOW_MS - 5_000})).reasons == ()


@pytest.mark.parametrize(("age_s", "is_well"), [
    (HEARTBEAT_LIMIT_S - 1, True), (HEARTBEAT_LIMIT_S + 1, False),
])
def test_a_silent_worker_is_unhealthy(age_s: float, is_well: bool) -> None:
    """The supervisor kills it then; if it does not, somebody has to know."""
    topic = a_topic(report={"HEARTBEAT_NS": NOW_NS - int(age_s * S_NS)})
    assert codes(verdict(topic)) == ([] if is_well else [("orders", Code.SILENT)])
    assert is_worker_up(a_service(topic), topic, NOW_NS) is is_well


@pytest.mark.parametrize("order", [
    {"INCARNATION": 2, "SPAWNED_AT_MS": NOW_MS - 61_000}, {"PID": 0},
])
@pytest.mark.parametrize(("heard_s", "is_well"), [(1.0, True), (61.0, False)])
def test_a_worker_that_is_gone_for_long_is_unhealthy(
    order: dict[str, int], heard_s: float, is_well: bool
) -> None:
    """A death is repaired within seconds; one that is not is a reason."""
    topic = a_topic(order=order, report={"HEARTBEAT_NS": NOW_NS - int(heard_s * S_NS)})
    assert codes(verdict(topic)) == ([] if is_well else [("orders", Code.MISSING)])
    assert not is_worker_up(a_service(topic), topic, NOW_NS)


def test_a_worker_that_never_came_up_is_missing() -> None:
    """It has left no heartbeat at all to measure from."""
    topic = a_topic(order={"SPAWNED_AT_MS": NOW_MS - 61_000},
                    report={"INCARNATION": 0, "HEARTBEAT_NS": 0})
    assert codes(verdict(topic)) == [("orders", Code.MISSING)]


def test_a_stopped_topic_needs_no_worker() -> None:
    """Its reason is the error that stopped it, not the process that ended for it."""
    topic = a_topic(standing=Standing.STOPPED, error=REFUSED, order={"PID": 0},
                    report={"HEARTBEAT_NS": 1, "ERROR_ACTIVE": 1})
    assert codes(verdict(topic)) == [("orders", Code.STOPPED)]


@pytest.mark.parametrize(("paused", "expected"), [
    (Paused.CYCLE_FULL, []), (Paused.CARRY_OVER_FULL, []), (Paused.BUDGET, []),
    (Paused.STARTING, []),
    (Paused.BACKING_OFF, [("orders", Code.BACKING_OFF)]),
])
def test_backpressure_is_no_fault_but_backing_off_is(
    paused: Paused, expected: list[tuple[str, Code]]
) -> None:
    """A worker at its limit does what it is meant to do."""
    assert codes(verdict(a_topic(paused=paused))) == expected


@pytest.mark.parametrize(("phase", "for_s", "is_well"), [
    (Phase.DECIDING, DEADLINE_S - 1, True), (Phase.DECIDING, DEADLINE_S + 1, False),
    (Phase.CONSUMING, DEADLINE_S + 1, True),
])
def test_a_record_that_cannot_be_written_is_unhealthy(
    phase: Phase, for_s: float, is_well: bool
) -> None:
    """While it cannot, nothing becomes visible, and no worker has any error to show."""
    health = verdict(phase=phase, DECIDING_SINCE_NS=NOW_NS - int(for_s * S_NS))
    assert codes(health) == ([] if is_well else [(None, Code.UNDECIDED)])


def test_messages_that_wait_without_any_commit_are_unhealthy() -> None:
    """The last resort: nothing claims to be wrong, and nothing gets on."""
    topic = a_topic(report={"LAG": 3})
    waiting = NOTHING_WAITS.follow(a_service(topic), NOW_NS - STALE_NS - S_NS)
    health = verdict(topic, waiting=waiting.follow(a_service(topic), NOW_NS))
    assert codes(health) == [(None, Code.NO_PROGRESS)]
    assert "orders" in str(health.reasons[0])


@pytest.mark.parametrize("report", [{"OPEN_ROWS": 1}, {"CARRIED_FILES": 1}])
def test_rows_and_files_that_are_not_committed_wait_too(report: dict[str, int]) -> None:
    """What has left Kafka's count of the lag may still not be visible."""
    topic = a_topic(report=report)
    waiting = NOTHING_WAITS.follow(a_service(topic), NOW_NS - STALE_NS - S_NS)
    assert codes(verdict(topic, waiting=waiting)) == [(None, Code.NO_PROGRESS)]


def test_messages_that_have_just_arrived_after_an_idle_time_do_not_count_as_stuck() -> None:
    """The last commit may be a day old when the first message of the morning comes."""
    idle, busy = a_service(a_topic()), a_topic(report={"LAG": 3})
    waiting = NOTHING_WAITS.follow(idle, NOW_NS - 10 * STALE_NS)
    waiting = waiting.follow(a_service(busy), NOW_NS)
    assert verdict(busy, waiting=waiting, LAST_COMPLETED_NS=1).reasons == ()


def test_a_commit_starts_the_waiting_anew() -> None:
    """A topic under constant load always has messages waiting, and gets on."""
    before, after = a_topic(report={"LAG": 3}), a_topic(report={"LAG": 3, "COMMITS": 6})
    waiting = NOTHING_WAITS.follow(a_service(before), NOW_NS - 2 * STALE_NS)
    waiting = waiting.follow(a_service(after), NOW_NS - S_NS)
    assert verdict(after, waiting=waiting).reasons == ()


def test_lag_that_is_not_known_does_not_count_as_waiting() -> None:
    """Zero and unknown are different answers."""
    topic = a_topic(report={"LAG": 3, "LAG_KNOWN": 0})
    assert (topic.lag, topic.waiting) == (None, 0)


def test_many_stuck_topics_are_one_short_reason() -> None:
    """64 topics behind one broken store are one thing to read, not 64."""
    topics = [a_topic(f"t{number}", report={"LAG": 1}) for number in range(64)]
    waiting = NOTHING_WAITS.follow(a_service(*topics), NOW_NS - STALE_NS - S_NS)
    health = verdict(*topics, waiting=waiting)
    assert codes(health) == [(None, Code.NO_PROGRESS)]
    assert "and 59 more" in str(health.reasons[0])


def test_the_error_shown_is_the_cause_and_not_its_consequence() -> None:
    """A worker that knows why tells more than the supervisor that saw it fail."""
    both = a_topic(error=REFUSED, verdict=DIED)
    assert shown_trouble(both) == DIED
    assert shown_trouble(replace(both, report=words(Report, ERROR_ACTIVE=1))) == REFUSED
    assert shown_trouble(a_topic()) is None


def test_a_block_of_zeros_is_a_service_that_starts() -> None:
    """The sidecar may look before the supervisor has written its first word."""
    topic = a_topic()
    blank = replace(topic, order=words(Order), report=words(Report), standing=None)
    service = replace(a_service(blank), header=words(Header), phase=None, cycle_id=0)
    health = judge(service, NOW_NS, NOW_MS)
    assert (health.status, health.reasons) == (Status.STARTING, ())
    assert state_of(service, blank, NOW_MS) is Standing.STARTING
