"""Only pages that the file itself can give back are forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from workers.pages import (
    FORGET_INTERVAL_S, POOL_BYTES, Tidier, clean_mappings, family_bytes, forget_clean_pages,
    private_bytes,
)

ROOT = Path(__file__).resolve().parents[2]

SMAPS = """\
7f0000000000-7f0000001000 r--p 00000000 fd:00 11 /lib/a.so
Rss:                   4 kB
Anonymous:             0 kB
7f0000001000-7f0000003000 r-xp 00001000 fd:00 11 /lib/a.so
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f0000003000-7f0000004000 r--p 00003000 fd:00 11 /lib/a.so
Anonymous:             4 kB
7f0000004000-7f0000005000 rw-p 00004000 fd:00 11 /lib/a.so
Anonymous:             0 kB
7f0000005000-7f0000006000 r--s 00000000 fd:00 12 /dev/shm/block
Anonymous:             0 kB
7f0000006000-7f0000007000 r--p 00000000 00:00 0
Anonymous:             0 kB
7f0000007000-7f0000008000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
"""


def test_clean_read_only_pages_of_files_are_found_and_no_others() -> None:
    """A relocated table, shared memory, or memory without a file would be lost."""
    found = list(clean_mappings(SMAPS.splitlines()))
    assert found == [(0x7F0000000000, 0x7F0000001000), (0x7F0000001000, 0x7F0000003000)]


def test_code_whose_pages_were_forgotten_still_runs() -> None:
    """They come back from the file with the next look."""
    assert forget_clean_pages() > 0
    assert sorted({"b": 2, "a": 1}) == ["a", "b"]


def test_without_the_kernels_word_nothing_is_forgotten(tmp_path: Path) -> None:
    """Some containers hide /proc; the service must start there all the same."""
    assert forget_clean_pages(tmp_path / "smaps") == 0


def test_pages_are_looked_for_once_in_a_while_however_short_cycles_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look costs as much CPU as a small commit."""
    looks = []
    monkeypatch.setattr("workers.pages.forget_clean_pages", lambda: looks.append(1))
    monkeypatch.setattr("workers.pages.private_bytes", lambda: 7)
    clock = FakeClock()
    tidier = Tidier(clock)
    told = []
    for _ in range(10):
        told.append(tidier.after_commit())
        clock.advance(FORGET_INTERVAL_S / 5)
    assert len(looks) == 2
    assert told == [7, *[None] * 4] * 2


def test_own_memory_is_what_this_process_alone_has_written_to(tmp_path: Path) -> None:
    """Pages shared with the forkserver, and those that can be read again, are not its growth."""
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text("7f00-7fff ---p 00000000 00:00 0   [rollup]\nRss:   900 kB\n"
                      "Private_Clean:   30 kB\nPrivate_Dirty:         12 kB\nSwap:   0 kB\n")
    assert private_bytes(rollup) == 12 * 1024
    assert private_bytes(tmp_path / "none") is None


def test_the_services_memory_is_that_of_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Supervisor, forkserver, and the forkserver's children; one of them has just ended."""
    monkeypatch.setattr("os.getppid", lambda: 20)
    for pid, kilobytes in ((10, 1), (20, 2), (31, 4), (32, 8), (99, 500)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "smaps_rollup").write_text(
            f"Rss:  77 kB\nPss:   {kilobytes} kB\nPss_Dirty:  55 kB\n")
    assert family_bytes(tmp_path) is None
    (tmp_path / "20/task/20").mkdir(parents=True)
    (tmp_path / "20/task/20/children").write_text("31 32 33 ")
    (tmp_path / "20/status").write_text("Name:\tpython\nPid:\t20\nPPid:\t10\n")
    assert family_bytes(tmp_path) == 15 * 1024


def test_own_memory_grows_with_what_is_taken() -> None:
    """The kernel's own words are understood."""
    before = private_bytes()
    taken = bytearray(b"x" * 50_000_000)
    after = private_bytes()
    assert before is not None and after is not None
    assert after - before > 0.9 * len(taken)


BLOCK_BYTES, MADE = 208, 1000
GAPS = f"""
import sys
from workers.pages import POOL_BYTES, fill_gaps

def blocks(count):
    return [bytes({BLOCK_BYTES} - sys.getsizeof(b"")) for _ in range(count)]

def pools():
    return len({{id(item) // POOL_BYTES for item in blocks({MADE})}})

before = blocks(20 * {MADE})
del before[::10]  # As an import does: gaps everywhere.
strewn = pools()
fillers = fill_gaps()
print(strewn, pools(), len(fillers))
"""


def told_by_a_new_process(script: str, **environ: str) -> str:
    """What a script prints in an interpreter whose heap no other test has used."""
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, **environ},
        capture_output=True, text=True, timeout=60, check=True).stdout


def test_what_is_made_after_the_gaps_were_filled_lies_together() -> None:
    """Each page with one object of a worker's among others is a page that each worker copies."""
    strewn, together, fillers = map(int, told_by_a_new_process(GAPS).split())
    fewest = MADE * BLOCK_BYTES // POOL_BYTES
    assert strewn > 5 * fewest
    assert together <= fewest + 2
    assert fillers > MADE


def test_with_an_allocator_of_another_kind_no_gaps_are_filled() -> None:
    """Filling would never come to an end there."""
    script = "from workers.pages import fill_gaps; print(fill_gaps())"
    assert told_by_a_new_process(script, PYTHONMALLOC="malloc") == "[]\n"
