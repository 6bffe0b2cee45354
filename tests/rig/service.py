"""Runs the product as its operator does, and looks at it from outside: process, page, log.

    with Service(environment, workers=8) as service:
        service.wait_healthy(60)
        os.kill(service.worker_pids()["orders"], signal.SIGKILL)

Whatever happens in the block, no process of the service outlives it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.rig.environment import clean_environment
from tests.services.ports import free_ports
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
REQUEST_TIMEOUT_S = 5
STOP_TIMEOUT_S = 60
GONE_TIMEOUT_S = 10
FROZEN_TIMEOUT_S = 10
BODY_BYTES_MAX = 4_000_000
LOG_LINES_IN_ERRORS = 40
SIDECAR_MODULE = "healthcheck"
BLOCK_OPTION = "--block"

PSS_PREFIX = "Pss:"


class Service:
    """One run of the service; start it again with another object, or with `restart`.

    Args:
        environ: the service's own settings; HEALTH_PORT and LOG_FORMAT are added.
        workers: for ``--workers``; None leaves it out.
        module: what is run with ``python -m``; a test of the rig names a stand-in.
        folder: where the module lies.
        stderr: a descriptor that the service's output goes to instead of the log, which then
            stays empty; the caller closes it.

    Attributes:
        port: of the health page.
        log_path: what the service wrote to its standard error, of all starts.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        workers: int | None = None,
        *,
        module: str = "supervisor",
        folder: Path = ROOT,
        arguments: Sequence[str] = (),
        stderr: int | None = None,
    ) -> None:
        (self.port,) = free_ports(1)
        self.environ = {
            **clean_environment(),
            "LOG_FORMAT": "json",
            "HEALTH_HOST": HOST,
            "HEALTH_PORT": str(self.port),
            **environ,
        }
        self.port = int(self.environ["HEALTH_PORT"])
        self._command = [sys.executable, "-m", module, *arguments]
        if workers is not None:
            self._command += ["--workers", str(workers)]
        self._cwd = folder
        self._stderr = stderr
        self._own_folder = Path(tempfile.mkdtemp(prefix="bronze-test-service-"))
        self.log_path = self._own_folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[int, psutil.Process] = {}

    # Life

    def __enter__(self) -> Service:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill what is left; after a failure, show the end of the log."""
        if kind is not None:
            print(f"the service's last lines:\n{self.log_tail()}", file=sys.stderr)
        self.close()

    def start(self) -> None:
        """Start the supervisor; return at once."""
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError(f"the service runs already (pid {self.pid})")
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log if self._stderr is None else self._stderr,
                stderr=log if self._stderr is None else self._stderr,
                start_new_session=True,
            )
        self._known = {}

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Send SIGTERM to the supervisor and return its exit code.

        Raises:
            AssertionError: it did not end in time.
        """
        self.all_pids()
        self._running().terminate()
        return self.wait(timeout_s)

    def wait(self, timeout_s: float) -> int:
        """Wait for the supervisor's end and return its exit code; below zero is a signal."""
        try:
            return self._running().wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the supervisor did not end within {timeout_s:g} s; its last lines:\n"
                f"{self.log_tail()}"
            ) from None

    def kill_supervisor(self) -> None:
        """SIGKILL to the supervisor alone, and wait until it is gone; its children stay."""
        self.all_pids()
        self._running().kill()
        self._running().wait(GONE_TIMEOUT_S)

    def kill_all(self) -> None:
        """SIGKILL to every process of the service, as when the machine dies."""
        if self._process is None:
            return
        known = self._tree()
        # The supervisor first, which would start others in the place of those that die.
        self._process.kill()
        self._process.wait(GONE_TIMEOUT_S)

        def is_gone() -> bool:
            # Asked anew each time: a forkserver may have made one more child meanwhile.
            for victim in self._tree():
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            return not self._tree()

        wait_until(is_gone, GONE_TIMEOUT_S, lambda: f"all are killed, were: {known}")

    def freeze(self) -> list[int]:
        """SIGSTOP to every process, as when the machine is suspended; return who was stopped."""
        frozen: dict[int, psutil.Process] = {}

        def is_frozen() -> bool:
            # The supervisor first, which takes the silence of the others for a hang; and asked
            # anew, because the forkserver may have made one more child meanwhile.
            everybody = sorted(self._tree(), key=lambda process: process.pid != self.pid)
            for process in everybody:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGSTOP)
            frozen.update((process.pid, process) for process in everybody)
            return all(process.status() == psutil.STATUS_STOPPED for process in self._tree())

        wait_until(is_frozen, FROZEN_TIMEOUT_S, "every process is stopped")
        return list(frozen)

    def thaw(self) -> None:
        """SIGCONT to every process."""
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill what is left of the last run and start again, with the same settings."""
        self.kill_all()
        self.start()

    def close(self) -> None:
        """Kill every process and delete the log; no effect the second time."""
        self.kill_all()
        shutil.rmtree(self._own_folder, ignore_errors=True)

    # The page

    def get(self, path: str) -> tuple[int, bytes]:
        """GET a path of the health page: status and body; raises OSError when nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read(BODY_BYTES_MAX)
        except http.client.HTTPException as error:
            raise ConnectionError(f"no HTTP from the health page: {error!r}") from error
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        """The body of /health, with its HTTP status as `http_status`; {} when unreachable."""
        try:
            status, body = self.get("/health")
            page: dict[str, Any] = json.loads(body)
        except (OSError, ValueError):
            return {}
        return {**page, "http_status": status}

    def topics(self) -> dict[str, dict[str, Any]]:
        """What /health says of each topic; {} when unreachable."""
        found: dict[str, dict[str, Any]] = self.health().get("topics") or {}
        return found

    def wait_for(
        self, condition: Callable[[dict[str, Any]], bool], timeout_s: float, what: str
    ) -> dict[str, Any]:
        """Ask /health until a condition holds for it, and return that page.

        Raises:
            AssertionError: the time is up, or the supervisor ended meanwhile.
        """
        last: dict[str, Any] = {}

        def holds() -> bool:
            last.clear()
            last.update(self.health())
            assert self.is_running(), f"the supervisor ended ({self.exit_code}):\n{self.log_tail()}"
            return bool(last) and condition(last)

        wait_until(holds, timeout_s, lambda: f"{what}; /health: {last}\n{self.log_tail()}")
        return last

    def wait_healthy(self, timeout_s: float) -> dict[str, Any]:
        """Wait until /health answers 200, and return the page."""
        return self.wait_for(lambda page: page["http_status"] == 200, timeout_s, "it is healthy")

    def wait_unhealthy(self, timeout_s: float) -> dict[str, Any]:
        """Wait until /health answers 503, and return the page."""
        return self.wait_for(lambda page: page["http_status"] == 503, timeout_s, "it is unhealthy")

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until /readyz answers 200."""

        def is_ready() -> bool:
            assert self.is_running(), f"the supervisor ended ({self.exit_code}):\n{self.log_tail()}"
            try:
                return self.get("/readyz")[0] == 200
            except OSError:
                return False

        wait_until(is_ready, timeout_s, lambda: f"it is ready\n{self.log_tail()}")

    # Processes

    @property
    def pid(self) -> int:
        """The supervisor's pid, also after its end."""
        return self._running().pid

    @property
    def exit_code(self) -> int | None:
        """The supervisor's; None while it runs."""
        return self._running().poll()

    def is_running(self) -> bool:
        """Whether the supervisor runs."""
        return self._process is not None and self._process.poll() is None

    def worker_pids(self) -> dict[str, int]:
        """Topic to the pid of its worker, as /health has it; topics without one are left out."""
        return {topic: entry["pid"] for topic, entry in self.topics().items() if entry.get("pid")}

    def sidecar_pid(self) -> int | None:
        """The pid of the process that was run with ``-m healthcheck``."""
        found = self._sidecar()
        return None if found is None else found[0]

    def block_path(self) -> Path | None:
        """Where the shared block lies, as the sidecar was told; None without a sidecar."""
        found = self._sidecar()
        return None if found is None else Path(found[1][found[1].index(BLOCK_OPTION) + 1])

    def _sidecar(self) -> tuple[int, list[str]] | None:
        """Pid and command of the sidecar."""
        for process in self._tree():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if ["-m", SIDECAR_MODULE] in [command[at : at + 2] for at in range(len(command))]:
                return int(process.pid), command
        return None

    def all_pids(self) -> list[int]:
        """Every living process of the service, those whose parent has died included."""
        return [process.pid for process in self._tree()]

    def wait_gone(self, timeout_s: float) -> None:
        """Wait until no process of the service is left."""
        self.all_pids()
        wait_until(
            lambda: not self.all_pids(), timeout_s, lambda: f"all ended, left: {self._tree()}"
        )

    def pss_bytes(self) -> int:
        """Memory of the whole service: the PSS of every process, so that shared pages count once.

        A process that ends while it is looked at counts nothing.
        """
        return sum(_pss_bytes(pid) for pid in self.all_pids())

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of each living process so far, ended children included, by pid and command."""
        used = {}
        for process in self._tree():
            try:
                times, command = process.cpu_times(), " ".join(process.cmdline())
            except psutil.Error:
                continue
            used[f"{process.pid} {command}"] = (
                times.user + times.system + times.children_user + times.children_system)
        return used

    # The log

    def log_events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log's lines that are JSON objects, in order; of one `event`, when it is named."""
        events = []
        for line in self._log_lines():
            try:
                parsed = json.loads(line)
            except ValueError:
                continue
            if isinstance(parsed, dict) and (event is None or parsed.get("event") == event):
                events.append(parsed)
        return events

    def log_strays(self) -> list[str]:
        """The log's lines that are not JSON objects: tracebacks, or output of libraries."""
        return [line for line in self._log_lines() if line and not line.startswith("{")]

    def log_tail(self, count: int = LOG_LINES_IN_ERRORS) -> str:
        """The log's last lines."""
        return "\n".join(self._log_lines()[-count:])

    def _log_lines(self) -> list[str]:
        if not self.log_path.exists():
            return []
        return self.log_path.read_text(errors="replace").splitlines()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the service was not started")
        return self._process

    def _tree(self) -> list[psutil.Process]:
        """Every living process of the service.

        A child whose parent died is nobody's child of ours any more. It is still known by the
        session that `start` made, which daemons of the service do not leave.
        """
        if self._process is None:
            return []
        session = self._process.pid
        for process in psutil.process_iter():
            if process.pid not in self._known and _session_of(process.pid) == session:
                self._known[process.pid] = process
        if self._process.poll() is None:
            try:
                for child in psutil.Process(session).children(recursive=True):
                    self._known.setdefault(child.pid, child)
            except psutil.NoSuchProcess:
                pass  # It ended between the two questions.
        # psutil compares start times, so that a number that was given away again is not ours.
        self._known = {
            pid: process for pid, process in self._known.items() if _is_alive(process)
        }
        return list(self._known.values())


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _pss_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    lines = (line for line in text.splitlines() if line.startswith(PSS_PREFIX))
    return sum(int(line.split()[1]) * 1024 for line in lines)
