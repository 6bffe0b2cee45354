"""A lake in a folder, made cycle by cycle by the product's own parts: no Kafka, no process.

For tests of what reads a lake.  Each cycle has one file per table and topic; every seventh message
is a dead letter, which today's checks would take if it is in partition 0; every offset that is a
multiple of a hundred never had a message.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from keeper.ledger import Ledger
from shared.clock import rfc3339
from shared.naming import bronze_table, dlq_table
from shared.object_store import open_store
from shared.record_log import RecordLog
from shared.records import (
    BRONZE, DLQ, CycleRecord, DataFile, Manifest, Range, StartRecord, encode,
)
from tests.fakes.config import make_config
from workers.delta_table import DeltaStore
from workers.parquet_file import ParquetFile
from workers.schemas import BRONZE_FILE, DLQ_FILE
from workers.tables import TopicTables

NOW_MS = 1_790_000_000_000
DEAD_EVERY, ABSENT_EVERY = 7, 100
TOPIC_ID = "id-1"
FIT, UNFIT = b'{"n": 1}', b'{"n": '
"""Values of dead letters in partition 0, which a later release takes, and in the others."""


class MadeLake:
    """See the module.  topics: each of `partitions` partitions."""

    def __init__(self, folder: Path, topics: tuple[str, ...], partitions: int = 2) -> None:
        self.folder, self.topics = folder, topics
        self._config = make_config(topics, {"LAKE_URI": str(folder)})
        self._store = open_store(self._config.lake)
        self.tables_of_lake = DeltaStore(str(folder), {}, self._store)
        self.log = RecordLog(self._store)
        self._ends = {(topic, p): 0 for topic in topics for p in range(partitions)}
        self._tables = {topic: TopicTables(self._store, self.tables_of_lake, topic,
                                           dlq_enabled=True) for topic in topics}
        for tables in self._tables.values():
            tables.ensure()
            tables.begin(dict.fromkeys(range(partitions), 0), TOPIC_ID)
        self._next = 0
        self._put(StartRecord("0", "u", "1", 0, rfc3339(NOW_MS), -1))

    @property
    def environ(self) -> dict[str, str]:
        """The variables with which a tool looks at it."""
        return {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "KAFKA_TOPICS": ",".join(self.topics),
                "LAKE_URI": str(self.folder)}

    def _put(self, record: StartRecord | CycleRecord) -> int:
        assert self.log.put(self._next, encode(record))
        self._next += 1
        return self._next - 1

    def cycle(self, offsets: int = 30, *, committed: bool = True) -> None:
        """So many offsets of every partition; without a commit it stays decided."""
        manifests = tuple(self._prepare(topic, offsets) for topic in self.topics)
        number = self._put(CycleRecord(
            "0", "u", self._next, rfc3339(NOW_MS), manifests, {}, self._next - 1, {}))
        for manifest in manifests if committed else ():
            self._tables[manifest.topic].roll_forward(number, manifest)

    def _prepare(self, topic: str, count: int) -> Manifest:
        rows: dict[str, list[tuple[int, int]]] = {BRONZE: [], DLQ: []}
        ranges = []
        for (name, partition), start in list(self._ends.items()):
            if name != topic:
                continue
            there = [offset for offset in range(start, start + count) if offset % ABSENT_EVERY]
            dead = [offset for offset in there if offset % DEAD_EVERY == 0]
            rows[DLQ] += [(partition, offset) for offset in dead]
            rows[BRONZE] += [(partition, offset) for offset in there if offset not in set(dead)]
            ranges.append(Range(partition, start, start + count, len(there) - len(dead), len(dead)))
            self._ends[topic, partition] = start + count
        files = tuple(self._file(topic, table, found) for table, found in rows.items() if found)
        return Manifest(topic, TOPIC_ID, 1, files, tuple(ranges), {"json": len(rows[DLQ])}, 0,
                        NOW_MS)

    def _file(self, topic: str, table: str, rows: list[tuple[int, int]]) -> DataFile:
        schema = BRONZE_FILE if table == BRONZE else DLQ_FILE
        moment = datetime.fromtimestamp(NOW_MS / 1000, UTC)
        columns: dict[str, list[object]] = {
            "_kafka_partition": [partition for partition, _ in rows],
            "_kafka_offset": [offset for _, offset in rows],
            "_kafka_timestamp": [moment] * len(rows), "_ingested_at": [moment] * len(rows)}
        if table == DLQ:
            columns |= {
                "value": [FIT if partition == 0 else UNFIT for partition, _ in rows],
                "_kafka_topic": [topic] * len(rows), "error_class": ["json"] * len(rows),
                "error_message": [f"refused by an older release (byte {offset})"
                                  for _, offset in rows]}
        columns |= self.contents(topic, table, rows)
        batch = pa.record_batch(
            [pa.array(columns.get(field.name, [None] * len(rows)), field.type)
             for field in schema], schema=schema)
        file = ParquetFile(table, schema, date.isoformat(moment.date()), 1 << 20)
        file.append(batch, batch.nbytes)
        encoded = file.close(NOW_MS)
        folder = bronze_table(topic) if table == BRONZE else dlq_table(topic)
        self._store.put(f"{folder}/{encoded.file.path}", encoded.content)
        return encoded.file

    def contents(
        self, topic: str, table: str, rows: list[tuple[int, int]],
    ) -> dict[str, list[Any]]:
        """More columns of rows at such partitions and offsets; those left out are null."""
        return {}

    def enter(self) -> None:
        """Bring the ledger up to date."""
        ledger = Ledger(self._store, self.tables_of_lake, self.log, lambda: NOW_MS)
        while ledger.advance().entered:
            pass
