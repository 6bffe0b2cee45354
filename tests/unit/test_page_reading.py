"""What tools make of the answers of a service's page, and of those who only pretend to be one."""

from __future__ import annotations

import itertools
import json
import time
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tools.page
from healthcheck.app import create_app
from healthcheck.metrics import METRICS as ALL_METRICS
from healthcheck.verdict import STALE_CYCLES, Code, Status as PageStatus
from shared.block import Block
from shared.config import ConfigError
from shared.layout import Header, Order, Report
from shared.protocol import Phase
from tests.fakes.page import body_of, error, health_page, metrics_body, topic_page
from tests.fakes.raw_server import RawServer, answer
from tools.address import Address, address_of, parse_url
from tools.causes import CAUSES, CODES
from tools.findings import Failure
from tools.health import (
    METRICS, STATUSES, TEXT_CHARS_MAX, Health, NotOurs, Reason, read_figures, read_health,
)
from tools.loss import USUAL_CYCLES
from tools.page import look_at

ABOUT = {"topics": ["orders", "pay.ments-2"], "instance": "0", "service_version": "1.2.3",
         "batch_interval_seconds": 10.0, "cycle_deadline_seconds": 30.0,
         "heartbeat_limit_seconds": 60.0, "lake": "s3://lake/bronze", "dlq_enabled": True,
         "host": "vm-1", "memory_limit_mb": 256, "loan_budget_bytes": 26_000_000}


def test_the_words_are_those_of_the_page() -> None:
    """Tools do not import the page's code; what they repeat of it must not drift."""
    assert set(STATUSES) == {status.value for status in PageStatus}
    assert CODES == {code.value for code in Code}
    assert CODES | set(STATUSES) - {"healthy"} <= set(CAUSES)
    assert METRICS <= {metric.name for metric in ALL_METRICS}
    assert USUAL_CYCLES == STALE_CYCLES


def test_the_real_page_is_read(tmp_path: Path) -> None:
    """From the service's own code for it, before and after something has happened."""
    block = Block.create(tmp_path / "block", 2, json.dumps(ABOUT).encode())
    client = create_app(block).test_client()
    fresh = read_health(client.get("/health").data)
    assert (fresh.status, fresh.phase, fresh.last_completed_s) == ("starting", None, None)
    assert fresh.topics["orders"].lag is None

    block.set(Header.STARTED_AT_MS, 1_700_000_000_000)
    block.set(Header.READY, 1)
    block.set(Header.LAST_COMPLETED_AT_MS, 1_700_000_061_500)
    block.set_phase(12, Phase.FENCED)
    slot = block.slot(1)
    slot.set_order(Order.RESTARTS, 2)
    slot.set_report(Report.ERROR_ACTIVE, 1)
    slot.set_report(Report.LAG_KNOWN, 1)
    slot.set_report(Report.LAG, 7)
    slot.error.write(json.dumps(error("StorageUnavailable")).encode())
    read = read_health(create_app(block).test_client().get("/health").data)
    assert (read.status, read.phase, read.cycle_id) == ("unhealthy", "fenced", 12)
    assert (read.started_at_s, read.last_completed_s) == (1_700_000_000.0, 1_700_000_061.5)
    topic = read.topics["pay.ments-2"]
    assert (topic.restarts, topic.lag) == (2, 7)
    assert topic.last_error is not None and topic.last_error.name == "StorageUnavailable"
    assert {(reason.topic, reason.code) for reason in read.reasons} >= {
        ("", "fenced"), ("pay.ments-2", "failing")}
    assert all(reason.text and reason.what_to_do for reason in read.reasons)

    figures = read_figures(create_app(block).test_client().get("/metrics").data)
    assert {name for name, _ in figures} == METRICS
    assert figures["bronze_error_active", "pay.ments-2"] == 1
    assert figures["bronze_error_active", "orders"] == 0


@pytest.mark.parametrize(("line", "reason"), [
    ("orders: isolated: it failed 3 cycles; last error A: b; what to do: c",
     Reason("orders", "isolated", "it failed 3 cycles; last error A: b", "c")),
    ("service: undecided: the record; what to do: wait", Reason("", "undecided", "the record",
                                                                "wait")),
    ("orders: behind: since 7 s", Reason("orders", "behind", "since 7 s", "")),
    ("something else", Reason("", "", "something else", "")),
    ("", Reason("", "", "", "")),
])
def test_a_reason_is_taken_apart(line: str, reason: Reason) -> None:
    """Advice apart from the rest; what is not written like ours stays whole."""
    assert read_health(body_of(health_page(reasons=[line]))).reasons == (reason,)


def changed(path: str, value: Any) -> dict[str, Any]:
    """A good page with one field replaced, or taken out for `...`."""
    page = health_page()
    *parents, last = path.split("/")
    place = page
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return page


FIELDS = [
    "status", "reasons", "service", "cycle", "topics", "service/instance", "service/version",
    "service/lake", "service/started_at", "service/uptime_seconds", "cycle/id", "cycle/phase",
    "cycle/last_completed_at", *(
        f"topics/orders/{key}" for key in (
            "state", "lag", "retention", "time_to_loss_seconds", "rows", "dead_letters", "restarts", "failures", "paused",
            "last_commit", "last_error"))]


