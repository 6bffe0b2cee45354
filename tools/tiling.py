"""Whether every offset of a partition has exactly one fate in the lake.  Pure.

What must be there is told by the ledger and the records behind it (`Claim`s, in order); what is
there, by the tables (`Holding`).  Positions, files and counts prove it without reading data; runs
of offsets, read from the files, prove it offset by offset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby

from shared.records import BRONZE, DLQ, Range
from tools.report import Line, Status

CHECK = "verify"
COMPACTED = "compacted-"
"""How names of files begin that the keeper has made of small ones."""
EXAMPLES_MAX = 20
"""Findings of one topic that are listed one by one; the rest is counted."""

Run = tuple[int, int]
"""Offsets [start, end) without a hole."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A data file as it was decided: of which table, its rows, its bytes."""

    table: str
    path: str
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What one record says of one topic; version: of the bronze table, None where not known."""

    record: int
    ranges: tuple[Range, ...]
    files: tuple[NamedFile, ...]
    version: int | None = None


@dataclass(frozen=True, slots=True)
class ActiveFile:
    """A file of a table's snapshot, by the table's log; rows and last_offset (the highest in it)
    are None where whoever wrote it left no statistics."""

    size: int
    rows: int | None
    last_offset: int | None


@dataclass(frozen=True, slots=True)
class TableState:
    """One table: the files of its snapshot by path, and the size of every object in its folder."""

    files: Mapping[str, ActiveFile]
    objects: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Holding:
    """What the lake holds of a topic.

    positions: partition -> next_offset of the bronze table.  tables: by BRONZE and DLQ.  runs:
    partition -> runs of offsets in both tables, in any order; None where data was not read.
    """

    positions: Mapping[int, int]
    tables: Mapping[str, TableState]
    runs: Mapping[int, Sequence[Run]] | None = None


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that must not be: a word for its sort, and which offsets or file it is about."""

    sort: str
    what: str


@dataclass(slots=True)
class Count:
    """Offsets by fate, over all partitions."""

    partitions: int = 0
    offsets: int = 0
    rows: int = 0
    dead_letters: int = 0
    skipped: int = 0
    absent: int = 0
    lost: int = 0

    def add(self, part: Range) -> None:
        """Count a range."""
        self.offsets += part.end - part.start
        self.rows += part.rows
        self.dead_letters += part.dead_letters
        self.skipped += part.skipped
        self.absent += part.absent
        self.lost += sum(gap.end - gap.start for gap in part.lost)


@dataclass(slots=True)
class Judgement:
    """What was found of one topic; notes are for a person to look at, facts to know."""

    count: Count = field(default_factory=Count)
    wrongs: list[Wrong] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)


def judge(all_claims: Sequence[Claim], holding: Holding) -> Judgement:
    """Everything that can be told of a topic.

    all_claims: by record, ascending, read after the tables were: those whose commit is not in the
    bronze table's snapshot yet may have dead letters in the other one already.
    """
    found = Judgement()
    claims = [claim for claim in all_claims if _is_in(claim, holding.positions)]
    to_come = {file.path for claim in all_claims if claim not in claims for file in claim.files}
    parts = _by_partition(claims)
    for partition, chain in sorted(parts.items()):
        found.count.partitions += 1
        for _, part in chain:
            found.count.add(part)
        found.wrongs += _judge_chain(partition, chain, holding.positions.get(partition))
    for partition in sorted(holding.positions.keys() - parts.keys()):
        found.notes.append(f"partition {partition}: nothing is recorded of it yet")
    for table in (BRONZE, DLQ):
        state = holding.tables.get(table)
        if state is not None:
            found.wrongs += _judge_files(table, claims, state, to_come, found)
    if holding.runs is not None:
        for partition, chain in sorted(parts.items()):
            ranges = [part for _, part in chain]
            found.wrongs += judge_runs(partition, ranges, holding.runs.get(partition, ()))
    return found


def _is_in(claim: Claim, positions: Mapping[int, int]) -> bool:
    """Whether the snapshot has it: a record may be decided, and its commit still to come."""
    return any(part.start < positions.get(part.partition, 0) for part in claim.ranges)


def _by_partition(claims: Iterable[Claim]) -> dict[int, list[tuple[int, Range]]]:
    parts: dict[int, list[tuple[int, Range]]] = {}
    for claim in claims:
        for part in claim.ranges:
            parts.setdefault(part.partition, []).append((claim.record, part))
    return parts


