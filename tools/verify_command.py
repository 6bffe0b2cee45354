"""`python -m supervisor verify`: prove from the lake that every offset has exactly one fate."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from shared.config import Config, ConfigError, load
from shared.exit_codes import ExitCode
from supervisor.arguments import Parser, parse_strictly
from tools.check import judge_defect, judge_faults
from tools.check_command import secrets_of
from tools.render import as_json, as_text, wants_colour
from tools.report import Line, Report, Status, masked
from tools.tiling import CHECK, as_lines, judge

_DESCRIPTION = """\
Prove that bronze and dead letter tables, with the recorded gaps, tile the offsets of every
partition: no overlap, no hole. Positions, files and counts are compared first; --deep reads the
offsets of every row. Reads the lake only, also beside a running service."""


def main(argv: Sequence[str]) -> int:
    """0 when nothing is wrong, 1 when something is, 78 for bad configuration."""
    parser = Parser(prog="python -m supervisor verify", description=_DESCRIPTION,
                    allow_abbrev=False)
    parser.add_argument("--deep", action="store_true",
                        help="read every row's offset, and name what is missing or double")
    parser.add_argument("--json", action="store_true", help="one JSON object for machines")
    parser.add_argument("topics", nargs="*", metavar="TOPIC",
                        help="only these; without a name, all that are recorded or configured")
    given = parse_strictly(parser, argv)
    try:
        config = load(os.environ)
    except ConfigError as error:
        _print(judge_faults(error), given.json)
        return ExitCode.CONFIG
    try:
        lines = tuple(look(config, tuple(given.topics), deep=given.deep, quiet=given.json))
        report = masked(Report(lines), secrets_of(config))
    except Exception as error:
        report = masked(judge_defect(error), secrets_of(config))
    _print(report, given.json)
    return report.exit_code()


def _print(report: Report, as_machine: bool) -> None:
    colour = wants_colour(os.environ, sys.stdout.isatty())
    print(as_json(report, CHECK) if as_machine else as_text(report, colour=colour))


def look(
    config: Config, topics: tuple[str, ...], *, deep: bool, quiet: bool
) -> Iterator[Line]:
    """The lines of the report; the progress of long work goes to stderr, where people look."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from tools.lake_probe import LakeProbe

    probe = LakeProbe(config)
    recorded, _ = probe.claims()
    wanted = topics or tuple(sorted({*recorded, *config.topics}))
    # The claims are read again behind the tables: whatever those show is recorded by then.
    snapshots = {topic: probe.snapshot(topic) for topic in wanted}
    claims, behind = probe.claims()
    yield Line("ledger", "", Status.OK, f"{behind} records are not in it yet, and were read "
                                        "from the log")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True,
                  disable=quiet or not console.is_terminal) as progress:
        done = progress.add_task("topics", total=len(wanted))
        read = progress.add_task("files read", total=None, visible=deep)
        for topic in wanted:
            progress.advance(done)
            snapshot, known = snapshots[topic], claims.get(topic, [])
            if snapshot.bronze is None:
                status = Status.FAIL if known else Status.WARN
                yield Line(CHECK, topic, status, "there is no bronze table",
                           "See TableVanished in the runbook." if known else
                           "None, if the service has never run with it.")
                continue
            partitions = sorted({part.partition for claim in known for part in claim.ranges})
            holding = probe.holding(topic, snapshot, partitions, deep=deep,
                                    on_file=lambda: progress.advance(read))
            yield from as_lines(topic, judge(known, holding), deep=deep)