@pytest.mark.parametrize("path", FIELDS)
def test_a_missing_field_and_one_of_another_type_are_not_ours(path: str) -> None:
    """The name of the field is told, so that whoever looks at the page finds it."""
    for value in (..., True, [[]], {"a": 1}, -1):
        with pytest.raises(NotOurs) as caught:
            read_health(body_of(changed(path, value)))
        assert path.split("/")[-1] in str(caught.value) or value == {"a": 1}


@pytest.mark.parametrize(("path", "value"), [
    ("status", "splendid"), ("service/started_at", "yesterday"),
    ("service/started_at", "2026-03-01T12:00:00"), ("service/uptime_seconds", 1e300),
    ("cycle/id", 2**63), ("cycle/id", 1.5), ("topics/orders/lag", "7"), ("reasons", [1]),
    ("topics/orders/last_error", {"name": "A"}), ("topics/orders", None),
    ("topics", {f"t{number}": topic_page() for number in range(65)}),
    ("reasons", ["x"] * 1025),
])
def test_a_value_that_cannot_be_is_not_ours(path: str, value: Any) -> None:
    """A number without bounds, a moment without a zone, more topics than there can be."""
    with pytest.raises(NotOurs):
        read_health(body_of(changed(path, value)))


@pytest.mark.parametrize("body", [
    b"", b"<html>", b"[]", b"null", b'"healthy"', b"\xff\xfe\x00", b"[" * 1_000_000,
    b'{"status": NaN}', b'{"status": ' + b"1" * 5000 + b"}",
    body_of(health_page()).replace(b"61.2", b"Infinity"),
    body_of(health_page()).replace(b"61.2", b"1e999")])
def test_what_is_no_page_is_not_ours(body: bytes) -> None:
    """Whatever else listens at that port, however deep or long."""
    with pytest.raises(NotOurs):
        read_health(body)


def test_more_than_is_known_is_no_matter_and_long_texts_are_cut() -> None:
    """A later release adds fields; an error's text may be anybody's."""
    page = health_page({"orders": topic_page(new=1, last_error={
        **error("A"), "message": "x" * 100_000, "new": 1})}, new=1)
    trouble = read_health(body_of(page)).topics["orders"].last_error
    assert trouble is not None
    assert trouble.message == "x" * (TEXT_CHARS_MAX - 1) + "…"


@pytest.mark.parametrize("body", [
    b"", b"<html>", metrics_body(bronze_error_active=float("nan")),
    metrics_body(bronze_error_active=float("inf")),
    metrics_body().replace(b"1.0", b"one"),
    metrics_body() + b"".join(b'bronze_error_active{topic="%d"} 1\n' % number
                              for number in range(400))])
def test_figures_that_are_none_are_not_ours(body: bytes) -> None:
    """Any page has some text; a sample of ours proves that it is ours."""
    with pytest.raises(NotOurs):
        read_figures(body)


def test_figures_are_those_asked_for() -> None:
    """All other samples, of whatever form, are passed over."""
    body = metrics_body(bronze_error_active=1.0, bronze_rows_total=7.0)
    assert read_figures(body + b"\xff{} ?\n") == {
        ("bronze_up", ""): 1.0, ("bronze_error_active", "orders"): 1.0}


@pytest.fixture
def server() -> Iterator[RawServer]:
    """Give a server that shows the page of a service that is well."""
    with RawServer({"/health": answer(body_of(health_page())),
                    "/metrics": answer(metrics_body())}) as made:
        yield made


def failure_of(server: RawServer) -> Failure:
    """How a look at it fails."""
    health = look_at(Address("127.0.0.1", server.port)).health
    assert isinstance(health, Failure), health
    assert health.what_to_do
    return health


def test_a_look_brings_health_and_figures(server: RawServer) -> None:
    """Also when the service is not well, which is another status."""
    server.pages["/health"] = answer(body_of(health_page(status="unhealthy")), "503 No")
    look = look_at(Address("127.0.0.1", server.port))
    assert isinstance(look.health, Health) and look.health.status == "unhealthy"
    assert look.figures == {("bronze_up", ""): 1.0}
    assert server.asked == ["/health", "/metrics"]


def test_metrics_that_fail_leave_health_as_it_is(server: RawServer) -> None:
    """They add little."""
    server.pages["/metrics"] = answer(b"<html>", "404 Not Found")
    look = look_at(Address("127.0.0.1", server.port))
    assert isinstance(look.health, Health)
    assert isinstance(look.figures, Failure) and "404" in look.figures.text