def _judge_chain(
    partition: int, chain: Sequence[tuple[int, Range]], position: int | None
) -> Iterator[Wrong]:
    end = chain[0][1].start
    for record, part in chain:
        if part.start > end:
            yield Wrong("hole", f"partition {partition}: offsets [{end}, {part.start}) are in no "
                                f"record; record {record} begins behind them")
        elif part.start < end:
            yield Wrong("overlap", f"partition {partition}: record {record} has offsets "
                                   f"[{part.start}, {min(end, part.end)}) again")
        if part.absent < 0:
            yield Wrong("fates", f"partition {partition}: record {record} names more fates than "
                                 f"there are offsets in [{part.start}, {part.end})")
        end = max(end, part.end)
    if position is None:
        yield Wrong("position", f"partition {partition}: the table has no position, records go "
                                f"to {end}")
    elif position > end:
        yield Wrong("position", f"partition {partition}: the table stands at {position}, offsets "
                                f"[{end}, {position}) are in no record")
    elif position < end:
        yield Wrong("position", f"partition {partition}: the table stands at {position}, in the "
                                f"middle of a record that goes to {end}")


def _judge_files(
    table: str, claims: Sequence[Claim], state: TableState, to_come: Set[str], found: Judgement,
) -> Iterator[Wrong]:
    claimed = {file.path: (file, claim) for claim in claims for file in claim.files
               if file.table == table}
    gone = {path: pair for path, pair in claimed.items() if path not in state.files}
    strange = {path: file.rows for path, file in state.files.items()
               if path not in claimed and path not in to_come}
    yield from _judge_objects(table, state)
    for path in sorted(claimed.keys() & state.files.keys()):
        file, claim = claimed[path]
        if state.files[path].rows not in (None, file.rows):
            yield Wrong("rows", f"{table} file {path}: {state.files[path].rows} rows in the "
                                f"table's log, {file.rows} in record {claim.record}")
    old = _older(claims, {path: state.files[path] for path in strange})
    if old:
        found.notes.append(f"{table}: {sum(strange.pop(path) or 0 for path in old)} rows in "
                           f"{len(old)} files are older than what is recorded")
    unknown = [path for path, rows in strange.items() if rows is None]
    if unknown:
        yield Wrong("statistics", f"{table}: {len(unknown)} files without a number of rows, "
                                  f"{unknown[0]} among them")
        return
    for place in (_day, _table):
        _take_rewritten(table, gone, strange, found, place)
    for path, (file, claim) in sorted(gone.items()):
        yield Wrong("removed", f"{table} file {path} with {file.rows} rows is not in the table; "
                               f"record {claim.record}: {_ranges(claim)}")
    for path, rows in sorted(strange.items()):
        yield Wrong("foreign", f"{table} file {path} with {rows} rows is in no record")


def _take_rewritten(
    table: str, gone: dict[str, tuple[NamedFile, Claim]], strange: dict[str, int | None],
    found: Judgement, place: Callable[[str], str],
) -> None:
    """Tell of places whose files were replaced by others with as many rows, and take them out."""
    missed, gained = Counter[str](), Counter[str]()
    for path, (file, _) in gone.items():
        missed[place(path)] += file.rows
    for path, rows in strange.items():
        gained[place(path)] += rows or 0
    even = {name for name in missed.keys() & gained.keys() if missed[name] == gained[name]}
    old = [path for path in gone if place(path) in even]
    new = [path for path in strange if place(path) in even]
    if not even:
        return
    is_ours = all(path.rpartition("/")[2].startswith(COMPACTED) for path in new)
    (found.facts if is_ours else found.notes).append(
        f"{table}: {len(old)} files were rewritten as {len(new)} others with the same number of "
        "rows")
    for path in old:
        del gone[path]
    for path in new:
        del strange[path]


def _day(path: str) -> str:
    """Compactions stay within a day's folder."""
    return path.rpartition("/")[0]


def _table(path: str) -> str:
    """Who writes a table anew need not."""
    return ""


def _older(claims: Sequence[Claim], strange: Mapping[str, ActiveFile]) -> list[str]:
    """Files that hold only offsets before the first recorded ones: a lake older than its ledger."""
    begins = {part.partition: part.start
              for claim in reversed(claims) for part in claim.ranges}
    begin = max(begins.values(), default=0)
    return [path for path, file in strange.items()
            if file.last_offset is not None and file.last_offset < begin]


def _judge_objects(table: str, state: TableState) -> Iterator[Wrong]:
    for path, file in sorted(state.files.items()):
        there = state.objects.get(path)
        if there is None:
            yield Wrong("file", f"{table} file {path} is not in the store")
        elif there != file.size:
            yield Wrong("file", f"{table} file {path} has {there} bytes in the store, {file.size} "
                                "in the table's log")


