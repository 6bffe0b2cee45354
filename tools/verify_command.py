"""`python -m supervisor verify`: prove from the lake that every offset has exactly one fate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared.config import Config
from shared.naming import rewind_prefix
from shared.replay_plan import ReplayDamaged
from supervisor.arguments import parse_strictly
from tools.lake_command import parser_of, report_on, rewind_name
from tools.replays import NO_REPLAYS
from tools.report import Line, Status
from tools.tiling import CHECK, as_lines, judge

_DESCRIPTION = """\
Prove that bronze and dead letter tables, with the recorded gaps, tile the offsets of every
partition: no overlap, no hole. Positions, files and counts are compared first; --deep reads the
offsets of every row. Reads the lake only, also beside a running service."""


def main(argv: Sequence[str]) -> int:
    """0 when nothing is wrong, 1 when something is, 78 for bad configuration."""
    parser = parser_of(CHECK, _DESCRIPTION)
    parser.add_argument("--deep", action="store_true",
                        help="read every row's offset, and name what is missing or double")
    parser.add_argument("topics", nargs="*", metavar="TOPIC",
                        help="only these; without a name, all that are recorded or configured")
    parser.add_argument("--rewind", metavar="NAME", type=rewind_name,
                        help="look at the tables of this rewind instead")
    given = parse_strictly(parser, argv)
    return report_on(
        CHECK, lambda config: look(config, tuple(given.topics), deep=given.deep, quiet=given.json,
                                   rewind=given.rewind),
        as_machine=given.json)


def look(
    config: Config, topics: tuple[str, ...], *, deep: bool, quiet: bool,
    rewind: str | None = None,
) -> Iterator[Line]:
    """The lines of the report; the progress of long work goes to stderr, where people look.

    rewind: the name of one whose tables are looked at, by its own records.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from tools.lake_probe import LakeProbe

    probe = LakeProbe(config)
    prefix = "" if rewind is None else rewind_prefix(rewind)
    recorded = probe.claims()[0] if rewind is None else probe.rewinds(rewind)
    wanted = topics or tuple(sorted({*recorded, *(config.topics if rewind is None else ())}))
    # The claims are read again behind the tables: whatever those show is recorded by then.
    snapshots = {topic: probe.snapshot(topic, prefix) for topic in wanted}
    replays_table = probe.table_of_replays()
    if rewind is None:
        claims, behind = probe.claims()
        yield Line("ledger", "", Status.OK, f"{behind} records are not in it yet, and were read "
                                            "from the log")
    else:
        claims = probe.rewinds(rewind)
        if not claims:
            yield Line(CHECK, rewind, Status.FAIL, "there is no rewind of that name",
                       "Its tables are called rewind_NAME_bronze_TOPIC.")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True,
                  disable=quiet or not console.is_terminal) as progress:
        done = progress.add_task("topics", total=len(wanted))
        read = progress.add_task("files read", total=None, visible=deep)
        for topic in wanted:
            snapshot, known = snapshots[topic], claims.get(topic, [])
            progress.advance(done)
            if snapshot.bronze is None:
                status = Status.FAIL if known else Status.WARN
                yield Line(CHECK, topic, status, "there is no bronze table",
                           "See TableVanished in the runbook." if known else
                           "None, if the service has never run with it.")
                continue
            partitions = sorted({part.partition for claim in known for part in claim.ranges})
            try:
                replays = (NO_REPLAYS if rewind is not None
                           else probe.replays(topic, snapshot, replays_table))
            except ReplayDamaged as error:
                yield Line(CHECK, topic, Status.FAIL, f"replay: {error}", error.what_to_do)
                continue
            holding = probe.holding(
                topic, snapshot, partitions, deep=deep, prefix=prefix,
                on_file=lambda: progress.advance(read),
                replayed={place for plan in replays.plans for place in plan.letters})
            yield from as_lines(topic, judge(known, holding, replays), deep=deep)
