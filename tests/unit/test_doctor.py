"""`doctor`: each piece of evidence leads to its diagnosis; where all is well there is none."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

import tools.doctor_command
from shared.errors import KafkaAuthenticationFailed, KafkaUnavailable, TableVanished, TopicMissing
from shared.version import SERVICE_VERSION
from tests.fakes.config import make_config
from tests.fakes.page import UNIX_S, body_of, error, health_page, metrics_body, topic_page
from tests.fakes.raw_server import RawServer, answer
from tools.address import Address
from tools.causes import CAUSES, CODES, Diagnosis, Evidence
from tools.check import expected
from tools.diagnosis import EVIDENCE_MAX, diagnose, looked_at
from tools.doctor import Consultation, as_json, as_text
from tools.doctor_command import main
from tools.findings import (
    Backlog, Brokers, Clocks, Failure, Finding, Group, Key, Log, Memory, NoRight, NotTold,
    Operation, Retention, Table, Topic, Unread, failure,
)
from tools.health import Look, read_figures, read_health
from tools.report import Status

CONFIG = make_config(("orders", "payments"))
ADDRESS = Address("127.0.0.1", 8080)
NOW_MS = round(UNIX_S * 1000)
HOUR_MS = 3_600_000
READS = frozenset({"READ", "DESCRIBE"})
WELL: dict[str, Finding] = {
    "memory": Memory(256, None),
    "broker": Brokers(3, "abc"),
    "topic": Topic(6, (), READS),
    "group": Group(frozenset({"READ"}), 2, 2),
    "retention": Retention(168 * HOUR_MS, -1, "delete"),
    "store": Operation(),
    "clock": Clocks(100.0, 100.2, 100.3),
    "log": Log(9, 8, "2026-03-01T12:01:00.000Z", 1.0),
    "table": Table(7),
    "loss": Backlog((), 0),
}
SILENT = Failure("NoAnswer", "refused", "Start it.")
DOWN = failure(KafkaUnavailable("broker", "refused"))
DENIED = Failure("StorageUnavailable", "list: 403 Forbidden: AccessDenied", "Check.")


def page(
    *reasons: str, orders: dict[str, Any] | None = None, **changed: Any
) -> dict[str, Any]:
    """The page of a service of CONFIG; with reasons it is unhealthy."""
    topics = {"orders": topic_page(**(orders or {})), "payments": topic_page()}
    return health_page(topics, **{"status": "unhealthy" if reasons else "healthy",
                                  "reasons": list(reasons), **changed})


def evidence(
    told: dict[str, Any] | None = None, findings: dict[Key, Finding | None] | None = None,
    figures: dict[str, float] | None = None, *, silent: bool = False,
) -> Evidence:
    """All well, but for what is given; a finding of None is one that did not come."""
    keys = [*expected(CONFIG), *(Key("loss", topic) for topic in CONFIG.topics)]
    found = {key: WELL[key.check] for key in keys} | (findings or {})
    look = Look(ADDRESS, read_health(body_of(told or page())),
                read_figures(metrics_body(**(figures or {}))), 0.0, UNIX_S)
    if silent:
        look = Look(ADDRESS, SILENT, SILENT, 0.0, UNIX_S)
    return Evidence(CONFIG, look, {key: finding for key, finding in found.items()
                                   if finding is not None}, NOW_MS)


def diagnoses(*args: Any, **changed: Any) -> tuple[Diagnosis, ...]:
    """What the evidence leads to."""
    given = evidence(*args, **changed)
    return diagnose(given, looked_at(given))


def names(*args: Any, **changed: Any) -> list[str]:
    """The same, by name."""
    return [each.name for each in diagnoses(*args, **changed)]


def failing(name: str) -> dict[str, Any]:
    """The page of a service whose topic orders suffers from an error."""
    return page(f"orders: failing: {name}: it happened; what to do: mend {name}",
                orders={"last_error": error(name)})


def test_where_all_is_well_nothing_is_found() -> None:
    """Also with errors that are over, lag, and workers that were restarted long ago."""
    assert diagnoses() == ()
    told = page(orders={"last_error": error("StorageUnavailable"), "restarts": 2, "lag": 7,
                        "paused": "budget"})
    assert diagnoses(told, None, {"bronze_memory_wait_seconds": 40.0,
                                  "bronze_worker_stalls_total": 2.0,
                                  "bronze_kafka_offset_commit_failures_total": 9.0}) == ()
    given = evidence()
    assert {line.status for line in looked_at(given)} == {Status.OK}


def test_everything_that_was_looked_at_has_a_line() -> None:
    """The page, what `check` looks at, and what is unread."""
    kinds = [line.check for line in looked_at(evidence())]
    assert set(kinds) == {"service", "configuration", "memory", "broker", "topic", "group",
                          "retention", "store", "clock", "log", "table", "loss"}
    assert kinds.count("loss") == 2 and kinds[0] == "service"


def old(**changed: int) -> Backlog:
    """An unread message that is deleted within the hour, or was."""
    found = {"partition": 0, "committed": 5, "low": 0, "high": 9,
             "oldest_ms": NOW_MS - 168 * HOUR_MS + 41 * 60_000}
    return Backlog((Unread(**{**found, **changed}),), 0)


FOUND: dict[str, tuple[dict[Key, Finding | None], str, Status, str]] = {
    "brokers away": ({Key("broker"): DOWN}, "broker", Status.FAIL, "KAFKA_BOOTSTRAP_SERVERS"),
    "credentials refused": (
        {Key("broker"): failure(KafkaAuthenticationFailed("refused"))}, "broker", Status.FAIL,
        "KAFKA_SASL_MECHANISM"),
    "topic gone": ({Key("topic", "orders"): failure(TopicMissing("orders"))}, "topic",
                   Status.FAIL, "Create the topic"),
    "no leader": ({Key("topic", "orders"): Topic(3, (1,), READS)}, "topic", Status.FAIL,
                  "Bring the brokers back"),
    "no right on topic": ({Key("topic", "orders"): NoRight("Describe", "orders")}, "topic",
                          Status.FAIL, "kafka-acls.sh"),
    "no right on group": ({Key("group"): NoRight("Read", "g")}, "group", Status.FAIL,
                          "kafka-acls.sh"),
    "store away": ({Key("store", "list"): Failure("StorageUnavailable", "refused", "Check.")},
                   "store", Status.FAIL, "Check."),
    "no right on store": ({Key("store", "put"): DENIED}, "store", Status.FAIL, "s3-policy.json"),
    "store creates twice": ({Key("store", "create"): Operation(False, "twice")}, "store",
                            Status.FAIL, "If-None-Match"),
    "clocks differ": ({Key("clock"): Clocks(200.0, 100.0, 101.0)}, "clock", Status.WARN, "NTP"),
    "log damaged": ({Key("log"): Failure("LogDamaged", "7 is missing", "Restore.")}, "log",
                    Status.FAIL, "Restore."),
    "table vanished": ({Key("table", "bronze_orders"): failure(TableVanished("gone"))}, "table",
                       Status.FAIL, "Restore the table"),
    "loss within the hour": ({Key("loss", "orders"): old()}, "loss", Status.FAIL,
                             "Raise its retention now"),
    "loss within the day": (
        {Key("loss", "orders"): old(oldest_ms=NOW_MS - 160 * HOUR_MS)}, "loss", Status.WARN,
        "Raise its retention now"),
    "lost already": ({Key("loss", "orders"): old(low=8)}, "loss", Status.FAIL, "GAP_POLICY=fail"),
    "backlog silent": ({Key("loss", "orders"): None}, "loss", Status.FAIL, "slow or silent"),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_a_probe_found_broken_is_a_diagnosis(case: str) -> None:
    """With its line as evidence; a service that is well so far is no comfort."""
    findings, name, status, advice = FOUND[case]
    (found,) = diagnoses(None, findings)
    assert (found.name, found.status) == (name, status)
    assert found.cause == CAUSES[name]
    assert advice in found.what_to_do
    key = next(iter(findings))
    assert [told.partition(":")[0] for told in found.evidence] == [" ".join(key).strip()]
    assert found.subjects == ((key.subject,) if key.subject else ())


def test_what_hangs_on_a_failure_is_no_diagnosis_of_its_own() -> None:
    """Silent brokers hide topics, group, retention and backlogs."""
    hidden = [key for key in expected(CONFIG) if key.check in ("topic", "group", "retention")]
    gone = {key: None for key in [*hidden, *(Key("loss", topic) for topic in CONFIG.topics)]}
    assert names(None, {**gone, Key("broker"): DOWN}) == ["broker"]
    missing = failure(TopicMissing("orders"))
    assert names(None, {Key("topic", "orders"): missing, Key("loss", "orders"): None,
                        Key("retention", "orders"): missing}) == ["topic"]


def test_a_retention_that_failed_by_itself_is_told() -> None:
    """It is no consequence of its topic then."""
    assert names(None, {Key("retention", "orders"): DOWN}) == ["retention"]


def test_what_is_not_told_is_no_diagnosis() -> None:
    """A broker that lacks a request is not ill; doctor's control group is not the unit's."""
    assert diagnoses(None, {Key("group"): NotTold(), Key("retention", "orders"): NotTold(),
                            Key("loss", "orders"): NotTold(),
                            Key("memory"): Memory(256, 10**8)}) == ()


def test_lines_with_one_advice_are_one_diagnosis() -> None:
    """Three topics that are missing are one cause."""
    (found,) = diagnoses(None, {
        Key("topic", topic): failure(TopicMissing(topic)) for topic in CONFIG.topics})
    assert found.subjects == CONFIG.topics
    assert len(found.evidence) == 2
    apart = diagnoses(None, {Key("topic", "orders"): failure(TopicMissing("orders")),
                             Key("topic", "payments"): Topic(3, (1,), READS)})
    assert [each.subjects for each in apart] == [("orders",), ("payments",)]


EXPLAINED = {
    "broker": ({Key("broker"): DOWN}, "KafkaUnavailable"),
    "store": ({Key("store", "list"): DENIED}, "StorageUnavailable"),
    "topic": ({Key("topic", "orders"): failure(TopicMissing("orders"))}, "TopicMissing"),
    "table": ({Key("table", "dlq_bronze_orders"): failure(TableVanished("gone"))},
              "TableVanished"),
    "loss": ({Key("loss", "orders"): old(low=8)}, "OffsetGap"),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_reason_is_evidence_for_what_explains_it(name: str) -> None:
    """One cause is told once; without the probe's finding the reason stands for itself."""
    findings, last_error = EXPLAINED[name]
    told = failing(last_error)
    (found,) = diagnoses(told, findings)
    assert found.name == name
    assert found.evidence[-1] == f"/health: orders: failing: {last_error}: it happened"
    (alone,) = diagnoses(told)
    assert (alone.name, alone.subjects) == ("failing", ("orders",))
    assert alone.what_to_do == f"mend {last_error}"


