"""A worker on twins, and the supervisor's side of the cycle played by hand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from shared.block import Block
from shared.layout import Order, Report
from shared.naming import position_app_id
from shared.protocol import Ballot, Phase, Vote
from shared.record_log import RecordLog
from shared.records import BRONZE, DLQ, CycleRecord, Manifest, decode_manifest, encode
from tests.fakes.clock import FakeClock
from tests.fakes.config import make_config
from tests.fakes.source import MemorySource, MemoryTopic
from tests.fakes.store import MemoryStore
from tests.fakes.tables import MemoryTables, TableState
from tests.fakes.tidier import IdleTidier
from workers.appetite import Appetite
from workers.reporter import Reporter
from workers.tables import TopicTables
from workers.worker import Parts, Worker

TOPIC = "orders"
FOLDERS = {BRONZE: f"bronze_{TOPIC}", DLQ: f"dlq_bronze_{TOPIC}"}
TURN_S = 0.1
START_TURNS_MAX = 20
FIRST_MESSAGES = 16


class WorkerRig:
    """One topic: Kafka, lake, block, and the worker of one incarnation after another."""

    def __init__(
        self, folder: Path, partitions: int = 1, *, slots: int = 1, expected_bytes: float = 0,
        **overrides: Any,
    ) -> None:
        """slots: of the block; those after the first one are of topics that a test plays.

        expected_bytes: what the worker takes a message for before it has seen one; 0: so little
        that it begins with a good helping.
        """
        self.expected_bytes = expected_bytes
        self.config = make_config((TOPIC,), **overrides)
        self.block = Block.create(folder / "block", slots, b"{}")
        self.slot = self.block.slot(0)
        self.clock, self.store, self.twins = FakeClock(), MemoryStore(), MemoryTables()
        self.topic = MemoryTopic(partitions)
        self.tidier = IdleTidier()
        self.log = RecordLog(self.store)
        self.wakes = 0
        self.cycle_id = 0
        self.records = 0
        self.block.set_phase(0, Phase.RECOVERING)
        self.worker, self.source = self.hire()

    def hire(self, assigns_all: bool = True) -> tuple[Worker, MemorySource]:
        """Begin a new incarnation; whatever the old one held in memory is gone."""
        incarnation = self.slot.order(Order.INCARNATION) + 1
        self.slot.set_order(Order.INCARNATION, incarnation)
        source = MemorySource(self.topic, assigns_all)
        reporter = Reporter(self.slot, self.clock, TOPIC)
        source.on_commit_failure = reporter.offsets_refused
        tables = TopicTables(
            self.store, self.twins, TOPIC, dlq_enabled=self.config.dlq_enabled,
            on_doubt=reporter.doubt)
        worker = Worker(Parts(
            self.config, TOPIC, incarnation, self.block, self.slot, source, tables, self.log,
            self.store, self.clock, reporter, self.tidier, self._wake))
        limits = self.config.limits
        # Else it would begin with single messages, and every test take a dozen turns more.
        worker._appetite = Appetite(
            limits.consume_batch_messages, limits.row_group_bytes,
            self.expected_bytes or limits.row_group_bytes / FIRST_MESSAGES)
        self.slot.set_report(Report.INCARNATION, incarnation)
        self.worker, self.source = worker, source
        return worker, source

    def _wake(self) -> None:
        self.wakes += 1

    # -- time -------------------------------------------------------------------------------

    def turn(self, count: int = 1) -> None:
        """Let the worker turn, and a little time pass after each."""
        for _ in range(count):
            self.worker.run_once()
            self.clock.advance(TURN_S)

    def start(self) -> None:
        """Turn until the worker has joined and reads."""
        for _ in range(START_TURNS_MAX):
            if self.slot.report(Report.STARTED) == self.slot.order(Order.INCARNATION):
                break
            self.turn()
        else:
            raise AssertionError("the worker did not start")
        if self.block.phase()[1] is Phase.RECOVERING:
            self.block.set_phase(0, Phase.CONSUMING)
        self.turn()

    def rest(self) -> None:
        """Let every back-off pass."""
        self.clock.advance(60.0)

    # -- the supervisor's side --------------------------------------------------------------

    def flush(self) -> Vote:
        """Begin a cycle and give the worker's vote on it."""
        self.cycle_id += 1
        self.block.set_phase(self.cycle_id, Phase.FLUSHING)
        self.turn()
        ballot = self.slot.ballot()
        assert ballot == Ballot(self.cycle_id, ballot.vote)
        return ballot.vote

    @property
    def manifest(self) -> Manifest:
        """What the slot holds."""
        content = self.slot.manifest.read()
        assert content is not None
        return decode_manifest(content)

    def record(self) -> int:
        """Write the record of the present cycle; the worker does not know yet."""
        self.block.set_phase(self.cycle_id, Phase.DECIDING)
        number = self.log.tail().next_number
        record = CycleRecord(
            "0", "u", self.cycle_id, "t", (self.manifest,), {}, self.records - 1, {})
        assert self.log.put(number, encode(record))
        self.records = number + 1
        return number

    def tell(self, number: int) -> None:
        """Tell the worker that it is included in record `number`."""
        self.slot.include(self.cycle_id, number)
        self.block.set_phase(self.cycle_id, Phase.COMMITTING)

    def decide(self) -> int:
        """Make the present cycle a fact and let the worker commit it once."""
        number = self.record()
        self.tell(number)
        self.turn()
        return number

    def consume(self) -> None:
        """Go back to consuming."""
        self.block.set_phase(self.cycle_id, Phase.CONSUMING)
        self.turn()

    def abort(self, *, reset: bool = False) -> None:
        """Abort the present cycle; `reset` says that the range did not fit the frontier."""
        if reset:
            self.slot.set_order(Order.RESET_CYCLE, self.cycle_id)
        self.block.set_phase(self.cycle_id, Phase.ABORTING)
        self.consume()

    def cycle(self) -> Vote:
        """A whole cycle, decided when there is something to decide."""
        vote = self.flush()
        if vote is Vote.PREPARED:
            self.decide()
        self.consume()
        return vote

    # -- what the lake holds ----------------------------------------------------------------

    def state(self, table: str = BRONZE) -> TableState:
        """A table."""
        return self.twins.states[FOLDERS[table]]

    def landed(self, table: str = BRONZE) -> list[tuple[int, int]]:
        """(partition, offset) of every visible row, sorted; one that is there twice shows twice."""
        found = []
        for path in self.twins.states[FOLDERS[table]].paths if FOLDERS[table] in self.twins.states \
                else ():
            rows = pq.read_table(io.BytesIO(self.store.objects[f"{FOLDERS[table]}/{path}"]))
            found += zip(rows["_kafka_partition"].to_pylist(), rows["_kafka_offset"].to_pylist(),
                         strict=True)
        return sorted(found)

    def offsets(self, table: str = BRONZE, partition: int = 0) -> list[int]:
        """Visible offsets of one partition."""
        return [offset for p, offset in self.landed(table) if p == partition]

    def position(self, partition: int = 0) -> int | None:
        """Where the table says that reading goes on."""
        return self.state().txns().get(position_app_id(TOPIC, partition))

    def check(self) -> None:
        """What must hold at any moment: nothing twice, no hole, Kafka's offsets not ahead."""
        landed = sorted(self.landed() + self.landed(DLQ))
        assert len(set(landed)) == len(landed), f"rows twice: {landed}"
        for partition in range(self.topic.partition_count):
            position = self.position(partition)
            if position is None:
                continue
            wanted = [offset for offset, entry in
                      enumerate(self.topic.entries.get(partition, [])[:position])
                      if not entry.control and offset >= self.topic.low(partition)]
            assert wanted == [o for p, o in landed if p == partition and
                              o >= self.topic.low(partition)]
            assert self.topic.group_offsets.get(partition, 0) <= position
