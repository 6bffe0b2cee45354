"""Standard error that never makes its writer wait.

A pipe whose reader has stopped, or a journal that hangs, would otherwise stop ingestion at the
next log line: a full pipe blocks its writer for ever.  Here a line that does not fit now is
dropped and counted, and the count goes out before the next line that fits.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import TextIO

STDERR = 2


class PatientStream:
    """What a `logging.StreamHandler` wants of a stream; `write` returns at once."""

    def __init__(self, descriptor: int = STDERR) -> None:
        self._send = _sender(descriptor)
        self._rest = b""
        self._dropped = 0

    def write(self, text: str) -> None:
        """Send a line, or count it as dropped; raises nothing."""
        line = text.encode(errors="replace")
        if not self._flush():
            self._dropped += 1
            return
        if self._dropped:
            note = f'{{"event": "log_lines_dropped", "pid": {os.getpid()}, "count": '
            self._rest = f"{note}{self._dropped}}}\n".encode()
            self._dropped = 0
        self._rest += line
        self._flush()

    def _flush(self) -> bool:
        """Send what is left of the last line; whether nothing is left."""
        try:
            while self._rest:
                self._rest = self._rest[self._send(self._rest):]
        except BlockingIOError:
            return False
        except OSError:
            self._rest = b""  # Nobody reads any more.
        return True

    def flush(self) -> None:
        """Nothing is kept back but what does not fit."""


def _sender(descriptor: int) -> Callable[[bytes], int]:
    """How to write there without waiting.

    The descriptor itself stays as it is: it is shared with whoever started us, and to make it
    non-blocking would make theirs so.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        journal = socket.socket(fileno=os.dup(descriptor))
        return lambda data: journal.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            own = os.open(f"/proc/self/fd/{descriptor}",
                          os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            own = descriptor
        return lambda data: os.write(own, data)
    return lambda data: os.write(descriptor, data)


def open_stderr() -> TextIO | PatientStream:
    """A stream on standard error, also when that is closed."""
    try:
        return PatientStream()
    except OSError:
        return open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
