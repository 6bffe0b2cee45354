"""`status`: what is shown of two looks at a service, and how the command ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

import tools.status_command
from shared.version import SERVICE_VERSION
from tests.fakes.page import UNIX_S, body_of, error, health_page, metrics_body, topic_page
from tests.fakes.raw_server import RawServer, answer
from tests.rig.environment import clean_environment
from tests.rig.service import ROOT
from tests.waiting import wait_until
from tools.address import Address
from tools.findings import Failure
from tools.health import Look, read_figures, read_health
from tools.status import as_json, exit_code, summary, table, topics_of
from tools.status_command import main

ADDRESS = Address("127.0.0.1", 8080)
SILENT = Failure("NoAnswer", "http://127.0.0.1:8080/health: Connection refused", "Start it.")
EVIL = "\x1b[2J[bold red]\u202eorders[/]\r\n"


def look(page: dict[str, Any] | None = None, at_s: float = 10.0, **figures: float) -> Look:
    """A look at a page, by default that of a service that is well."""
    return Look(ADDRESS, read_health(body_of(page or health_page())),
                read_figures(metrics_body(**figures)), at_s, UNIX_S)


def silent() -> Look:
    """A look at nobody."""
    return Look(ADDRESS, SILENT, SILENT, 10.0, UNIX_S)


def orders(rows: int, **changed: Any) -> dict[str, Any]:
    """A page on which the one topic has so many rows."""
    return health_page({"orders": topic_page(rows=rows)}, **changed)


def test_a_service_that_is_well_is_a_line_and_a_table() -> None:
    """All that the page tells of a topic, in columns."""
    assert summary(look()) == (
        "HEALTHY  instance 0, version 1.0.0, up 1.02 min, cycle 12 consuming, "
        "last completed 1 s ago")
    assert table(look(orders(1250), at_s=12.0), look(orders(1225))).splitlines() == [
        "topic   state   lag  time to loss  rows  rows/s  dead letters  last commit  restarts  "
        "paused  last error",
        "orders  active    0  7 d           1250    12.5             3  1 s ago             0  "
        "-       -",
    ]


@pytest.mark.parametrize(("retention", "seconds", "shown"), [
    ("time", 2460.0, "41 min"), ("time", 0.0, "0 s"), ("time_or_size", 90.0, "1.5 min"),
    ("forever", None, "never"), ("unknown", None, "-"), ("size", None, "-"),
])
def test_time_to_loss_is_told_as_far_as_it_is_known(
    retention: str, seconds: float | None, shown: str
) -> None:
    """What does not end is another thing than what nobody knows."""
    topic = topic_page(retention=retention, time_to_loss_seconds=seconds)
    heading, row = table(look(health_page({"orders": topic})), None).splitlines()
    assert row[heading.index("time to loss"):].startswith(f"{shown} ")


def test_reasons_say_what_to_do() -> None:
    """Below the line, one after the other."""
    page = health_page(status="unhealthy", reasons=[
        "orders: failing: A: b; what to do: mend it", "service: undecided: the record"])
    assert summary(look(page)).splitlines()[1:] == [
        "  orders: failing: A: b", "    -> mend it", "  service: undecided: the record"]


def test_before_the_first_cycle_nothing_is_made_up() -> None:
    """What is not known is no zero."""
    page = health_page({"orders": topic_page(
        lag=None, last_commit=None, paused="starting", retention="unknown",
        time_to_loss_seconds=None)},
        status="starting", cycle={"id": 0, "phase": None, "last_completed_at": None})
    assert summary(look(page)).endswith("cycle 0 not begun, none completed yet")
    assert table(look(page), None).splitlines()[1].split() == [
        "orders", "active", "-", "-", "1234", "-", "3", "-", "0", "starting", "-"]


@pytest.mark.parametrize(("active", "shown"), [(1.0, "A"), (0.0, "(A)")])
def test_an_error_that_is_over_stands_in_brackets(active: float, shown: str) -> None:
    """/health keeps it; /metrics tells whether it still holds."""
    page = health_page({"orders": topic_page(last_error=error("A"))})
    assert table(look(page, bronze_error_active=active), None).split()[-1] == shown
    without = replace(look(page), figures=SILENT)
    assert table(without, None).split()[-1] == "A"
    assert topics_of(without, None)["orders"].error_active is None
    assert "Connection refused" in summary(without)


OTHER_RUN = {**health_page()["service"], "started_at": "2026-03-01T12:00:01.000Z"}


@pytest.mark.parametrize(("earlier", "later", "rate"), [
    (look(orders(100)), look(orders(100), at_s=11.0), 0.0),
    (look(orders(100)), look(orders(103), at_s=12.0), 1.5),
    (None, look(orders(103)), None),
    (silent(), look(orders(103), at_s=11.0), None),
    (look(orders(100)), look(orders(103, service=OTHER_RUN), at_s=11.0), None),
    (look(orders(100)), look(orders(99), at_s=11.0), None),
    (look(orders(100)), look(orders(103)), None),
    (look(health_page({})), look(orders(103), at_s=11.0), None),
])
def test_a_rate_takes_two_looks_at_one_run(
    earlier: Look | None, later: Look, rate: float | None
) -> None:
    """Counters begin anew with the service."""
    assert topics_of(later, earlier)["orders"].rows_per_second == rate


def test_a_clock_that_is_behind_the_services_makes_no_age_below_zero() -> None:
    """It may run on another machine."""
    view = topics_of(replace(look(), unix_s=UNIX_S - 60), None)["orders"]
    assert view.last_commit_age_seconds == 0


@pytest.mark.parametrize(("status", "code"), [
    ("healthy", 0), ("unhealthy", 1), ("starting", 1), ("stopping", 1)])
def test_the_exit_code_says_how_it_is(status: str, code: int) -> None:
    """For scripts; 75 is no answer."""
    assert exit_code(look(health_page(status=status))) == code
    assert exit_code(silent()) == 75


def test_nobody_there_is_told_with_advice() -> None:
    """And no table."""
    assert summary(silent()).splitlines() == [
        "NO ANSWER  NoAnswer at http://127.0.0.1:8080",
        "  http://127.0.0.1:8080/health: Connection refused", "    -> Start it."]
    assert table(silent(), None) == ""


def test_nothing_of_a_page_reaches_the_terminal_as_it_is() -> None:
    """Neither what a terminal obeys nor a line break; a long name is cut."""
    page = health_page(
        {EVIL: topic_page(state=EVIL, paused=EVIL, last_error=error(EVIL)),
         "x" * 500: topic_page()},
        status="unhealthy", reasons=[EVIL, f"{EVIL}: {EVIL}"],
        service={**health_page()["service"], "instance": EVIL, "version": EVIL},
        cycle={**health_page()["cycle"], "phase": EVIL})
    text = f"{summary(look(page))}\n{table(look(page), None)}"
    assert all(char.isprintable() or char == "\n" for char in text)
    assert len(text.splitlines()) == 1 + 2 + 3
    assert max(map(len, text.splitlines())) < 400
    assert "\\x1b[2J[bold red]\\u202eorders[/]\\r\\n" in text


def test_json_is_one_object_of_stable_keys() -> None:
    """Other programs read it."""
    page = health_page({"orders": topic_page(last_error=error("A"), rows=20)}, status="unhealthy",
                       reasons=["orders: failing: A: b; what to do: c"])
    text = as_json(look(page, at_s=11.0, bronze_error_active=1.0), look(orders(10)))
    assert "\n" not in text and text.isascii()
    assert json.loads(text) == {
        "tool": "status", "service_version": SERVICE_VERSION, "url": "http://127.0.0.1:8080",
        "status": "unhealthy", "error": None,
        "reasons": [{"topic": "orders", "code": "failing", "text": "A: b", "what_to_do": "c"}],
        "service": {"instance": "0", "version": "1.0.0", "lake": "/nonexistent/lake",
                    "uptime_seconds": 61.2},
        "cycle": {"id": 12, "phase": "consuming", "last_completed_age_seconds": 1.0},
        "topics": {"orders": {
            "state": "active", "lag": 0, "retention": "time", "time_to_loss_seconds": 604796.2,
            "rows": 20, "rows_per_second": 10.0, "dead_letters": 3,
            "last_commit_age_seconds": 1.0, "restarts": 0, "paused": None, "last_error": "A",
            "error_active": True}}}
    nobody = json.loads(as_json(silent(), None))
    assert nobody == {**json.loads(text), "status": "no_answer", "reasons": [], "service": None,
                      "cycle": None, "topics": {}, "error": {
                          "name": "NoAnswer", "message": SILENT.text, "what_to_do": "Start it."}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    """Give a server with the page of a service that is well; nobody waits between looks."""
    monkeypatch.setattr(tools.status_command, "RATE_INTERVAL_S", 0.0)
    monkeypatch.setattr(tools.status_command, "WATCH_INTERVAL_S", 0.0)
    with RawServer({"/health": answer(body_of(health_page())),
                    "/metrics": answer(metrics_body())}) as made:
        monkeypatch.setattr(os, "environ", {"HEALTH_PORT": str(made.port)})
        yield made


def test_the_command_looks_twice_and_prints_once(
    server: RawServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other variable of the environment has to be there."""
    assert main([]) == 0
    told = capsys.readouterr().out
    assert told.startswith("HEALTHY  instance 0") and "\n\ntopic " in told
    assert server.asked == ["/health", "/metrics"] * 2
    assert main(["--json", "--url", server.url]) == 0
    assert json.loads(capsys.readouterr().out)["topics"]["orders"]["rows_per_second"] == 0.0


