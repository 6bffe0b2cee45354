"""The health sidecar as a child process, restarted with back-off; ingestion never waits for it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.backoff import Backoff
from shared.config import Config
from shared.logs import log_event

logger = logging.getLogger("supervisor")

RESTART_FIRST_S, RESTART_MAX_S = 0.5, 30.0
STEADY_S = 60.0
"""A sidecar that lived this long starts the back-off anew."""
STOP_WAIT_S = 3.0

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "TMPDIR")
"""All the sidecar gets of the environment: it needs no secret, so it gets none."""


class Sidecar:
    """`python -m healthcheck` on the shared block; ends by itself when we are gone."""

    def __init__(self, config: Config, block_path: str, port: int) -> None:
        self._command = [
            sys.executable, "-m", "healthcheck", "--block", block_path,
            "--host", config.health.host, "--port", str(port),
            "--log-level", config.log.level, "--log-format", config.log.format.value]
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._backoff = Backoff(RESTART_FIRST_S, RESTART_MAX_S)
        self._start_at = 0.0
        self._born_at = 0.0
        self.restarts = -1

    def waitables(self) -> list[Any]:
        """A descriptor that becomes ready when the sidecar ends."""
        return [] if self._pidfd is None else [self._pidfd]

    def tend(self, now: float) -> None:
        """Start it when it is due, notice when it ended."""
        if self._process is not None and self._process.poll() is not None:
            log_event(logger, logging.ERROR, "sidecar_died", code=self._process.returncode)
            if now - self._born_at >= STEADY_S:
                self._backoff = self._backoff.reset()
            self._close()
            self._wait_longer(now)
        if self._process is None and now >= self._start_at:
            try:
                self._start(now)
            except OSError as error:
                log_event(logger, logging.ERROR, "sidecar_not_started", cause=error,
                          what_to_do="Check the limits on processes and open files "
                                     "(TasksMax, NOFILE).")
                self.stop()
                self._wait_longer(now)

    def _wait_longer(self, now: float) -> None:
        self._start_at = now + self._backoff.delay_s()
        self._backoff = self._backoff.failed()

    def _start(self, now: float) -> None:
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment,
            cwd=Path(__file__).resolve().parent.parent)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._born_at = now
        self.restarts += 1

    def _close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._process, self._pidfd = None, None

    def stop(self) -> None:
        """End it; killed when it does not go in time."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_WAIT_S)
        self._close()
