"""Gives memory back: pages of libraries that only their loading has read, and free heap; and
keeps together, before a fork, what its children will write to.

Importing the workers' libraries reads 20 MB of symbol tables and code that nobody looks at again.
They are clean pages of files, so the kernel would take them first when memory is short; until then
they count as ours.  What is needed after all is read again, from the page cache.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.clock import SystemClock

MADV_DONTNEED = 4
FORGET_INTERVAL_S = 5.0
"""Looking for clean pages takes some milliseconds; a cycle may be shorter than a second.  Half of
the usual cycle: with the whole, every second commit would come just before it is over."""

POOL_BYTES = 16384
POOL_HEADER_BYTES = 48
SMALL_BYTES_MAX = 512
SIZE_STEP = 16
"""How CPython hands out small objects: pools of one size each, a header first (3.10 to 3.14)."""
NEW_POOL_BLOCKS_MAX = 4
GAPS_BYTES_MAX = 4 * 1024 * 1024
"""There was a twentieth of it; whoever finds more has an allocator of another kind."""

_PRIVATE = re.compile(r"^Private_Dirty:\s+(\d+) kB$", re.MULTILINE)
_PROPORTIONAL = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)
_PARENT = re.compile(r"^PPid:\s+(\d+)$", re.MULTILINE)
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ [1-9]\d* +/.*")


class Tidier:
    """Gives a process's memory back where a cycle leaves it unused."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._due_at = 0.0

    def now_and_then(self) -> bool:
        """Give back what can be, once in an interval; whether it was done now."""
        now = self._clock.monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + FORGET_INTERVAL_S
        give_back()
        return True

    def after_start(self) -> None:
        """Opening tables has read the code that a commit reads, and made and dropped their logs."""
        give_back()

    def after_upload(self) -> None:
        """What a batch, a row group and a file needed is free now."""
        give_back_free_heap()

    def after_commit(self) -> int | None:
        """A commit has read code that reading messages does not use: 20 MB over eight workers.

        What is left is told, in bytes of this process alone, when it was looked at.
        """
        return private_bytes() if self.now_and_then() else None


def give_back() -> None:
    """Both: clean pages and free heap."""
    give_back_free_heap()
    forget_clean_pages()


def forget_clean_pages(smaps: Path = Path("/proc/self/smaps")) -> int:
    """Drop clean, read-only pages of this process's files; how many bytes of address space.

    A mapping with a single page of our own in it (a relocated table, say) is left alone: dropping
    that page would bring the file's bytes back in its place.  Where the kernel does not tell its
    mappings, nothing is dropped: it is a saving, not a need.
    """
    try:
        lines = smaps.read_text().splitlines()
    except OSError:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    total = 0
    for start, end in clean_mappings(lines):
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED) == 0:
            total += end - start
    return total


def private_bytes(rollup: Path = Path("/proc/self/smaps_rollup")) -> int | None:
    """Bytes that this process alone has written to; None where the kernel does not tell.

    What it has only read, the kernel can take back by itself.
    """
    try:
        found = _PRIVATE.search(rollup.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found is not None else None


def family_bytes(proc: Path = Path("/proc")) -> int | None:
    """What the service's processes hold together, shared pages counted once; None where the kernel
    does not tell.  Asked by a child of the forkserver, as all others but the supervisor are.
    """
    forkserver = os.getppid()
    try:
        listed = (proc / f"{forkserver}/task/{forkserver}/children").read_text().split()
        above = _PARENT.search((proc / f"{forkserver}/status").read_text())
        if above is None:
            return None
        return sum(_proportional_bytes(proc / pid)
                   for pid in (above[1], str(forkserver), *listed))
    except OSError:
        return None


def _proportional_bytes(process: Path) -> int:
    """0 for one that has ended meanwhile."""
    try:
        found = _PROPORTIONAL.search((process / "smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) * 1024 if found is not None else 0


def give_back_free_heap() -> None:
    """Return what malloc keeps for later to the kernel; a millisecond, once per flush."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's own; others give back by themselves
        trim(0)


def fill_gaps() -> list[object]:
    """Objects that take what is free in pools in use, to be kept: what is made next lies together.

    An import leaves gaps behind, and what comes later would be strewn over them.  A child of a
    fork copies each page on which it touches one object, so that would make it many pages.
    Nothing is kept where small objects are not handed out as described above.
    """
    kept: list[object] = []
    left = GAPS_BYTES_MAX
    for size in range(SIZE_STEP, SMALL_BYTES_MAX + 1, SIZE_STEP):
        while not _is_in_a_new_pool(block := _block(size)):
            kept.append(block)
            left -= size
            if left < 0:
                return []
    return kept


def _is_in_a_new_pool(block: object) -> bool:
    """Whether the block's pool was begun for it: no pool of that size had a gap left."""
    address = id(block)
    if address % POOL_BYTES != POOL_HEADER_BYTES:
        return False
    # A pool begins with the number of its blocks in use; ints of this function may be among them.
    return ctypes.c_uint.from_address(address - POOL_HEADER_BYTES).value <= NEW_POOL_BLOCKS_MAX


def _block(size: int) -> object:
    """An object of no use that takes `size` bytes and refers to none but its type."""
    if size < sys.getsizeof(b""):
        return object() if size == SIZE_STEP else 2.0 ** size
    return bytes(size - sys.getsizeof(b""))


def clean_mappings(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """(start, end) of private, file-backed mappings that cannot be written and hold no own page."""
    candidate: tuple[int, int] | None = None
    for line in lines:
        found = _MAPPING.fullmatch(line)
        if found is not None:
            start, end, mode = found.groups()
            candidate = (int(start, 16), int(end, 16)) if "w" not in mode and mode[3] == "p" \
                else None
        elif line.startswith("Anonymous:") and candidate is not None:
            if line.split()[1] == "0":
                yield candidate
            candidate = None
        elif "-" in line.split(" ", 1)[0]:
            candidate = None
