"""`python -m supervisor rewind`: read offsets of a topic again, into tables of their own."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from bronze_reader import ReaderError
from shared.config import Config
from shared.errors import IngestError, TableVanished
from shared.naming import bronze_table, rewind_name_characters_max
from supervisor.arguments import parse_strictly
from tools.lake_command import moment, number, parser_of, report_on, rewind_name
from tools.report import Line, Status
from tools.rewind_plan import (
    CHECK, Bound, Part, Plan, Refused, Request, beyond, done_lines, gaps_of, listed, plan_lines,
    refuse_beyond, refuse_gaps,
)
from tools.words import many

if TYPE_CHECKING:
    from tools.rewind_begin import Surroundings
    from tools.rewind_log import RewindLog
    from tools.rewind_source import RewindSource
    from shared.object_store import Store

PARTITIONS_MAX = 10_000
PROGRESS_S = 30.0
"""Between two lines about it where nobody looks at a terminal."""
_DESCRIPTION = """\
Take a topic back to an offset, a time or a cycle: read what the bronze table has behind it once
more from Kafka, into the tables rewind_NAME_bronze_TOPIC and rewind_NAME_dlq_bronze_TOPIC. The
bronze table is not written to, so nothing is in it twice. May run beside the service; killed, the
same command goes on."""


def main(argv: Sequence[str]) -> int:
    """0 when all of it is read, or nothing had to be; 1 when it is not, 78 for bad arguments."""
    parser = parser_of(CHECK, _DESCRIPTION)
    parser.add_argument("topic", metavar="TOPIC", help="one of KAFKA_TOPICS")
    begin = parser.add_mutually_exclusive_group(required=True)
    _add_bounds(begin, "to", "back to")
    _add_bounds(parser.add_mutually_exclusive_group(), "until", "and only up to")
    parser.add_argument("--instance", metavar="ID", default="",
                        help="whose cycles, of several services on one lake")
    parser.add_argument("--into", metavar="NAME", type=rewind_name,
                        help="of the tables; by default made of the request")
    parser.add_argument("--allow-gaps", action="store_true",
                        help="read the rest where Kafka no longer has all of it")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be read")
    given = parse_strictly(parser, argv)
    to = _bound(given, "to")
    assert to is not None, "argparse has seen to it"
    request = Request(given.topic, to, _bound(given, "until"), given.instance)
    return report_on(CHECK, lambda config: look(config, request, given), as_machine=given.json)


def _add_bounds(group: argparse._MutuallyExclusiveGroup, word: str, meaning: str) -> None:
    group.add_argument(f"--{word}-offset", type=_offsets, metavar="P:O[,P:O...]",
                       help=f"{meaning} offset O of partition P; only these partitions")
    group.add_argument(f"--{word}-time", type=moment, metavar="TIME",
                       help=f"{meaning} the first message that is not older (RFC 3339, a zone)")
    group.add_argument(f"--{word}-cycle", type=number, metavar="N",
                       help=f"{meaning} the end of this cycle")


def _bound(given: argparse.Namespace, word: str) -> Bound | None:
    offsets, when, cycle = (getattr(given, f"{word}_{kind}")
                            for kind in ("offset", "time", "cycle"))
    if when is not None:
        return Bound(time_ms=round(when.timestamp() * 1000))
    return None if offsets is None and cycle is None else Bound(offsets=offsets, cycle=cycle)


def _offsets(text: str) -> dict[int, int]:
    pairs = [pair.partition(":") for pair in text.split(",")]
    found = {number(partition): number(offset) for partition, _, offset in pairs}
    if len(found) < len(pairs):
        raise argparse.ArgumentTypeError("names a partition twice")
    if len(found) > PARTITIONS_MAX:
        raise argparse.ArgumentTypeError("names too many partitions")
    return found


def look(config: Config, request: Request, given: argparse.Namespace) -> Iterator[Line]:
    """The lines of the report; what goes wrong is one of them."""
    try:
        yield from _rewind(config, request, given)
    except Refused as error:
        yield Line(CHECK, request.topic, Status.FAIL, error.found, error.what_to_do)
    except TableVanished as error:
        yield Line(CHECK, request.topic, Status.FAIL, f"{error.name}: {error}",
                   "Was a table of this rewind removed? Then name another rewind by --into.")
    except IngestError as error:
        yield Line(CHECK, request.topic, Status.FAIL, f"{error.name}: {error}",
                   f"{error.what_to_do} Then run the same command again: it goes on.")
    except ReaderError as error:
        yield Line(CHECK, request.topic, Status.FAIL, f"{type(error).__name__}: {error}",
                   "cut tells which cycles there are.")


def _rewind(config: Config, request: Request, given: argparse.Namespace) -> Iterator[Line]:
    from shared.object_store import open_store
    from tools.rewind_begin import Surroundings
    from tools.rewind_log import RewindLog
    from tools.rewind_source import RewindSource

    if request.topic not in config.topics:
        raise Refused("it is not in KAFKA_TOPICS", "Correct the name, or add it.")
    name = given.into or request.name()
    if len(name) > rewind_name_characters_max(request.topic):
        raise Refused(
            f"the tables' names would be too long with {name!r}",
            f"--into with {rewind_name_characters_max(request.topic)} characters at most."
            if rewind_name_characters_max(request.topic) > 0 else
            "No name is short enough for this topic: see its length in docs/tools.md.")
    store = open_store(config.lake)
    log = RewindLog(store, name, request.topic)
    plan = log.plan()
    if plan is not None and plan.asked != request.words():
        raise Refused(f"the rewind {name!r} was begun {plan.asked}, and this one is "
                      f"{request.words()}", "Name another one by --into.")
    source = RewindSource(config.kafka, config.limits, request.topic)
    try:
        around = Surroundings(config, store, source, request)
        if plan is None:
            plan = around.plan(name)
            if plan is None:
                yield _nothing(around, request)
                return
            yield from _tell_plan(plan, around, given)
            if given.dry_run:
                return
            plan = log.begin(plan)
            if plan.asked != request.words():
                raise Refused(f"the rewind {name!r} was begun {plan.asked} at this moment",
                              "Name another one by --into.")
        yield from _go_on(config, store, plan, log, source, given)
    finally:
        source.close()


def _nothing(around: Surroundings, request: Request) -> Line:
    positions = ", ".join(f"{part}:{offset}" for part, offset in sorted(around.positions.items()))
    return Line(CHECK, request.topic, Status.OK,
                f"nothing is to be read again: {bronze_table(request.topic)} has nothing behind "
                f"what was asked for ({request.words()}); its positions are {positions or 'none'}")


def _tell_plan(
    plan: Plan, around: Surroundings, given: argparse.Namespace
) -> Iterator[Line]:
    """What will be read, and what cannot be; raises `Refused` where that was not allowed."""
    marks = around.marks(plan.parts)
    gaps = gaps_of({part.partition: part.start for part in plan.parts}, plan.ends,
                   {partition: low for partition, (low, _) in marks.items()})
    missing = beyond(plan.ends, {partition: high for partition, (_, high) in marks.items()})
    if given.dry_run:
        yield from plan_lines(plan, around.claims)
    if missing:
        raise refuse_beyond(missing)
    if gaps and not given.allow_gaps:
        raise refuse_gaps(gaps)
    for gap in gaps:
        yield Line(CHECK, f"{plan.topic}/{gap.partition}", Status.WARN,
                   f"Kafka no longer has {listed([gap])}", "They will be recorded as lost.")


def _go_on(
    config: Config, store: Store, plan: Plan, log: RewindLog, source: RewindSource,
    given: argparse.Namespace,
) -> Iterator[Line]:
    """Read what is left, or tell that nothing is."""
    from shared.clock import SystemClock
    from tools.rewind_run import Run, Work, left_of
    from workers.assembly import table_store
    from workers.tables import TopicTables

    tables = TopicTables(store, table_store(config, store), plan.topic, dlq_enabled=True,
                         prefix=plan.prefix)
    left = left_of(plan, tables.positions_of_existing(part.partition for part in plan.parts))
    if given.dry_run and left:
        yield Line(CHECK, plan.topic, Status.OK,
                   f"begun at {plan.made_at}, {many(_count(left), 'offset')} left: {listed(left)}")
        return
    if left:
        with progress(_count(plan.parts), quiet=given.json) as advanced:
            Run(Work(plan, log, source, tables, store, SystemClock(), given.allow_gaps,
                     config.limits.cycle_bytes_max, advanced)).run()
    else:
        yield Line(CHECK, plan.topic, Status.OK, "complete already, nothing was done")
    ranges = [part for _, manifest in log.manifests() for part in manifest.ranges]
    yield from done_lines(plan, ranges, config.lake.uri)


def _count(parts: Sequence[Part]) -> int:
    return sum(part.count for part in parts)


@contextlib.contextmanager
def progress(total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Shows on stderr how much is done, as a bar on a terminal and as a line now and then
    elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn,
    )

    console = Console(stderr=True)
    is_bar = console.is_terminal and not quiet
    told_at = time.monotonic()
    with Progress(TextColumn("offsets read"), BarColumn(), MofNCompleteColumn(),
                  TimeRemainingColumn(), console=console, transient=True,
                  disable=not is_bar) as shown:
        task = shown.add_task("", total=total)

        def advanced(done: int) -> None:
            nonlocal told_at
            shown.update(task, completed=done)
            if not quiet and not is_bar and time.monotonic() - told_at >= PROGRESS_S:
                told_at = time.monotonic()
                print(f"{done:,} of {total:,} offsets read", file=sys.stderr)

        yield advanced
