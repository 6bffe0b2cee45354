"""Services as the health page sees them, made without a block."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import Any

from healthcheck.snapshot import About, Durations, ServiceSnapshot, TopicSnapshot
from shared.layout import (
    BUCKET_BOUNDS_S, HEADER_WORDS, Header, Histogram, Keeper, Order, Paused, Report,
)
from shared.protocol import Phase, Standing
from shared.trouble import Trouble

S_NS = 1_000_000_000
NOW_NS = 100_000 * S_NS
NOW_MS = 1_800_000_000_000
INTERVAL_S, DEADLINE_S, HEARTBEAT_LIMIT_S = 10.0, 30.0, 60.0

REFUSED = Trouble("2026-03-01T12:00:00.000Z", "StorageUnavailable", "put bronze_orders: 403",
                  "Check the rights.")
DIED = Trouble("2026-03-01T12:00:01.000Z", "WorkerDied", "signal 9", "Nothing.")
NO_DURATIONS = Durations((0,) * (len(BUCKET_BOUNDS_S) + 1), 0.0)


def words(kind: type[IntEnum], **values: int) -> tuple[int, ...]:
    """All words of `kind`, those not named being 0."""
    named = {kind[name]: value for name, value in values.items()}
    return tuple(named.get(word, 0) for word in range(
        HEADER_WORDS if kind is Header else len(kind)))


def a_topic(name: str = "orders", **changes: Any) -> TopicSnapshot:
    """A topic that is well; `order` and `report` in `changes` are words to set."""
    order = {"PID": 11, "INCARNATION": 1, "STANDING_SINCE_MS": NOW_MS - 3_600_000,
             "SPAWNED_AT_MS": NOW_MS - 3_600_000} | changes.pop("order", {})
    report = {"INCARNATION": 1, "HEARTBEAT_NS": NOW_NS - S_NS, "LAG_KNOWN": 1,
              "COMMITS": 5} | changes.pop("report", {})
    topic = TopicSnapshot(
        name=name, order=words(Order, **order), report=words(Report, **report),
        standing=Standing.ACTIVE, paused=Paused.NO, error=None, verdict=None,
        durations=dict.fromkeys(Histogram, NO_DURATIONS))
    return replace(topic, **changes)


def a_service(*topics: TopicSnapshot, phase: Phase | None = Phase.CONSUMING,
              **header: int) -> ServiceSnapshot:
    """A service that is well, with these topics."""
    topics = topics or (a_topic(),)
    return ServiceSnapshot(
        about=About(tuple(topic.name for topic in topics), "0", "1.0.0", "s3://lake",
                    INTERVAL_S, DEADLINE_S, HEARTBEAT_LIMIT_S, 256, 26_000_000),
        header=words(Header, **{"READY": 1, "HEARTBEAT_NS": NOW_NS - S_NS,
                                "STARTED_AT_MS": NOW_MS - 3_600_000} | header),
        keeper=(0,) * len(Keeper), keeper_error=None,
        cycle_id=12, phase=phase, cycle_durations=NO_DURATIONS, phase_durations={},
        topics=topics)
