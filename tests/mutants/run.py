"""Breaks a scratch copy of the project by one mutant at a time; runs the tests that must see it.

The tests of every selection are first run on the unbroken copy: a test that fails anyway catches
nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.catalogue import Mutant
from tests.rig.evidence import ROOT

PARALLEL = 2
TEST_TIMEOUT_S = 120
RUN_TIMEOUT_S = 580
COPIED = ("shared", "workers", "keeper", "supervisor", "healthcheck", "tests", "setup.cfg")
FAILED, PASSED = 1, 0
FIRST_FAILURE = re.compile(r"^FAILED (\S+?::.+?)(?: - .*)?$", re.MULTILINE)


class Broken(Exception):
    """A run proves nothing: tests that fail without a mutant, or that could not be run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """caught_by: the first test that failed; None for a survivor."""

    mutant: Mutant
    caught_by: str | None
    seconds: float


def run_all(mutants: Iterable[Mutant], folder: Path, say: Callable[[str], None]) -> list[Outcome]:
    """Try all of them in scratch copies below `folder`; outcomes in the order of the mutants.

    Raises:
        Broken: see there.
    """
    mutants = list(mutants)
    copies: SimpleQueue[Path] = SimpleQueue()
    for number in range(PARALLEL):
        copies.put(copy_to(folder / f"copy-{number}"))

    def check(selection: str) -> None:
        with borrowed(copies) as copy:
            code, output = run_tests(copy, selection)
        if code != PASSED:
            raise Broken(f"without any mutant, {selection} gave {code}:\n{output[-4000:]}")

    def attempt(mutant: Mutant) -> Outcome:
        with borrowed(copies) as copy:
            outcome = try_one(mutant, copy)
        found = f"caught by {outcome.caught_by}" if outcome.caught_by else "SURVIVED"
        say(f"{outcome.seconds:6.1f} s  {mutant.name}: {found}")
        return outcome

    with ThreadPoolExecutor(PARALLEL) as pool:
        selections = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
        list(pool.map(check, selections))
        say(f"{len(selections)} selections pass on the unbroken copy")
        return list(pool.map(attempt, mutants))


def copy_to(folder: Path) -> Path:
    """A copy of what the tests need; gives the folder."""
    folder.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


@contextmanager
def borrowed(copies: SimpleQueue[Path]) -> Iterator[Path]:
    """One copy for one run at a time."""
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


def try_one(mutant: Mutant, copy: Path) -> Outcome:
    """Break the copy, run selections until one fails, mend the copy."""
    path = copy / mutant.file
    original = path.read_text()
    if original.count(mutant.old) != 1:
        raise Broken(f"{mutant.name}: its text occurs {original.count(mutant.old)} times")
    began_s = time.monotonic()
    path.write_text(original.replace(mutant.old, mutant.new))
    try:
        for selection in mutant.tests:
            code, output = run_tests(copy, selection)
            if code not in (PASSED, FAILED):
                raise Broken(f"{mutant.name}: {selection} gave {code}:\n{output[-4000:]}")
            found = FIRST_FAILURE.search(output)
            if code == FAILED and found is not None:
                return Outcome(mutant, found[1], time.monotonic() - began_s)
        return Outcome(mutant, None, time.monotonic() - began_s)
    finally:
        path.write_text(original)


def run_tests(copy: Path, selection: str) -> tuple[int, str]:
    """Run a selection in a copy; exit code of pytest and what it printed."""
    command = [
        sys.executable, "-B", "-m", "pytest", "-x", "--tb=line", "-rf", "-p", "no:cacheprovider",
        # Drawn examples are the same in every run, and no health check minds a busy machine.
        "--hypothesis-profile=ci",
        f"--timeout={TEST_TIMEOUT_S}", "--timeout-method=signal", *selection.split(),
    ]
    try:
        done = subprocess.run(
            command, cwd=copy, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Broken(f"{selection} did not end within {RUN_TIMEOUT_S} s") from error
    return done.returncode, done.stdout + done.stderr