@pytest.mark.parametrize(("findings", "last_error"), [
    ({Key("broker"): DOWN}, "StorageUnavailable"),
    ({Key("topic", "payments"): failure(TopicMissing("payments"))}, "TopicMissing"),
    ({Key("clock"): Clocks(200.0, 100.0, 101.0)}, "StorageUnavailable"),
    ({Key("loss", "orders"): old(oldest_ms=NOW_MS - 160 * HOUR_MS)}, "OffsetGap"),
])
def test_a_reason_is_no_evidence_for_what_does_not_explain_it(
    findings: dict[Key, Finding | None], last_error: str
) -> None:
    """Another topic, another dependency, a mere warning: none is dropped."""
    found = names(failing(last_error), findings)
    assert len(found) == 2 and "failing" in found


@pytest.mark.parametrize("code", sorted(CODES - {"fenced"}))
def test_each_reason_of_health_is_a_diagnosis(code: str) -> None:
    """With the service's own words and advice."""
    (found,) = diagnoses(page(f"orders: {code}: it is so; what to do: this"))
    assert (found.name, found.status, found.subjects) == (code, Status.FAIL, ("orders",))
    assert (found.evidence, found.what_to_do) == ((f"/health: orders: {code}: it is so",), "this")


@pytest.mark.parametrize("reason", ["service: unheard_of: x", "nonsense", "orders: broker: x"])
def test_a_reason_nobody_knows_is_told_all_the_same(reason: str) -> None:
    """Of a later release, or of nobody's: not even a probe's word makes it a probe's finding."""
    (found,) = diagnoses(page(reason))
    assert found.name == "unhealthy" and reason.split()[-1] in found.evidence[0]
    assert found.what_to_do


