"""The fault matrix, the tests that name its rows, and the page that shows both agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.matrix import MATRIX, ROWS
from tests.mutants.catalogue import MUTANTS
from tests.reliability.kept import marked_tests, read
from tests.reliability.render import (
    PAGE, bound, matrix, page, recoveries, soaks, spread, totals,
)
from tests.rig.evidence import ROOT, Evidence, Strike

MARK = "pytest.mark." + "extended"
SIZES = {"P": 19, "K": 20, "S": 17, "H": 10}


def test_matrix_has_every_row_once() -> None:
    """Rows are named from elsewhere; one that vanished would take its promise along."""
    expected = [f"{letter}{number}" for letter, size in SIZES.items()
                for number in range(1, size + 1)]
    assert [row.id for row in MATRIX] == expected
    assert all(row.fault and row.promise for row in MATRIX)


def test_every_row_is_shown_by_a_test_or_says_what_stands_in() -> None:
    """A promise that nobody tries is a hope."""
    tests = marked_tests()
    assert [row.id for row in MATRIX if row.id not in tests and not row.stand_in] == []


def test_no_mark_names_a_row_that_does_not_exist() -> None:
    """Such a test would show nothing on the page."""
    assert {row: names for row, names in marked_tests().items() if row not in ROWS} == {}


def test_what_is_left_out_every_day_is_run_by_make_faults() -> None:
    """A test that no command runs shows nothing, and nobody would miss it."""
    left_out = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/*/test_*.py")
                if MARK in path.read_text()}
    recipe = (ROOT / "Makefile").read_text().partition("\nfaults:")[2].partition("\n\n")[0]
    assert left_out and left_out <= set(recipe.split())


def test_page_is_the_rendering_of_the_kept_runs() -> None:
    """Figures are never typed; `python -m tests.reliability` writes them."""
    text = PAGE.read_text()
    assert page(text, read(), marked_tests()) == text


def test_marks_are_found_on_functions_classes_and_modules(tmp_path: Path) -> None:
    """A mark that was overlooked would make a shown row look bare."""
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text(
        "pytestmark = [pytest.mark.fault('P1'), pytest.mark.slow]\n"
        "@pytest.mark.fault('P2', 'P3')\ndef test_one(): pass\n"
        "class TestMore:\n    @pytest.mark.fault('P4')\n    def test_two(self): pass\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.fault('P5'))])\n"
        "def test_three(x): pass\n"
        "CASES = {'a': ('P6', 1)}\ndef cases():\n"
        "    return [pytest.param(a, marks=pytest.mark.fault(CASES[a][0])) for a in CASES]\n"
        "@pytest.mark.parametrize('x', cases())\ndef test_four(x): pass\n"
        "OTHERS = {'b': 'P7'}\n@pytest.mark.parametrize('x', OTHERS)\ndef test_five(x): pass\n"
        "def helper(): pass\n")
    names = ("one", "two", "three", "four", "five")
    one, two, three, four, five = (f"tests/test_it.py::test_{name}" for name in names)
    assert marked_tests(folder) == {
        "P1": [one, two, three, four, five], "P2": [one], "P3": [one], "P4": [two],
        "P5": [three], "P6": [four]}


def test_only_what_passed_counts_and_what_failed_is_shown(tmp_path: Path) -> None:
    """A failed run's messages were not found right, and its failure must not be hidden."""
    good, bad = Evidence(), Evidence()
    good.struck(Strike.KILL, "worker", 3)
    good.recovered("worker", 1.5)
    good.judged(900, 4)
    bad.struck(Strike.KILL, "worker", 50)
    bad.judged(5_000)
    (tmp_path / "2026-01-01-0aa-faults.jsonl").write_text("\n".join([
        good.line("tests/faults/test_x.py::test_y", ("P1",), "passed", 2.0),
        bad.line("tests/faults/test_x.py::test_z", ("P1",), "failed", 2.0)]))
    for commit, at, caught_by in (("0ld", "2026-01-01T00:00:00Z", "tests/x.py::test_old"),
                                  ("0aa", "2026-01-02T00:00:00Z", None)):
        (tmp_path / f"x-{commit}-mutants.json").write_text(json.dumps({
            "commit": commit, "written_at": at, "mutants": [
                {"mutant": "m", "file": "f.py", "caught_by": caught_by, "seconds": 1.0}]}))
    marks = "\n".join(f"<!-- {name} -->\noutdated\n<!-- /{name} -->"
                      for name in ("totals", "failed", "recovery", "matrix", "soak", "mutants"))
    text = page(marks, read(tmp_path), {"P1": ["tests/faults/test_x.py::test_y"]})
    assert "| 900 |" in text and "| 5,900 |" not in text and "outdated" not in text
    assert "worker ×3" in text and "worker ×50" not in text
    assert "**as promised, 1 of 2 runs**" in text
    assert "not counted above | 1 |" in text
    assert "| `faults/test_x.py::test_z` |" in text and "| `faults/test_x.py::test_y` |" not in text
    assert "**survived**" in text and "0 of 1 caught" in text
    assert f"The catalogue has {len(MUTANTS)} today; 0 of them were in that run." in text
    assert "The kept runs are of 2026-01-01, at" in text
    assert "1.5 / 1.5 / 1.5" in text
    assert page(text, read(tmp_path), {"P1": ["tests/faults/test_x.py::test_y"]}) == text


