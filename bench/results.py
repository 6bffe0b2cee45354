"""Runs as JSON files: written once, read again for the page.

A file holds one run. The page shows, for every scenario, the newest run that has it, so that the
long ones need not be repeated with the short ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from bench.facts import Facts
from bench.scenarios import SCENARIOS, Result

FORMAT = 2
FOLDER = Path("bench") / "results"


@dataclass(frozen=True, slots=True)
class Run:
    """One run; `failures`: scenario -> why it has no numbers."""

    facts: Facts
    is_full: bool
    limit_mb: int
    results: dict[str, Result]
    failures: dict[str, str]


def to_json(run: Run) -> str:
    """The run as JSON, a line a scenario."""
    head = {"format": FORMAT, "is_full": run.is_full, "limit_mb": run.limit_mb,
            "facts": asdict(run.facts), "failures": run.failures}
    lines = [f'"{key}": {json.dumps(value)}' for key, value in head.items()]
    results = ",\n".join(f'  "{name}": {json.dumps(asdict(result))}'  # type: ignore[call-overload]
                         for name, result in run.results.items())
    return "{\n" + ",\n".join([*lines, f'"results": {{\n{results}\n}}']) + "\n}\n"


def from_json(text: str) -> Run | None:
    """A run, or None for a file of another format.

    Raises:
        msgspec.ValidationError: its numbers are not those that this release knows.
    """
    found = json.loads(text)
    if found.get("format") != FORMAT:
        return None
    return Run(
        msgspec.convert(found["facts"], Facts), found["is_full"], found["limit_mb"],
        {name: msgspec.convert(value, SCENARIOS[name].result)
         for name, value in found["results"].items()}, found["failures"])


def read_all(root: Path) -> list[Run]:
    """The runs below a folder that this release can read, oldest first."""
    runs = []
    for path in sorted((root / FOLDER).glob("*.json")):
        try:
            run = from_json(path.read_text())
        except msgspec.ValidationError:
            continue  # An older release's numbers: kept, but not comparable.
        if run is not None:
            runs.append(run)
    return sorted(runs, key=lambda run: run.facts.at)


def newest(runs: Iterable[Run]) -> dict[str, Run]:
    """Scenario -> the newest run that tried it, in the order of the list of scenarios."""
    found: dict[str, Run] = {}
    for run in sorted(runs, key=lambda one: one.facts.at):
        found.update(dict.fromkeys([*run.results, *run.failures], run))
    return {name: found[name] for name in SCENARIOS if name in found}


def write(run: Run, root: Path) -> Path:
    """Write a run to a file of its own."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{run.facts.at[:10]}-{run.facts.commit}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 1000))
    path = next(path for path in (folder / f"{name}.json" for name in names)
                if not path.exists())
    path.write_text(to_json(run))
    return path
