"""What the store does with a request, and the checks of what is visible afterwards."""

from __future__ import annotations

from functools import lru_cache

from shared.protocol import Span, Tiling, judge_tiling
from tests.model.rules import Rules
from tests.model.state import (
    BRONZE, DLQ, PUT, Config, Rec, Send, State, Table, Violation, mask, swap,
)


def claimed(log: tuple[Rec | None, ...]) -> int:
    """The highest complete_through of the records there are, as every reader of the log sees it."""
    return max((record.complete_through for record in log if record is not None), default=-1)


def undone(log: tuple[Rec | None, ...], rules: Rules) -> list[tuple[int, Rec]]:
    """Cycle records that may still have to be committed, oldest first."""
    after = claimed(log) if rules.complete_records_are_ignored else -1
    return [(number, record) for number, record in enumerate(log)
            if record is not None and number > after and not record.is_start]


def take_effect(state: State, send: Send, config: Config, rules: Rules) -> tuple[State, bool]:
    """The state after the store looked at `send`, and whether it accepted it."""
    if send.kind == PUT:
        return _put(state, send)
    return _commit(state, send, config, rules)


def _put(state: State, send: Send) -> tuple[State, bool]:
    log, number, record = state.log, send.number, send.record
    if number < len(log) and log[number] is not None:
        return state, False
    decided, stale = state.decided, state.stale
    if number <= claimed(log):
        stale = tuple(sorted({*stale, number}))
    else:
        for instance, uuid in state.active:
            if instance == record.instance and uuid != record.uuid and not record.is_start:
                raise Violation(f"service {record.uuid} writes record {number} although service "
                                f"{uuid} of the same identity has taken over")
        for topic, pieces in record.manifests:
            decided = _decide(decided, number, topic, pieces)
    if number < len(log):
        log = swap(log, number, record)
    else:
        log = log + (None,) * (number - len(log)) + (record,)
    return state._replace(log=log, decided=decided, stale=stale), True


def _decide(decided: tuple, number: int, topic: int, pieces: tuple) -> tuple:
    """The decided boundaries with this manifest's; a record that can never be committed raises."""
    bounds = decided[topic]
    start, end = pieces[0][0], pieces[-1][1]
    if bounds and bounds[-1] != start:
        raise Violation(f"record {number} can never be committed: it names [{start}, {end}) of "
                        f"topic {topic}, where {bounds[-1]} is decided")
    return swap(decided, topic, (bounds or (start,)) + (end,))


def _commit(state: State, send: Send, config: Config, rules: Rules) -> tuple[State, bool]:
    topic, table = send.topic, state.tables[send.topic]
    held = table.dlq_txn if send.table == DLQ else table.txn
    checked = rules.compare_and_set and rules.compare_from_with_txn
    if checked and held != send.expect:
        return state, False
    malformed = sum(1 << offset for offset in config.malformed[topic])
    for start, end in send.pieces:
        table = _append(table, send.table, topic, mask(start, end), malformed)
    if send.table == DLQ:
        table = table._replace(dlq_txn=send.end)
    else:
        table = table._replace(txn=send.end)
    state = state._replace(tables=swap(state.tables, topic, table))
    if send.table not in (BRONZE, DLQ):
        state = state._replace(decided=swap(state.decided, topic, (send.end,)),
                               origin=swap(state.origin, topic, send.end))
    return state, True


def _append(table: Table, name: str, topic: int, offsets: int, malformed: int) -> Table:
    rows = offsets & malformed if name == DLQ else offsets & ~malformed
    if rows & (table.rows | table.dead):
        raise Violation(f"{_offsets(rows & (table.rows | table.dead))} of topic {topic} "
                        f"became visible twice")
    if name == DLQ:
        return table._replace(dead=table.dead | rows)
    return table._replace(rows=table.rows | rows)


def _offsets(bits: int) -> str:
    return "offset " + ", ".join(str(i) for i in range(bits.bit_length()) if bits >> i & 1)


