"""`python -m supervisor gaps`: which offsets have no row, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared.config import Config
from supervisor.arguments import parse_strictly
from tools.gaps import CHECK, as_lines
from tools.lake_command import parser_of, report_on
from tools.report import Line, Status

_DESCRIPTION = """\
List the offsets that are neither a row nor a dead letter, with the recorded reason. Reads the
ledger and the log of records only."""


def main(argv: Sequence[str]) -> int:
    """0, also where there are gaps; 1 when the lake cannot be read, 78 for bad configuration."""
    parser = parser_of(CHECK, _DESCRIPTION)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help="only these")
    given = parse_strictly(parser, argv)
    return report_on(CHECK, lambda config: _look(config, tuple(given.topics)),
                     as_machine=given.json)


def _look(config: Config, topics: tuple[str, ...]) -> Iterator[Line]:
    from tools.lake_probe import LakeProbe

    claims, _ = LakeProbe(config).claims()
    yield from as_lines({topic: found for topic, found in claims.items()
                         if not topics or topic in topics})
    for topic in topics:
        if topic not in claims:
            yield Line(CHECK, topic, Status.WARN, "nothing is recorded of it",
                       "None, if no message of it has come; else see the topic's name.")
