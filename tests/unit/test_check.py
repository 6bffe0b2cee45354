"""What `check` makes of its findings: one line for each thing, and an exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shared.config import ConfigError, load
from shared.errors import LogDamaged, StorageUnavailable
from shared.exit_codes import ExitCode
from tests.fakes.config import make_config
from tools.check import clock_skew_s, expected, judge, judge_faults
from tools.findings import (
    Brokers, Clocks, Failure, Finding, Group, Key, Log, Memory, NoRight, Operation, Retention,
    Table, Topic, failure,
)
from tools.report import Line, Report, Status

CONFIG = make_config(("orders", "payments"), {"LAKE_URI": "s3://lake/bronze"})
READS = frozenset({"READ", "DESCRIBE"})
WELL: dict[str, Finding] = {
    "memory": Memory(256, None),
    "broker": Brokers(3, "abc"),
    "topic": Topic(6, (), READS),
    "group": Group(frozenset({"READ"}), 0, 0),
    "retention": Retention(604_800_000, -1, "delete"),
    "store": Operation(),
    "clock": Clocks(100.0, 100.2, 100.3),
    "log": Log(0, None, "", None),
    "table": Table(None),
}


def findings(**changed: Finding | None) -> dict[Key, Finding]:
    """All well but for the kinds that are given; None leaves a kind out."""
    found = {key: changed.get(key.check, WELL[key.check]) for key in expected(CONFIG)}
    return {key: finding for key, finding in found.items() if finding is not None}


def line(check: str, **changed: Finding | None) -> Line:
    """The first line of a kind."""
    return next(line for line in judge(CONFIG, findings(**changed)).lines if line.check == check)


def denied(operation: str) -> Failure:
    """What a store answers that refuses."""
    return failure(StorageUnavailable(operation, "x", "403 Forbidden: AccessDenied; GET http://"))


def test_every_thing_has_a_line_and_all_well_is_exit_0() -> None:
    """Each topic, each table, each operation; nothing is silent."""
    report = judge(CONFIG, findings())
    assert {line.status for line in report.lines} == {Status.OK}
    assert report.exit_code() is ExitCode.OK
    subjects = {(line.check, line.subject) for line in report.lines}
    assert len(subjects) == len(report.lines)
    assert {("topic", "payments"), ("retention", "orders"), ("table", "dlq_bronze_orders"),
            ("store", "trim"), ("store", "vacuum"), ("instance", ""),
            ("configuration", "")} <= subjects


def test_no_table_is_looked_for_that_would_not_be_made() -> None:
    """Without dead letters there is no table for them."""
    keys = expected(make_config(environ={"DLQ_ENABLED": "false"}))
    assert [key.subject for key in keys if key.check == "table"] == ["bronze_orders"]


@pytest.mark.parametrize(("compact", "vacuum", "is_asked"), [
    ("0", "0", False), ("1", "0", True), ("0", "1", True)])
def test_the_right_to_delete_data_files_is_asked_for_where_it_is_used(
    compact: str, vacuum: str, is_asked: bool
) -> None:
    """Who switches compaction and vacuum off may take it out of the policy."""
    config = make_config(environ={"COMPACT_TARGET_MB": compact, "VACUUM_RETENTION_DAYS": vacuum})
    assert (Key("store", "vacuum") in expected(config)) is is_asked


@pytest.mark.parametrize(("changed", "status", "words"), [
    ({"memory": Memory(256, 256_000_000)}, Status.OK, "allows 256 MB"),
    ({"memory": Memory(256, 255_999_999)}, Status.WARN, "MEMORY_LIMIT_MB"),
    ({"topic": Topic(1, (), frozenset({"READ", "DESCRIBE", "WRITE"}))}, Status.OK, "1 partition;"),
    ({"topic": Topic(6, (), frozenset({"DESCRIBE"}))}, Status.FAIL,
     "--operation Read --topic orders"),
    ({"topic": Topic(6, (), None)}, Status.WARN, "Describe, Read"),
    ({"topic": Topic(6, (2, 5), READS)}, Status.FAIL, "leader: 2, 5"),
    ({"topic": NoRight("Describe", "orders")}, Status.FAIL, "--operation Describe --topic orders"),
    ({"topic": Failure("TopicMissing", "no topic", "Create it.")}, Status.FAIL, "Create it."),
    ({"group": Group(frozenset({"DESCRIBE"}), 2, 0)}, Status.FAIL,
     "--operation Read --group bronze-ingestion"),
    ({"group": NoRight("Read", "bronze-ingestion")}, Status.FAIL, "Read is missing"),
    ({"retention": Retention(-1, -1, "delete")}, Status.OK, "for ever"),
    ({"retention": Retention(-1, 10**9, "delete")}, Status.OK, "1000 MB a partition"),
    ({"retention": Retention(315_360_000_000, -1, "delete")}, Status.OK, "for 3650 d"),
    ({"retention": Retention(1, 1, "delete")}, Status.WARN, "for 0.001 s"),
    ({"retention": Retention(1, 1, "compact")}, Status.OK, "compacted"),
    ({"retention": Retention(3_600_000, -1, "compact,delete")}, Status.WARN, "1 h"),
    ({"retention": NoRight("DescribeConfigs", "orders")}, Status.WARN, "DescribeConfigs"),
    ({"log": failure(LogDamaged("record 7 is missing"))}, Status.FAIL, "Restore"),
    ({"log": Log(1, None, "", None)}, Status.OK, "1 record,"),
    ({"table": Table(7)}, Status.OK, "version 7"),
    ({"clock": Clocks(104.0, 100.0, 101.0)}, Status.WARN, "3 s behind the store"),
    ({"clock": Clocks(96.0, 100.0, 101.0)}, Status.WARN, "3 s ahead of the store"),
    ({"clock": Clocks(103.0, 100.0, 101.0)}, Status.OK, "agree"),
])
def test_each_finding_is_judged_and_says_what_to_do(
    changed: dict[str, Any], status: Status, words: str
) -> None:
    """The status is for the exit code, the words for the person."""
    found = line(next(iter(changed)), **changed)
    assert found.status is status
    assert words in f"{found.found} -> {found.what_to_do}"
    assert status is Status.OK or found.what_to_do


@pytest.mark.parametrize("retention_ms", [3_600_000 + 70_000 - 1, 3_600_000 + 70_000])
def test_retention_must_outlive_an_outage_and_the_cycle_before_it(retention_ms: int) -> None:
    """What a cycle had not committed when the outage began is read again after it."""
    config = replace(CONFIG, cycle=replace(
        CONFIG.cycle, batch_interval_seconds=10, cycle_deadline_seconds=60))
    key = Key("retention", "orders")
    report = judge(config, {**findings(), key: Retention(retention_ms, -1, "delete")})
    assert report.count(Status.WARN) == (retention_ms < 3_670_000)


@pytest.mark.parametrize(("store_s", "skew"), [
    (100.0, 0.0), (101.0, 0.0), (99.0, -0.5), (98.0, -1.5), (101.5, 0.25), (99.5, -1.0),
    (102.0, 0.75)])
def test_skew_is_what_is_certain_of_it(store_s: float, skew: float) -> None:
    """Whole seconds are the start of a second; the object was made some time between two looks."""
    assert clock_skew_s(Clocks(store_s, 100.5, 101.25)) == skew


RIGHTS = {
    "list": "s3:ListBucket on arn:aws:s3:::lake",
    "put": "s3:PutObject on arn:aws:s3:::lake/bronze/*",
    "create": "s3:PutObject on arn:aws:s3:::lake/bronze/*",
    "get": "s3:GetObject on arn:aws:s3:::lake/bronze/*",
    "delete": "s3:DeleteObject on arn:aws:s3:::lake/bronze/*/_delta_log/*",
    "trim": "s3:DeleteObject on arn:aws:s3:::lake/bronze/_bronze/log/*",
    "vacuum": "s3:DeleteObject on arn:aws:s3:::lake/bronze/*/_ingestion_date=*",
}


@pytest.mark.parametrize("operation", RIGHTS)
def test_a_refused_operation_names_the_right_it_needs(operation: str) -> None:
    """Whoever writes policies can copy it."""
    report = judge(CONFIG, {**findings(), Key("store", operation): denied(operation)})
    failed = [line for line in report.lines if line.status is Status.FAIL]
    assert [line.subject for line in failed] == [operation]
    assert f"the right {RIGHTS[operation]} is missing (" in failed[0].found
    assert "http://" not in failed[0].found, "what follows the answer is noise"


def test_a_lake_without_a_prefix_has_rights_without_one() -> None:
    """Two slashes would name other objects."""
    config = replace(CONFIG, lake=replace(CONFIG.lake, uri="s3://lake"))
    report = judge(config, {**findings(), Key("store", "get"): denied("get")})
    assert any("arn:aws:s3:::lake/* is missing" in line.found for line in report.lines)


def test_a_store_that_creates_twice_fails() -> None:
    """The decision of a cycle and the fence rest on it."""
    report = judge(CONFIG, {**findings(), Key("store", "create"): Operation(False, "twice")})
    assert report.exit_code() == 1
    assert [(line.subject, line.found) for line in report.lines
            if line.status is Status.FAIL] == [("create", "twice")]


def test_what_was_not_reached_says_why() -> None:
    """After a failure nothing hangs on it is tried; without one, time ran out."""
    down = Failure("KafkaUnavailable", "nobody", "Look.")
    found = line("topic", broker=down, topic=None)
    assert (found.status, found.found) == (Status.WARN, "not looked at: `broker` failed")
    found = line("topic", topic=None)
    assert (found.status, found.found) == (Status.FAIL, "no answer in time")
    found = line("table", table=None)
    assert found.status is Status.FAIL


def test_without_a_put_the_clock_is_not_looked_at() -> None:
    """The object whose time would tell is not there."""
    report = judge(CONFIG, {**findings(clock=None), Key("store", "put"): denied("put")})
    found = next(line for line in report.lines if line.check == "clock")
    assert found.found == "not looked at: `store put` failed"


def test_nothing_found_at_all_is_no_success() -> None:
    """Both probes hang: every line says so."""
    report = judge(CONFIG, {})
    assert report.exit_code() == 1
    assert report.count(Status.OK) == 1, "the configuration alone is known to be good"


@pytest.mark.parametrize(("changed", "status", "words"), [
    ({"group": Group(frozenset({"READ"}), 3, 2)}, Status.WARN, "2 members"),
    ({"group": Group(frozenset({"READ"}), 3, 0)}, Status.OK, "no service"),
    ({"log": Log(9, 8, "2026-01-31T12:00:00.000Z", 119.0)}, Status.WARN, "record 8 of 2026-01-31"),
    ({"log": Log(9, 8, "2026-01-31T12:00:00.000Z", -5.0)}, Status.WARN, "record 8"),
    ({"log": Log(9, 8, "2026-01-31T12:00:00.000Z", 120.0)}, Status.OK, "no service"),
    ({"log": Failure("X", "y"), "group": Group(frozenset({"READ"}), 3, 2)}, Status.WARN,
     "2 members"),
    ({"log": Failure("X", "y")}, Status.WARN, "not known"),
])
def test_another_service_of_our_instance_is_a_note(
    changed: dict[str, Any], status: Status, words: str
) -> None:
    """It may be the one that is to be replaced."""
    found = line("instance", **changed)
    assert found.status is status
    assert words in found.found


def test_an_error_nobody_expected_is_a_failure_with_its_name() -> None:
    """Of several lines the first will do."""
    found = line("group", group=failure(ZeroDivisionError("one\ntwo")))
    assert (found.status, found.found) == (Status.FAIL, "ZeroDivisionError: one")
    assert failure(TimeoutError()).text == "no text"


def test_bad_configuration_has_a_line_for_each_fault() -> None:
    """All at once, as --check-config tells them."""
    with pytest.raises(ConfigError) as caught:
        load({"KAFKA_TOPICS": "a,a"})
    report = judge_faults(caught.value)
    assert [line.subject for line in report.lines] == [
        fault.variable for fault in caught.value.faults]
    assert report.status is Status.FAIL
    assert json.dumps([line.what_to_do for line in report.lines])


def test_the_report_is_as_bad_as_its_worst_line() -> None:
    """A warning is told and is no failure."""
    def report(*statuses: Status) -> Report:
        return Report(tuple(Line("x", "", status, "") for status in statuses))

    assert report(Status.OK, Status.WARN).status is Status.WARN
    assert report(Status.OK, Status.WARN).exit_code() == 0
    assert report(Status.WARN, Status.FAIL, Status.OK).exit_code() == 1
    assert report().status is Status.OK
