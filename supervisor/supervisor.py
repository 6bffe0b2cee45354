"""The main loop: keeps one worker per topic alive and in step until told to stop."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import uuid

from multiprocess.connection import wait

from shared.block import Block
from shared.clock import SystemClock
from shared.config import Config
from shared.errors import BlockError
from shared.exit_codes import ExitCode, WorkerExit
from shared.layout import Header
from shared.logs import log_event
from shared.object_store import open_store
from shared.protocol import TERMINAL, Phase, Standing
from shared.record_log import RecordLog
from shared.version import SERVICE_VERSION
from supervisor.cgroup import warn_if_tight
from supervisor.coordinator import Coordinator, Timing
from supervisor.decider import Decider
from supervisor.fleet import Death, Fleet
from supervisor.jobs import Jobs
from supervisor.keeper import Keeper
from supervisor.place import find_place
from supervisor.sidecar import Sidecar
from supervisor.signals import Signals, drain
from supervisor.systemd import Notifier
from workers.pages import Tidier

logger = logging.getLogger("supervisor")

TICK_S = 0.5
"""Longest wait of a turn; votes, deaths, signals and jobs end it earlier."""
FROZEN_S = 5.0
"""A turn that took longer means that we were stopped: nobody's silence counts meanwhile."""
SHUT_DOWN_TICK_S = 0.05
WATCHDOG_S = 1.0