def test_nobody_there_is_asked_once(
    server: RawServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told at once, with the code of what is not available."""
    server.pages["/health"] = b""
    assert main(["--json"]) == 75
    assert json.loads(capsys.readouterr().out)["error"]["name"] == "NoAnswer"
    assert server.asked == ["/health"]


def test_a_watch_prints_each_look_and_ends_after_the_last(
    server: RawServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service that comes back is shown; the last look gives the code."""
    server.pages["/health"] = b""
    assert main(["--watch", "--count", "2", "--json"]) == 75
    server.pages["/health"] = answer(body_of(health_page()))
    assert main(["--watch", "--count", "3", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["status"] for each in told] == ["no_answer"] * 2 + ["healthy"] * 3
    rates = [each["topics"]["orders"]["rows_per_second"] for each in told[2:]]
    assert rates == [None, 0.0, 0.0]
    assert main(["--watch", "--count", "2"]) == 0
    assert capsys.readouterr().out.count("topic ") == 2


def test_ctrl_c_is_how_a_watch_ends(server: RawServer) -> None:
    """With 0, and without a word."""
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "status", "--watch", "--url", server.url], cwd=ROOT,
        env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Whoever runs this in the background may have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        wait_until(lambda: "/metrics" in server.asked, 30, "it has looked")
        assert process.stdout is not None and process.stdout.readline().startswith(b"HEALTHY")
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=10)
        assert (process.returncode, complaints) == (0, b"")
    finally:
        process.kill()
        process.wait()


