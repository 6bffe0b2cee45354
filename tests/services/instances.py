"""Something that runs a service and can be stopped, killed, paused and started again.

``LocalProcess`` and ``Container`` keep the same promises, so that the services above them need
not know which of the two they stand on: the data and the ports survive ``kill`` and ``stop``,
``remove`` deletes both the runner and its data, and nothing of it outlives this Python process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.services.errors import ServiceError
from tests.services.reaper import Reaper

if TYPE_CHECKING:
    from docker.models.containers import Container as EngineContainer

STOP_TIMEOUT_S = 60
"""How long a polite stop may take before it counts as a failure."""
KILL_TIMEOUT_S = 30
LOG_LINES_MAX = 30


class Instance(Protocol):
    """One runner of one service; every method may be called in any state."""

    def start(self) -> None:
        """Run the service; return at once, before it is ready. No effect when it runs."""

    def stop(self) -> None:
        """Ask the service to end (SIGTERM) and wait until it has.

        Raises:
            ServiceError: it did not end within ``STOP_TIMEOUT_S``; it was killed then.
        """

    def kill(self) -> None:
        """End the service with SIGKILL and wait until it is gone."""

    def pause(self) -> None:
        """Freeze the service: its connections stay open and nothing answers."""

    def resume(self) -> None:
        """Let a paused service go on."""

    def is_running(self) -> bool:
        """Tell whether the service has been started and has not ended; paused counts as running."""

    def log_tail(self) -> str:
        """Return the last lines of what the service wrote to its output."""

    def remove(self) -> None:
        """Kill the service and delete its data; after that, only ``remove`` may be called."""


class LocalProcess:
    """A service as a process group of its own, with its data in one folder.

    Args:
        command: program and arguments.
        environ: the whole environment of the process.
        folder: holds the data and ``service.log``; deleted by ``remove``. The reaper watches it.
        reaper: told of the process, for the case that this one cannot clean up.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], folder: Path, reaper: Reaper
    ) -> None:
        self._command = list(command)
        self._environ = dict(environ)
        self._folder = folder
        self._log_path = folder / "service.log"
        self._reaper = reaper
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self.is_running():
            return
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._reaper.watch("process_group", self._process.pid)

    def stop(self) -> None:
        if self._process is None:
            return
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServiceError(
                f"{self._command[0]} (pid {self._process.pid}) did not end within "
                f"{STOP_TIMEOUT_S} s of SIGTERM and was killed; its last lines:\n{self.log_tail()}"
            ) from None
        self._reaper.forget("process_group", self._process.pid)

    def kill(self) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait(timeout=KILL_TIMEOUT_S)
        self._reaper.forget("process_group", self._process.pid)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        if not self._log_path.exists():
            return "(no output)"
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_MAX:])

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._reaper.forget("folder", str(self._folder))

    def _signal(self, number: signal.Signals) -> None:
        # An ended process is not signalled: its number may belong to somebody else by now.
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)


class Container:
    """A service in a container that was created, and not started, by the caller."""

    def __init__(self, container: EngineContainer, reaper: Reaper) -> None:
        self._container = container
        self._reaper = reaper
        self._is_removed = False
        reaper.watch("container", str(container.id))

    def start(self) -> None:
        self._container.start()

    def stop(self) -> None:
        if self.is_running():
            self.resume()
            # The engine kills by itself when the time is over; exit code 137 tells.
            self._container.stop(timeout=STOP_TIMEOUT_S)
            if self._exit_code() == 128 + signal.SIGKILL:
                raise ServiceError(
                    f"container {self._container.name} did not end within {STOP_TIMEOUT_S} s "
                    f"of SIGTERM and was killed; its last lines:\n{self.log_tail()}"
                )

    def kill(self) -> None:
        if self.is_running():
            self._container.kill()
            self._container.wait(timeout=KILL_TIMEOUT_S)

    def pause(self) -> None:
        if self._status() == "running":
            self._container.pause()

    def resume(self) -> None:
        if self._status() == "paused":
            self._container.unpause()

    def is_running(self) -> bool:
        return self._status() in ("running", "paused", "restarting")

    def log_tail(self) -> str:
        return str(self._container.logs(tail=LOG_LINES_MAX).decode(errors="replace"))

    def remove(self) -> None:
        if self._is_removed:
            return
        self._container.remove(force=True, v=True)
        self._is_removed = True
        self._reaper.forget("container", str(self._container.id))

    def _status(self) -> str:
        self._container.reload()
        return str(self._container.status)

    def _exit_code(self) -> int:
        self._container.reload()
        return int(self._container.attrs["State"]["ExitCode"])