def test_reasons_with_one_advice_are_one_diagnosis() -> None:
    """Of many topics that suffer the same."""
    (found,) = diagnoses(page("orders: failing: A: b; what to do: mend it",
                              "payments: failing: A: b; what to do: mend it"))
    assert found.subjects == ("orders", "payments") and len(found.evidence) == 2
    assert names(page("orders: failing: A: b; what to do: mend it",
                      "payments: failing: C: d; what to do: mend that")) == ["failing"] * 2


def test_no_progress_follows_from_whatever_failed() -> None:
    """By itself it is one: nobody knows why."""
    stuck = "service: no_progress: messages wait; what to do: see the others"
    assert names(page(stuck)) == ["no_progress"]
    (found,) = diagnoses(page(stuck, "orders: isolated: A; what to do: b"))
    assert found.name == "isolated" and "no_progress" in found.evidence[1]
    assert names(page(stuck), {Key("clock"): Clocks(200.0, 100.0, 101.0)}) == [
        "no_progress", "clock"]


def test_a_record_that_cannot_be_written_is_the_stores_matter() -> None:
    """If that is away; else it is told by itself."""
    told = page("service: undecided: the record; what to do: wait")
    assert names(told, {Key("store", "put"): DENIED}) == ["store"]
    assert names(told) == ["undecided"]


