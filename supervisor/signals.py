"""Signals become data: handlers only note a number, the main loop acts on it in its own time."""

from __future__ import annotations

import os
import signal
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PENDING_MAX = 64


class Signals:
    """Installs handlers; `fd` becomes readable when a signal has come."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._pending: list[int] = []
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if len(self._pending) < PENDING_MAX:
            self._pending.append(number)

    def take(self) -> list[int]:
        """The signals since the last call, oldest first."""
        drain(self.fd)
        taken, self._pending = self._pending, []
        return taken


def drain(fd: int) -> None:
    """Empty a non-blocking pipe of wake-up bytes."""
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        pass
