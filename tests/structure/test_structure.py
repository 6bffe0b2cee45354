"""What the README and the style promise of the code's structure holds in the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.protocol import TRANSITIONS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "shared", "workers", "keeper", "supervisor", "healthcheck", "tools", "bronze_reader", "demo",
    "bench", "examples")
MAY_IMPORT = {
    "shared": {"shared"},
    "workers": {"workers", "shared"},
    "keeper": {"keeper", "workers", "shared"},
    "supervisor": {"supervisor", "workers", "keeper", "healthcheck", "shared"},
    "healthcheck": {"healthcheck", "shared"},
    "tools": {"tools", "bronze_reader", "supervisor", "keeper", "workers", "shared"},
    "bronze_reader": {"bronze_reader"},
    "demo": {"demo"},
    "bench": {"bench", "tests"},
    "examples": {"examples", "bronze_reader"},
}
"""Package -> ours it may import; the benchmark and the demo look at the service from outside."""

ONE_PLACE = {
    "confluent_kafka": {"workers/kafka_source.py", "tools/kafka_probe.py",
                        "tools/rewind_source.py", "demo/broker.py", "demo/feeder.py"},
    "deltalake": {"workers/delta_table.py", "tools/lake_probe.py", "bronze_reader/lake.py",
                  "bronze_reader/datasets.py", "demo/lake.py"},
    "obstore": {"shared/object_store.py"},
    "flask": {"healthcheck/app.py", "healthcheck/headers.py"},
    "jinja2": {"healthcheck/html.py"},
    "markupsafe": {"healthcheck/html.py"},
    "waitress": {"healthcheck/server.py"},
    "prometheus_client": {"healthcheck/exposition.py"},
}
"""Client library -> the files of service, tools and demo that import it."""

PURE = (
    "shared/protocol.py", "shared/records.py", "shared/layout.py", "shared/naming.py",
    "shared/errors.py", "shared/exit_codes.py", "workers/decoder.py", "workers/ranges.py",
    "workers/batch.py", "workers/schemas.py", "shared/memory.py", "workers/loan.py",
    "workers/appetite.py", "workers/read_through.py", "workers/log_entry.py",
    "workers/log_head.py",
    "keeper/ledger_rows.py", "keeper/ledger_schema.py", "keeper/checkpoint.py",
    "workers/damage.py", "keeper/log_cleanup.py", "keeper/retention.py",
    "supervisor/respawn.py", "healthcheck/verdict.py",
    "healthcheck/history.py", "healthcheck/status.py", "healthcheck/figures.py",
    "healthcheck/drawing.py",
    "tools/findings.py", "tools/check.py", "tools/tiling.py", "tools/gaps.py",
    "tools/report.py", "tools/render.py", "tools/dead_letters.py", "tools/dlq_text.py",
    "shared/replay_plan.py", "tools/replays.py", "tools/absorption.py",
    "tools/address.py", "tools/health.py", "tools/status.py", "tools/loss.py", "tools/causes.py",
    "tools/rules.py", "tools/diagnosis.py", "tools/doctor.py", "tools/words.py",
    "tools/rewind_plan.py",
)
IMPURE_MODULES = {
    "os", "time", "socket", "subprocess", "threading", "logging", "pathlib", "random", "sys",
    "signal", "io", "select", "shutil", "tempfile", "multiprocess", "obstore", "deltalake",
    "confluent_kafka", "flask", "urllib", "http",
}
LINES_MAX = 70
CHARACTERS_MAX = 100
WORKPLACE = re.compile("|".join(("/wo" + "rk/", r"\.\./sha" + "red", r"/\.libr" + "ary")))
"""Paths of the machines this was written on, in pieces, so that this file does not match."""


def sources(*packages: str) -> list[Path]:
    """The Python files of the packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    """The path as people write it."""
    return path.relative_to(ROOT).as_posix()


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, also inside functions, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def tops_of(path: Path) -> set[str]:
    """The same, by top-level name."""
    return {name.split(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    """An arrow the other way would tie what was kept apart."""
    ours = {*PACKAGES, "tests"}
    wrong = {name_of(path): tops_of(path) & ours - MAY_IMPORT[package]
             for path in sources(package)}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_the_supervisor_knows_of_the_health_page_only_where_it_begins() -> None:
    """It starts it as a process; what the page is made of stays the page's own."""
    found = {name for path in sources("supervisor") for name in imports_of(path)
             if name.split(".")[0] == "healthcheck"}
    assert found == {"healthcheck"}
    names = {alias.name for path in sources("supervisor")
             for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.ImportFrom) and node.module == "healthcheck"
             for alias in node.names}
    assert names == {"entry"}


@pytest.mark.parametrize("library", ONE_PLACE)
def test_each_client_library_is_imported_in_one_place(library: str) -> None:
    """Its twin, and the next version of the library, concern that place alone."""
    service = sources(*(package for package in PACKAGES if package not in ("bench", "examples")))
    users = {name_of(path) for path in service if library in tops_of(path)}
    assert users <= ONE_PLACE[library]
    assert users, f"nobody imports {library}"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_have_no_clock_and_no_io(module: str) -> None:
    """The model and the simulation drive them; nothing may reach past their arguments."""
    path = ROOT / module
    assert tops_of(path) & IMPURE_MODULES == set()
    called = {node.func.id for node in ast.walk(ast.parse(path.read_text()))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called & {"open", "print", "input", "exec", "eval"} == set()


def test_the_supervisor_stays_light() -> None:
    """Kafka, Arrow, Delta and Flask would cost it tens of megabytes, and make forking unsafe.
    Tools, which the command line knows by name only, bring all of them."""
    heavy = ["confluent_kafka", "pyarrow", "deltalake", "flask", "numpy", "rich", "tools"]
    code = ("import sys, supervisor.supervisor, supervisor.__main__, supervisor.port;"
            f"print([name for name in {heavy} if name in sys.modules])")
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                           timeout=60, check=True)
    assert found.stdout.strip() == "[]"


def functions() -> Iterator[tuple[str, ast.AST, int]]:
    """Every function of the service and its helpers, with its length in lines."""
    for path in sources(*PACKAGES, "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{name_of(path)}:{node.lineno} {node.name}", node, length


def test_functions_fit_a_screen() -> None:
    """What cannot be seen at once cannot be proofread."""
    assert [name for name, _, length in functions() if length > LINES_MAX] == []


def test_lines_fit_a_screen() -> None:
    """The same sideways."""
    long = [f"{name_of(path)}:{number}" for path in sources(*PACKAGES)
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if len(line) > CHARACTERS_MAX]
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    """Whoever opens a file reads that first."""
    silent = [name_of(path) for path in sources(*PACKAGES, "tests")
              if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_nothing_is_left_to_do_silently() -> None:
    """A note to oneself in the code is a promise nobody keeps."""
    marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
    marked = [name_of(path) for path in sources(*PACKAGES, "tests") if marks.search(
        path.read_text())]
    assert marked == []


def test_nothing_names_the_place_it_was_written_at() -> None:
    """The project stands by itself."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                             timeout=60, check=False).stdout.split()
    named = [name for name in tracked
             if (ROOT / name).is_file()
             and WORKPLACE.search((ROOT / name).read_text(errors="ignore"))]
    assert named == []


def phases_of_readme() -> dict[str, frozenset[str]]:
    """The README's table: phase -> phases that may follow."""
    text = (ROOT / "README.md").read_text()
    table = text.split("<!-- phases -->")[1].split("<!-- /phases -->")[0]
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in table.strip().splitlines()[2:]]
    return {row[0]: frozenset(re.findall(r"\b[A-Z]{4,}\b", row[-1])) for row in rows}


def test_the_phases_in_the_readme_are_those_of_the_code() -> None:
    """People reason by the table; it must be the one the service follows."""
    in_code = {phase.name: frozenset(successor.name for successor in successors)
               for phase, successors in TRANSITIONS.items()}
    assert phases_of_readme() == in_code


def test_every_dependency_is_pinned_and_explained() -> None:
    """What is installed is what was tested, and somebody knows why it is there."""
    page = (ROOT / "docs" / "dependencies.md").read_text().lower()
    for file in ("requirements.txt", "requirements-dev.txt"):
        lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
        wanted = [line for line in lines if line and not line.startswith("-")]
        assert wanted
        for line in wanted:
            name, equals, version = line.partition("==")
            assert equals and version, f"{file}: {line} is not pinned"
            assert f"`{name.lower()}`" in page, f"{name} is not in docs/dependencies.md"


def test_every_example_is_pinned_to_the_libraries_of_the_service() -> None:
    """Whoever tries one gets what its tests ran with; bronze_reader comes from the checkout."""
    ours = pins(ROOT / "requirements.txt") | pins(ROOT / "requirements-dev.txt")
    files = sorted((ROOT / "examples").glob("requirements-*.txt"))
    assert len(files) == 5
    for file in files:
        found = pins(file)
        assert "./bronze_reader" in file.read_text().splitlines(), file
        for name in {"deltalake", "pyarrow", "duckdb", "polars"} & set(found):
            assert found[name] == ours[name], f"{file.name}: {name}"


def pins(file: Path) -> dict[str, str]:
    """Name -> version of a requirements file; what is no pin must be an option or a folder."""
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    found = [line for line in lines if line and not line.startswith(("-", "./"))]
    assert all(line.count("==") == 1 for line in found), file
    return {name: version for name, _, version in (line.partition("==") for line in found)}
