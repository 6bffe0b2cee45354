"""Imported once by the forkserver: what every worker needs.  Imports only, no client is made."""

from __future__ import annotations

import errno
import gc
import os
import socket

from multiprocess import reduction

import workers.assembly
import workers.entry  # noqa: F401
from workers.pages import forget_clean_pages, give_back_free_heap


def survive_refused_forks() -> None:
    """Let the forkserver outlive a fork that the host refuses; it would end, and all with it.

    It takes a connection that was aborted for no reason to end.  Whoever asked for the process
    sees the end of a file, as the descriptors sent along are closed.
    """
    receive, fork = reduction.recvfds, os.fork
    received: list[int] = []

    def recvfds(sender: socket.socket, size: int) -> list[int]:
        received[:] = receive(sender, size)
        return list(received)

    def fork_or_abort() -> int:
        try:
            return fork()
        except OSError as error:
            for descriptor in received:
                os.close(descriptor)
            raise ConnectionAbortedError(errno.ECONNABORTED, str(error)) from error

    reduction.recvfds, os.fork = recvfds, fork_or_abort


survive_refused_forks()
# What was made so far stays: a worker's collector would otherwise touch, and so copy, all of it.
gc.collect()
gc.freeze()
give_back_free_heap()
forget_clean_pages()