@pytest.mark.parametrize("status", ["starting", "stopping", "unhealthy"])
def test_a_service_that_is_not_healthy_without_a_reason_is_told(status: str) -> None:
    """Nothing else was found."""
    (found,) = diagnoses(page(status=status))
    assert (found.name, found.status) == (status, Status.FAIL)
    assert names(page(status=status), {Key("broker"): DOWN}) == ["broker"]


def test_a_fenced_service_is_the_first_cause() -> None:
    """Whatever else it says while it ends."""
    cycle = {**health_page()["cycle"], "phase": "fenced"}
    found = diagnoses(page("service: fenced: a newer one; what to do: stop one",
                           "orders: failing: A: b; what to do: c", cycle=cycle))
    assert [each.name for each in found] == ["fenced", "failing"]
    assert len(found[0].evidence) == 2 and "INSTANCE_ID" in found[0].what_to_do


def test_a_silent_service_comes_after_what_it_may_have_ended_for() -> None:
    """Without brokers it ends with 75, again and again."""
    quiet: dict[Key, Finding | None] = {
        Key("group"): Group(frozenset({"READ"}), 0, 0), Key("log"): Log(9, 8, "then", 120.0)}
    (found,) = diagnoses(None, quiet, silent=True)
    assert (found.name, found.evidence, found.what_to_do) == (
        "service", ("NoAnswer: refused",), "Start it.")
    assert names(None, {**quiet, Key("broker"): DOWN}, silent=True) == ["broker", "service"]


@pytest.mark.parametrize("findings", [
    {Key("group"): Group(frozenset({"READ"}), 2, 1), Key("log"): Log(9, 8, "then", 120.0)},
    {Key("group"): Group(frozenset({"READ"}), 0, 0), Key("log"): Log(9, 8, "then", 119.0)},
])
def test_a_silent_service_that_works_is_elsewhere(findings: dict[Key, Finding | None]) -> None:
    """On another port, on another host, or it was fenced by that."""
    (found,) = diagnoses(None, findings, silent=True)
    assert len(found.evidence) == 2
    assert "exit code 76" in found.what_to_do and "Start it." in found.what_to_do


@pytest.mark.parametrize(("changed", "words"), [
    ({"service": {**health_page()["service"], "instance": "7"}}, "INSTANCE_ID is 0 here and 7"),
    ({"service": {**health_page()["service"], "lake": "/other"}}, "LAKE_URI is"),
    ({"topics": {"orders": topic_page()}}, "topic payments is here only"),
    ({"topics": {name: topic_page() for name in ("orders", "payments", "x")}},
     "topic x is there only"),
])
def test_a_page_of_another_service_is_noticed(changed: dict[str, Any], words: str) -> None:
    """All else that was found would be about something else."""
    (found,) = diagnoses({**page(), **changed})
    assert (found.name, found.status) == ("other_service", Status.WARN)
    assert len(found.evidence) == 1 and words in found.evidence[0]


def long_lived(uptime_s: float) -> dict[str, Any]:
    """What the page says of a service that has run for this long."""
    return {**health_page()["service"], "uptime_seconds": uptime_s}


@pytest.mark.parametrize(("restarts", "uptime_s", "expected"), [
    (3, 1800.0, ["worker_dies"]), (2, 60.0, []), (3, 1801.0, []), (100, 60_000.0, ["worker_dies"]),
])
def test_a_worker_that_dies_again_and_again_is_noticed(
    restarts: int, uptime_s: float, expected: list[str]
) -> None:
    """Between two deaths it may look well; three in a month are no illness."""
    told = page(orders={"restarts": restarts}, service=long_lived(uptime_s))
    assert names(told) == expected


