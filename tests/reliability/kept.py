"""What the kept runs say: evidence, mutants, and the tests that name rows of the matrix."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rig.evidence import ROOT

FOLDER = ROOT / "docs" / "evidence"
TESTS = ROOT / "tests"
SOAK = "tests/soak"
ROW_ID = re.compile(r"[A-Z]\d+")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of evidence; see `tests.rig.evidence.Evidence.line`."""

    file: str
    name: str
    rows: tuple[str, ...]
    outcome: str
    seconds: float
    commit: str
    fired: tuple[tuple[str, str, int], ...]
    recoveries_s: Mapping[str, list[float]]
    messages: int
    cycles: int
    notes: Mapping[str, Any]

    @property
    def day(self) -> str:
        """When it ran: files are named by day and commit."""
        return self.file[:10]

    @property
    def is_soak(self) -> bool:
        """Whether hours of random faults gave it, not a test."""
        return self.name == SOAK

    @property
    def simulated(self) -> int:
        """How many schedules were played on twins; 0 for what ran on real services."""
        return int(self.notes.get("simulation", {}).get("schedules", 0))


@dataclass(frozen=True, slots=True)
class MutantRow:
    """What became of one mutant."""

    mutant: str
    file: str
    caught_by: str | None
    seconds: float


@dataclass(slots=True)
class Kept:
    """All kept runs."""

    lines: list[Line] = field(default_factory=list)
    mutants: list[MutantRow] = field(default_factory=list)
    mutants_commit: str = ""

    def passed(self) -> list[Line]:
        """Only what the judge found right counts."""
        return [line for line in self.lines if line.outcome == "passed"]

    def strikes(self, lines: Iterable[Line]) -> Counter[str]:
        """Kind of strike -> how often, over some lines."""
        found: Counter[str] = Counter()
        for line in lines:
            for kind, _, count in line.fired:
                found[kind] += count
        return found


def read(folder: Path = FOLDER) -> Kept:
    """Everything in the folder; of the mutants only the newest run."""
    kept = Kept()
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            if text.strip():
                kept.lines.append(_line(path.name, json.loads(text)))
    tables = [json.loads(path.read_text()) for path in sorted(folder.glob("*-mutants.json"))]
    if tables:
        newest = max(tables, key=lambda table: table["written_at"])
        kept.mutants_commit = newest["commit"]
        kept.mutants = [MutantRow(**row) for row in newest["mutants"]]
    return kept


def _line(file: str, data: Mapping[str, Any]) -> Line:
    return Line(
        file, data["name"], tuple(data["rows"]), data["outcome"], data["seconds"], data["commit"],
        tuple((kind, what, count) for kind, what, count in data["fired"]),
        data["recoveries_s"], data["messages"], data["cycles"], data["notes"])


def marked_tests(folder: Path = TESTS) -> dict[str, list[str]]:
    """Row -> tests that are marked with it, from the sources: ``tests/faults/test_x.py::test_y``.

    A mark counts on a function, on a class, on a parameter, and in a module's `pytestmark`.  Where
    its row is not written in the mark itself, it is taken from the module's own definitions that
    the mark names: a table of cases with the row of each.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        module = _Module(tree)
        everywhere = module.rows(module.definitions.get("pytestmark"))
        name = path.relative_to(folder.parent).as_posix()
        for test, rows in _tests_of(tree, module, everywhere):
            for row in dict.fromkeys(rows):
                found[row].append(f"{name}::{test}")
    return dict(found)


def _tests_of(
    tree: ast.Module | ast.ClassDef, module: _Module, inherited: list[str]
) -> Iterator[tuple[str, list[str]]]:
    """Each test with the rows of its marks and of those around it."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            own = [row for mark in node.decorator_list for row in module.rows(mark)]
            yield from _tests_of(node, module, [*inherited, *own])
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            own = [row for mark in node.decorator_list for row in module.rows(mark)]
            yield node.name, [*inherited, *own]


class _Module:
    """A module's definitions by name, to look up what its marks refer to."""

    def __init__(self, tree: ast.Module) -> None:
        self.definitions: dict[str, ast.AST] = {}
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        self.definitions[target.id] = node.value

    def rows(self, node: ast.AST | None) -> list[str]:
        """The rows that every `pytest.mark.fault(...)` in an expression names."""
        if node is None:
            return []
        behind = self._behind(node)
        arguments = [argument for part in (node, *behind) for argument in _arguments_in(part)]
        written = [row for argument in arguments for row in _ids_in(argument)]
        is_looked_up = any(not isinstance(argument, ast.Constant) for argument in arguments)
        return written + [row for part in behind if is_looked_up for row in _ids_in(part)]

    def _behind(self, node: ast.AST) -> list[ast.AST]:
        """Every definition of this module that an expression leads to."""
        found: dict[str, ast.AST] = {}
        left = [node]
        while left:
            for part in ast.walk(left.pop()):
                if isinstance(part, ast.Name) and part.id in self.definitions:
                    if part.id not in found:
                        found[part.id] = self.definitions[part.id]
                        left.append(found[part.id])
        return list(found.values())


def _arguments_in(node: ast.AST) -> list[ast.expr]:
    """The arguments of every `pytest.mark.fault(...)` in an expression."""
    return [argument for call in ast.walk(node)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            and call.func.attr == "fault" for argument in call.args]


def _ids_in(node: ast.AST) -> list[str]:
    """Whatever looks like a row's id."""
    return [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)
            and isinstance(part.value, str) and ROW_ID.fullmatch(part.value)]