@pytest.mark.parametrize(("raw", "name", "words"), [
    (answer(b"<html>"), "StrangeAnswer", "no JSON"),
    (answer(b"{}", "404 Not Found"), "StrangeAnswer", "the status is 404"),
    (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
     "StrangeAnswer", "the status is 302"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "StrangeAnswer", "BadStatusLine"),
    (b"HTTP/1.1 \x1b[2J\r\n\r\n", "StrangeAnswer", "BadStatusLine"),
    (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n", "StrangeAnswer", "HTTPException"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", "StrangeAnswer", "LineTooLong"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}", "StrangeAnswer", "no `service`"),
    (b"", "NoAnswer", "closed without an answer"),
])
def test_what_answers_otherwise_is_a_named_failure(
    server: RawServer, raw: bytes, name: str, words: str
) -> None:
    """Another program at that port, a proxy's page; nothing of it is followed or repeated."""
    server.pages["/health"] = raw
    found = failure_of(server)
    assert found.name == name
    assert words in found.text
    assert found.text.isprintable()
    assert server.asked == ["/health"]


def test_nobody_there_is_a_named_failure(server: RawServer) -> None:
    """The usual case of a service that has ended."""
    port = server.port
    server.__exit__(None, None, None)
    found = look_at(Address("127.0.0.1", port)).health
    assert isinstance(found, Failure)
    assert found.name == "NoAnswer" and "refused" in found.text.lower()
    assert "systemctl status" in found.what_to_do


def test_an_endless_answer_is_given_up_at_its_bound(
    server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's answer may fill our memory."""
    monkeypatch.setattr(tools.page, "ANSWER_BYTES_MAX", 100_000)
    sent: list[int] = []

    def pieces() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n\r\n"
        for number in itertools.count():
            sent.append(number)
            yield b" " * 10_000

    server.pages["/health"] = pieces
    found = failure_of(server)
    assert (found.name, "larger than 100000 bytes" in found.text) == ("StrangeAnswer", True)
    assert len(sent) < 10_000, "what the connection itself holds, and no more"


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n\r\n",
                                  b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_an_answer_that_trickles_is_given_up_in_time(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    """Each byte comes well within a socket's limit, and the whole never does."""
    monkeypatch.setattr(tools.page, "ANSWER_LIMIT_S", 0.5)

    def pieces() -> Iterator[bytes]:
        yield head
        while True:
            time.sleep(0.05)
            yield b" " if head else b"H"

    server.pages["/health"] = pieces
    began = time.monotonic()
    found = failure_of(server)
    assert (found.name, "within 0.5 s" in found.text) == ("NoAnswer", True)
    assert 0.4 < time.monotonic() - began < 3


@pytest.mark.parametrize(("environ", "expected"), [
    ({}, "http://127.0.0.1:8080"),
    ({"HEALTH_HOST": "0.0.0.0", "HEALTH_PORT": "9"}, "http://127.0.0.1:9"),
    ({"HEALTH_HOST": "::"}, "http://[::1]:8080"),
    ({"HEALTH_HOST": "0:0::0"}, "http://[::1]:8080"),
    ({"HEALTH_HOST": "10.0.0.7"}, "http://10.0.0.7:8080"),
    ({"HEALTH_HOST": "vm-1", "HEALTH_PORT": " 8081 "}, "http://vm-1:8081"),
    ({"HEALTH_HOST": "", "LAKE_URI": "nonsense://"}, "http://127.0.0.1:8080"),
])
def test_the_address_is_that_of_the_environment(environ: dict[str, str], expected: str) -> None:
    """A wildcard to listen on is asked at loopback; other variables do not matter."""
    assert str(address_of(environ)) == expected


@pytest.mark.parametrize(("environ", "variables", "words"), [
    ({"HEALTH_PORT": "0"}, ["HEALTH_PORT"], "--url http://HOST:PORT"),
    ({"HEALTH_PORT": "x", "HEALTH_HOST": "a b"}, ["HEALTH_HOST", "HEALTH_PORT"], ""),
])
def test_an_address_that_is_none_is_a_fault_of_the_configuration(
    environ: dict[str, str], variables: list[str], words: str
) -> None:
    """Port 0 is good for the service, and tells nobody where the page is."""
    with pytest.raises(ConfigError) as caught:
        address_of(environ)
    assert [fault.variable for fault in caught.value.faults] == variables
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("http://vm-1:8080", "http://vm-1:8080"), ("http://vm-1:8080/", "http://vm-1:8080"),
    ("http://[::1]:8080", "http://[::1]:8080"), ("http://0.0.0.0:1", "http://127.0.0.1:1"),
    ("http://vm-1", "http://vm-1:80")])
def test_a_url_is_taken(text: str, expected: str) -> None:
    """As people copy it."""
    assert str(parse_url(text)) == expected


@pytest.mark.parametrize("text", [
    "", "vm-1:8080", "https://vm-1", "file:///etc/passwd", "ftp://vm-1", "http://",
    "http://user:hunter2@vm-1:8080", "http://vm-1:0", "http://vm-1:65536", "http://vm-1:8080/a",
    "http://vm-1:8080?hunter2", "http://vm-1:8080#hunter2", "http://a\r\nb:8080", "HTTP://vm-1 ",
    "http://\u0131:8080", "http://vm-1:\u0668"])
def test_any_other_url_is_refused_and_not_repeated(text: str) -> None:
    """Only plain HTTP to a host and a port; what was typed may hold a password."""
    with pytest.raises(ArgumentTypeError) as caught:
        parse_url(text)
    assert "hunter2" not in str(caught.value)
