"""`python -m supervisor status`: how a running service is, by its own page."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence

from shared.config_types import ConfigError
from shared.exit_codes import ExitCode
from supervisor.arguments import Parser, parse_strictly
from tools.address import Address, address_of, parse_url
from tools.findings import Failure
from tools.health import Look
from tools.page import look_at
from tools.render import wants_colour
from tools.status import as_json, exit_code, summary, table

WATCH_INTERVAL_S = 2.0
RATE_INTERVAL_S = 1.0
"""Between the two looks that a rate takes when nobody watches."""
COUNT_MAX = 1_000_000

_DESCRIPTION = """\
Show how a running service is, by /health and /metrics of its own page at HEALTH_HOST and
HEALTH_PORT. Nothing else is asked: not Kafka, and not the lake."""


def main(argv: Sequence[str]) -> int:
    """0 healthy, 1 not healthy, 75 no answer of a service, 78 bad arguments or configuration."""
    parser = _parser()
    found = parse_strictly(parser, argv)
    if found.count is not None and not found.watch:
        parser.error("argument --count: needs --watch")
    try:
        address = found.url or address_of(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIG
    if found.watch:
        return _watch(address, found.count, as_machine=found.json)
    earlier = look_at(address)
    if isinstance(earlier.health, Failure):
        _print(earlier, None, as_machine=found.json)
        return exit_code(earlier)
    time.sleep(RATE_INTERVAL_S)
    look = look_at(address)
    _print(look, earlier, as_machine=found.json)
    return exit_code(look)


def _parser() -> Parser:
    parser = Parser(prog="python -m supervisor status", description=_DESCRIPTION,
                    allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    parser.add_argument("--watch", action="store_true",
                        help=f"look every {WATCH_INTERVAL_S:g} s until Ctrl-C")
    parser.add_argument("--count", type=_count, metavar="N", help="with --watch: end after N looks")
    add_url(parser)
    return parser


def add_url(parser: Parser) -> None:
    """The option for a page that is not where this environment says."""
    parser.add_argument("--url", type=parse_url, metavar="URL",
                        help="ask http://HOST:PORT instead of HEALTH_HOST and HEALTH_PORT")


def _count(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,7}", text) and 1 <= int(text) <= COUNT_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"is not a whole number from 1 to {COUNT_MAX}")


def _watch(address: Address, count: int | None, *, as_machine: bool) -> int:
    """Ctrl-C is how it is meant to end."""
    looks = _looks(address, count)
    try:
        if sys.stdout.isatty() and not as_machine:
            return _draw(looks)
        code: int = ExitCode.OK
        for earlier, look in looks:
            _print(look, earlier, as_machine=as_machine)
            code = exit_code(look)
        return code
    except KeyboardInterrupt:
        return ExitCode.OK


def _looks(address: Address, count: int | None) -> Iterator[tuple[Look | None, Look]]:
    """Each look with the one before it, every WATCH_INTERVAL_S."""
    earlier = None
    while True:
        look = look_at(address)
        yield earlier, look
        earlier = look
        if count is not None:
            count -= 1
            if not count:
                return
        time.sleep(WATCH_INTERVAL_S)


def _draw(looks: Iterator[tuple[Look | None, Look]]) -> int:
    """Redraw in place; what is too wide for the terminal is cut off, never folded."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    code: int = ExitCode.OK
    colour = wants_colour(os.environ, is_terminal=True)
    # Text made of ANSI or plain strings takes no markup, so nobody's name can be any.
    with Live(console=Console(), auto_refresh=False) as live:
        for earlier, look in looks:
            topics = Text(table(look, earlier), no_wrap=True, overflow="ellipsis")
            live.update(Group(Text.from_ansi(summary(look, colour=colour)), topics), refresh=True)
            code = exit_code(look)
    return code


def _print(look: Look, earlier: Look | None, *, as_machine: bool) -> None:
    """Flushed at once: whoever reads a pipe waits for the lines."""
    if as_machine:
        print(as_json(look, earlier), flush=True)
        return
    text = [summary(look, colour=wants_colour(os.environ, sys.stdout.isatty())),
            table(look, earlier)]
    print("\n\n".join(part for part in text if part), flush=True)
