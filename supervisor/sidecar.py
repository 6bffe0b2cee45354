"""The health sidecar as a child process, restarted with back-off; ingestion never waits for it."""

from __future__ import annotations

import logging
import select
import signal
from typing import Any

import multiprocess

from healthcheck import entry
from shared.backoff import Backoff
from shared.config import Config
from shared.logs import log_event
from supervisor.fleet import Child, log_refused, start

logger = logging.getLogger("supervisor")

RESTART_FIRST_S, RESTART_MAX_S = 0.5, 30.0
STEADY_S = 60.0
"""A sidecar that lived this long starts the back-off anew."""
STOP_WAIT_S = 3.0


class Sidecar:
    """The health page on the shared block; ends by itself when we are gone.

    It is told where to look and where to listen, and nothing else of the configuration.
    """

    def __init__(self, config: Config, block_path: str, port: int) -> None:
        self._arguments = [
            "--block", block_path, "--host", config.health.host, "--port", str(port),
            "--log-level", config.log.level, "--log-format", config.log.format.value]
        self._context = multiprocess.get_context("forkserver")
        self._child: Child | None = None
        self._backoff = Backoff(RESTART_FIRST_S, RESTART_MAX_S)
        self._start_at = 0.0
        self.restarts = -1

    def waitables(self) -> list[Any]:
        """A descriptor that becomes ready when the sidecar ends."""
        return [] if self._child is None or self._child.pidfd is None else [self._child.pidfd]

    def tend(self, now: float) -> None:
        """Start it when it is due, notice when it ended."""
        child = self._child
        if child is not None and child.is_over:
            self._child = None
            log_event(logger, logging.ERROR, "sidecar_died", code=child.make_certain())
            if now - child.born_at >= STEADY_S:
                self._backoff = self._backoff.reset()
            self._wait_longer(now)
        if self._child is None and now >= self._start_at:
            try:
                self._start(now)
            except (OSError, EOFError) as error:
                log_refused("sidecar_not_started", error)
                self._wait_longer(now)

    def _wait_longer(self, now: float) -> None:
        self._start_at = now + self._backoff.delay_s()
        self._backoff = self._backoff.failed()

    def _start(self, now: float) -> None:
        process = self._context.Process(
            target=entry.main, name="healthcheck", daemon=True, args=(self._arguments,))
        self._child = Child(process, start(process), born_at=now)
        self.restarts += 1

    def stop(self) -> None:
        """End it; killed when it does not go in time."""
        child, self._child = self._child, None
        if child is None:
            return
        child.send(signal.SIGTERM)
        if child.pidfd is not None:
            select.select([child.pidfd], [], [], STOP_WAIT_S)
        child.make_certain()
