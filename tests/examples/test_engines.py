"""DuckDB, Polars and PySpark at one completed cycle: each shows the same, and nothing newer."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from bronze_reader import Lake
from tests.examples import environments
from tests.examples.conftest import ROOT, Run, python_of
from tests.examples.shop import TOPICS, ShopLake, dead_letters, rows

EXAMPLES = ROOT / "examples"
SPARK_S = 1200
QUICK_JAVA = {"JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
              "SPARK_LOCAL_IP": "127.0.0.1"}
"""For a run of seconds: compiling the whole of Spark well takes longer than it saves."""
FIRST, SECOND, THIRD = range(0, 30), range(30, 70), range(70, 120)
CELL = re.compile(r"[^│┆|]+")


def table_lines(output: str) -> list[list[str]]:
    """The lines of every table in what an engine printed, as cells."""
    return [[cell.strip() for cell in CELL.findall(line)] for line in output.splitlines()
            if line[:1] in "│|" and line.strip()]


def shows(
    output: str, heading: str, topics: Collection[str] = TOPICS,
) -> dict[str, dict[str, str]]:
    """Topic -> column -> what is in it, from the first table that has such a column."""
    lines = table_lines(output)
    at = next(number for number, cells in enumerate(lines) if heading in cells)
    found: dict[str, dict[str, str]] = {}
    for cells in lines[at + 1:]:
        if cells[0] in found:
            break
        if cells[0] in topics:
            found[cells[0]] = dict(zip(lines[at], cells, strict=True))
    return found


class Engine:
    """The example of one engine, and how it is run here."""

    def __init__(self, name: str) -> None:
        is_heavy = name in environments.NAMES
        self._command = [str(python_of(name)) if is_heavy else sys.executable, "-m",
                         f"examples.{name}_one_cycle"]
        self._more = ["--jars", str(environments.spark_jars())] if name == "pyspark" else []
        self.environ = QUICK_JAVA if name == "pyspark" else {}

    def command(self, *arguments: str) -> list[str]:
        """Its command line, as README.md has it."""
        return [*self._command, *arguments, *self._more]


@pytest.fixture(params=[
    "duckdb", "polars",
    pytest.param("pyspark", marks=[pytest.mark.slow, pytest.mark.timeout(SPARK_S)])])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Give each engine."""
    return Engine(request.param)


def test_the_newest_cycle_is_shown_whole_and_nothing_behind_it(
    engine: Engine, shop: ShopLake, run: Run,
) -> None:
    """A fourth cycle is in the tables, but not in the ledger: a reader of two tables could see
    half of it."""
    ended = run(*engine.command(str(shop.folder)), environ=engine.environ)
    assert ended.returncode == 0, ended.stderr
    offsets = range(120)
    for heading in ("rows", "new_rows"):
        assert set(shows(ended.stdout, heading)) == set(TOPICS)
    for cells in shows(ended.stdout, "rows").values():
        assert int(cells["rows"]) == rows(offsets)
        assert int(cells["dead_letters"]) == dead_letters(offsets)
    for cells in shows(ended.stdout, "new_rows").values():
        assert int(cells["new_rows"]) == rows(offsets)


def test_a_named_cycle_is_shown_and_what_arrived_since_another(
    engine: Engine, shop: ShopLake, run: Run,
) -> None:
    """Both are cycles that later ones followed."""
    ended = run(*engine.command(str(shop.folder), "--cycle", "2", "--since", "1"),
                environ=engine.environ)
    assert ended.returncode == 0, ended.stderr
    assert "cycle 2," in ended.stdout
    for cells in shows(ended.stdout, "rows").values():
        assert int(cells["rows"]) == rows([*FIRST, *SECOND])
    for cells in shows(ended.stdout, "new_rows").values():
        assert int(cells["new_rows"]) == rows(SECOND)


@pytest.mark.parametrize("name", ["duckdb", "polars"])
def test_a_time_means_what_was_complete_then(name: str, shop: ShopLake, run: Run) -> None:
    """The moment that the second cycle became complete, to the microsecond."""
    engine = Engine(name)
    second = Lake(str(shop.folder)).cut(cycle_id=2)
    assert second.completed_at is not None
    ended = run(*engine.command(str(shop.folder), "--at", second.completed_at.isoformat()))
    assert ended.returncode == 0, ended.stderr
    for cells in shows(ended.stdout, "rows").values():
        assert int(cells["rows"]) == rows([*FIRST, *SECOND])


def test_what_is_wrong_is_one_line(engine: Engine, shop: ShopLake, run: Run) -> None:
    """A person reads it, not a trace of calls."""
    for arguments, said in (([str(shop.folder), "--cycle", "99"], "no cycle in the ledger"),
                            ([str(shop.folder.parent)], "is that the lake's base URI")):
        ended = run(*engine.command(*arguments), environ=engine.environ)
        assert ended.returncode == 1
        assert said in ended.stderr and "Traceback" not in ended.stderr


def test_each_has_help(engine: Engine, run: Run) -> None:
    """With what a store's keys are called."""
    ended = run(*engine.command("--help"), environ=engine.environ)
    assert ended.returncode == 0
    assert "--since" in ended.stdout and "AWS_SECRET_ACCESS_KEY" in ended.stdout


def test_duckdb_answers_a_query_over_the_views(shop: ShopLake, run: Run) -> None:
    """Two tables in one query, at one instant."""
    query = ("select count(*) as answer from bronze_orders o join bronze_payments p"
             " on o._kafka_partition = p._kafka_partition and o._kafka_offset = p._kafka_offset")
    ended = run(*Engine("duckdb").command(str(shop.folder), "--sql", query))
    assert ended.returncode == 0, ended.stderr
    assert table_lines(ended.stdout)[-1] == [str(rows(range(120)))]
    ended = run(*Engine("duckdb").command(str(shop.folder), "--sql", "select nothing"))
    assert ended.returncode == 1 and ended.stderr.startswith("error: Binder Error")


def imports(path: Path) -> set[str]:
    """The modules that a file imports, by their top names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[Any] = node.names if isinstance(node, ast.Import) else []
        found |= {alias.name.split(".")[0] for alias in names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_no_example_needs_the_service() -> None:
    """They are for people who only have the lake."""
    ours = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert {"shared", "workers", "keeper", "tools"} <= ours
    for path in EXAMPLES.rglob("*.py"):
        assert not imports(path) & ours - {"examples", "bronze_reader"}, path
