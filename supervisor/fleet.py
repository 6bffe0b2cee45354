"""The worker processes: born, watched, killed when they hang, born again.

A process is known by a pidfd, never by its pid alone.  That it is over is made certain before its
topic gets a new one: with a forkserver in between, a closed pipe alone would not prove it.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from dataclasses import dataclass, field
from typing import Any

import multiprocess
from multiprocess import resource_tracker

from shared.block import Slot
from shared.clock import SystemClock, rfc3339
from shared.config import Config
from shared.exit_codes import WorkerExit
from shared.layout import Order, Report
from shared.logs import log_event
from shared.trouble import Trouble, encode
from supervisor.nursery import PRELOAD
from supervisor.respawn import History, Respawn, after_death, describe
from supervisor.signals import drain
from workers import entry
from workers.assignment import Assignment

logger = logging.getLogger("supervisor")

KILL_WAIT_S = 5.0
"""Longest wait for a process to be gone after SIGKILL."""
ABORT_GRACE_S = 2.0
"""Time a hanging worker gets to write its stacks after SIGABRT, before SIGKILL."""
START_ALLOWANCE_S = 30.0
"""A new process has this much more than the heartbeat limit to give its first sign."""
SPAWN_RETRY_S = 1.0
"""Least wait after the host refused a process."""


@dataclass(slots=True)
class Child:
    """A running process and how to tell that it ended."""

    process: Any
    pidfd: int | None
    wake: Any = None
    born_at: float = 0.0
    commits_at_birth: int = 0
    aborted_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the process is gone, by its pidfd."""
        return self.pidfd is None or bool(select.select([self.pidfd], [], [], 0)[0])

    @property
    def is_over(self) -> bool:
        """Whether it is gone, or its forkserver is and nobody would tell how it ends."""
        return self.ended or not self.process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it is still there."""
        if self.pidfd is not None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def make_certain(self) -> int:
        """Kill it if need be, wait until it is gone, and give its exit code."""
        self.send(signal.SIGKILL)
        if self.pidfd is not None:
            select.select([self.pidfd], [], [], KILL_WAIT_S)
            os.close(self.pidfd)
            self.pidfd = None
        if self.wake is not None:
            self.wake.close()
        self.process.join(KILL_WAIT_S)
        code = self.process.exitcode
        return WorkerExit.FAILED if code is None else code


@dataclass(frozen=True, slots=True)
class Death:
    """A worker that ended: exit code (negative: signal), and whether it comes back."""

    topic: str
    exit_code: int
    returns: bool


@dataclass(slots=True)
class Berth:
    """A topic's place in the fleet."""

    topic: str
    index: int
    slot: Slot
    child: Child | None = None
    history: History = field(default_factory=History)
    respawn_at: float | None = 0.0


