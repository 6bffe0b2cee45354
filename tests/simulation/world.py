"""A world: a lake, Kafka, a clock, services; and what a schedule does to them.

It plays systemd (a service that died is started again), lets everybody turn in an order, and ends
when everything has healed and landed.  It is deterministic: the same schedule gives the same run.
"""

from __future__ import annotations

import itertools
import logging
import random
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import shared.record_log
import supervisor.coordinator
import workers.assembly
import workers.draft
import workers.worker
from shared.config import GapPolicy
from shared.errors import CommitConflict, KafkaUnavailable
from shared.exit_codes import ExitCode
from shared.naming import LOG_PREFIX, record_number
from shared.protocol import TERMINAL, Phase, Standing
from shared.record_log import RECORDS_KEPT_MIN
from tests.fakes.clock import FakeClock
from tests.fakes.source import MemoryTopic
from tests.fakes.store import MemoryStore, refused
from tests.fakes.tables import MemoryTables
from tests.simulation import file_twin
from tests.simulation.file_twin import FileTwin
from tests.simulation.gate import Gate, Hub, Mode, Outage
from tests.simulation.group import Group
from tests.simulation.judge import Judge, Violation
from tests.simulation.messages import Messages
from tests.simulation.service import SEND_EARLY_BYTES, Service, WorkerProcess, config_of

TURN_S = 0.5
LONG_TURN_S = 0.7
"""Where time should pass fast; an idle service still looks at the log between two cycles."""
RESTART_S = 1.0
"""What systemd waits before it starts a service again."""
UNSETTLED = TERMINAL | {Phase.RECOVERING}
SETTLE_TURNS_MAX = 400
SLOW_AFTER_TURNS = 30
"""From here on time passes faster: what is left are back-offs."""


