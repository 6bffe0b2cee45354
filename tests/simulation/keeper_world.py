"""A world in which each service has a keeper, and a judge of the ledger they keep together."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import keeper.ledger
from keeper.ledger import Ledger, Progress
from keeper.ledger_rows import RowStatus
from shared.errors import IngestError
from shared.exit_codes import WorkerExit
from shared.naming import LEDGER, bronze_table, record_number
from shared.record_log import RecordLog
from shared.records import CycleRecord, Manifest, decode
from tests.simulation import file_twin
from tests.simulation.file_twin import FileTwin, read_rows
from tests.simulation.gate import Crash
from tests.simulation.judge import Violation
from tests.simulation.service import Service
from tests.simulation.world import Outcome, Schedule, World

TURNS_MAX = 200
"""Turns of a keeper at the end; a record takes none to two."""
NUMBERS_AT_THE_END = 1_000_000
"""No file of the world itself has one as high: none is written over."""


class KeeperProcess:
    """A service's keeper: a new process for each turn, on whose death the next one follows."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.name = f"{service.name}/keeper"
        self.dead = self.busy = False
        self.progress: Progress | None = None

    def kill(self, code: int) -> None:
        """End it at once; what it learned dies with it."""
        self.dead = True

    def step(self) -> None:
        """Let it take a turn."""
        service = self.service
        if self.dead or self.busy or service.frozen or service.dead:
            return
        hub, before = service.world.hub, service.world.hub.actor
        hub.actor, self.busy = self, True
        try:
            self.progress = ledger_of(service.world).advance()
        except Crash:
            pass
        except IngestError:
            self.kill(WorkerExit.FAILED)
        finally:
            hub.actor, self.busy = before, False

    @property
    def entered_through(self) -> int:
        """See `Decider.trim`."""
        return -1 if self.progress is None else self.progress.next_record - 1


def ledger_of(world: World) -> Ledger:
    """The ledger as a new process would have it."""
    return Ledger(world.store, world.tables, RecordLog(world.store), world.clock.unix_ms)


class KeeperWorld(World):
    """See the module.  Whether a keeper turns in a round is drawn by the schedule's seed."""

    def __init__(self, schedule: Schedule, *, tracing: bool = False) -> None:
        super().__init__(schedule, tracing=tracing)
        self._keepers: dict[int, KeeperProcess] = {}
        self._drawn = random.Random(f"keeper {schedule.seed}")
        self._records: dict[int, bytes] = {}
        self.entered = 0

    def start(self, instance: str = "0") -> None:
        """See `World`; records wait for the ledger before they are trimmed."""
        super().start(instance)
        service = self.services[-1]
        self._keepers[service.number] = KeeperProcess(service)
        service.coordinator._entered_through = (
            lambda: self._keepers[service.number].entered_through)

    def observe(self, kind: str, operation: str, path: str) -> None:
        """See `World`; what the keepers write is judged at the end."""
        if path == LEDGER or path.startswith(f"{LEDGER}/"):
            return
        number = record_number(path)
        if kind == "store" and operation == "put" and number is not None:
            self._records.setdefault(number, self.store.objects[path])
        super().observe(kind, operation, path)

    def _tend_services(self) -> None:
        for service in list(self.services):
            keeper_process = self._keepers[service.number]
            if keeper_process.dead:
                learned = keeper_process.progress
                self._keepers[service.number] = KeeperProcess(service)
                # The block outlives a keeper, and with it what its last whole turn told.
                self._keepers[service.number].progress = learned
            elif self._drawn.random() < 0.5:
                keeper_process.step()
        super()._tend_services()

    def run(self) -> Outcome:
        """See `World`; the ledger is judged behind the rest."""
        with _encoding_nothing():
            outcome = super().run()
            if not outcome.violation:
                try:
                    with patch.object(file_twin, "numbers", itertools.count(NUMBERS_AT_THE_END)):
                        self._judge_ledger()
                except Violation as violation:
                    outcome.violation = str(violation)
        return outcome

    def _judge_ledger(self) -> None:
        last = max(self._records)
        for _ in range(TURNS_MAX):
            if ledger_of(self).advance() == Progress(last + 1, 0, 0):
                break
        else:
            raise Violation(f"the ledger did not come to record {last}")
        found: dict[tuple[int, str], list[dict[str, Any]]] = {}
        for path in self.tables.states[LEDGER].paths:
            for row in read_rows(self.store.objects[f"{LEDGER}/{path}"]):
                found.setdefault((row["record"], row["topic"]), []).append(row)
        for number, data in self._records.items():
            record = decode(data, number)
            if isinstance(record, CycleRecord):
                self._judge_record(number, record, found)
        if found:
            raise Violation(f"rows of the ledger that no record explains: {sorted(found)}")

    def _judge_record(
        self, number: int, record: CycleRecord, found: dict[tuple[int, str], list[dict[str, Any]]]
    ) -> None:
        for manifest in record.manifests:
            rows = found.pop((number, manifest.topic), [])
            if len(rows) != 1 or rows[0]["status"] != RowStatus.COMMITTED:
                raise Violation(f"record {number}, {manifest.topic}: the ledger has {rows}")
            self._judge_row(number, manifest, rows[0])
            self.entered += 1
        for topic in record.excluded:
            rows = found.pop((number, topic), [])
            if [row["status"] for row in rows] != [RowStatus.EXCLUDED]:
                raise Violation(f"record {number}, {topic} excluded: the ledger has {rows}")

    def _judge_row(self, number: int, manifest: Manifest, row: dict[str, Any]) -> None:
        commits = self.tables.states[bronze_table(manifest.topic)].commits
        version = row["table_version"]
        if version is None or commits[version].record != number:
            raise Violation(f"record {number}, {manifest.topic}: version {version} in the ledger")
        ends = {part["partition"]: (part["start"], part["end"]) for part in row["ranges"]}
        if ends != {part.partition: (part.start, part.end) for part in manifest.ranges}:
            raise Violation(f"record {number}, {manifest.topic}: ranges {ends} in the ledger")


@contextmanager
def _encoding_nothing() -> Iterator[None]:
    with patch.object(keeper.ledger, "ParquetFile", FileTwin):
        yield