def still_possible(send: Send, state: State, config: Config, rules: Rules) -> bool:
    """Whether a request under way can ever have an effect; what cannot is forgotten."""
    if send.kind == PUT:
        log = state.log
        return config.trimming or send.number >= len(log) or log[send.number] is None
    if not (rules.compare_and_set and rules.compare_from_with_txn):
        return True
    table = state.tables[send.topic]
    # A txn only ever grows, so a compare-and-set that missed its moment stays refused.
    return (table.dlq_txn if send.table == DLQ else table.txn) == send.expect


@lru_cache(maxsize=None)
def check(
    tables: tuple[Table, ...], log: tuple[Rec | None, ...], decided: tuple,
    origin: tuple[int | None, ...], malformed: tuple[tuple[int, ...], ...],
) -> str | None:
    """The first invariant that does not hold in what is visible, or None."""
    for topic, table in enumerate(tables):
        fault = _check_table(topic, table, decided[topic], origin[topic], malformed[topic])
        if fault:
            return fault
    return _check_log(tables, log)


def _check_table(
    topic: int, table: Table, bounds: tuple[int, ...], origin: int | None,
    malformed: tuple[int, ...],
) -> str | None:
    if table.kafka is not None and origin is not None and table.kafka > (table.txn or 0):
        return f"topic {topic}: Kafka's offset {table.kafka} is ahead of txn {table.txn}"
    if table.txn is None:
        return f"topic {topic} has rows and no position" if table.rows | table.dead else None
    if table.txn > bounds[-1]:
        return f"topic {topic} stands at {table.txn}, and only {bounds[-1]} is decided"
    if table.txn not in bounds:
        return f"topic {topic} stands at {table.txn}, in the middle of a decided range {bounds}"
    bad = sum(1 << offset for offset in malformed)
    expected = mask(min(origin, table.txn), table.txn)
    missing = expected & ~(table.rows | table.dead)
    if missing:
        return f"{_offsets(missing)} of topic {topic} is below txn {table.txn} and in no table"
    if table.rows & ~(expected & ~bad):
        return f"{_offsets(table.rows & ~(expected & ~bad))} of topic {topic} is in bronze too early"
    if table.dead & ~bad:
        return f"{_offsets(table.dead & ~bad)} of topic {topic} is in the DLQ and well-formed"
    later = [end for end in bounds if end > table.txn]
    visible = mask(origin, later[0]) if later else expected
    if table.dead & ~visible:
        return (f"{_offsets(table.dead & ~visible)} of topic {topic} is in the DLQ before its "
                f"record, or before an older one is complete")
    return None


def _check_log(tables: tuple[Table, ...], log: tuple[Rec | None, ...]) -> str | None:
    after = claimed(log)
    ends: dict[int, int | None] = {}
    for number, record in enumerate(log):
        if record is None and number > after:
            return f"record {number} is missing, and only {after} is claimed to be complete"
        for topic, pieces in record.manifests if record is not None else ():
            span = Span(0, pieces[0][0], pieces[-1][1])
            txn = tables[topic].txn
            if number <= after:
                continue
            tiling = judge_tiling([span], {0: txn})
            if tiling is Tiling.TORN and ends.get(topic) != span.start:
                return (f"record {number} is torn: topic {topic} stands at {txn}, it names "
                        f"[{span.start}, {span.end})")
            if topic in ends and tiling is not Tiling.DONE:
                return f"topic {topic} owes two records, {number} is the second"
            if tiling is not Tiling.DONE:
                ends[topic] = span.end
    return None


def check_claim(state: State, record: Rec) -> None:
    """Raise when `record` claims that something is complete which is not."""
    for number, older in enumerate(state.log[:record.complete_through + 1]):
        if older is None or number in state.stale:
            continue
        for topic, pieces in older.manifests:
            if (state.tables[topic].txn or 0) < pieces[-1][1]:
                raise Violation(f"record {number} is claimed to be complete, topic {topic} "
                                f"stands at {state.tables[topic].txn}")
