"""What the tests of the examples share: lakes, and a way to run a command as its user does."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from tests.examples import environments
from tests.examples.shop import ShopLake
from tests.rig.environment import clean_environment

ROOT = Path(__file__).resolve().parents[2]
COMMAND_S = 600
"""Spark and Airflow start in seconds, and in minutes on a machine that does other things."""


class Run(Protocol):
    """See `run`."""

    def __call__(
        self, *command: str, environ: Mapping[str, str] | None = None, folder: Path = ROOT,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""


@pytest.fixture
def run() -> Run:
    """Give what runs a command in the checkout; its output may be read, its code must be."""
    def it(
        *command: str, environ: Mapping[str, str] | None = None, folder: Path = ROOT,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=folder, env={**clean_environment(), **(environ or {})}, text=True,
            capture_output=True, timeout=COMMAND_S, check=False, stdin=subprocess.DEVNULL)
    return it


@pytest.fixture
def shop(tmp_path: Path) -> ShopLake:
    """Give a lake whose ledger knows three cycles of 30, 40 and 50 offsets a partition; a fourth
    one has just been committed and is not in it yet."""
    made = ShopLake(tmp_path / "lake")
    for offsets in (30, 40, 50):
        made.cycle(offsets)
    made.enter()
    made.cycle(60)
    return made


def python_of(name: str) -> Path:
    """The Python of a heavy environment; skips the test where nobody has built it."""
    try:
        return environments.python(name)
    except environments.NotBuilt as error:
        pytest.skip(str(error))