class Fleet:
    """One worker per topic, and helpers for topics that are configured no more."""

    def __init__(self, config: Config, block_path: str, slots: dict[str, Slot],
                 clock: SystemClock) -> None:
        self._config, self._block_path, self._clock = config, block_path, clock
        _do_without_tracker()
        self._context = multiprocess.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)
        self._berths = {
            topic: Berth(topic, index, slots[topic]) for index, topic in enumerate(slots)}
        self._recoveries: dict[str, Child] = {}
        self._recoveries_at = 0.0

    def waitables(self) -> list[Any]:
        """Connections and descriptors whose readiness means that something happened."""
        children = [berth.child for berth in self._berths.values() if berth.child is not None]
        return [*(child.wake for child in children),
                *(child.pidfd for child in (*children, *self._recoveries.values())
                  if child.pidfd is not None)]

    def drain_wakes(self) -> None:
        """Forget the wake-ups: the loop looks at everything anyway."""
        for berth in self._berths.values():
            if berth.child is not None:
                drain(berth.child.wake.fileno())

    def spawn_due(self, now: float, may_respawn: Any) -> list[str]:
        """Start what is due and allowed; the topics started."""
        due = [berth for berth in self._berths.values()
               if berth.child is None and berth.respawn_at is not None
               and now >= berth.respawn_at and may_respawn(berth.topic)]
        for berth in due:
            self._spawn(berth, now)
        return [berth.topic for berth in due if berth.child is not None]

    def _spawn(self, berth: Berth, now: float) -> None:
        slot = berth.slot
        incarnation = slot.order(Order.INCARNATION) + 1
        slot.set_order(Order.INCARNATION, incarnation)
        slot.set_order(Order.SPAWNED_AT_MS, self._clock.unix_ms())
        slot.set_order(Order.RESTARTS, incarnation - 1 - slot.order(Order.RECYCLED))
        try:
            berth.child = self._bear(berth, incarnation, now)
        except (OSError, EOFError) as error:
            self._not_born(berth, error, now)
            return
        pid = berth.child.process.pid
        slot.set_order(Order.PID, pid)
        log_event(logger, logging.INFO, "worker_spawned", topic=berth.topic, worker=pid,
                  incarnation=incarnation)

    def _bear(self, berth: Berth, incarnation: int, now: float) -> Child:
        reader, writer = self._context.Pipe(duplex=False)
        try:
            os.set_blocking(reader.fileno(), False)
            process = self._context.Process(
                target=entry.main, name=f"worker-{berth.topic}", daemon=True,
                args=(Assignment(self._config, berth.topic, berth.index, incarnation,
                                 self._block_path), writer))
            commits = berth.slot.report(Report.COMMITS)
            return Child(process, start(process), reader, now, commits)
        except (OSError, EOFError):
            reader.close()
            raise
        finally:
            writer.close()

    def _not_born(self, berth: Berth, error: OSError | EOFError, now: float) -> None:
        """The host gives no process or descriptor: try again later, as after a death.

        Where it refuses the forkserver's fork, the forkserver ends, and we see the end of a file.
        """
        fate = after_death(berth.history, WorkerExit.FAILED, made_progress=False)
        berth.history = fate.history
        berth.respawn_at = now + max(SPAWN_RETRY_S, fate.delay_s or 0.0)
        log_refused("worker_not_spawned", error, topic=berth.topic)

    def reap(self, now: float) -> list[Death]:
        """Bury the dead and settle when each comes back."""
        deaths = []
        for berth in self._berths.values():
            if berth.child is None or not berth.child.is_over:
                continue
            exit_code = berth.child.make_certain()
            progress = berth.slot.report(Report.COMMITS) > berth.child.commits_at_birth
            fate = after_death(berth.history, exit_code, made_progress=progress)
            berth.child, berth.history = None, fate.history
            berth.respawn_at = None if fate.delay_s is None else now + fate.delay_s
            berth.slot.set_order(Order.PID, 0)
            _release(berth.slot)
            if exit_code == WorkerExit.RECYCLED:
                berth.slot.set_order(Order.RECYCLED, berth.slot.order(Order.RECYCLED) + 1)
            deaths.append(Death(berth.topic, exit_code, fate.delay_s is not None))
            _log_end(berth.topic, exit_code, fate)
        return deaths

    def kill_stalled(self, now: float, limit_s: float) -> None:
        """SIGABRT to workers without a heartbeat (they write their stacks), then SIGKILL."""
        for berth in self._berths.values():
            child = berth.child
            if child is None:
                continue
            first_sign = berth.slot.report(Report.INCARNATION) == berth.slot.order(
                Order.INCARNATION)
            beat = berth.slot.report(Report.HEARTBEAT_NS) / 1e9 if first_sign else 0.0
            allowance = limit_s if first_sign else limit_s + START_ALLOWANCE_S
            silent_s = now - max(beat, child.born_at)
            if silent_s < allowance:
                continue
            if child.aborted_at is None:
                child.aborted_at = now
                berth.slot.set_order(Order.STALLS, berth.slot.order(Order.STALLS) + 1)
                log_event(logger, logging.ERROR, "worker_stalled", topic=berth.topic,
                          silent_s=round(silent_s, 1), limit_s=allowance)
                child.send(signal.SIGABRT)
                # A stopped process does not act on SIGABRT before it goes on.
                child.send(signal.SIGCONT)
            elif now - child.aborted_at >= ABORT_GRACE_S:
                child.send(signal.SIGKILL)

    def start_recoveries(self, topics: frozenset[str], now: float) -> None:
        """Roll forward topics that undone records name and that are configured no more."""
        if now < self._recoveries_at:
            return
        for topic in topics - self._recoveries.keys():
            process = self._context.Process(
                target=entry.recover, name=f"recover-{topic}", daemon=True,
                args=(self._config, topic))
            try:
                self._recoveries[topic] = Child(process, start(process))
            except (OSError, EOFError) as error:
                self._recoveries_at = now + SPAWN_RETRY_S
                log_refused("worker_not_spawned", error, topic=topic)

    def reap_recoveries(self) -> list[str]:
        """Topics that have been rolled forward; failed ones are started again by the caller."""
        done = []
        for topic, child in list(self._recoveries.items()):
            if child.is_over:
                del self._recoveries[topic]
                if child.make_certain() == WorkerExit.STOPPED_CLEANLY:
                    done.append(topic)
        return done

    @property
    def alive(self) -> int:
        """Running processes."""
        running = sum(berth.child is not None for berth in self._berths.values())
        return running + len(self._recoveries)

    def kill_all(self) -> None:
        """End every process, whatever it does."""
        for berth in self._berths.values():
            if berth.child is not None:
                berth.child.make_certain()
                berth.child = None
        for child in self._recoveries.values():
            child.make_certain()
        self._recoveries = {}

    def tell_death(self, death: Death) -> None:
        """Leave word in the topic's slot of what its worker can no longer say.

        It stays until a new incarnation has started; a topic's own named error says more.
        """
        if death.exit_code in (WorkerExit.STOPPED_CLEANLY, WorkerExit.TOPIC_STOPPED,
                               WorkerExit.RECYCLED):
            return
        self._berths[death.topic].slot.verdict.write(encode(Trouble(
            rfc3339(self._clock.unix_ms()), "WorkerDied",
            f"its worker ended: {describe(death.exit_code)}",
            "None: it is started again; if it repeats, see its lines in the log.")))


