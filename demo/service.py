"""Runs the service as a separate process, the way an operator would, and ends it for certain."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# What the reader's shell may hold for a real installation. None of it may reach the demo's
# service: it would send real credentials to a toy, or the toy's events to a real lake.
_FOREIGN_PREFIXES = ("KAFKA_", "AWS_", "LAKE_", "HEALTH_")
_FOREIGN_NAMES = ("INSTANCE_ID", "NOTIFY_SOCKET")
_HOST = "127.0.0.1"
_DEFAULT_INTERVAL_SECONDS = "5"
_STOP_SECONDS = 30.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05
_LOG_TAIL_BYTES = 64_000


_SESSION_TIMEOUT_MS = "6000"


def environment(
    base: Mapping[str, str], *, broker: str, topics: Sequence[str], lake: Path, port: int
) -> dict[str, str]:
    """The service's environment: the reader's own, without what belongs elsewhere."""
    kept = {
        name: value
        for name, value in base.items()
        if not name.startswith(_FOREIGN_PREFIXES) and name not in _FOREIGN_NAMES
    }
    kept.setdefault("BATCH_INTERVAL_SECONDS", _DEFAULT_INTERVAL_SECONDS)
    return kept | {
        # The mock knows no static members: it holds a killed worker's place for a session.
        "KAFKA_PROPERTY_SESSION_TIMEOUT_MS": _SESSION_TIMEOUT_MS,
        "KAFKA_BOOTSTRAP_SERVERS": broker,
        "KAFKA_TOPICS": ",".join(topics),
        "LAKE_URI": str(lake),
        "HEALTH_HOST": _HOST,
        "HEALTH_PORT": str(port),
        "LOG_FORMAT": "json",
    }


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


class Service:
    """The service's process, in a process group of its own.

    Its own group, because Ctrl-C reaches every process of the terminal's foreground group:
    the demo alone decides when the service is told to stop.
    """

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], *, cwd: Path, log: Path, lock: int
    ) -> None:
        """Start it. `lock` is a file descriptor it keeps open for as long as it lives."""
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=(lock,),
            )
        self._log = log
        self._is_gone = False

    @property
    def pid(self) -> int:
        """The supervisor's process id, which is also its group's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def stop(self, is_urgent: Callable[[], bool]) -> int:
        """SIGTERM, a bounded wait, then SIGKILL to what is left; returns the exit code.

        The wait ends early when `is_urgent` says so. Stopping twice is harmless.
        """
        if self._is_gone:
            return self._process.wait(_KILL_SECONDS)
        if self._process.poll() is None:
            self._process.terminate()
            deadline = time.monotonic() + _STOP_SECONDS
            while self._process.poll() is None:
                if time.monotonic() > deadline or is_urgent():
                    break
                time.sleep(_POLL_SECONDS)
        self._kill_group()
        # From here on the group's number may belong to somebody else.
        self._is_gone = True
        return self._process.wait(_KILL_SECONDS)

    def _kill_group(self) -> None:
        """End the workers too, should the supervisor have left any behind."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            # Nobody is left; macOS says so with the second one when only a zombie is.
            return

    def log_tail(self, lines: int) -> list[str]:
        """The last lines it logged."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-lines:]
