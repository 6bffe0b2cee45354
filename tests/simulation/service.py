"""One service in a world: the real coordinator, decider, fleet policy and workers as processes.

What is played: a process is an object that is stepped; a job of the decider is a step of its own;
SIGKILL makes an object dead, and from then on nothing of it reaches the block or the network.
"""

from __future__ import annotations

import mmap
import signal
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import layout
from shared.block import Block, Slot
from shared.config import Config, GapPolicy
from shared.errors import BlockError, Fenced, IngestError, TopicStopped
from shared.exit_codes import ExitCode, WorkerExit
from shared.layout import Header, Order, Report
from shared.memory import FILE_COPIES
from shared.protocol import TERMINAL, Phase
from shared.record_log import RecordLog
from supervisor.coordinator import Coordinator, Timing
from supervisor.decider import Decider
from supervisor.fleet import Berth, Fleet
from supervisor.supervisor import Supervisor
from tests.fakes.config import make_config
from tests.fakes.tidier import IdleTidier
from tests.simulation.gate import Crash
from tests.simulation.group import SimSource
from tests.simulation.judge import Violation
from workers import assembly
from workers.appetite import Appetite
from workers.kafka_source import AssignmentFailed
from workers.loan import Terms
from workers.reporter import Reporter
from workers.tables import TopicTables
from workers.worker import Parts, Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

INTERVAL_S, CYCLE_DEADLINE_S, START_DEADLINE_S, HEARTBEAT_LIMIT_S = 1.5, 6.0, 30.0, 20.0
STOP_DEADLINE_S = 10.0
ISOLATE_AFTER = 2
TIMING = Timing(INTERVAL_S, CYCLE_DEADLINE_S, START_DEADLINE_S, ISOLATE_AFTER)

_SCRATCH = memoryview(bytearray(layout.block_bytes(8))).cast("Q")
"""Where a dead process writes."""


ROW_GROUP_BYTES, UPLOAD_BYTES, SEND_EARLY_BYTES = 200, 600, 300
TIGHT = Terms(2 * ROW_GROUP_BYTES + FILE_COPIES * SEND_EARLY_BYTES, ROW_GROUP_BYTES)
"""A floor for open files not worth sending, and next to nothing to borrow."""
OUTGROWN_BYTES = 1 << 40
EVERYTHING = 1 << 40
"""The last record in the ledger of a world that keeps none: trimming waits for nobody."""


@lru_cache(maxsize=64)
def config_of(
    topics: tuple[str, ...], instance: str, batch: int, dlq_enabled: bool, gap: GapPolicy,
    tight: bool,
) -> Config:
    """A configuration; making one costs more than the rest of a service."""
    memory = {"loan_floor_bytes": TIGHT.floor_bytes, "loan_budget_bytes": TIGHT.budget_bytes}
    return make_config(
        topics, {"INSTANCE_ID": instance, "ON_MALFORMED": "skip"}, dlq_enabled=dlq_enabled,
        gap_policy=gap, consume_batch_messages=batch, row_group_bytes=ROW_GROUP_BYTES,
        upload_bytes=UPLOAD_BYTES, **(memory if tight else {}))


class TurnOver(BaseException):
    """Ends a worker's loop after one turn, so that others can have theirs."""


