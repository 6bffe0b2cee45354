"""Allocator settings reach the processes, and whoever set one outside keeps it."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.process_environment import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, **environ: str) -> str:
    """What a process of its own prints; malloc's settings are the whole process'."""
    return subprocess.run(
        [sys.executable, "-c", "import os, supervisor.process_environment as p\n" + script],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True,
    ).stdout.strip()


def test_what_is_not_set_is_filled_in_and_the_rest_kept() -> None:
    """An operator's own value was chosen for a reason."""
    script = "p.settle(os.environ); print([os.environ[name] for name in p.SETTINGS])"
    expected = {**SETTINGS, "TOKIO_WORKER_THREADS": "3"}
    assert run(script, TOKIO_WORKER_THREADS="3") == str(list(expected.values()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_malloc_takes_what_is_its_own() -> None:
    """It has read its variables long before; a refusal would show as a missing name."""
    assert run("print(p.tell_malloc(p.SETTINGS))") == str(
        ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
    assert run("print(p.tell_malloc(['OMP_NUM_THREADS']))") == "[]"