def test_why_a_worker_dies_is_told_as_far_as_it_is_known() -> None:
    """One that stands still is killed; the reasons about it are evidence."""
    dying = {"restarts": 9, "last_error": error("WorkerDied")}
    told = page("orders: held: WorkerDied: signal 9; what to do: wait",
                "payments: missing: gone; what to do: wait", orders=dying)
    first, second = diagnoses(told)
    assert (first.name, first.subjects, second.name) == ("worker_dies", ("orders",), "missing")
    assert len(first.evidence) == 3 and "grep -i oom" in first.what_to_do
    (stalled,) = diagnoses(page(orders={"restarts": 9}), None, {"bronze_worker_stalls_total": 4.0})
    assert "4 of them" in stalled.evidence[-1] and "WorkerStalled" in stalled.what_to_do


@pytest.mark.parametrize(("paused", "waited_s", "expected"), [
    ("budget", 40.1, ["memory_short"]), ("budget", 40.0, []), ("cycle_full", 999.0, []),
])
def test_a_topic_that_waits_for_memory_longer_than_a_cycle_is_noticed(
    paused: str, waited_s: float, expected: list[str]
) -> None:
    """For a moment it is no fault."""
    assert (CONFIG.cycle.batch_interval_seconds, CONFIG.cycle.cycle_deadline_seconds) == (10, 30)
    told = page(orders={"paused": paused})
    assert names(told, None, {"bronze_memory_wait_seconds": waited_s}) == expected


def test_offsets_that_kafka_did_not_take_cast_doubt_on_a_loss() -> None:
    """The table decides, and may be far ahead of the group."""
    findings: dict[Key, Finding | None] = {Key("loss", "orders"): old(low=8)}
    (found,) = diagnoses(None, findings, {"bronze_kafka_offset_commit_failures_total": 3.0})
    assert "3 commits" in found.evidence[-1] and "BronzeOffsetsNotCommitted" in found.evidence[-1]
    (found,) = diagnoses(None, findings, {"bronze_kafka_offset_commit_failures_total": 0.0})
    assert len(found.evidence) == 1


def test_failures_come_before_warnings_and_causes_before_what_follows() -> None:
    """Whoever reads the first one only reads the right one."""
    assert names(failing("Strange"), {
        Key("clock"): Clocks(200.0, 100.0, 101.0), Key("broker"): DOWN,
        Key("store", "put"): DENIED, Key("table", "bronze_orders"): DENIED}) == [
            "broker", "store", "table", "failing", "clock"]


def test_evidence_is_bounded() -> None:
    """64 topics say the same."""
    (found,) = diagnoses(page(*["orders: failing: x; what to do: y"] * 30))
    assert len(found.evidence) == EVIDENCE_MAX + 1
    assert found.evidence[-1] == "and 10 more"


def consultation(*args: Any, **changed: Any) -> Consultation:
    """Evidence, looked at."""
    given = evidence(*args, **changed)
    lines = looked_at(given)
    return Consultation(diagnose(given, lines), lines)


def test_all_well_is_one_line_that_lists_what_was_looked_at() -> None:
    """And what was not told, so that nobody takes it for well."""
    assert as_text(consultation()) == (
        "Nothing wrong was found. Looked at: service, configuration, memory, broker, topic (2), "
        "group, retention (2), store (7), clock, log, table (4), loss (2).")
    assert consultation().exit_code() == 0
    text = as_text(consultation(None, {Key("retention", "orders"): NotTold()}))
    assert text.splitlines()[1:] == [
        "Note: retention orders: the broker does not tell how long messages stay"]


def test_text_has_cause_evidence_and_what_to_do() -> None:
    """A warning is found wrong, too."""
    found = consultation(None, {Key("topic", "orders"): failure(TopicMissing("orders")),
                                Key("clock"): Clocks(200.0, 100.0, 101.0)})
    lines = as_text(found).splitlines()
    assert lines[:5] == [
        "2 things found wrong, the most likely cause first:", "",
        " 1 FAIL  a topic cannot be read: orders",
        "         topic orders: TopicMissing: topic orders does not exist or may not be described",
        "         -> Create the topic, or take it out of KAFKA_TOPICS; the service retries by "
        "itself."]
    assert lines[6].startswith(" 2 WARN  the clocks") and lines[-1].startswith("Looked at: ")
    assert found.exit_code() == 1 and found.status is Status.FAIL
    assert consultation(None, {Key("clock"): Clocks(200.0, 100.0, 101.0)}).exit_code() == 1
    assert "\x1b[31mFAIL\x1b[0m" in as_text(found, colour=True)


