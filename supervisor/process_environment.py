"""Allocator settings for the service's processes, set before any of them does its work.

Libraries read theirs when they are loaded, malloc its own when a program starts: it is told anew.

Measured effect: about half of a worker's private memory.  Whoever sets one of these outside keeps
their own value.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, MutableMapping

SETTINGS = {
    # One malloc arena: threads of librdkafka would each get their own.
    "MALLOC_ARENA_MAX": "1",
    # Keep what a batch and a page need, give back what is more.  With glibc's own 128 KiB each of
    # their buffers would be mapped and paged in anew: 40 % of the CPU per message, measured.
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "1048576",
    # Arrow on the same malloc, so that it shares what is free.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # The Delta library, where the keeper needs it, carries its own jemalloc: its name for this.
    "_RJEM_MALLOC_CONF": "narenas:1,background_thread:false,dirty_decay_ms:0,muzzy_decay_ms:0",
    # The jemalloc in Arrow, unused, would start a thread in the forkserver all the same.
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # One thread for requests to the store; eight workers share two cores anyway.
    "TOKIO_WORKER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8}
"""glibc's numbers for the same in mallopt(3)."""


def settle(environ: MutableMapping[str, str]) -> None:
    """Fill in what is not set, for programs to come, for this process and its forks."""
    missing = [name for name in SETTINGS if name not in environ]
    for name in missing:
        environ[name] = SETTINGS[name]
    tell_malloc(missing)


def tell_malloc(names: Iterable[str]) -> list[str]:
    """Have this process's malloc follow those of the settings that are malloc's; which it took."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # glibc's own; others take none of these
        return []
    return [name for name in names
            if name in _MALLOPT and mallopt(_MALLOPT[name], int(SETTINGS[name])) == 1]
