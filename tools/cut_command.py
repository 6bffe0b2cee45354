"""`python -m supervisor cut`: the versions that show all tables at one completed cycle."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from bronze_reader import Cut, Lake, ReaderError
from shared.config import Config
from supervisor.arguments import parse_strictly
from tools.lake_command import moment, number, parser_of, report_on
from tools.report import Line, Status

CHECK = "cut"
_DESCRIPTION = """\
Tell at which version each table shows one completed cycle: the newest one, or the one that is
named. Reads the ledger only; docs/reading.md has the same for programs."""


def main(argv: Sequence[str]) -> int:
    """0 when there is such a cut, 1 when there is not, 78 for bad configuration."""
    parser = parser_of(CHECK, _DESCRIPTION)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cycle", type=number, metavar="N", help="the cycle of this number")
    which.add_argument("--record", type=number, metavar="N", help="the record of this number")
    which.add_argument("--at", type=moment, metavar="TIME",
                       help="the last one that was complete then (RFC 3339, with a zone)")
    parser.add_argument("--instance", metavar="ID", help="of several on one lake")
    given = parse_strictly(parser, argv)
    return report_on(CHECK, lambda config: _look(config, given), as_machine=given.json)


def _look(config: Config, given: argparse.Namespace) -> Iterator[Line]:
    lake = Lake(config.lake.uri, config.lake.storage_options())
    try:
        cut = lake.cut(cycle_id=given.cycle, record=given.record, at=given.at,
                       instance=given.instance)
    except ReaderError as error:
        yield Line(CHECK, "", Status.FAIL, f"{type(error).__name__}: {error}",
                   "status shows the present cycle, and /health, under keeper, how many records "
                   "the ledger is behind.")
        return
    yield from as_lines(cut)


def as_lines(cut: Cut) -> Iterator[Line]:
    """The cycle, then each table with its version."""
    completed = cut.completed_at.isoformat() if cut.completed_at else "a time nobody knows any more"
    yield Line(CHECK, "", Status.OK,
               f"cycle {cut.cycle_id} (record {cut.record}), complete since {completed}")
    for table, version in sorted(cut.versions.items()):
        if version is None:
            yield Line("table", table, Status.WARN, "its version is not known any more",
                       "Name a newer cycle.")
        else:
            yield Line("table", table, Status.OK, f"version {version}")
