"""The generated parts of docs/reliability.md, each between two marks, as Markdown."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from tests.faults.matrix import MATRIX, Area, Row
from tests.mutants.catalogue import MUTANTS
from tests.reliability.kept import Kept, Line
from tests.rig.evidence import ROOT

PAGE = ROOT / "docs" / "reliability.md"
NOTHING = "–"
NO_MEMORY_LIMIT_UNTIL = "2026-11-25"
"""Soaks up to this day ran before there was MEMORY_LIMIT_MB."""

SOAKED = {
    "P1": r"kill: worker", "P6": r"kill: supervisor", "P7": r"kill: sidecar",
    "P8": r"freeze: worker", "P9": r"freeze: whole service",
    "K1": r"kafka: broker (killed|stopped) and started", "K3": r"kafka: broker out of reach",
    "S1": r"store: .* before effect", "S2": r"store: .* after effect",
    "S3": r"store: slow for a while", "S7": r"store: store killed and started",
    "S9": r"table: OPTIMIZE by another writer",
}
"""Row -> strikes of the soak that are its fault, as ``kind: what``."""

TEST_INTERVAL_S = 1
"""BATCH_INTERVAL_SECONDS of the runs whose recoveries are promised."""
RECOVERIES = (
    ("a worker was killed: its topic commits again", 3, r"worker killed"),
    ("the supervisor was killed and the service started again", 10, r"supervisor killed: .*"),
    ("Kafka was away", 15,
     r"a broker (stopped|killed) and started again|a broker away for 40 s|a black hole .*"),
    ("the store was away or refused everything", 15,
     r"store killed|(429|500|503) at everything|access is denied|bucket is missing"),
)
"""What happened, seconds beyond one interval that are promised for 95 %, and its recoveries."""


def page(text: str, kept: Kept, tests: Mapping[str, list[str]]) -> str:
    """The page with every generated part made anew.

    Raises:
        ValueError: a mark is missing.
    """
    parts = {
        "totals": totals(kept), "failed": failures(kept), "recovery": recoveries(kept),
        "soak": soaks(kept),
        "matrix": matrix(kept, tests), "mutants": mutants(kept),
    }
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the page needs one <!-- {name} --> and one <!-- /{name} -->")
        text = pattern.sub(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)
    return text


def totals(kept: Kept) -> str:
    """What the kept runs on real services have shown together, and how little that can hide."""
    passed = kept.passed()
    if not passed:
        return "No run is kept yet."
    real = [line for line in passed if not line.simulated]
    strikes = kept.strikes(real)
    messages = sum(line.messages for line in real)
    failed = sum(line.outcome == "failed" for line in kept.lines)
    hours = sum(line.notes.get("hours", 0) for line in passed if line.is_soak)
    rows = [
        ("messages written, each found in exactly one table by two readers", f"{messages:,}"),
        ("cycles decided", f"{sum(line.cycles for line in real):,}"),
        ("of them lost, doubled, altered, in the wrong table, or written by nobody", "0"),
        ("processes killed", f"{strikes['kill']:,}"),
        ("processes or services frozen", f"{strikes['freeze']:,}"),
        ("faults of the store and of requests to it", f"{strikes['store']:,}"),
        ("faults of the broker and of topics", f"{strikes['kafka']:,}"),
        ("tables changed by other writers", f"{strikes['table']:,}"),
        ("faults of the host", f"{strikes['host']:,}"),
        ("hours of soak", f"{hours:.1f}"),
        ("fault tests passed", f"{sum(not line.is_soak for line in real):,}"),
        ("beside these, schedules of faults simulated on twins",
         f"{sum(line.simulated for line in passed):,}"),
        ("beside these, runs that failed: listed below, and not counted above", f"{failed:,}"),
        ("commits under test", ", ".join(sorted({line.commit for line in passed}))),
    ]
    bounds = [
        f"below {bound(count)} per {what}" for what, count in
        (("message", messages), ("kill", strikes["kill"]), ("store fault", strikes["store"]))
        if count
    ]
    days = sorted({line.day for line in kept.lines})
    return "\n".join([
        f"The kept runs are of {' to '.join(dict.fromkeys((days[0], days[-1])))}, at the commits named "
        "here. What has changed since is covered by the everyday tests alone, until the next long "
        "runs are kept.", "",
        table(("", "so far"), rows), "",
        "None in n does not mean never. With 95 % certainty it bounds the rate of faults by 3/n: "
        f"{', '.join(bounds)}."])


def failures(kept: Kept) -> str:
    """Each run that failed, and at which commits the same was kept as passed."""
    passed: dict[str, set[str]] = defaultdict(set)
    for line in kept.passed():
        passed[line.name].add(line.commit)
    rows = [(f"`{line.name.removeprefix('tests/')}`", line.commit,
             ", ".join(sorted(passed[line.name])) or NOTHING)
            for line in kept.lines if line.outcome != "passed"]
    return table(("run that failed", "at", "passed at"), rows) if rows else "None failed."


def recoveries(kept: Kept) -> str:
    """How long it took until all was well again, against what is promised."""
    rows = []
    for happened, beyond_s, names in RECOVERIES:
        seconds = [one for line in kept.passed() if not line.is_soak
                   for name, found in line.recoveries_s.items() if re.fullmatch(names, name)
                   for one in found]
        limit_s = TEST_INTERVAL_S + beyond_s
        late = sum(one > limit_s for one in seconds)
        rows.append((happened, f"interval + {beyond_s} s", f"{len(seconds):,}",
                     spread(seconds), f"{late:,}" if seconds else NOTHING))
    return table(("after", "promised for 95 %", "times", "s: p50 / p95 / max", "later than that"),
                 rows)


def matrix(kept: Kept, tests: Mapping[str, list[str]]) -> str:
    """The rows, area by area, with what struck and how long recovery took."""
    lines: dict[str, list[Line]] = defaultdict(list)
    for line in kept.lines:
        for row in line.rows:
            lines[row].append(line)
    soaked = [line for line in kept.passed() if line.is_soak]
    parts = []
    for area in Area:
        rows = [_matrix_row(row, lines[row.id], soaked, tests.get(row.id, []))
                for row in MATRIX if row.area is area]
        head = ("row", "fault", "what must happen", "how it was done, and how often",
                "well again after s: p50 / p95 / max", "what happened", "shown by")
        parts += [f"### {area.value}", "", table(head, rows), ""]
    return "\n".join(parts).rstrip()


def _matrix_row(
    row: Row, lines: list[Line], soaks: list[Line], tests: list[str]
) -> tuple[str, ...]:
    passed = [line for line in lines if line.outcome == "passed"]
    failed = sum(line.outcome == "failed" for line in lines)
    fired: Counter[str] = Counter()
    for line in passed:
        for _, what, count in () if line.simulated else line.fired:
            fired[what] += count
    simulated = sum(line.simulated for line in passed)
    if simulated:
        fired["in simulated schedules"] = simulated
    in_soak = sum(
        count for line in soaks if row.id in SOAKED for kind, what, count in line.fired
        if re.fullmatch(SOAKED[row.id], f"{kind}: {what}"))
    if in_soak:
        fired["in the soak"] = in_soak
    seconds = [one for line in passed for all_of in line.recoveries_s.values() for one in all_of]
    happened = f"as promised, {len(passed)} of {len(passed) + failed} runs" if lines else NOTHING
    if failed:
        happened = f"**{happened}**"
    files = sorted({test.split("::")[0].removeprefix("tests/") for test in tests})
    shown = ", ".join(f"`{file}`" for file in files)
    return (
        row.id, row.fault, row.promise,
        ", ".join(f"{what} ×{count:,}" for what, count in sorted(fired.items())) or NOTHING,
        spread(seconds), happened,
        ". ".join(text for text in (shown, row.stand_in) if text) or NOTHING)


def soaks(kept: Kept) -> str:
    """Each soak in figures, and all of them by fault."""
    runs = [line for line in kept.lines if line.is_soak]
    if not runs:
        return "No soak is kept yet."
    head = ("commit", "seed", "hours", "messages", "cycles", "kills", "store faults",
            "memory max, MiB", "log lines/s", "outcome")
    rows = [_soak_row(kept, line) for line in runs]
    struck: Counter[str] = Counter()
    well: dict[str, list[float]] = defaultdict(list)
    for line in runs:
        if line.outcome == "passed":
            struck.update(line.notes["faults"])
            for what, seconds in line.recoveries_s.items():
                well[what] += seconds
    faults = [(what, f"{struck[what]:,}" if what in struck else NOTHING, f"{len(well[what]):,}",
               spread(well[what])) for what in sorted(well)]
    unlimited = [line.commit for line in runs if line.day <= NO_MEMORY_LIMIT_UNTIL]
    limit = [f"The memory of {', '.join(unlimited)} is of before there was a limit for it "
             "(`MEMORY_LIMIT_MB`).", ""] if unlimited else []
    return "\n".join([
        table(head, rows), "", *limit,
        table(("fault", "struck", "periods with it", "well again after s: p50 / p95 / max"),
              faults)])


def _soak_row(kept: Kept, line: Line) -> tuple[str, ...]:
    strikes, notes = kept.strikes([line]), line.notes
    return (
        line.commit, str(notes["seed"]), f"{notes['hours']:.2f}", f"{line.messages:,}",
        f"{line.cycles:,}", f"{strikes['kill']:,}", f"{strikes['store']:,}",
        f"{notes['memory_bytes_max'] / (1 << 20):.0f}", f"{notes['log_lines_per_s']:.1f}",
        line.outcome)


def mutants(kept: Kept) -> str:
    """Who caught which mutant."""
    if not kept.mutants:
        return "No run of the mutants is kept yet."
    caught = sum(row.caught_by is not None for row in kept.mutants)
    today = {mutant.name for mutant in MUTANTS}
    covered = len(today & {row.mutant for row in kept.mutants})
    rows = [
        (row.mutant, f"`{row.file}`",
         f"`{row.caught_by.split('::', 1)[-1]}`" if row.caught_by else "**survived**",
         f"{row.seconds:.0f}")
        for row in kept.mutants
    ]
    return "\n".join([
        f"{caught} of {len(kept.mutants)} caught, at commit {kept.mutants_commit}. The catalogue has "
        f"{len(today)} today; {covered} of them were in that run.", "",
        table(("broken on purpose", "in", "the first test that failed", "s"), rows)])


def spread(seconds: list[float]) -> str:
    """Median, 95th percentile and maximum, by nearest rank."""
    if not seconds:
        return NOTHING
    ordered = sorted(seconds)
    ranks = [ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in (0.5, 0.95, 1.0)]
    return " / ".join(f"{value:.1f}" for value in ranks)


def bound(count: int) -> str:
    """3/n in words that can be read: ``1 in 12,345``."""
    return f"1 in {max(1, count // 3):,}"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar inside a cell would end it."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines)
