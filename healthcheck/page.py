"""The body of /health, made from one moment.  Pure; its shape is part of the contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from healthcheck.moment import Moment
from healthcheck.snapshot import TopicSnapshot
from healthcheck.verdict import shown_trouble, state_of
from shared.clock import rfc3339
from shared.layout import Header, Keeper, Order, Paused, Report


def render(moment: Moment) -> str:
    """JSON, as text; dates in RFC 3339 (UTC), durations in seconds."""
    return json.dumps(_body(moment), ensure_ascii=False) + "\n"


def _body(moment: Moment) -> Mapping[str, Any]:
    snapshot, header = moment.snapshot, moment.snapshot.header
    started_at_ms = header[Header.STARTED_AT_MS]
    has_completed = header[Header.LAST_COMPLETED_AT_MS] > 0
    return {
        "status": moment.health.status.value,
        "reasons": [str(reason) for reason in moment.health.reasons],
        "service": {
            "instance": snapshot.about.instance,
            "version": snapshot.about.service_version,
            "started_at": _date(started_at_ms),
            "uptime_seconds":
                max(0, moment.now_ms - started_at_ms) / 1e3 if started_at_ms else 0.0,
            "pid": header[Header.SUPERVISOR_PID],
            "lake": snapshot.about.lake,
        },
        "cycle": {
            "id": snapshot.cycle_id,
            "phase": snapshot.phase.name.lower() if snapshot.phase else None,
            "last_completed_at": _date(header[Header.LAST_COMPLETED_AT_MS]),
            "last_duration_seconds":
                header[Header.LAST_CYCLE_US] / 1e6 if has_completed else None,
            "last_record": header[Header.LAST_RECORD],
            "completed": header[Header.CYCLES_COMPLETED],
            "aborted": header[Header.CYCLES_ABORTED],
        },
        "keeper": {
            "ledger_behind": snapshot.ledger_behind,
            "last_turn": _date(snapshot.keeper[Keeper.LAST_TURN_AT_MS]),
            "turns": header[Header.KEEPER_TURNS],
            "failures": header[Header.KEEPER_FAILURES],
            "saved": {word.name.lower(): snapshot.keeper[word] for word in SAVED},
            "last_error": asdict(snapshot.keeper_error) if snapshot.keeper_error else None,
        },
        "topics": {topic.name: _topic(moment, topic) for topic in snapshot.topics},
    }


SAVED = (Keeper.COMPACTED_FILES, Keeper.COMPACTION_FILES, Keeper.VACUUMED_FILES,
         Keeper.VACUUMED_BYTES, Keeper.LOG_ENTRIES_DELETED)
"""What the keeper has tidied up since the start."""


def _topic(moment: Moment, topic: TopicSnapshot) -> Mapping[str, Any]:
    trouble = shown_trouble(topic)
    return {
        "state": state_of(moment.snapshot, topic, moment.now_ms).value,
        "pid": topic.order[Order.PID],
        "incarnation": topic.order[Order.INCARNATION],
        "restarts": topic.order[Order.RESTARTS],
        "lag": topic.lag,
        "lag_seconds": topic.lag_seconds(moment.now_ms),
        "rows": topic.report[Report.ROWS],
        "dead_letters": topic.dead_letters,
        "partitions": topic.report[Report.PARTITIONS],
        "paused": None if topic.paused is Paused.NO else topic.paused.name.lower(),
        "last_commit": _date(topic.report[Report.LAST_COMMIT_AT_MS]),
        "table_version": topic.report[Report.TABLE_VERSION],
        "failures": topic.order[Order.FAILURES],
        "last_error": asdict(trouble) if trouble else None,
    }


def _date(unix_ms: int) -> str | None:
    return rfc3339(unix_ms) if unix_ms else None
