"""The service under measurement: started as its operator does, seen through its own endpoints."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from bench import installation
from bench.installation import ROOT
from tests.rig.environment import clean_environment
from tests.services.ports import free_ports

HOST = "127.0.0.1"
REQUEST_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 45.0
NOTE_BYTES_MAX = 4096
LOG_LINES_IN_ERRORS = 30


class ProductError(Exception):
    """The service ended, or did not do what it is measured for in time."""


def measured_environment() -> dict[str, str]:
    """A clean environment, without settings of the interpreter, too."""
    return {name: value for name, value in clean_environment().items()
            if not name.startswith("PYTHON")}


def parse_metrics(text: str) -> dict[str, float]:
    """Metric -> the sum over its label sets, and `max:metric` -> the highest of them."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name, number = series.partition("{")[0], float(value)
            found[name] = found.get(name, 0.0) + number
            found[f"max:{name}"] = max(found.get(f"max:{name}", number), number)
    return found


class Product:
    """One run of the service, killed with all its processes when the `with` block is left.

    It runs from this checkout on an installation of requirements.txt alone.

    Attributes:
        started_at, ready_at: Unix times of the start and of the message READY=1 that the service
            sends to its service manager, whose part is played here.
    """

    def __init__(self, environ: Mapping[str, str], workers: int, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._log_path = self._folder / "service.log"
        self._notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notes.bind(str(self._folder / "notify"))
        self._environ = {
            **measured_environment(), "LOG_FORMAT": "json", "HEALTH_HOST": HOST,
            "HEALTH_PORT": str(self._port), "NOTIFY_SOCKET": str(self._folder / "notify"),
            **environ}
        self._command = [str(installation.python()), "-m", "supervisor", "--workers", str(workers)]
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at = self.ready_at = 0.0

    def __enter__(self) -> Product:
        with self._log_path.open("wb") as log:
            self.started_at = time.time()
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environ, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._process is not None and self._process.poll() is None:
                self.stop()
        finally:
            self._notes.close()

    @property
    def pid(self) -> int:
        """The supervisor's."""
        assert self._process is not None
        return self._process.pid

    def wait_ready(self, timeout_s: float) -> None:
        """Return at the service's READY=1.

        Raises:
            ProductError: it ended or the time is up.
        """
        deadline = time.monotonic() + timeout_s
        self._notes.settimeout(0.5)
        while time.monotonic() < deadline:
            try:
                note = self._notes.recv(NOTE_BYTES_MAX)
            except TimeoutError:
                self.must_run()
                continue
            if b"READY=1" in note.splitlines():
                self.ready_at = time.time()
                return
        raise ProductError(f"the service was not ready within {timeout_s:g} s:\n{self.log_tail()}")

    def metrics(self) -> dict[str, float]:
        """See `parse_metrics`; {} while the sidecar does not answer."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            return parse_metrics(answer.read().decode()) if answer.status == 200 else {}
        except (OSError, http.client.HTTPException):
            return {}
        finally:
            connection.close()

    def must_run(self) -> None:
        """Raise `ProductError` if it ended."""
        if self._process is None or self._process.poll() is not None:
            code = None if self._process is None else self._process.returncode
            raise ProductError(f"the service ended with {code}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of its log."""
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_IN_ERRORS:])

    def stop(self) -> int:
        """Stop it by SIGTERM, or by SIGKILL to all its processes when it does not; its code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            # The workers leave with their supervisor by themselves.
            self._process.kill()
            return self._process.wait(STOP_TIMEOUT_S)


def committed(metrics: Mapping[str, float]) -> int:
    """Messages that are in a table, by the service's own account."""
    return int(metrics.get("bronze_rows_total", 0) + metrics.get("bronze_dead_letters_total", 0))
