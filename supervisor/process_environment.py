"""Allocator settings for the worker processes; read when a process starts, so set before that.

Measured effect: about half of a worker's private memory.  Whoever sets one of these outside keeps
their own value.
"""

from __future__ import annotations

from collections.abc import MutableMapping

SETTINGS = {
    # One malloc arena: threads of librdkafka would each get their own.
    "MALLOC_ARENA_MAX": "1",
    # Keep what a batch and a page need, give back what is more.  With glibc's own 128 KiB each of
    # their buffers would be mapped and paged in anew: 40 % of the CPU per message, measured.
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "1048576",
    # Arrow on the same malloc, so that it shares what is free.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # delta-rs carries its own jemalloc, which reads this name only.
    "_RJEM_MALLOC_CONF": "narenas:1,background_thread:false,dirty_decay_ms:0,muzzy_decay_ms:0",
    # One thread for delta-rs and obstore each; eight workers share two cores anyway.
    "TOKIO_WORKER_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def settle(environ: MutableMapping[str, str]) -> None:
    """Fill in what is not set."""
    for name, value in SETTINGS.items():
        environ.setdefault(name, value)
