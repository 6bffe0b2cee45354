"""What the commands that work on the lake share: arguments, configuration, report, exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from shared.config import Config, ConfigError, load
from shared.exit_codes import ExitCode
from shared.naming import is_rewind_name
from supervisor.arguments import Parser
from tools.check import judge_defect, judge_faults
from tools.check_command import secrets_of
from tools.render import as_json, as_text, wants_colour
from tools.report import Line, Report, masked


@dataclass(slots=True)
class Besides:
    """What a command tells beside its lines, filled in while it looks: `text` for people, printed
    before the lines, and `facts`, further keys of the JSON."""

    text: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)


def parser_of(name: str, description: str) -> Parser:
    """A parser with the options that all of them have."""
    parser = Parser(prog=f"python -m supervisor {name}", description=description,
                    allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    return parser


def report_on(
    name: str, look: Callable[[Config], Iterable[Line]], *, as_machine: bool,
    besides: Besides | None = None,
) -> int:
    """Look at the configured lake and print what was found: 0 when nothing failed, 1 when
    something did, 78 for bad configuration."""
    besides = besides or Besides()
    try:
        config = load(os.environ)
    except ConfigError as error:
        _print(judge_faults(error), name, as_machine, besides)
        return ExitCode.CONFIG
    try:
        report = Report(tuple(look(config)))
    except Exception as error:
        report = judge_defect(error)
    report = masked(report, secrets_of(config))
    _print(report, name, as_machine, besides)
    return report.exit_code()


def _print(report: Report, name: str, as_machine: bool, besides: Besides) -> None:
    if as_machine:
        print(as_json(report, name, besides.facts))
        return
    for text in besides.text:
        print(text)
    if report.lines:
        print(as_text(report, colour=wants_colour(os.environ, sys.stdout.isatty())))


def number(text: str) -> int:
    """An argument that is a whole number."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    raise argparse.ArgumentTypeError("is not a whole number")


def moment(text: str) -> datetime:
    """An argument that is a time, as RFC 3339 writes it."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("is not a time like 2026-11-28T12:00:00Z") from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError("has no zone; end it with Z for UTC")
    return found


def rewind_name(text: str) -> str:
    """An argument that is the name of a rewind."""
    if is_rewind_name(text):
        return text
    raise argparse.ArgumentTypeError("is not 1 to 40 of a-z, 0-9 and -, a letter or digit first")
