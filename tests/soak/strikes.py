"""How each fault is done to the running service and its surroundings, and how all are healed.

What takes seconds (a broker that starts, say) happens in a thread of its own, so that other blows
fall meanwhile. Everything that was struck is counted here, and only after it has struck.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
from deltalake import DeltaTable

from tests.rig.evidence import Strike
from tests.rig.lake import bronze_table, table_uri
from tests.rig.s3_proxy import (
    RESET_AFTER,
    RESET_BEFORE,
    Action,
    Rule,
    S3Proxy,
    delay,
    fail_after,
    fail_before,
    hang,
)
from tests.rig.scene import ORPHANS_END_S, Scene, kill
from tests.rig.service import Service
from tests.rig.tcp_proxy import TcpProxy
from tests.services import KafkaService, MinioService
from tests.soak.plan import Blow, Fault

SILENCE_S = 3.0
"""Longer than STORE_TIMEOUT_SECONDS of the scene."""
SLOW_S = 0.3
STARTED_AGAIN_S = 120
SERVICE_ENDED_S = 60

ACTIONS: dict[str, Action] = {
    "500 before effect": fail_before(500),
    "503 before effect": fail_before(503),
    "429 before effect": fail_before(429),
    "reset before effect": RESET_BEFORE,
    "silence before effect": hang(SILENCE_S, after=False),
    "500 after effect": fail_after(500),
    "reset after effect": RESET_AFTER,
    "silence after effect": hang(SILENCE_S, after=True),
}
PUTS = {
    "data file": r"/_ingestion_date=[^/]*/[^/]*\.parquet$",
    "record": r"/_bronze/log/\d+\.json$",
    "commit": r"/_delta_log/\d+\.json$",
    "checkpoint": r"/_delta_log/\d+\.checkpoint.*\.parquet$|/_last_checkpoint$",
}
REQUESTS = {**{what: ("PUT", path) for what, path in PUTS.items()}, "read": ("GET", "")}
WEIGHTS = {"data file": 3, "record": 2, "commit": 4, "checkpoint": 1, "read": 2}


class World:
    """The service under test with all that can be done to it.

    Attributes:
        fired: (kind of strike, what) -> how often, as `Evidence` counts.
        struck: faults of the plan that have struck, and how often.
        exits: exit codes of the service that nobody asked for -> how often.
        failures: what went wrong in the rig's own threads, or with a stop that was asked for.
    """

    def __init__(
        self,
        scene: Scene,
        service: Service,
        kafka: KafkaService,
        minio: MinioService,
        store: S3Proxy,
        broker: TcpProxy,
        seed: int | str,
    ) -> None:
        self.scene, self.service = scene, service
        self.fired: Counter[tuple[Strike, str]] = Counter()
        self.struck: Counter[Fault] = Counter()
        self.exits: Counter[int] = Counter()
        self.failures: list[str] = []
        self._kafka, self._minio, self._store, self._broker = kafka, minio, store, broker
        self._random = random.Random(f"strikes {seed}")
        self._rules: list[tuple[str, Rule]] = []
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._frozen: set[int] = set()
        self._pool = ThreadPoolExecutor(2, "surroundings")
        self._jobs: list[Future[None]] = []
        self._lock, self._kafka_lock = threading.Lock(), threading.Lock()
        self._deeds: dict[Fault, Callable[[Blow], None]] = {
            Fault.WORKER_KILLED: lambda blow: self._kill(blow, "worker"),
            Fault.FORKSERVER_KILLED: lambda blow: self._kill(blow, "forkserver"),
            Fault.SIDECAR_KILLED: lambda blow: self._kill(blow, "sidecar"),
            Fault.SUPERVISOR_KILLED: self._kill_supervisor,
            Fault.RESTARTED: self._restart,
            Fault.WORKER_FROZEN: lambda blow: self._freeze(blow, "worker"),
            Fault.SERVICE_FROZEN: lambda blow: self._freeze(blow, "whole service"),
            Fault.STORE_REQUESTS: self._arm,
            Fault.STORE_SLOW: self._slow_store,
            Fault.STORE_KILLED: lambda blow: self._aside(self._cycle_store, blow),
            Fault.BROKER_KILLED: lambda blow: self._aside(self._cycle_broker, blow),
            Fault.BROKER_RESTARTED: lambda blow: self._aside(self._cycle_broker, blow),
            Fault.BROKER_SILENT: self._silence_broker,
            Fault.OPTIMIZED: lambda blow: self._aside(self._optimize, blow),
        }

    # What the periods call

    def strike(self, blow: Blow) -> None:
        """Do one blow; one that finds no victim at this moment is not counted."""
        self._deeds[blow.fault](blow)

    def end_what_is_due(self) -> None:
        """End what has lasted as long as planned."""
        while self._later and self._later[0][0] <= time.monotonic():
            heapq.heappop(self._later)[2]()

    def heal(self) -> None:
        """End everything that was done, wait for what is under way, and count what fired."""
        while self._later:
            heapq.heappop(self._later)[2]()
        for job in self._jobs:
            try:
                job.result(STARTED_AGAIN_S)
            except Exception as error:
                self.failures.append(f"the surroundings: {error!r}")
        self._jobs = []
        self._broker.heal()
        self._store.clear()
        for what, rule in self._rules:
            if rule.fired:
                self._count(Fault.STORE_REQUESTS, Strike.STORE, what)
        self._rules = []
        self.failures += [f"the store's proxy: {error!r}" for error in self._store.errors]

    def revive(self) -> None:
        """Start the service again when it has ended by itself, as its manager would."""
        if not self.service.is_running():
            self.exits[self.service.exit_code or 0] += 1
            self.service.wait_gone(ORPHANS_END_S)
            self.service.start()

    def close(self) -> None:
        """Heal, and end the threads."""
        self.heal()
        self._pool.shutdown()

    # Processes

    def _kill(self, blow: Blow, victim: str) -> None:
        pids = find(self.service, victim)
        if pids:
            kill(self._random.choice(pids))
            self._count(blow.fault, Strike.KILL, victim)

    def _kill_supervisor(self, blow: Blow) -> None:
        if not self.service.is_running():
            return
        self.service.kill_supervisor()
        # Whoever is frozen cannot see that its parent has died.
        self._thaw(set(self._frozen))
        self.service.wait_gone(ORPHANS_END_S)
        self._count(blow.fault, Strike.KILL, "supervisor")
        self.service.start()

    def _restart(self, blow: Blow) -> None:
        if not self.service.is_running():
            return
        self._thaw(set(self._frozen))
        code = self.service.terminate(SERVICE_ENDED_S)
        if code != 0:
            self.failures.append(f"SIGTERM was answered by exit code {code}")
        self.service.wait_gone(ORPHANS_END_S)
        self.struck[blow.fault] += 1
        self.service.start()

    def _freeze(self, blow: Blow, victim: str) -> None:
        if victim == "worker":
            workers = find(self.service, "worker")
            pids = {self._random.choice(workers)} if workers else set()
        else:
            pids = set(self.service.all_pids())
        stopped = {pid for pid in pids if send(pid, signal.SIGSTOP)}
        if stopped:
            self._frozen |= stopped
            self._count(blow.fault, Strike.FREEZE, victim)
            self._after(blow.seconds, lambda: self._thaw(stopped))

    def _thaw(self, pids: set[int]) -> None:
        for pid in pids & self._frozen:
            send(pid, signal.SIGCONT)
        self._frozen -= pids

    # Store

    def _arm(self, _: Blow) -> None:
        """Have the next request of a kind fail in some way; counted when it has fired."""
        kinds = list(REQUESTS)
        request = self._random.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        method, path = REQUESTS[request]
        names = [name for name in ACTIONS if request != "read" or name.endswith("before effect")]
        name = self._random.choice(names)
        rule = self._store.rule(method=method, path_regex=path, action=ACTIONS[name], times=1)
        self._rules.append((f"{request}: {name}", rule))

    def _slow_store(self, blow: Blow) -> None:
        rule = self._store.rule(action=delay(SLOW_S))
        self._after(blow.seconds, lambda: self._store.remove(rule))
        self._count(blow.fault, Strike.STORE, "slow for a while")

    def _cycle_store(self, blow: Blow) -> None:
        self._minio.kill()
        self._count(blow.fault, Strike.STORE, "store killed and started")
        time.sleep(blow.seconds)
        self._minio.start()

    def _optimize(self, blow: Blow) -> None:
        """Compact a table as another engine would; a conflict is the other engine's trouble."""
        topic = self._random.choice(self.scene.topics)
        uri = table_uri(self.scene.lake_uri, bronze_table(topic))
        with contextlib.suppress(Exception):
            DeltaTable(uri, storage_options=self.scene.options).optimize.compact()
            self._count(blow.fault, Strike.TABLE, "OPTIMIZE by another writer")

    # Kafka

    def _cycle_broker(self, blow: Blow) -> None:
        end, how = (
            (self._kafka.kill, "killed") if blow.fault is Fault.BROKER_KILLED
            else (self._kafka.stop, "stopped")
        )
        with self._kafka_lock:
            end()
            self._count(blow.fault, Strike.KAFKA, f"broker {how} and started")
            time.sleep(blow.seconds)
            self._kafka.start()

    def _silence_broker(self, blow: Blow) -> None:
        self._broker.black_hole()
        self._count(blow.fault, Strike.KAFKA, "broker out of reach")
        self._after(blow.seconds, self._broker.heal)

    # Time and counts

    def _count(self, fault: Fault, kind: Strike, what: str) -> None:
        with self._lock:
            self.fired[kind, what] += 1
            self.struck[fault] += 1

    def _after(self, seconds: float, deed: Callable[[], None]) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), deed))

    def _aside(self, deed: Callable[[Blow], None], blow: Blow) -> None:
        self._jobs.append(self._pool.submit(deed, blow))


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; tells whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def find(service: Service, victim: str) -> list[int]:
    """Pids of the service's processes of a kind, from the process table: the page may be away."""
    if not service.is_running():
        return []
    if victim == "sidecar":
        pid = service.sidecar_pid()
        return [] if pid is None else [pid]
    try:
        forkservers = [
            child for child in psutil.Process(service.pid).children()
            if "multiprocess.forkserver" in " ".join(child.cmdline())
        ]
        if victim == "forkserver":
            return [process.pid for process in forkservers]
        page = service.sidecar_pid()
        return sorted(child.pid for process in forkservers for child in process.children()
                      if child.pid != page)
    except psutil.Error:
        return []  # It ended between two questions.

