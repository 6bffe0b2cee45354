"""Imported once by the forkserver: what every worker needs.  Imports only, no client is made.

Whatever object a worker uses, it writes to: it counts the reference, and so copies the page.  What
workers use shall therefore lie together, apart from what is only there: decision 14.
"""

from __future__ import annotations

import errno
import gc
import os
import socket
import sys

import pyarrow as pa
from multiprocess import reduction

from shared.records import BRONZE, DLQ
from shared.version import SERVICE_VERSION
from workers.pages import fill_gaps, give_back

# The libraries have left gaps; the workers' own modules come behind them, side by side.
_fillers = fill_gaps()
import workers.assembly  # noqa: E402, F401
import workers.entry  # noqa: E402, F401
from workers.batch import Batch  # noqa: E402
from workers.decoder import decode  # noqa: E402
from workers.parquet_file import ParquetFile  # noqa: E402
from workers.schemas import BRONZE_FILE, DLQ_FILE  # noqa: E402

REHEARSALS = 16
"""The interpreter specialises a function's code after some calls of it; eight in Python 3.11."""


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


def rehearse() -> None:
    """Take a batch with a good and a bad message through to its files, which go nowhere.

    What libraries and the interpreter make at first use is so made here once: Arrow's table of
    casts alone is 0.8 MB, the interpreter's specialised code lies on pages that each worker would
    copy.  Nothing of it starts a thread.
    """
    batch = Batch([0] * 2, [0, 1], [0] * 2, [b"key"] * 2, [b"{}", b"\xff"], [[("name", b"")], None])
    for table, rows, schema in _decoded(batch):
        file = ParquetFile(table, schema, date="1970-01-01", row_group_bytes=1)
        for _ in range(REHEARSALS):
            file.append(rows, raw_bytes=0)
        file.close(now_ms=0)


def _decoded(batch: Batch) -> list[tuple[str, pa.RecordBatch, pa.Schema]]:
    """What became of the batch: the rows and the dead letter with their tables."""
    found = [decode(batch, 0, "rehearsal", SERVICE_VERSION) for _ in range(REHEARSALS)][-1]
    return [(BRONZE, found.rows, BRONZE_FILE), (DLQ, found.dead, DLQ_FILE)]


survive_refused_forks()
rehearse()
gc.collect()
give_back()
# The interpreter's cache of attributes counts a reference to each name: a worker that replaces
# an entry would write to the old name's page as well.
sys._clear_type_cache()
_fillers += fill_gaps()
# What was made so far stays: a worker's collector would otherwise touch, and so copy, all of it.
gc.freeze()
