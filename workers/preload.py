"""Imported once by the forkserver: what every worker needs.  Imports only, no client is made.

Whatever object a worker uses, it writes to: it counts the reference, and so copies the page.  What
workers use shall therefore lie together, apart from what is only there: decision 12.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys

from multiprocess import reduction

from workers.pages import fill_gaps, forget_clean_pages, give_back_free_heap

# The libraries have left gaps; the workers' own modules come behind them, side by side.
_fillers = fill_gaps()
import workers.assembly  # noqa: E402, F401
import workers.entry  # noqa: E402, F401


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
# The interpreter's cache of attributes counts a reference to each name: a worker that replaces
# an entry would write to the old name's page as well.
sys._clear_type_cache()
_fillers += fill_gaps()
gc.freeze()
give_back_free_heap()
forget_clean_pages()
