"""Findings in, a report out: whether a start would go well, and what to do where not.  Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from shared.config_types import Config, ConfigError
from shared.errors import KafkaUnavailable
from shared.memory import MB
from shared.naming import bronze_table, dlq_table
from tools.findings import (
    Brokers, Clocks, Failure, Finding, Group, Key, Log, Memory, NoRight, NotTold, Operation,
    Retention, Table, Topic,
)
from tools.report import Line, Report, Status
from tools.words import duration, many

OUTAGE_S = 3600
"""An outage a service ought to outlive without losing data: somebody has to notice and come."""
SKEW_MAX_S = 2.0
RECENT_S = 120.0
"""A record of our instance younger than this may be that of a service that runs."""
UNEXPECTED = "Nobody expected this error: report it."
STORE_OPERATIONS = ("list", "put", "create", "get", "delete", "trim", "vacuum")

Findings = Mapping[Key, Finding]


def expected(config: Config) -> list[Key]:
    """Everything a start needs, in the order in which it would miss it."""
    tables = [folder for topic in config.topics
              for folder in (bronze_table(topic), *_dlq(config, topic))]
    return [
        Key("memory"),
        Key("broker"),
        *(Key("topic", topic) for topic in config.topics),
        Key("group"),
        *(Key("retention", topic) for topic in config.topics),
        *(Key("store", operation) for operation in STORE_OPERATIONS
          if operation != "vacuum" or config.keeper.deletes_data_files),
        Key("clock"),
        Key("log"),
        *(Key("table", folder) for folder in tables),
    ]


def _dlq(config: Config, topic: str) -> tuple[str, ...]:
    return (dlq_table(topic),) if config.dlq_enabled else ()


def judge(config: Config, findings: Findings) -> Report:
    """One line for each thing a start needs, also where nothing was found out."""
    return Report((
        Line("configuration", "", Status.OK,
             f"{len(config.topics)} topics into {config.lake.uri}"),
        *(_line(config, key, findings) for key in expected(config)),
        _instance(config, findings)))


def judge_defect(error: Exception) -> Report:
    """The command itself failed: only the error's name, for its text may be anybody's."""
    return Report((Line("check", "", Status.FAIL, type(error).__name__, UNEXPECTED),))


def judge_faults(error: ConfigError) -> Report:
    """All faults of the configuration; without it nothing else can be looked at."""
    return Report(tuple(Line("configuration", fault.variable, Status.FAIL, fault.problem,
                             fault.remedy) for fault in error.faults))


def _line(config: Config, key: Key, findings: Findings) -> Line:
    finding = findings.get(key)
    if finding is None:
        return _not_reached(key, findings)
    if isinstance(finding, Failure):
        return _failed(config, key, finding)
    if isinstance(finding, NoRight):
        return _no_right(config, key, finding)
    if isinstance(finding, NotTold):
        return _not_told(config, key)
    status, found, what_to_do = _JUDGES[type(finding)](config, key, finding)
    return Line(*key, status, found, what_to_do)


def _not_reached(key: Key, findings: Findings) -> Line:
    for first in _needs(key):
        if isinstance(findings.get(first), Failure):
            return Line(*key, Status.WARN, f"not looked at: `{' '.join(first).strip()}` failed")
    return Line(*key, Status.FAIL, "no answer in time",
                "Look for what is slow or silent between here and there; then check again.")


def _needs(key: Key) -> tuple[Key, ...]:
    """What must have been found before this is looked at."""
    if key.check in ("topic", "group", "retention"):
        return (Key("broker"),)
    listed = Key("store", "list")
    return (Key("store", "put"), listed) if key.check == "clock" else (listed,)


def _failed(config: Config, key: Key, failure: Failure) -> Line:
    found = f"{failure.name}: {failure.text}"
    if key.check == "store":
        return _store_failed(config, key, failure)
    if key.check == "broker" and failure.name == KafkaUnavailable.__name__:
        return Line(*key, Status.FAIL, found,
                    "See to it that the brokers are up, that KAFKA_BOOTSTRAP_SERVERS names them, "
                    "and that KAFKA_SECURITY_PROTOCOL is that of this port.")
    return Line(*key, Status.FAIL, found, failure.what_to_do or UNEXPECTED)


def _store_failed(config: Config, key: Key, failure: Failure) -> Line:
    found = f"{failure.name}: {failure.text}"
    for code, advice in _STORE_ADVICE.items():
        if code in failure.text:
            return Line(*key, Status.FAIL, found, advice)
    if "AccessDenied" not in failure.text:
        return Line(*key, Status.FAIL, found, failure.what_to_do or UNEXPECTED)
    action, below = _S3_RIGHTS[key.subject]
    right = f"{action} on arn:aws:s3:::{_resource(config, below)}"
    left = " Then remove what is left under _bronze/check/." if key.subject == "delete" else ""
    return Line(*key, Status.FAIL, f"the right {right} is missing ({found})",
                f"Allow it, see deploy/s3-policy.json.{left}")


def _resource(config: Config, below: str) -> str:
    bucket, _, prefix = config.lake.uri.removeprefix("s3://").partition("/")
    return bucket if not below else "/".join(part for part in (bucket, prefix, below) if part)


_S3_RIGHTS = {
    "list": ("s3:ListBucket", ""),
    "put": ("s3:PutObject", "*"),
    "create": ("s3:PutObject", "*"),
    "get": ("s3:GetObject", "*"),
    "delete": ("s3:DeleteObject", "*/_delta_log/*"),
    "trim": ("s3:DeleteObject", "_bronze/log/*"),
    "vacuum": ("s3:DeleteObject", "*/_ingestion_date=*"),
}
"""Operation -> the action it needs, and on what below the lake; on the bucket itself for ''."""

_STORE_ADVICE = {
    "NoSuchBucket": "Create the bucket, or correct LAKE_URI; the service makes none.",
    "InvalidAccessKeyId": "Correct AWS_ACCESS_KEY_ID, or create that key.",
    "SignatureDoesNotMatch": "Correct the secret key (AWS_SECRET_ACCESS_KEY or its file).",
    "RequestTimeTooSkewed": "Set this machine's clock or the store's: use NTP on both.",
}


def _no_right(config: Config, key: Key, lack: NoRight) -> Line:
    if key.check == "retention":
        return Line(*key, Status.WARN, f"cannot be read without {lack.operation} on it",
                    "The service needs no such right; look with kafka-configs.sh as somebody who "
                    f"may whether it is longer than {duration(_retention_least_s(config))}.")
    return Line(*key, Status.FAIL, f"the right {lack.operation} is missing on {lack.resource}",
                _grant(config, key, (lack.operation,)))


def _not_told(config: Config, key: Key) -> Line:
    """A broker that lacks a request; nothing that a start needs depends on one of these."""
    if key.check == "group":
        return Line(*key, Status.WARN, "the broker does not tell its members, nor our rights",
                    "See to it that Read on the group "
                    f"{shlex.quote(config.kafka.group_id)} is allowed.")
    return Line(*key, Status.WARN, "the broker does not tell how long messages stay",
                "Ask whoever runs it whether that is longer than "
                f"{duration(_retention_least_s(config))}.")


def _grant(config: Config, key: Key, operations: tuple[str, ...]) -> str:
    name = key.subject or config.kafka.group_id
    wanted = " ".join(f"--operation {operation}" for operation in operations)
    return (f"Grant it: kafka-acls.sh --bootstrap-server BROKER --add --allow-principal User:NAME "
            f"{wanted} --{key.check} {shlex.quote(name)}")


Verdict = tuple[Status, str, str]


def _memory(config: Config, key: Key, found: Memory) -> Verdict:
    if found.group_bytes is None:
        return Status.OK, f"{found.limit_mb} MB; no limit of a control group is known here", ""
    text = f"{found.limit_mb} MB, the control group allows {found.group_bytes / MB:.0f} MB"
    if found.group_bytes < found.limit_mb * MB:
        return (Status.WARN, text, "Lower MEMORY_LIMIT_MB, or raise the group's limit (MemoryMax "
                                   "in the unit, mem_limit of a container).")
    return Status.OK, text, ""


def _brokers(config: Config, key: Key, found: Brokers) -> Verdict:
    return Status.OK, f"{many(found.count, 'broker')} of cluster {found.cluster_id}", ""


def _topic(config: Config, key: Key, found: Topic) -> Verdict:
    text = many(found.partitions, "partition")
    if found.leaderless:
        listed = ", ".join(map(str, found.leaderless))
        return (Status.FAIL, f"{text}, without a leader: {listed}",
                "Bring the brokers back that hold them; they cannot be read meanwhile.")
    return _rights(config, key, text, found.operations, ("Describe", "Read"))


def _group(config: Config, key: Key, found: Group) -> Verdict:
    text = f"{config.kafka.group_id}, {many(found.members, 'member')}"
    return _rights(config, key, text, found.operations, ("Read",))


def _rights(
    config: Config, key: Key, text: str, operations: frozenset[str] | None,
    needed: tuple[str, ...],
) -> Verdict:
    if operations is None:
        return (Status.WARN, f"{text}; the broker does not tell our rights",
                f"See to it that these are allowed: {', '.join(needed)}.")
    missing = tuple(right for right in needed if right.upper() not in operations)
    if missing:
        return (Status.FAIL, f"{text}; the right {' and '.join(missing)} is missing",
                _grant(config, key, missing))
    return Status.OK, f"{text}; may {' and '.join(needed).lower()}", ""


def _retention(config: Config, key: Key, found: Retention) -> Verdict:
    deletes = "delete" in found.cleanup_policy
    if not deletes:
        return (Status.OK, "kept for ever, compacted: a message whose key comes again may go "
                           "before it is read", "")
    size = (f", at most {found.retention_bytes / MB:.0f} MB a partition"
            if found.retention_bytes >= 0 else "")
    if found.retention_ms < 0:
        return Status.OK, f"kept for ever{size}", ""
    text = f"kept for {duration(found.retention_ms / 1000)}{size}"
    if found.retention_ms / 1000 < _retention_least_s(config):
        return (Status.WARN, text,
                "An outage of an hour would lose data: raise retention.ms to "
                f"{round(1000 * _retention_least_s(config))} at least, best to some days.")
    return Status.OK, text, ""


def _retention_least_s(config: Config) -> float:
    """What was read last before an outage is in no table yet: a cycle's time comes on top."""
    cycle = config.cycle
    return OUTAGE_S + cycle.batch_interval_seconds + cycle.cycle_deadline_seconds


