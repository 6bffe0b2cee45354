"""A forked process's own command line and environment, in place of those of its origin.

What `ps` and /proc/<pid>/environ show of a process is the block of strings it was executed with.
A fork shows its parent's: the wrong command, and every secret of the environment.  Here the block
is emptied, and what it shows is written anew.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Sequence
from pathlib import Path

_STAT = Path("/proc/self/stat")
_ARG_START, _ARG_END, _ENV_START, _ENV_END = 47, 48, 49, 50
"""Fields of /proc/<pid>/stat, counted from 0; the second one may hold blanks."""


def set_title(words: Sequence[str], stat: Path = _STAT) -> bool:
    """Show `words` as the command line and nothing as environment; whether the kernel let us.

    The environment itself stays as it is: its strings move to the heap.  To be called while the
    process has one thread.
    """
    _move_environment()
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return False  # Where /proc is hidden, nobody reads the old one either.
    numbers = [int(fields[at - 2]) for at in (_ARG_START, _ARG_END, _ENV_START, _ENV_END)]
    arg_start, arg_end, env_start, env_end = numbers
    if not 0 < arg_start < arg_end <= env_start <= env_end:
        return False
    ctypes.memset(arg_start, 0, env_end - arg_start)
    # The kernel shows a text that runs over the end of the old words up to its first NUL.
    title = " ".join(words).encode().replace(b"\0", b" ").ljust(arg_end - arg_start)
    title = title[:env_end - arg_start - 1]
    ctypes.memmove(arg_start, title, len(title))
    return True


def keep_only(names: Collection[str]) -> None:
    """Forget every variable of the environment but `names`.

    The strings that libc holds are overwritten; copies that Python has made and freed are not.
    """
    kept = {name: os.environ[name] for name in names if name in os.environ}
    libc, strings = _environment()
    for index in _indices(strings):
        ctypes.memset(strings[index], 0, libc.strlen(ctypes.c_void_p(strings[index])))
    libc.clearenv()
    os.environ.clear()
    os.environ.update(kept)


def _move_environment() -> None:
    libc, strings = _environment()
    libc.strdup.restype = ctypes.c_void_p
    for index in _indices(strings):
        strings[index] = libc.strdup(ctypes.c_void_p(strings[index]))


def _environment() -> tuple[ctypes.CDLL, ctypes.Array[ctypes.c_void_p]]:
    """libc, and its array of pointers to NAME=VALUE, ended by None."""
    libc = ctypes.CDLL(None)
    libc.strlen.restype = ctypes.c_size_t
    return libc, ctypes.POINTER(ctypes.c_void_p).in_dll(libc, "environ")


def _indices(strings: ctypes.Array[ctypes.c_void_p]) -> range:
    count = 0
    while strings and strings[count]:
        count += 1
    return range(count)