class WorkerProcess:
    """A worker's process; `exit_code` is None while it runs."""

    def __init__(self, service: Service, topic: str, index: int, incarnation: int) -> None:
        self.service, self.topic = service, topic
        self.name = f"{service.name}/{topic}#{incarnation}"
        self.dead = self.busy = self._begun = False
        self.exit_code: int | None = None
        world = service.world
        self._slot: Slot = service.block.slot(index)
        reporter = Reporter(self._slot, world.clock, topic)
        self.source = SimSource(
            world.groups[topic], f"{service.instance}-{topic}", world.kafka_gate, self.is_silent)
        self.source.on_commit_failure = reporter.offsets_refused
        tables = TopicTables(world.store, world.tables, topic,
                             dlq_enabled=service.config.dlq_enabled, on_doubt=reporter.doubt)
        self._tidier = IdleTidier()
        self.worker = Worker(Parts(
            service.config, topic, incarnation, service.block, self._slot, self.source, tables,
            RecordLog(world.store), world.store, world.clock, reporter, self._tidier,
            service.wake))
        if not world.schedule.tight:
            # Sizes are known from the start, or the first cycles would read a message each.
            self.worker._appetite = Appetite(
                service.config.limits.consume_batch_messages, ROW_GROUP_BYTES, 1.0)

    def outgrow(self) -> None:
        """Hold more memory than it may, from its next commit on."""
        self._tidier.private_bytes = OUTGROWN_BYTES

    def is_silent(self) -> bool:
        """Whether Kafka hears nothing of it."""
        return self.dead or self.service.frozen

    def kill(self, code: int) -> None:
        """End it at once, wherever it is."""
        if not self.dead:
            self.dead, self.exit_code = True, code
            self._slot._words = _SCRATCH
            self.service.world.hub.say(f"{self.name} ends with {code}")

    def step(self) -> None:
        """Let it turn once."""
        if self.dead or self.busy or self.service.frozen:
            return
        world, before = self.service.world, self.service.world.hub.actor
        world.hub.actor, self.busy = self, True
        try:
            code = self._turn()
            if code == WorkerExit.TOPIC_STOPPED:
                raise Violation(f"{self.name} stopped its topic: {self._slot.error.read()}")
            if code is not None:
                self.kill(code)
        except Crash:
            pass
        except BlockError as error:
            raise Violation(f"{self.name}: {error}") from error
        except (AssignmentFailed, IngestError):
            self.kill(WorkerExit.FAILED)
        finally:
            world.hub.actor, self.busy = before, False

    def _turn(self) -> int | None:
        """One turn inside the real `run`, whose beginning and end are played only once."""
        worker = self.worker
        if not self._begun:
            self._begun = True
            return self._run(self._first_turn)
        if self.service.block.phase()[1] in TERMINAL:
            return worker.run()
        try:
            worker.run_once()
        except (TopicStopped, Fenced) as error:
            return self._run(_raising(error))
        if worker.may_be_recycled():
            self.service.world.recycled += 1
            return self._run(_nothing)
        return None

    def _first_turn(self) -> None:
        Worker.run_once(self.worker)
        raise TurnOver

    def _run(self, run_once: Callable[[], None]) -> int | None:
        self.worker.run_once = run_once
        try:
            return self.worker.run()
        except TurnOver:
            return None
        finally:
            del self.worker.run_once


def _nothing() -> None:
    """A turn that was taken already."""


def _raising(error: IngestError) -> Callable[[], None]:
    def run_once() -> None:
        raise error
    return run_once


class RecoveryProcess:
    """Rolls a topic forward that is configured no more."""

    def __init__(self, service: Service, topic: str) -> None:
        self.service, self.topic = service, topic
        self.name = f"{service.name}/recover-{topic}"
        self.dead = self.busy = False
        self.exit_code: int | None = None

    def kill(self, code: int) -> None:
        """End it at once."""
        if not self.dead:
            self.dead, self.exit_code = True, code

    def step(self) -> None:
        """Let it do all it has to."""
        if self.dead or self.busy or self.service.frozen:
            return
        hub, before = self.service.world.hub, self.service.world.hub.actor
        hub.actor, self.busy = self, True
        try:
            assembly.roll_forward_only(self.service.config, self.topic)
            self.kill(WorkerExit.STOPPED_CLEANLY)
        except Crash:
            pass
        except IngestError:
            self.kill(WorkerExit.FAILED)
        finally:
            hub.actor, self.busy = before, False


class SimChild:
    """What `Fleet` knows of a process; see `supervisor.fleet.Child`."""

    def __init__(self, process: Any, born_at: float, commits: int) -> None:
        self.sim, self.born_at, self.commits_at_birth = process, born_at, commits
        self.aborted_at: float | None = None

    @property
    def ended(self) -> bool:
        """See `Child`."""
        return self.sim.dead

    @property
    def is_over(self) -> bool:
        """See `Child`."""
        return self.sim.dead

    def send(self, number: signal.Signals) -> None:
        """See `Child`."""
        if number in (signal.SIGABRT, signal.SIGKILL):
            self.sim.kill(-number)

    def make_certain(self) -> int:
        """See `Child`."""
        self.sim.kill(-signal.SIGKILL)
        return self.sim.exit_code


class SimFleet(Fleet):
    """The real policy of births and deaths over simulated processes."""

    def __init__(self, service: Service, slots: dict[str, Slot]) -> None:
        self._service, self._clock = service, service.world.clock
        self._berths = {
            topic: Berth(topic, index, slots[topic]) for index, topic in enumerate(slots)}
        self._recoveries: dict[str, Any] = {}

    def _spawn(self, berth: Berth, now: float) -> None:
        incarnation = berth.slot.order(Order.INCARNATION) + 1
        berth.slot.set_order(Order.INCARNATION, incarnation)
        process = WorkerProcess(self._service, berth.topic, berth.index, incarnation)
        berth.child = SimChild(process, now, berth.slot.report(Report.COMMITS))

    def start_recoveries(self, topics: frozenset[str], now: float = 0.0) -> None:
        """See `Fleet`."""
        for topic in sorted(topics - self._recoveries.keys()):
            process = RecoveryProcess(self._service, topic)
            self._recoveries[topic] = SimChild(process, 0.0, 0)

    @property
    def processes(self) -> list[Any]:
        """Every process there is."""
        berths = [berth.child.sim for berth in self._berths.values() if berth.child is not None]
        return berths + [child.sim for child in self._recoveries.values()]