def test_a_terminal_is_drawn_on_without_markup(
    server: RawServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name in brackets is shown as it is, an escape is not obeyed."""
    page = health_page({"[red]orders": topic_page(state="\x1b[2J")}, status="unhealthy",
                       reasons=["[link=http://evil]x[/link] \x1b]0;title\x07"])
    server.pages["/health"] = answer(body_of(page))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, "TERM": "xterm", "COLUMNS": "200"})
    assert main(["--watch", "--count", "1"]) == 1
    told = capsys.readouterr().out
    assert "[red]orders" in told and "[link=http://evil]x[/link]" in told
    assert "\\x1b[2J" in told and "\x1b[2J" not in told and "\x1b]0" not in told


@pytest.mark.parametrize(("argv", "words"), [
    (["--count", "2"], "--count: needs --watch"),
    (["--watch", "--count", "0"], "whole number from 1"),
    (["--url", "https://hunter2"], "must begin with http://"),
    (["--url", "http://me:hunter2@vm-1"], "is not of the form"),
    (["hunter2"], "unknown argument;"),
])
def test_bad_arguments_end_with_78_and_are_not_repeated(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on stderr."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    told = capsys.readouterr()
    assert caught.value.code == 78
    assert words in told.err and told.err.count("\n") == 1
    assert "hunter2" not in told.err + told.out


def test_a_port_that_is_not_known_is_bad_configuration_with_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless --url names it: then nothing of the environment is read."""
    monkeypatch.setattr(os, "environ", {"HEALTH_PORT": "0"})
    assert main([]) == 78
    assert "health_page_open" in capsys.readouterr().err
    monkeypatch.setattr(os, "environ", {"HEALTH_PORT": "nonsense"})
    with RawServer({}) as nobody:
        assert main(["--url", nobody.url]) == 75