def _operation(config: Config, key: Key, found: Operation) -> Verdict:
    if found.works:
        return Status.OK, _WORKS[key.subject], ""
    return (Status.FAIL, found.instead,
            "Use a store that honours conditional writes (If-None-Match) and reads what was "
            "written; on this one two services could both decide.")


_WORKS = {
    "list": "the lake can be listed",
    "put": "an object can be put",
    "create": "created once, the second time refused",
    "get": "what was put can be read",
    "delete": "entries of table logs can be deleted",
    "trim": "records can be deleted",
    "vacuum": "data files can be deleted",
}


def _clocks(config: Config, key: Key, found: Clocks) -> Verdict:
    skew = clock_skew_s(found)
    if abs(skew) <= SKEW_MAX_S:
        return Status.OK, "this machine and the store agree within 2 s", ""
    return (Status.WARN, f"this machine is {abs(skew):.0f} s "
                         f"{'behind' if skew > 0 else 'ahead of'} the store",
            "Use NTP on both: rows carry this machine's time, and S3 refuses requests that are "
            "15 minutes off.")


def clock_skew_s(found: Clocks) -> float:
    """How far the store is ahead, as far as is certain: it may tell whole seconds only."""
    if found.store_s > found.after_s:
        return found.store_s - found.after_s
    resolution = 1.0 if found.store_s == int(found.store_s) else 0.0
    return min(0.0, found.store_s + resolution - found.before_s)