@dataclass(frozen=True, slots=True)
class Event:
    """What happens in a round, beside faults.  args: see the method of `World` of that name."""

    turn: int
    kind: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that decides a run.

    partitions: of each topic.  turns: rounds before everything heals.  shuffled: the seed also
    draws the order in which processes turn.  tight: there is next to no memory to borrow.
    reads_on: workers read while a flush goes on, as they do when it is held up.
    """

    seed: int = 0
    partitions: tuple[int, ...] = (1, 1)
    turns: int = 24
    faults: tuple[tuple[int, Mode], ...] = ()
    events: tuple[Event, ...] = ()
    shuffled: bool = False
    batch: int = 3
    dlq_enabled: bool = True
    tight: bool = False
    reads_on: bool = True
    gap_policy: GapPolicy = GapPolicy.FAIL
    records_kept: int = RECORDS_KEPT_MIN
    trim_interval_s: float = 600.0
    watch_interval_s: float = 30.0


@dataclass(slots=True)
class Outcome:
    """requests: before everything healed; fired: by kind of request and mode; refused: requests
    that an outage failed; missed: planned faults that never struck; violation: "" when all is
    well."""

    requests: int = 0
    messages: int = 0
    cycles: int = 0
    recycled: int = 0
    fired: Mapping[tuple[str, Mode], int] = field(default_factory=dict)
    refused: int = 0
    missed: int = 0
    violation: str = ""
    trace: list[str] = field(default_factory=list)


class World:
    """See the module."""

    def __init__(self, schedule: Schedule, *, tracing: bool = False) -> None:
        self.schedule = schedule
        self.random = random.Random(schedule.seed)
        self.clock = FakeClock()
        self.store, self.tables = MemoryStore(), MemoryTables()
        self.hub = Hub(self, dict(schedule.faults), tracing=tracing)
        self.store.faults = Gate(self.hub, "store", refused)
        self.tables.faults = Gate(self.hub, "table", refused, _conflict)
        self.kafka_gate = Gate(self.hub, "kafka", KafkaUnavailable)
        self.topics = {f"t{index}": MemoryTopic(count)
                       for index, count in enumerate(schedule.partitions)}
        self.groups = {name: Group(topic, self.clock) for name, topic in self.topics.items()}
        self.judge = Judge(self.topics, self.store.objects)
        self.messages = Messages(self.random)
        self.services: list[Service] = []
        self._restarts: dict[str, float] = {}
        self._started = 0
        self.recycled = 0
        self._stopping = False
        self._leaving: set[str] = set()
        self._commits_seen: dict[str, int] = {}
        self._topics_wanted = tuple(self.topics)

    # -- what the hub asks for --------------------------------------------------------------

    def now(self) -> float:
        """Seconds."""
        return self.clock.now_s

    def observe(self, kind: str, operation: str, path: str) -> None:
        """Show the judge what just took effect."""
        if kind == "table" and operation == "commit":
            self._observe_table(path)
        elif kind == "kafka" and operation == "commit":
            for topic in self.topics:
                self.judge.offsets_told(topic)
        elif path.startswith(LOG_PREFIX):
            number = record_number(path)
            if operation == "delete":
                self.judge.record_deleted(number)
            elif operation == "put" and number not in self.judge.numbers:
                self.judge.record_written(number, self.store.objects[path])

    def _observe_table(self, folder: str) -> None:
        commits = self.tables.states[folder].commits
        for commit in commits[self._commits_seen.get(folder, 1):]:
            self.judge.committed(folder, commit)
        self._commits_seen[folder] = len(commits)

    def pass_time(self, seconds: float) -> None:
        """Let everybody go on who is not in the middle of a request."""
        until = self.clock.now_s + seconds
        while self.clock.now_s < until:
            self.turn(LONG_TURN_S)

    def freeze(self, actor: Any, seconds: float) -> None:
        """Freeze the service of `actor` so long, while another one takes over."""
        service = actor if isinstance(actor, Service) else actor.service
        service.frozen = True
        self.hub.say(f"service {service.name} freezes")
        self.start(service.instance)
        self.pass_time(seconds)
        service.frozen = False
        self.hub.say(f"service {service.name} goes on")

    # -- processes --------------------------------------------------------------------------

    def start(self, instance: str = "0") -> None:
        """Start a service."""
        self._restarts.pop(instance, None)
        config = config_of(self._topics_wanted, instance, self.schedule.batch,
                           self.schedule.dlq_enabled, self.schedule.gap_policy,
                           self.schedule.tight)
        self.services.append(Service(self, instance, self._started, config))
        self._started += 1

    def turn(self, seconds: float = TURN_S) -> None:
        """Everybody turns once, then time passes."""
        steps = []
        for service in self.services:
            steps += [process.step for process in service.fleet.processes]
            steps += [service.step, service.jobs.step, service.step_if_woken]
        if self.schedule.shuffled:
            self.random.shuffle(steps)
        for step in steps:
            step()
        self._tend_services()
        for group in self.groups.values():
            group.expire()
        self.clock.advance(seconds)

    def _tend_services(self) -> None:
        """What systemd does."""
        now = self.clock.now_s
        for service in [service for service in self.services if service.dead]:
            self.services.remove(service)
            self._bury(service, now)
        for instance, due in list(self._restarts.items()):
            if now >= due:
                self.start(instance)

    def _bury(self, service: Service, now: float) -> None:
        others = [other for other in self.services if other.instance == service.instance]
        # One that was frozen while another took its identity learns of it when it is to stop.
        if self._stopping and service.exit_code not in (ExitCode.OK, ExitCode.FENCED):
            raise Violation(f"{service.name} was asked to stop and ended with {service.exit_code}")
        if service.exit_code == ExitCode.FENCED:
            if not (others or service.instance in self._restarts.keys() | self._leaving):
                raise Violation(f"service {service.name} was fenced, and there is no other")
        elif not (self._stopping or service.instance in self._leaving):
            self._restarts[service.instance] = now + RESTART_S

    def main(self, instance: str = "0") -> Service | None:
        """The newest living service of an instance."""
        living = [s for s in self.services if s.instance == instance and not s.dead]
        return living[-1] if living else None

    # -- events -----------------------------------------------------------------------------

    def happen(self, event: Event) -> None:
        """Let an event happen."""
        self.hub.say(f"{event.kind} {event.args}")
        getattr(self, f"on_{event.kind}")(*event.args)

    def on_produce(self, topic: str, kinds: str) -> None:
        """Append messages; see `Messages`."""
        held = self.topics[topic]
        for kind in kinds:
            held.append(self.random.randrange(held.partition_count), self.messages.make(kind))

    def on_stop(self, instance: str = "0") -> None:
        """Ask a service to stop, as systemd does."""
        service = self.main(instance)
        if service is not None:
            service.coordinator.request_stop()

    def on_start(self, instance: str = "0") -> None:
        """Start a service, whether or not one of that identity runs."""
        self.start(instance)

    def on_kill_service(self, instance: str = "0") -> None:
        """SIGKILL a supervisor."""
        service = self.main(instance)
        if service is not None:
            service.kill(-9)

    def on_kill_worker(self, topic: str) -> None:
        """SIGKILL a worker."""
        for service in self.services:
            for process in service.fleet.processes:
                if process.topic == topic:
                    process.kill(-9)

    def on_outgrow(self, topic: str) -> None:
        """Let a topic's workers hold more memory than they may."""
        for service in self.services:
            for process in service.fleet.processes:
                if process.topic == topic and isinstance(process, WorkerProcess):
                    process.outgrow()

    def on_leave(self, instance: str) -> None:
        """An operator stops an instance for good."""
        self._leaving.add(instance)
        self.on_stop(instance)

    def on_reconfigure(self, count: int) -> None:
        """Another start, with only the first `count` topics."""
        self._topics_wanted = tuple(self.topics)[:count]
        self.on_kill_service()

    def on_grow(self, topic: str) -> None:
        """Add a partition."""
        self.topics[topic].partition_count += 1
        self.groups[topic].balance()

    def on_retain(self, topic: str) -> None:
        """Let retention remove old messages, read or not."""
        held = self.topics[topic]
        for partition in range(held.partition_count):
            held.firsts[partition] = self.random.randint(
                held.low(partition), held.high(partition))

    def on_rebalance(self, topic: str) -> None:
        """Take partitions away and give them back."""
        for source in self.groups[topic].members.values():
            self.groups[topic].shake(source)

    def on_wait(self, seconds: float) -> None:
        """Let time pass."""
        self.pass_time(seconds)

    def on_outage(self, kind: str, part: str, seconds: float) -> None:
        """Let requests fail for a while."""
        self.hub.outages.append(Outage(kind, part, self.clock.now_s + seconds))

    # -- a run ------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run the schedule to its end; a violation is in the outcome."""
        outcome = Outcome(trace=self.hub.trace)
        with _apart(self):
            try:
                self._play()
                self._count(outcome)
                self._heal()
                outcome.messages = self.judge.finish(dlq_enabled=self.schedule.dlq_enabled)
            except Violation as violation:
                outcome.violation = str(violation)
            except Exception:
                # A defect that a real process would die of and its respawn would hide.
                outcome.violation = traceback.format_exc()
        outcome.cycles, outcome.recycled = self.judge.cycles, self.recycled
        return outcome

    def _count(self, outcome: Outcome) -> None:
        hub = self.hub
        outcome.requests, outcome.fired = hub.count, dict(hub.fired)
        outcome.refused = sum(outage.fired for outage in hub.outages)
        outcome.missed = len(self.schedule.faults) - sum(hub.fired.values()) + sum(
            not outage.fired for outage in hub.outages)

    def _play(self) -> None:
        self.start()
        events = sorted(self.schedule.events, key=lambda event: event.turn)
        for turn in range(self.schedule.turns):
            while events and events[0].turn <= turn:
                self.happen(events.pop(0))
            self.turn()

    def _heal(self) -> None:
        """No more faults; it must end well by itself."""
        self.hub.plan = {}
        self.hub.outages = []
        self.hub.say("everything heals")
        if self._topics_wanted != tuple(self.topics):
            self.on_reconfigure(len(self.topics))
        for topic in self.topics:
            self.on_produce(topic, "v")
        for turn in range(SETTLE_TURNS_MAX):
            if not self._why_not_settled():
                break
            self.turn(TURN_S if turn < SLOW_AFTER_TURNS else LONG_TURN_S)
        else:
            raise Violation(f"it did not end: {self._why_not_settled()}")
        self._stop_all()

    def _why_not_settled(self) -> str:
        names = [service.instance for service in self.services]
        if len(set(names)) != len(names) or "0" not in names:
            return f"services {names}"
        for service in self.services:
            if service.coordinator.phase in UNSETTLED:
                return f"{service.name} is {service.coordinator.phase.name}"
            for topic, member in service.coordinator.members.items():
                if member.standing is not Standing.ACTIVE:
                    return f"{service.name}: {topic} is {member.standing}"
        for topic, held in self.topics.items():
            for partition in range(held.partition_count):
                position = self.judge.positions.get((topic, partition))
                if position != held.high(partition):
                    return f"{topic}[{partition}] is at {position} of {held.high(partition)}"
                if held.group_offsets.get(partition) != position and position:
                    return f"the group is at {held.group_offsets} of {topic}"
        return ""

    def _stop_all(self) -> None:
        self._stopping = True
        self._restarts.clear()  # Whoever stops a unit also stops its next start.
        for service in self.services:
            service.coordinator.request_stop()
        for _ in range(SETTLE_TURNS_MAX):
            if not self.services:
                return
            self.turn()
        raise Violation("it did not stop")


