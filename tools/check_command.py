"""`python -m supervisor check`: looks at everything a start needs, and changes nothing.

Kafka and the store are looked at side by side, each within its own time-outs and both within one
limit; whatever was not reached by then says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from shared.config import ConfigError, load
from shared.exit_codes import ExitCode
from supervisor.arguments import Parser, parse_strictly
from tools.check import judge, judge_defect, judge_faults
from tools.gather import gather, secrets_of
from tools.render import as_json, as_text, wants_colour
from tools.report import Report, masked

_DESCRIPTION = """\
Look at everything a start needs: configuration, memory, brokers, topics, rights, retention,
store, clock and tables. Nothing is changed; a few objects under _bronze/check/ in the lake are
made and deleted again."""


def main(argv: Sequence[str]) -> int:
    """0 when nothing failed, 1 when something did, 78 for bad configuration."""
    parser = Parser(prog="python -m supervisor check", description=_DESCRIPTION,
                    allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    as_machine = parse_strictly(parser, argv).json
    try:
        config = load(os.environ)
    except ConfigError as error:
        _print(judge_faults(error), as_machine)
        return ExitCode.CONFIG
    try:
        report = masked(judge(config, gather(config)), secrets_of(config))
    except Exception as error:
        report = judge_defect(error)
    _print(report, as_machine)
    return report.exit_code()


def _print(report: Report, as_machine: bool) -> None:
    colour = wants_colour(os.environ, sys.stdout.isatty())
    print(as_json(report, "check") if as_machine else as_text(report, colour=colour))