def _ranges(claim: Claim) -> str:
    return ", ".join(f"partition {part.partition} [{part.start}, {part.end})"
                     for part in claim.ranges)


def judge_runs(
    partition: int, ranges: Sequence[Range], runs: Iterable[Run]
) -> Iterator[Wrong]:
    """Hold what was read against what is recorded: doubles, and the offsets nobody has.

    ranges: those of the partition, in order; what lies before them is older than the records.
    """
    end = ranges[-1].end
    held: list[Run] = []
    for start, stop in sorted(runs):
        if held and start < held[-1][1]:
            yield Wrong("double", f"partition {partition}: offsets [{start}, "
                                  f"{min(stop, held[-1][1])}) are there twice")
        if held and start <= held[-1][1]:
            held[-1] = held[-1][0], max(stop, held[-1][1])
        else:
            held.append((start, stop))
    for start, stop in held:
        if stop > end:
            yield Wrong("foreign", f"partition {partition}: offsets [{max(start, end)}, {stop}) "
                                   "are in no record")
    for part in ranges:
        free = list(_free(part, held))
        missing = sum(stop - start for start, stop in free)
        lost = sum(gap.end - gap.start for gap in part.lost)
        explained = lost + part.skipped + part.absent
        if missing != explained:
            yield Wrong("missing" if missing > explained else "unexplained",
                        f"partition {partition}: of [{part.start}, {part.end}) the tables lack "
                        f"{missing} offsets ({_some(free)}), {explained} have a recorded reason")


def _free(part: Range, held: Sequence[Run]) -> Iterator[Run]:
    """The parts of a range that no run covers; runs are apart and in order."""
    at = part.start
    for start, stop in held:
        if stop <= at or start >= part.end:
            continue
        if start > at:
            yield at, min(start, part.end)
        at = max(at, stop)
    if at < part.end:
        yield at, part.end


def _some(runs: Sequence[Run]) -> str:
    shown = ", ".join(f"[{start}, {stop})" for start, stop in runs[:5])
    return f"{shown} …" if len(runs) > 5 else shown or "none"


def as_lines(topic: str, found: Judgement, *, deep: bool) -> Iterator[Line]:
    """The judgement as the lines of a report."""
    count = found.count
    for wrong in found.wrongs[:EXAMPLES_MAX]:
        yield Line(CHECK, topic, Status.FAIL, f"{wrong.sort}: {wrong.what}", ADVICE[wrong.sort])
    if len(found.wrongs) > EXAMPLES_MAX:
        sorts = {sort: len(list(same)) for sort, same in
                 groupby(sorted(wrong.sort for wrong in found.wrongs[EXAMPLES_MAX:]))}
        rest = ", ".join(f"{sort} {number}" for sort, number in sorts.items())
        yield Line(CHECK, topic, Status.FAIL, f"and more: {rest}", "Mend the first ones first.")
    for fact in found.facts:
        yield Line(CHECK, topic, Status.OK, fact)
    for note in found.notes:
        yield Line(CHECK, topic, Status.WARN, note,
                   "" if deep else "verify --deep reads the offsets themselves.")
    if not found.wrongs:
        fates = [f"{getattr(count, name):,} {words}" for name, words in (
            ("rows", "rows"), ("dead_letters", "dead letters"), ("skipped", "skipped"),
            ("absent", "never delivered"), ("lost", "lost upstream")) if getattr(count, name)]
        yield Line(CHECK, topic, Status.OK,
                   f"{count.offsets:,} offsets of {count.partitions} partitions, each with one "
                   f"fate: {', '.join(fates) or 'none yet'}")


_RESTORE = ("Restore the file from the bucket's versions; a VACUUM with a short retention is the "
            "usual cause.")
_WRITER = "Another writer was at the table: find it in the table's history, and keep it away."
ADVICE = {
    "hole": "Keep the lake as it is and report it: records must follow each other.",
    "overlap": "Keep the lake as it is and report it: records must follow each other.",
    "fates": "Keep the lake as it is and report it.",
    "position": "Another writer has moved the table's positions; see TornRecord in the runbook.",
    "file": _RESTORE,
    "rows": _WRITER,
    "removed": "Another writer took the file out of the table (DELETE, RESTORE, overwrite): those "
               "rows are read from Kafka again only by a rewind.",
    "foreign": _WRITER,
    "statistics": "verify --deep counts the rows themselves.",
    "double": _WRITER,
    "missing": "Those offsets are in neither table; Kafka may still have them.",
    "unexplained": "More offsets are there than the records say; another writer was at the table.",
}
"""Sort of a wrong -> what to do."""