def _conflict(operation: str, path: str) -> CommitConflict:
    return CommitConflict(f"{operation} {path}: the winner was ourselves")


@contextmanager
def _apart(world: World) -> Iterator[None]:
    """Put twins and shorter times where modules look for them; all of it is given back."""
    schedule = world.schedule
    state, disabled = random.getstate(), logging.root.manager.disable
    random.seed(schedule.seed)
    logging.disable(logging.CRITICAL)
    try:
        with (patch.object(workers.draft, "ParquetFile", FileTwin),
              patch.object(workers.worker, "decode", file_twin.remembered),
              patch.object(workers.worker, "SEND_EARLY_BYTES", SEND_EARLY_BYTES),
              patch.object(workers.worker, "RECYCLE_AGE_S", 0.0),
              patch.object(workers.worker, "FLUSH_WAIT_S",
                           0.0 if schedule.reads_on else workers.worker.FLUSH_WAIT_S),
              patch.object(file_twin, "numbers", itertools.count()),
              patch.object(workers.assembly, "open_store", lambda lake: world.store),
              patch.object(workers.assembly, "DeltaStore", lambda *parts: world.tables),
              patch.object(shared.record_log, "RECORDS_KEPT_MIN", schedule.records_kept),
              patch.object(supervisor.coordinator, "TRIM_INTERVAL_S", schedule.trim_interval_s),
              patch.object(supervisor.coordinator, "WATCH_INTERVAL_S", schedule.watch_interval_s)):
            yield
    finally:
        logging.disable(disabled)
        random.setstate(state)
