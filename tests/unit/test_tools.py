"""What all tools share: dispatch, rendering, secrets, and that nothing ends in a traceback."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import types

import pytest

from shared.version import SERVICE_VERSION
from supervisor.arguments import TOOLS, split
from supervisor.tool import run_tool
from tests.fakes.config import make_config
from tests.rig.environment import clean_environment
from tests.rig.service import ROOT
from tools.check_command import main
from tools.gather import run_side_by_side, secrets_of
from tools.render import as_json, as_text, wants_colour
from tools.report import Line, Report, Status, masked

REPORT = Report((
    Line("broker", "", Status.OK, "3 brokers"),
    Line("topic", "orders", Status.FAIL, "no such topic", "Create it."),
    Line("topic", "x" * 60, Status.WARN, "short", "Raise it."),
))


@pytest.mark.parametrize(("argv", "expected"), [
    ([], ("run", [])),
    (["--workers", "8"], ("run", ["--workers", "8"])),
    (["run", "--workers", "8"], ("run", ["--workers", "8"])),
    (["check"], ("check", [])),
    (["check", "--json"], ("check", ["--json"])),
    (["--workers", "check"], ("run", ["--workers", "check"])),
    (["chekc"], ("run", ["chekc"])),
])
def test_a_command_stands_first_and_run_is_the_default(
    argv: list[str], expected: tuple[str, list[str]]
) -> None:
    """Unit files that name none go on working."""
    assert split(argv) == expected


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_has_help_and_refuses_what_it_does_not_know(name: str) -> None:
    """As the service does: code 78, one line, no value repeated."""
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "supervisor", name, *argv], cwd=ROOT,
                              env=clean_environment(), capture_output=True, text=True,
                              timeout=60, check=False)

    told = run("--help")
    assert told.returncode == 0 and f"supervisor {name}" in told.stdout
    refused = run("--password=hunter2")
    assert refused.returncode == 78
    assert refused.stderr.count("\n") == 1 and "hunter2" not in refused.stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (ValueError("s3cret"), 1)])
def test_no_tool_ends_in_a_traceback(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What it did not expect is named, and its text, which may be anybody's, is not shown."""
    module = types.ModuleType("a_tool_that_fails")

    def fail(argv: list[str]) -> int:
        raise error

    module.main = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert run_tool(module.__name__, []) == code
    shown = capsys.readouterr()
    assert shown.out == "" and "s3cret" not in shown.err and shown.err.count("\n") <= 1


def test_a_name_the_terminal_cannot_show_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and folders may have any letters; terminals and pipes any encoding."""
    module = types.ModuleType("a_tool_that_prints")
    module.main = lambda argv: print("\u00e9\u4e2d") or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert run_tool(module.__name__, []) == 0
    assert written.getvalue() == b"\\xe9\\u4e2d\n"


def test_text_is_aligned_and_says_what_to_do() -> None:
    """A long name pushes its own line aside only."""
    assert as_text(REPORT).splitlines() == [
        f"OK    {'broker':40}  3 brokers",
        f"FAIL  {'topic orders':40}  no such topic",
        f"{'':46}  -> Create it.",
        f"WARN  topic {'x' * 60}  short",
        f"{'':46}  -> Raise it.",
        "1 OK, 1 WARN, 1 FAIL"]


@pytest.mark.parametrize(("environ", "is_terminal", "expected"), [
    ({}, True, True), ({}, False, False), ({"NO_COLOR": "1"}, True, False),
    ({"NO_COLOR": ""}, True, True), ({"TERM": "dumb"}, True, False)])
def test_colour_is_for_terminals_that_want_it(
    environ: dict[str, str], is_terminal: bool, expected: bool
) -> None:
    """no-color.org: an empty variable does not count."""
    assert wants_colour(environ, is_terminal) is expected
    assert ("\x1b" in as_text(REPORT, colour=expected)) is expected


def test_nothing_unprintable_reaches_a_terminal() -> None:
    """Names and errors are other people's text."""
    text = as_text(Report((Line("table", "a\x1b[2J\n", Status.FAIL, "\r\x07\u202e", "\x00"),)))
    assert text.count("\n") == 2
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "\\x1b[2J\\n" in text and "\\u202e" in text


def test_json_is_one_object_of_stable_keys() -> None:
    """Other programs read it."""
    told = as_json(REPORT, "check")
    assert "\n" not in told and told.isascii()
    assert json.loads(told) == {
        "tool": "check", "service_version": SERVICE_VERSION, "status": "fail",
        "lines": [
            {"check": "broker", "subject": "", "status": "ok", "found": "3 brokers",
             "what_to_do": ""},
            {"check": "topic", "subject": "orders", "status": "fail", "found": "no such topic",
             "what_to_do": "Create it."},
            {"check": "topic", "subject": "x" * 60, "status": "warn", "found": "short",
             "what_to_do": "Raise it."}]}


def test_no_secret_shows_whoever_repeats_it() -> None:
    """A client library may put into an error what it was given."""
    config = make_config(environ={
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": "alice", "KAFKA_SASL_PASSWORD": "hunter2",
        "KAFKA_PROPERTY_SSL_KEY_PASSWORD": "hunter2-of-the-key",
        "LAKE_URI": "s3://lake/bronze", "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "hunter3"})
    said = "tried hunter2 and hunter2-of-the-key, AKIAEXAMPLE with hunter3"
    report = masked(Report((Line("broker", "", Status.FAIL, said, said),)), secrets_of(config))
    for text in (report.lines[0].found, report.lines[0].what_to_do):
        assert text == "tried *** and ***, *** with ***"


def test_a_probe_that_hangs_is_left_behind() -> None:
    """The command ends in time, and the other's findings stand."""
    found: list[str] = []
    began = time.monotonic()
    run_side_by_side((lambda: time.sleep(5), lambda: found.append("it")), 0.2)
    assert found == ["it"]
    assert time.monotonic() - began < 2


def test_bad_configuration_is_told_without_any_probe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else can be looked at."""
    monkeypatch.setattr("os.environ", {})
    assert main(["--json"]) == 78
    assert {line["status"] for line in json.loads(capsys.readouterr().out)["lines"]} == {"fail"}


def test_a_defect_of_the_command_is_a_failure_with_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that cannot be loaded, for one; whoever reads JSON gets JSON."""
    def fail(config: object) -> None:
        raise ImportError("hunter2")

    monkeypatch.setattr("os.environ", {
        "KAFKA_BOOTSTRAP_SERVERS": "x:1", "KAFKA_TOPICS": "orders", "LAKE_URI": "/nonexistent"})
    monkeypatch.setattr("tools.check_command.gather", fail)
    assert main(["--json"]) == 1
    told = capsys.readouterr().out
    assert json.loads(told)["lines"][0]["found"] == "ImportError" and "hunter2" not in told
