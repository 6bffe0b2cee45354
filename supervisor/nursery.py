"""The forkserver, forked from the supervisor itself instead of started as a program of its own.

Workers and health page are forked from it, so all of the service's processes share the pages of
one interpreter.  It is forked before the configuration is read and while there is one thread: no
secret of the configuration and no client is in it.  It imports the workers' libraries only when
told to, and ends at once when the supervisor ends before that.

Should it die, multiprocess starts another one by itself, as a program; everything works as before,
only the pages of the interpreter are no longer shared with the supervisor.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - looking up a host's name would import it in each process
import gc
import os
import signal
import socket
import sys
from typing import NoReturn

from multiprocess import connection, forkserver

from healthcheck import entry as page
from shared.process_title import set_title
from workers import entry as worker
from workers.pages import give_back

PRELOAD = [*page.PRELOAD, *worker.PRELOAD]
"""What the forkserver imports once; the workers' part comes last, for it settles the heap, and as
the other order costs each worker 2 MB."""
TITLE = [sys.executable, "-m", "multiprocess.forkserver"]
DESCRIPTORS_MAX = 65536
"""Nobody starts a program with a higher number; a system's own limit may be a thousand million,
and where the kernel cannot close a range at once, each one is closed by a call."""

_OPEN = b"\1"


class Nursery:
    """A forked forkserver that waits; `open` lets it begin."""

    def __init__(self, pid: int, address: str, alive_fd: int, open_fd: int) -> None:
        self._pid, self._address = pid, address
        self._alive_fd, self._open_fd = alive_fd, open_fd

    @classmethod
    def fork(cls) -> Nursery:
        """Fork it; the caller has one thread and no secret yet.  Raises OSError."""
        gc.collect()
        # What both have stays as it is: a collector that looks at it would copy it.
        gc.freeze()
        give_back()
        address = connection.arbitrary_address("AF_UNIX")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            alive_read, alive_write = os.pipe()
            open_read, open_write = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(alive_write)
                os.close(open_write)
                _serve(listener.detach(), alive_read, open_read)
        os.close(alive_read)
        os.close(open_read)
        return cls(pid, address, alive_write, open_write)

    def open(self) -> None:
        """Let it import what workers need, and have multiprocess use it."""
        server = forkserver._forkserver
        server._forkserver_pid = self._pid
        server._forkserver_address = self._address
        server._forkserver_alive_fd = self._alive_fd
        try:
            os.write(self._open_fd, _OPEN)
        except BrokenPipeError:
            pass  # It was killed; whoever asks it for a process gets another one.
        os.close(self._open_fd)


def _serve(listener_fd: int, alive_fd: int, open_fd: int) -> NoReturn:
    """The forkserver's whole life; it leaves when nobody holds the other end of `alive_fd`."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _close_all_but(listener_fd, alive_fd, open_fd)
        set_title(TITLE)
        if os.read(open_fd, 1) == _OPEN:
            os.close(open_fd)
            forkserver.main(listener_fd, alive_fd, PRELOAD)
    except SystemExit:
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _close_all_but(*descriptors: int) -> None:
    """Leave to the supervisor what it was started with, a lock say, as any program started would.

    Standard input, output and error stay.
    """
    bounds = [2, *sorted(descriptors), DESCRIPTORS_MAX]
    for low, high in zip(bounds, bounds[1:], strict=False):
        os.closerange(low + 1, high)