class SimJobs:
    """See `supervisor.jobs.Jobs`; `step` plays the thread."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._action: Callable[[], Any] | None = None
        self._result: tuple[Any, Exception | None] | None = None
        self.busy = self._running = False

    def start(self, action: Callable[[], Any]) -> None:
        """See `Jobs`."""
        self._action, self.busy = action, True

    @property
    def finished(self) -> bool:
        """See `Jobs`."""
        return self._result is not None

    def take(self) -> Any:
        """See `Jobs`."""
        (value, error), self._result = self._result, None
        self.busy = False
        if error is not None:
            raise error
        return value

    def step(self) -> None:
        """Run the job, if there is one."""
        service, action = self._service, self._action
        if action is None or self._running or service.dead or service.frozen:
            return
        hub, before = service.world.hub, service.world.hub.actor
        hub.actor, self._running, self._action = service, True, None
        try:
            self._result = action(), None
        except Crash:
            pass
        except IngestError as error:
            self._result = None, error
        finally:
            hub.actor, self._running = before, False
        service.wake()


class NoSidecar:
    """There is no health page here."""

    restarts = 0


class Service:
    """A supervisor process with everything below it; stepped like one turn of its main loop."""

    _tend_workers = Supervisor._tend_workers
    _mourn = Supervisor._mourn
    _begin_turn = Supervisor._begin_turn
    _sidecar = NoSidecar()

    def __init__(self, world: World, instance: str, number: int, config: Config) -> None:
        self.world, self.instance, self.config = world, instance, config
        self.number, self.uuid = number, f"service-{number}"
        self.name = f"{instance}.{number}"
        self.dead = self.frozen = False
        self.exit_code: int | None = None
        self._config = config
        self._clock = world.clock
        count = len(config.topics)
        self.block = self._block = Block(
            Path("memory"), mmap.mmap(-1, layout.block_bytes(count)), count)
        self.block.set(Header.TOPIC_COUNT, count)
        slots = {topic: self.block.slot(index) for index, topic in enumerate(config.topics)}
        self.jobs = SimJobs(self)
        self.coordinator = self._coordinator = Coordinator(
            config.topics, self.block,
            Decider(RecordLog(world.store), instance, self.uuid, world.clock.unix_ms),
            self.jobs, TIMING, world.clock, lambda: EVERYTHING)
        self.fleet = self._fleet = SimFleet(self, slots)
        self._last_turn = world.clock.monotonic()
        self._grace_until = 0.0
        self._ends_at: float | None = None
        self._woken = False
        world.hub.say(f"service {self.name} starts")

    def kill(self, code: int) -> None:
        """SIGKILL: its workers and helpers end with it."""
        if self.dead:
            return
        self.dead, self.exit_code = True, code
        for process in self.fleet.processes:
            process.kill(WorkerExit.ORPHANED)
        self.world.hub.say(f"service {self.name} ends with {code}")

    def wake(self) -> None:
        """A worker or the decider's thread has news."""
        self._woken = True

    def step_if_woken(self) -> None:
        """One more turn, when there is a reason not to wait for the next tick."""
        if self._woken:
            self.step()

    def step(self) -> None:
        """One turn of the main loop, or of the shutting down."""
        if self.dead or self.frozen:
            return
        self._woken = False
        now = self._begin_turn()
        if self.coordinator.phase in TERMINAL:
            self._shut_down(now)
            return
        self._tend_workers(now)
        self.coordinator.advance(now)

    def _shut_down(self, now: float) -> None:
        if self._ends_at is None:
            self._ends_at = now + STOP_DEADLINE_S
        self.fleet.reap(now)
        self.fleet.reap_recoveries()
        if not self.fleet.alive or now >= self._ends_at:
            self.fleet.kill_all()
            self.kill(self._judge_exit())

    def _judge_exit(self) -> int:
        """See `Supervisor._exit_code`."""
        phase, coordinator = self.coordinator.phase, self.coordinator
        if phase is Phase.STOPPING:
            return ExitCode.OK
        if phase is Phase.FENCED:
            return ExitCode.FENCED
        if coordinator.unavailable:
            return ExitCode.UNAVAILABLE
        if getattr(coordinator.halted_by, "restart_helps", True):
            return ExitCode.INTERNAL
        raise Violation(f"service {self.name} halted: {coordinator.halted_by}")
