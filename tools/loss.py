"""Whether a topic's unread messages will be deleted before they are read, and when.  Pure.

Kafka deletes whole segments, once their newest message is older than `retention.ms`: later than
the moment told here, which is that of the oldest unread message and so the earliest there can be.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from shared.config_types import Config, GapPolicy
from shared.memory import MB
from tools.check import UNEXPECTED
from tools.findings import Backlog, Failure, Finding, Key, NoRight, NotTold, Retention, Unread
from tools.report import Line, Status
from tools.words import duration, many

WARN_BELOW_S = 24 * 3600
FAIL_BELOW_S = 3600
USUAL_CYCLES = 3
"""A message may wait for this many intervals and deadlines while all is well, as for /health;
one that is younger tells nothing, however short its topic's retention."""
RETENTION_MS_ADVISED = 7 * 24 * 3600 * 1000


def judge_loss(
    config: Config, topic: str, findings: Mapping[Key, Finding], now_ms: int
) -> Line:
    """The line on one topic."""
    key, finding = Key("loss", topic), findings.get(Key("loss", topic))
    if isinstance(finding, Backlog):
        return _judge(config, key, finding, findings.get(Key("retention", topic)), now_ms)
    if isinstance(finding, NoRight | NotTold):
        return Line(*key, Status.WARN, "not known: the broker does not tell what is unread")
    if isinstance(finding, Failure):
        return Line(*key, Status.FAIL, f"{finding.name}: {finding.text}",
                    finding.what_to_do or UNEXPECTED)
    for needed in (Key("broker"), Key("topic", topic)):
        if isinstance(findings.get(needed), Failure | NoRight):
            return Line(*key, Status.WARN,
                        f"not looked at: `{' '.join(needed).strip()}` failed")
    return Line(*key, Status.FAIL, "no answer in time",
                "Look for what is slow or silent between here and there; then ask again.")


def _judge(
    config: Config, key: Key, backlog: Backlog, retention: Finding | None, now_ms: int
) -> Line:
    lost = [each for each in backlog.unread if each.committed < each.low]
    if lost:
        return Line(*key, Status.FAIL, _lost(lost), _after_loss(config))
    unread = sum(each.high - each.committed for each in backlog.unread)
    known = [each for each in backlog.unread if each.oldest_ms is not None]
    unknown = (f"; nothing is known of {many(backlog.unknown, 'partition')}"
               if backlog.unknown else "")
    if not unread:
        return Line(*key, Status.OK, f"nothing is unread{unknown}")
    text = many(unread, "unread message")
    if not known:
        return Line(*key, Status.OK, f"{text}, of which the age is not known{unknown}")
    oldest = min(known, key=lambda each: each.oldest_ms or 0)
    age_s = max(0.0, (now_ms - (oldest.oldest_ms or 0)) / 1000)
    text += (f", the oldest {duration(age_s)} old (partition {oldest.partition}, "
             f"offset {oldest.committed})")
    if not isinstance(retention, Retention) or _is_endless(retention):
        return Line(*key, Status.OK, f"{text}; {_endless(retention)}{unknown}")
    left_s = retention.retention_ms / 1000 - age_s
    status = _status(config, age_s, left_s)
    advice = "" if status is Status.OK else _before_loss(key.subject)
    return Line(*key, status, f"{_when(left_s)}: {text}, kept for "
                              f"{duration(retention.retention_ms / 1000)}{_size(retention)}"
                              f"{unknown}", advice)


def _status(config: Config, age_s: float, left_s: float) -> Status:
    cycle = config.cycle
    usual_s = USUAL_CYCLES * (cycle.batch_interval_seconds + cycle.cycle_deadline_seconds)
    if age_s <= usual_s or left_s >= WARN_BELOW_S:
        return Status.OK
    return Status.FAIL if left_s < FAIL_BELOW_S else Status.WARN


def _when(left_s: float) -> str:
    if left_s <= 0:
        return "data may be lost at any moment"
    return f"data will be lost in {duration(left_s)} at the earliest"


def _lost(lost: list[Unread]) -> str:
    first = lost[0]
    more = f", and in {many(len(lost) - 1, 'more partition')}" if len(lost) > 1 else ""
    count = sum(each.low - each.committed for each in lost)
    return (f"{many(count, 'offset')} deleted unread: in partition {first.partition} the group "
            f"waits for {first.committed}, Kafka begins at {first.low}{more}")


def _is_endless(retention: Retention) -> bool:
    return "delete" not in retention.cleanup_policy or retention.retention_ms < 0


def _endless(retention: Finding | None) -> str:
    if not isinstance(retention, Retention):
        return "how long Kafka keeps it is not known"
    if "delete" not in retention.cleanup_policy:
        return "kept for ever, compacted"
    if retention.retention_bytes < 0:
        return "kept for ever"
    return (f"the oldest go when a partition outgrows {retention.retention_bytes / MB:.0f} MB, "
            "and when that is nobody can tell")


def _size(retention: Retention) -> str:
    if retention.retention_bytes < 0:
        return ""
    return f", or until a partition outgrows {retention.retention_bytes / MB:.0f} MB"


def _before_loss(topic: str) -> str:
    return ("Raise its retention now: kafka-configs.sh --bootstrap-server BROKER --alter "
            f"--entity-type topics --entity-name {shlex.quote(topic)} "
            f"--add-config retention.ms={RETENTION_MS_ADVISED}; then mend what holds it up.")


def _after_loss(config: Config) -> str:
    goes_on = config.gap_policy is GapPolicy.CONTINUE
    policy = ("GAP_POLICY=continue: the service goes on and records the gap."
              if goes_on else "GAP_POLICY=fail: the topic stops until somebody decides.")
    return (f"{policy} See OffsetGap in the runbook: raise the retention first; can the messages "
            "come from elsewhere?")