class Supervisor:
    """See the module.  Everything is made in `__init__`; `run` is the life of the service."""

    def __init__(self, config: Config, health_port: int) -> None:
        self._config = config
        self._clock = SystemClock()
        self._place = find_place()
        try:
            self._block = Block.create(self._place.path, len(config.topics), _about(config))
        except BlockError:
            self._place.remove()
            raise
        self._block.set(Header.SUPERVISOR_PID, os.getpid())
        self._block.set(Header.STARTED_AT_MS, self._clock.unix_ms())
        slots = {topic: self._block.slot(index) for index, topic in enumerate(config.topics)}
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._keeper = Keeper(config, self._block, self._clock)
        cycle = config.cycle
        self._coordinator = Coordinator(
            config.topics, self._block,
            Decider(RecordLog(open_store(config.lake)), config.instance_id, str(uuid.uuid4()),
                    self._clock.unix_ms),
            Jobs(lambda: os.write(self._wake_write, b"\0")),
            Timing(cycle.batch_interval_seconds, cycle.cycle_deadline_seconds,
                   cycle.start_deadline_seconds, cycle.isolate_after),
            self._clock, lambda: self._keeper.entered_through)
        self._fleet = Fleet(config, str(self._place.path), slots, self._clock)
        self._sidecar = Sidecar(config, str(self._place.path), health_port)
        self._signals = Signals()
        self._notifier = Notifier()
        self._last_turn = self._clock.monotonic()
        self._grace_until = 0.0
        self._stop_at: float | None = None
        self._ready = False
        self._watchdog_at = 0.0
        self._tidier = Tidier(self._clock)
        self._tidied_after: tuple[bool, int] | None = None

    def run(self) -> ExitCode:
        """Turn until the coordinator reaches a terminal phase."""
        log_event(logger, logging.INFO, "service_started", version=SERVICE_VERSION,
                  topics=len(self._config.topics), instance=self._config.instance_id,
                  lake=self._config.lake.uri,
                  memory_limit_mb=self._config.limits.memory_limit_mb,
                  interval_s=self._config.cycle.batch_interval_seconds)
        warn_if_tight(self._config.limits.memory_limit_mb)
        try:
            while self._coordinator.phase not in TERMINAL:
                self._wait()
                now = self._begin_turn()
                self._heed_signals(now)
                self._tend_workers(now)
                self._coordinator.advance(self._clock.monotonic())
                self._tend_sidecar(now)
                self._tend_keeper()
                self._tell_systemd()
                self._tidy()
            return self._exit_code()
        finally:
            self._shut_down()

    def _wait(self) -> None:
        wait([self._signals.fd, self._wake_read, *self._fleet.waitables(),
              *self._sidecar.waitables(), *self._keeper.waitables()], TICK_S)
        drain(self._wake_read)
        self._fleet.drain_wakes()

    def _begin_turn(self) -> float:
        now = self._clock.monotonic()
        if now - self._last_turn > FROZEN_S:
            log_event(logger, logging.WARNING, "supervisor_was_frozen",
                      for_s=round(now - self._last_turn, 1))
            self._grace_until = now + self._config.cycle.heartbeat_limit_seconds
        self._last_turn = now
        self._block.set(Header.HEARTBEAT_NS, self._clock.monotonic_ns())
        self._block.set(Header.SIDECAR_RESTARTS, max(0, self._sidecar.restarts))
        return now

    def _heed_signals(self, now: float) -> None:
        for number in self._signals.take():
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                log_event(logger, logging.INFO, "signal_ignored", signal=name,
                          why="configuration is read at start only; restart to apply it")
            elif self._stop_at is None:
                log_event(logger, logging.INFO, "stop_requested", signal=name,
                          deadline_s=self._config.cycle.stop_deadline_seconds)
                self._notifier.stopping()
                self._stop_at = now + self._config.cycle.stop_deadline_seconds
                self._coordinator.request_stop()
            else:
                log_event(logger, logging.WARNING, "stop_hastened", signal=name)
                self._coordinator.abandon()
        if self._stop_at is not None and now >= self._stop_at:
            log_event(logger, logging.WARNING, "cycle_abandoned",
                      why="the stop deadline passed; what is decided is rolled forward at start")
            self._coordinator.abandon()

    def _tend_workers(self, now: float) -> None:
        for death in self._fleet.reap(now):
            self._mourn(death)
        if now >= self._grace_until:
            self._fleet.kill_stalled(now, self._config.cycle.heartbeat_limit_seconds)
        if not self._coordinator.claimed:
            return
        for topic in self._fleet.reap_recoveries():
            self._coordinator.foreign_recovered(topic)
        self._fleet.start_recoveries(self._coordinator.foreign_topics, now)
        for topic in self._fleet.spawn_due(now, self._coordinator.may_respawn):
            self._coordinator.worker_born(topic)
            # A new forkserver imports its libraries first: our own work, and no freeze.
            self._last_turn = self._clock.monotonic()

    def _tend_sidecar(self, now: float) -> None:
        restarts = self._sidecar.restarts
        self._sidecar.tend(now)
        if self._sidecar.restarts != restarts:
            # The first process waits for the forkserver's imports: our own work, and no freeze.
            self._last_turn = self._clock.monotonic()

    def _tend_keeper(self) -> None:
        is_between_cycles = self._coordinator.phase is Phase.CONSUMING
        self._keeper.tend(self._clock.monotonic(), is_between_cycles=is_between_cycles)

    def _tidy(self) -> None:
        """Give back what the start and the last record have read of the store's library: 4 MB."""
        after = self._ready, self._block.get(Header.LAST_RECORD)
        if after != self._tidied_after and self._tidier.now_and_then():
            self._tidied_after = after

    def _mourn(self, death: Death) -> None:
        if death.exit_code == WorkerExit.RECYCLED:
            self._coordinator.worker_recycled(death.topic)
        else:
            self._coordinator.worker_died(death.topic)
        self._fleet.tell_death(death)
        if not death.returns:
            self._coordinator.topic_stopped(death.topic)
        if death.exit_code == WorkerExit.FENCED:
            self._coordinator.fencing_suspected()

    def _tell_systemd(self) -> None:
        if self._coordinator.phase is Phase.CONSUMING and not self._ready:
            self._ready = True
            self._notifier.ready()
            log_event(logger, logging.INFO, "service_ready", topics=len(self._config.topics))
        standings = [member.standing for member in self._coordinator.members.values()]
        well = sum(standing is Standing.ACTIVE for standing in standings)
        self._notifier.status(f"{well} of {len(standings)} topics active")
        if self._last_turn >= self._watchdog_at:
            self._watchdog_at = self._last_turn + WATCHDOG_S
            self._notifier.watchdog()

    def _exit_code(self) -> ExitCode:
        phase = self._coordinator.phase
        if phase is Phase.STOPPING:
            return ExitCode.OK
        if phase is Phase.FENCED:
            return ExitCode.FENCED
        if self._coordinator.unavailable:
            log_event(logger, logging.CRITICAL, "dependency_never_came",
                      waited_s=self._config.cycle.start_deadline_seconds,
                      what_to_do="Check that Kafka and the object store are up; see the errors "
                                 "above.")
            return ExitCode.UNAVAILABLE
        error = self._coordinator.halted_by
        return ExitCode.INTERNAL if getattr(error, "restart_helps", True) else ExitCode.CONFIG

    def _shut_down(self) -> None:
        """Let workers end by themselves within what is left of the deadline, then make certain."""
        now = self._clock.monotonic()
        if self._stop_at is None:
            self._stop_at = now + self._config.cycle.stop_deadline_seconds
        self._block.set_phase(self._coordinator.cycle_id, _terminal(self._coordinator.phase))
        while self._fleet.alive and self._clock.monotonic() < self._stop_at:
            wait(self._fleet.waitables(), SHUT_DOWN_TICK_S)
            self._fleet.drain_wakes()
            self._fleet.reap(self._clock.monotonic())
            self._fleet.reap_recoveries()
        self._fleet.kill_all()
        self._keeper.stop()
        self._sidecar.stop()
        self._block.unlink()
        self._place.remove()
        log_event(logger, logging.INFO, "service_stopped", phase=self._coordinator.phase.name)


def _terminal(phase: Phase) -> Phase:
    return phase if phase in TERMINAL else Phase.HALTED


def _about(config: Config) -> bytes:
    return json.dumps({
        "topics": list(config.topics),
        "instance": config.instance_id,
        "service_version": SERVICE_VERSION,
        "batch_interval_seconds": config.cycle.batch_interval_seconds,
        "cycle_deadline_seconds": config.cycle.cycle_deadline_seconds,
        "heartbeat_limit_seconds": config.cycle.heartbeat_limit_seconds,
        "lake": config.lake.uri,
        "dlq_enabled": config.dlq_enabled,
        "memory_limit_mb": config.limits.memory_limit_mb,
        "loan_budget_bytes": config.limits.loan_budget_bytes,
        "host": socket.gethostname(),
    }).encode()