def test_nothing_unprintable_reaches_a_terminal() -> None:
    """Not of the page, of a broker, or of a store."""
    evil = "\x1b[2J\u202e\r\n"
    told = page(f"orders: failing: {evil}; what to do: {evil}", evil)
    told["topics"][evil] = topic_page(restarts=9, last_error=error(evil))
    text = as_text(consultation(told, {Key("broker"): Failure(evil, evil, evil)}))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "\\x1b[2J\\u202e\\r\\n" in text


def test_json_is_one_object_of_stable_keys() -> None:
    """Other programs read it."""
    found = consultation(None, {Key("topic", "orders"): failure(TopicMissing("orders"))})
    text = as_json(found)
    assert "\n" not in text and text.isascii()
    told = json.loads(text)
    assert (told["tool"], told["service_version"], told["status"]) == (
        "doctor", SERVICE_VERSION, "fail")
    assert set(told) == {"tool", "service_version", "status", "diagnoses", "lines"}
    assert told["diagnoses"] == [{
        "name": "topic", "subjects": ["orders"], "status": "fail",
        "cause": "a topic cannot be read",
        "evidence": ["topic orders: TopicMissing: "
                     "topic orders does not exist or may not be described"],
        "what_to_do": failure(TopicMissing("x")).what_to_do}]
    assert told["lines"][0] == {
        "check": "service", "subject": "", "status": "ok", "what_to_do": "",
        "found": "healthy, instance 0, version 1.0.0 at http://127.0.0.1:8080"}
    assert json.loads(as_json(consultation()))["status"] == "ok"


def settings(port: int = 9) -> dict[str, str]:
    """An environment with two secrets."""
    return {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "KAFKA_TOPICS": "orders,payments",
            "LAKE_URI": "s3://lake", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "hunter2", "HEALTH_PORT": str(port)}


def test_no_secret_shows_whoever_repeats_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a server's error, nor the page."""
    def leaky(config: object, backlogs: bool, besides: Any) -> dict[Key, Finding]:
        for look in besides:
            look()
        return {Key("broker"): Failure("X", "tried hunter2", "not AKIAEXAMPLE")}

    monkeypatch.setattr(tools.doctor_command, "gather", leaky)
    body = body_of(page("orders: failing: hunter2; what to do: AKIAEXAMPLE"))
    with RawServer({"/health": answer(body)}) as server:
        monkeypatch.setattr(os, "environ", settings(server.port))
        assert main(["--json"]) == 1
        assert main([]) == 1
    told = capsys.readouterr().out
    assert "hunter2" not in told and "AKIAEXAMPLE" not in told
    assert "tried ***" in told and "failing: ***" in told


def test_bad_configuration_names_every_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing else is looked at."""
    monkeypatch.setattr(os, "environ", {"KAFKA_TOPICS": "a,a", "HEALTH_PORT": "x"})
    assert main(["--json"]) == 78
    told = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in told["diagnoses"]} == {"configuration"}
    assert {"KAFKA_TOPICS", "HEALTH_PORT", "LAKE_URI"} <= {
        variable for each in told["diagnoses"] for variable in each["subjects"]}
    monkeypatch.setattr(os, "environ", {**settings(), "HEALTH_PORT": "0"})
    assert main([]) == 78
    assert "--url" in capsys.readouterr().out


def test_a_defect_is_told_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its text may be anybody's."""
    def fail(*_args: object, **_more: object) -> None:
        raise ImportError("hunter2")

    monkeypatch.setattr(os, "environ", settings())
    monkeypatch.setattr(tools.doctor_command, "gather", fail)
    assert main(["--json"]) == 1
    told = capsys.readouterr().out
    assert json.loads(told)["diagnoses"][0]["evidence"] == ["ImportError"]
    assert "hunter2" not in told


def test_a_page_that_is_never_done_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limit is that of all looks together."""
    monkeypatch.setattr(os, "environ", settings())
    monkeypatch.setattr(tools.doctor_command, "gather", lambda *_args, **_more: {})
    assert main(["--json"]) == 1
    names = [each["name"] for each in json.loads(capsys.readouterr().out)["diagnoses"]]
    assert "service" in names and "broker" in names
