"""The command line: what it takes, how it refuses, and what its help tells."""

from __future__ import annotations

import pytest

from shared.config_settings import SETTINGS
from shared.exit_codes import ExitCode
from supervisor.arguments import Arguments, parse


@pytest.mark.parametrize(("argv", "expected"), [
    ([], Arguments(None, False, False)),
    (["--workers", "8"], Arguments(8, False, False)),
    (["--workers=64", "--check-config"], Arguments(64, True, False)),
    (["--demo"], Arguments(None, False, True)),
])
def test_arguments_are_those_of_the_contract(argv: list[str], expected: Arguments) -> None:
    """Unit files and other tools call it so."""
    assert parse(argv) == expected


@pytest.mark.parametrize(("argv", "phrase"), [
    (["--workers", "0"], "whole number from 1 to 64"),
    (["--workers", "65"], "whole number from 1 to 64"),
    (["--workers", "-1"], "whole number from 1 to 64"),
    (["--workers", "2.5"], "whole number from 1 to 64"),
    (["--workers", "\u0668"], "whole number from 1 to 64"),
    (["--workers"], "expected one argument"),
    (["--worker", "8"], "unknown arguments: --worker"),
    (["--demo=1"], "takes no value"),
    (["8"], "there are run, check, status, doctor, verify, gaps, dlq, cut, rewind;"),
    (["--demo", "8"], "unknown argument;"),
    (["-x"], "unknown argument: -x;"),
])
def test_bad_arguments_leave_with_the_code_of_bad_configuration(
    argv: list[str], phrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """argparse's own code 2 would make systemd restart the service for ever."""
    with pytest.raises(SystemExit) as caught:
        parse(argv)

    assert caught.value.code == ExitCode.CONFIG == 78
    shown = capsys.readouterr()
    assert phrase in shown.err and shown.err.count("\n") == 1 and shown.out == ""


@pytest.mark.parametrize("argv", [
    ["--password=hunter2"], ["--password", "hunter2"], ["-phunter2"], ["hunter2"],
    ["--workers", "hunter2"], ["--demo=hunter2"], ["--demo=a\nhunter2"], ["--check-config=hunter2"],
    ["--workers=hunter2"],
])
def test_no_refusal_repeats_a_value(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a password that somebody tried to pass this way."""
    with pytest.raises(SystemExit):
        parse(argv)
    assert "hunter2" not in capsys.readouterr().err


def test_help_lists_options_variables_and_exit_codes(
    capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the first page anybody reads."""
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])

    assert caught.value.code == 0
    text = capsys.readouterr().out
    words = text.split()
    assert {setting.name for setting in SETTINGS} <= set(words)
    assert {str(int(code)) for code in ExitCode} <= set(words)
    assert {"--check-config", "--demo", "KAFKA_PROPERTY_<NAME>"} <= set(words)
    assert all(len(line) <= 100 for line in text.splitlines())


def test_exit_codes_are_the_promised_ones_and_say_what_to_do() -> None:
    """Unit files name the numbers; the docstrings are the runbook's source."""
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "INTERNAL": 1, "UNAVAILABLE": 75, "FENCED": 76, "CONFIG": 78,
    }
    assert [code for code in ExitCode if code and not code.restart] == [
        ExitCode.FENCED, ExitCode.CONFIG,
    ]
    for code in ExitCode:
        assert code.__doc__ and "systemd: " in code.__doc__
        assert ExitCode(int(code)) is code