def _log(config: Config, key: Key, found: Log) -> Verdict:
    return Status.OK, f"{many(found.records, 'record')}, readable to the end", ""


def _table(config: Config, key: Key, found: Table) -> Verdict:
    if found.version is None:
        return Status.OK, "not there yet, the first start makes it", ""
    return Status.OK, f"version {found.version}, of our columns", ""


_JUDGES: Mapping[type, Callable[..., Verdict]] = {
    Memory: _memory, Brokers: _brokers, Topic: _topic, Group: _group, Retention: _retention,
    Operation: _operation, Clocks: _clocks, Log: _log, Table: _table,
}


def _instance(config: Config, findings: Findings) -> Line:
    """A note only: a start fences the other service, which may be just what is wanted."""
    log, group = findings.get(Key("log")), findings.get(Key("group"))
    signs = []
    if isinstance(group, Group) and group.ours:
        signs.append(f"{many(group.ours, 'member')} of the group")
    if isinstance(log, Log) and log.newest_age_s is not None and log.newest_age_s < RECENT_S:
        signs.append(f"record {log.newest_number} of {log.newest_written_at}")
    name = f"INSTANCE_ID={config.instance_id}"
    if signs:
        return Line("instance", "", Status.WARN,
                    f"a service with {name} seems to run: {', '.join(signs)}",
                    "A start here takes its place, and it ends with code 76. If both are to run, "
                    "give one another INSTANCE_ID.")
    if isinstance(log, Log) and isinstance(group, Group):
        return Line("instance", "", Status.OK, f"no service with {name} seems to run")
    return Line("instance", "", Status.WARN, "not known: that takes both `group` and `log`")