def test_recoveries_are_held_against_what_is_promised(tmp_path: Path) -> None:
    """Of 20 killed workers one took longer than the interval of 1 s and the 3 s promised."""
    evidence = Evidence()
    for seconds in [2.0] * 19 + [4.5]:
        evidence.recovered("worker killed", seconds)
    (tmp_path / "x-faults.jsonl").write_text(
        evidence.line("tests/faults/test_x.py::test_y", ("P1",), "passed", 2.0))
    (row,) = [line for line in recoveries(read(tmp_path)).splitlines() if "a worker was" in line]
    assert "| interval + 3 s | 20 | 2.0 / 2.0 / 4.5 | 1 |" in row


def test_soak_counts_for_the_rows_whose_faults_it_did(tmp_path: Path) -> None:
    """Hours of kills belong to the row of kills, and only to it."""
    soak = Evidence(notes={
        "seed": 5, "hours": 2.0, "memory_bytes_max": 1 << 28, "log_lines_per_s": 3.0,
        "faults": {"worker killed": 40}})
    soak.struck(Strike.KILL, "worker", 40)
    soak.struck(Strike.STORE, "commit: 500 after effect", 7)
    soak.recovered("worker killed", 3.0)
    soak.judged(10_000, 50)
    (tmp_path / "2026-11-26-0aa-soak.jsonl").write_text(
        soak.line("tests/soak", (), "passed", 7200.0))
    kept = read(tmp_path)
    assert "MEMORY_LIMIT_MB" not in soaks(kept)
    struck = {line.split(" | ")[0].strip("| "): line for line in matrix(kept, {}).splitlines()
              if "in the soak" in line}
    assert struck.keys() == {"P1", "S2"}
    assert "in the soak ×40" in struck["P1"] and "in the soak ×7" in struck["S2"]
    assert "| worker killed | 40 | 1 | 3.0 / 3.0 / 3.0 |" in soaks(kept)
    assert "| 256 | 3.0 | passed |" in soaks(kept)
    assert "below 1 in 3,333 per message, below 1 in 13 per kill" in totals(kept)


def test_what_was_simulated_is_not_counted_among_what_was_done(tmp_path: Path) -> None:
    """A killed twin is not a killed process, however useful its death was."""
    twins = Evidence(notes={"simulation": {"schedules": 700, "requests": 9_000}})
    twins.struck(Strike.KILL, "simulated: crash", 650)
    twins.judged(20_000, 900)
    (tmp_path / "x-faults.jsonl").write_text(
        twins.line("tests/simulation/test_x.py::test_y", ("P1",), "passed", 2.0))
    kept = read(tmp_path)
    assert "| processes killed | 0 |" in totals(kept) and "20,000" not in totals(kept)
    assert "simulated on twins | 700 |" in totals(kept)
    assert "in simulated schedules ×700 |" in matrix(kept, {})


def test_a_page_without_its_marks_is_refused() -> None:
    """It would silently keep old figures."""
    with pytest.raises(ValueError, match="totals"):
        page("no marks", read(Path("/nonexistent")), {})


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank: nothing between two measurements is made up."""
    assert spread([float(number) for number in range(1, 101)]) == "50.0 / 95.0 / 100.0"
    assert spread([2.0]) == "2.0 / 2.0 / 2.0"
    assert spread([]) == "–"
    assert bound(3_000_000) == "1 in 1,000,000"
