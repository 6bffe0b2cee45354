"""`python -m supervisor doctor`: why a service is not well, and what to do about it.

Its page, Kafka and the store are looked at side by side, as `check` does it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from shared.config import Config, ConfigError, load
from shared.exit_codes import ExitCode
from supervisor.arguments import Parser, parse_strictly
from tools.address import Address, address_of
from tools.causes import Evidence, made
from tools.check import judge_faults
from tools.diagnosis import diagnose, looked_at, of_faults
from tools.doctor import Consultation, as_json, as_text
from tools.findings import Failure
from tools.gather import gather, secrets_of
from tools.health import Look
from tools.page import NO_ANSWER, look_at
from tools.render import wants_colour
from tools.report import hider
from tools.status_command import add_url

_DESCRIPTION = """\
Find out what is wrong with a service and what to do about it, from /health and /metrics, from
Kafka and from the store. Nothing is changed, but for the few objects that `check` makes and
deletes again; of each partition with unread messages, one is read."""


def main(argv: Sequence[str]) -> int:
    """0 when nothing wrong was found, 1 when something was, 78 for bad configuration."""
    parser = Parser(prog="python -m supervisor doctor", description=_DESCRIPTION,
                    allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    add_url(parser)
    options = parse_strictly(parser, argv)
    try:
        config = load(os.environ)
        address = options.url or address_of(os.environ)
    except ConfigError as error:
        lines = judge_faults(error).lines
        _print(Consultation(of_faults(lines), lines), options.json)
        return ExitCode.CONFIG
    try:
        found = consult(config, address).hidden(hider(secrets_of(config)))
    except Exception as error:
        # Only its name, for its text may be anybody's.
        found = Consultation((made("doctor", (), (type(error).__name__,), "Report it."),), ())
    _print(found, options.json)
    return found.exit_code()


def consult(config: Config, address: Address) -> Consultation:
    """Look at everything, and draw the conclusions."""
    looks: list[Look] = []
    findings = gather(config, backlogs=True, besides=(lambda: looks.append(look_at(address)),))
    now_s = time.time()
    if not looks:
        silent = Failure(NO_ANSWER, f"{address}: no answer in time", "Ask again.")
        looks.append(Look(address, silent, silent, time.monotonic(), now_s))
    evidence = Evidence(config, looks[0], findings, round(now_s * 1000))
    lines = looked_at(evidence)
    return Consultation(diagnose(evidence, lines), lines)


def _print(found: Consultation, as_machine: bool) -> None:
    colour = wants_colour(os.environ, sys.stdout.isatty())
    print(as_json(found) if as_machine else as_text(found, colour=colour))