def _release(slot: Slot) -> None:
    """Give back what a dead worker had borrowed, and its place among those who wait."""
    slot.set_report(Report.BORROWED, 0)
    slot.set_report(Report.LOAN_WAITED_NS, 0)


def _log_end(topic: str, exit_code: int, fate: Respawn) -> None:
    if exit_code == WorkerExit.STOPPED_CLEANLY:
        log_event(logger, logging.INFO, "worker_stopped", topic=topic)
        return
    if exit_code == WorkerExit.RECYCLED:
        log_event(logger, logging.INFO, "worker_recycled", topic=topic)
        return
    log_event(logger, logging.ERROR, "worker_died", topic=topic, how=describe(exit_code),
              deaths_without_progress=fate.history.deaths, respawn_in_s=fate.delay_s)


def _do_without_tracker() -> None:
    """Keep multiprocess from starting a process of 11 MB beside the forkserver.

    It would remove shared semaphores and memory that crashed processes leave behind.  We share
    neither, so its messages may go nowhere.
    """
    tracker = resource_tracker._resource_tracker
    if tracker._fd is None:
        tracker._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def log_refused(event: str, error: OSError | EOFError, **facts: str) -> None:
    """Say that the host refused a process, and what to look at."""
    log_event(logger, logging.ERROR, event, **facts,
              cause=error if str(error) else type(error).__name__,
              what_to_do="Check the limits on processes and open files (TasksMax, NOFILE).")


def start(process: Any) -> int | None:
    """Start a process and give its pidfd, None when it has ended already.

    Raises OSError or EOFError when the host refuses either; no process is left then.
    """
    process.start()
    try:
        return os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    except OSError:
        process.kill()
        raise
