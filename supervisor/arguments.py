"""The command line of `python -m supervisor`.

It is short on purpose: the configuration comes from the environment, and no secret belongs into
a command line, where every user of the machine can read it.  So no message repeats a value given
here.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from shared.config_render import exit_codes_text, settings_text
from shared.exit_codes import ExitCode

WORKERS_MAX = 64
RUN = "run"
"""The command that is meant when none is named."""


class Tool(NamedTuple):
    """A command beside `run`: the module whose `main` is called, and its line in `--help`."""

    module: str
    meaning: str


TOOLS: Mapping[str, Tool] = {
    "check": Tool("tools.check_command", "look at everything a start needs, change nothing"),
    "status": Tool("tools.status_command", "show how a running service is"),
    "doctor": Tool("tools.doctor_command", "find out what is wrong and what to do about it"),
    "verify": Tool("tools.verify_command", "prove that every offset has exactly one fate"),
    "gaps": Tool("tools.gaps_command", "list offsets without a row, and why"),
    "dlq": Tool("tools.dlq_command", "look at dead letters, and replay them exactly once"),
    "cut": Tool("tools.cut_command", "tell the versions that show all tables at one cycle"),
    "rewind": Tool("tools.rewind_command", "read offsets of a topic again, into other tables"),
}
"""By name.  Tools are imported when they are asked for: to the service they cost nothing."""

_COMMANDS = "\n".join(
    f"  {name:<7} {meaning}"
    for name, meaning in [(RUN, "run the service (the default)"),
                          *((name, tool.meaning) for name, tool in TOOLS.items())])

_DESCRIPTION = """\
Copy Kafka topics into Delta Lake tables, one worker process per topic. All topics are
flushed together, all or nothing. SIGTERM and SIGINT stop the service cleanly."""

_EPILOG = f"""\
commands, before the options; each has a --help of its own:
{_COMMANDS}

{settings_text()}

Unset variables take their defaults. docs/configuration.md explains each one.

{exit_codes_text()}"""


class Arguments(NamedTuple):
    """What was asked for; `workers` is None if the number of topics is to decide."""

    workers: int | None
    check_config: bool
    demo: bool


def split(argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command and its arguments."""
    if argv and (argv[0] == RUN or argv[0] in TOOLS):
        return argv[0], argv[1:]
    return RUN, argv


def parse(argv: Sequence[str]) -> Arguments:
    """The arguments of `run`.

    Raises SystemExit: with 0 after `--help`, with `ExitCode.CONFIG` after one line on stderr for
    an argument that cannot be used.
    """
    parser = _build_parser()
    if argv and not argv[0].startswith("-"):
        parser.error(f"there is no such command; there are {', '.join([RUN, *TOOLS])}")
    found = parse_strictly(parser, argv)
    return Arguments(found.workers, found.check_config, found.demo)


def parse_strictly(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """What the parser makes of `argv`; what it does not know is refused without a value."""
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        options = sorted({_option_name(word) for word in unknown if word.startswith("-")})
        parser.error(f"unknown argument{'s' * (len(unknown) > 1)}"
                     f"{': ' + ', '.join(options) if options else ''}")
    return found


class Parser(argparse.ArgumentParser):
    """Leaves with the exit code of bad configuration instead of argparse's own 2, which
    systemd would answer by a restart."""

    def error(self, message: str) -> NoReturn:
        # argparse would repeat what was given to an option that takes no value.
        message = re.sub(r"ignored explicit argument .*", "takes no value", message, flags=re.S)
        self.exit(ExitCode.CONFIG, f"{self.prog}: {message}; see --help\n")


def _build_parser() -> Parser:
    parser = Parser(
        prog="python -m supervisor",
        usage="%(prog)s [COMMAND] [OPTION ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workers", type=_workers, metavar="N",
        help="number of workers; must equal the number of topics, which is the default",
    )
    parser.add_argument(
        "--check-config", action="store_true",
        help="check the configuration, name every fault, and exit with 0 or 78",
    )
    parser.add_argument(
        "--demo", action="store_true",
        help="run on an embedded Kafka with made-up events and a folder as lake",
    )
    return parser


def _workers(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,3}", text) and 1 <= int(text) <= WORKERS_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"is not a whole number from 1 to {WORKERS_MAX}")


def _option_name(word: str) -> str:
    name = word.partition("=")[0][:40] if word.startswith("--") else word[:2]
    return ascii(name)[1:-1]
