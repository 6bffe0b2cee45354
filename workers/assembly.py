"""Builds a worker out of real parts."""

from __future__ import annotations

from collections.abc import Callable

from shared.block import Block
from shared.clock import SystemClock
from shared.config import Config
from shared.object_store import ObjectStore, open_store
from shared.record_log import RecordLog
from workers.assignment import Assignment
from workers.delta_table import DeltaStore
from workers.kafka_source import KafkaSource
from workers.pages import Tidier
from workers.reporter import Reporter
from workers.tables import TopicTables
from workers.worker import Parts, Worker


def build_worker(
    assignment: Assignment, block: Block, wake_supervisor: Callable[[], None]
) -> Worker:
    """A worker on the configured Kafka and lake; opens connections, reads nothing yet."""
    config, topic = assignment.config, assignment.topic
    store, clock = open_store(config.lake), SystemClock()
    slot = block.slot(assignment.index)
    reporter = Reporter(slot, clock, topic)
    source = KafkaSource(config.kafka, config.limits, topic, config.instance_id,
                         on_commit_failure=reporter.offsets_refused)
    tables = TopicTables(store, table_store(config, store, reporter.beat), topic,
                         dlq_enabled=config.dlq_enabled, on_doubt=reporter.doubt)
    return Worker(Parts(
        config, topic, assignment.incarnation, block, slot, source, tables, RecordLog(store),
        store, clock, reporter, Tidier(clock), wake_supervisor))


def roll_forward_only(config: Config, topic: str) -> None:
    """Bring every undone record naming `topic` into its tables."""
    store = open_store(config.lake)
    tables = TopicTables(
        store, table_store(config, store), topic, dlq_enabled=config.dlq_enabled)
    tables.open_existing()
    for number, record in RecordLog(store).tail().cycles.items():
        for manifest in record.manifests:
            if manifest.topic == topic:
                tables.roll_forward(number, manifest)


def table_store(
    config: Config, store: ObjectStore, beat: Callable[[], None] = lambda: None
) -> DeltaStore:
    """The tables of the configured lake; opens none yet.  beat: see `DeltaStore`."""
    return DeltaStore(config.lake.uri, config.lake.storage_options(), store, beat)
