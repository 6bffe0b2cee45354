"""A small lake made by hand, step by step, so that a test can make any one step go wrong.

It writes what the product is to write: tables, files, records. Left alone it is without fault;
`Change`s of rows, records and commits make the anomalies that the judge must see.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.transaction import AddAction, RemoveAction

from tests.rig.lake import RECORDS, bronze_table, dlq_table
from tests.rig.ledger import ERROR_CLASSES, Kind, Ledger
from tests.rig.messages import Message, MessageSource

BASE_MS = 1_790_000_000_000
INGESTED_US = BASE_MS * 1000 + 5_000_000
DATE_DAYS = INGESTED_US // 86_400_000_000
PARTITION_COLUMN = "_ingestion_date"

_HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
_TIME = pa.timestamp("us", "UTC")
BRONZE_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.string()),
        ("headers", _HEADERS),
        ("_kafka_partition", pa.int32()),
        ("_kafka_offset", pa.int64()),
        ("_kafka_timestamp", _TIME),
        ("_ingested_at", _TIME),
        (PARTITION_COLUMN, pa.date32()),
    ]
)
DLQ_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("value", pa.binary()),
        ("headers", _HEADERS),
        ("_kafka_topic", pa.string()),
        ("_kafka_partition", pa.int32()),
        ("_kafka_offset", pa.int64()),
        ("_kafka_timestamp", _TIME),
        ("error_class", pa.string()),
        ("error_message", pa.string()),
        ("error_position", pa.int64()),
        ("_ingested_at", _TIME),
        (PARTITION_COLUMN, pa.date32()),
        ("service_version", pa.string()),
    ]
)

Row = dict[str, Any]
Record = dict[str, Any]
Rows = dict[str, list[Row]]
"""Table to its rows; what a change of rows gets and may alter."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A topic's uploaded part: its rows' tables and its manifest."""

    topic: str
    manifest: Record


class ToyLake:
    """A lake in a folder, with its ledger, its tables and its log of records."""

    def __init__(
        self,
        folder: Path,
        topics: Iterable[str] = ("a", "b"),
        partitions: int = 2,
        schemas: Mapping[str, pa.Schema] | None = None,
    ) -> None:
        self.folder = folder
        self.topics = list(topics)
        self.partitions = partitions
        self.ledger = Ledger()
        self.next_number = 0
        self.uuid = uuid.uuid4().hex
        self._cycle_id = 0
        self._source = MessageSource(1, BASE_MS, malformed_fraction=0.2)
        self._ends = {(topic, number): 0 for topic in self.topics for number in range(partitions)}
        self.schemas: dict[str, pa.Schema] = {}
        for topic in self.topics:
            self.schemas[bronze_table(topic)] = BRONZE_SCHEMA
            self.schemas[dlq_table(topic)] = DLQ_SCHEMA
        self.schemas.update(schemas or {})
        for table, schema in self.schemas.items():
            DeltaTable.create(self.uri(table), schema, partition_by=[PARTITION_COLUMN])
        for topic in self.topics:
            self.commit(bronze_table(topic), [], dict.fromkeys(range(partitions), 0))
        self.start()

    def uri(self, table: str) -> str:
        """Where a table lies."""
        return str(self.folder / table)

    def start(self) -> None:
        """Write a start record."""
        self.write_record({"kind": "start", "service_version": "1"})

    def cycle(
        self,
        count: int = 10,
        *,
        change_rows: Callable[[Rows], None] | None = None,
        change_record: Callable[[Record], None] | None = None,
    ) -> Record:
        """One whole cycle of `count` messages per partition: prepare, decide, commit."""
        parts = [self.prepare(topic, count, change_rows) for topic in self.topics]
        record = self.decide(parts, change_record)
        for topic in self.topics:
            self.carry_out(record, topic)
        return record

    def write_messages(self, topic: str, count: int) -> list[tuple[int, int, Message]]:
        """Enter `count` messages per partition in the ledger: partition, offset, message."""
        made = []
        for number in range(self.partitions):
            for _ in range(count):
                message = self._source.next()
                offset = self._ends[topic, number]
                self._ends[topic, number] = offset + 1
                self.ledger.record(topic, number, offset, message.kind, message.digest)
                made.append((number, offset, message))
        return made

    def prepare(
        self, topic: str, count: int, change_rows: Callable[[Rows], None] | None = None
    ) -> Prepared:
        """Write messages of a topic and upload their files; nothing is visible."""
        starts = {number: self._ends[topic, number] for number in range(self.partitions)}
        made = self.write_messages(topic, count)
        rows: Rows = {bronze_table(topic): [], dlq_table(topic): []}
        for number, offset, message in made:
            is_valid = message.kind is Kind.VALID
            table = bronze_table(topic) if is_valid else dlq_table(topic)
            rows[table].append(row_of(topic, number, offset, message))
        ranges = [
            {
                "partition": number,
                "start": start,
                "end": self._ends[topic, number],
                "rows": _count(rows[bronze_table(topic)], number),
                "dead_letters": _count(rows[dlq_table(topic)], number),
                "skipped": 0,
                "lost": [],
            }
            for number, start in starts.items()
        ]
        if change_rows is not None:
            change_rows(rows)
        files = [
            self.upload(table, name, table_rows)
            for table, name in ((bronze_table(topic), "bronze"), (dlq_table(topic), "dlq"))
            if (table_rows := rows[table])
        ]
        manifest = {
            "topic": topic,
            "topic_id": "id",
            "incarnation": 1,
            "files": files,
            "ranges": ranges,
        }
        return Prepared(topic, manifest)

    def upload(self, table: str, kind: str, rows: list[Row]) -> Record:
        """Write one file and give its entry for a manifest."""
        schema = self.schemas[table]
        schema = schema.remove(schema.get_field_index(PARTITION_COLUMN))
        columns = {name: [row.get(name) for row in rows] for name in schema.names}
        date = _date_text()
        path = f"{PARTITION_COLUMN}={date}/{uuid.uuid4().hex}.parquet"
        target = self.folder / table / path
        target.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns, schema), target)
        return {
            "table": kind,
            "path": path,
            "size": target.stat().st_size,
            "rows": len(rows),
            "date": date,
            "stats": json.dumps({"numRecords": len(rows)}),
        }

    def decide(
        self, parts: Iterable[Prepared], change: Callable[[Record], None] | None = None
    ) -> Record:
        """Write the cycle record; gives what was written."""
        self._cycle_id += 1
        record: Record = {
            "kind": "cycle",
            "cycle_id": self._cycle_id,
            "manifests": [copy.deepcopy(part.manifest) for part in parts],
            "excluded": {},
            "table_versions": self.versions(),
        }
        if change is not None:
            change(record)
        self.write_record(record)
        return record

    def versions(self) -> dict[str, int]:
        """The version that each table has now."""
        return {table: DeltaTable(self.uri(table)).version() for table in self.schemas}

    def write_record(self, record: Record) -> None:
        """Write a record at the next number; what it does not say is filled in."""
        folder = self.folder / RECORDS
        folder.mkdir(parents=True, exist_ok=True)
        record.setdefault("instance", "0")
        record.setdefault("uuid", self.uuid)
        record.setdefault("written_at", "2026-01-01T00:00:00Z")
        record.setdefault("complete_through", self.next_number - 1)
        record.setdefault("record_version", 1)
        path = folder / f"{self.next_number:020d}.json"
        path.write_text(json.dumps(record))
        self.next_number += 1

    def carry_out(
        self, record: Record, topic: str, tables: Iterable[str] = ("dlq", "bronze")
    ) -> None:
        """Commit a topic's part of a record, dead letters first."""
        (manifest,) = (part for part in record["manifests"] if part["topic"] == topic)
        for kind in tables:
            files = [file for file in manifest["files"] if file["table"] == kind]
            table = bronze_table(topic) if kind == "bronze" else dlq_table(topic)
            positions = {
                entry["partition"]: entry["end"]
                for entry in manifest["ranges"]
                if kind == "bronze" or entry["dead_letters"]
            }
            if kind == "bronze" or files:
                self.commit(table, files, positions)

    def commit(self, table: str, files: list[Record], positions: Mapping[int, int]) -> None:
        """Commit files and positions to a table, whatever anybody decided."""
        topic = table.split("bronze_", 1)[1]
        adds: list[AddAction | RemoveAction] = [
            AddAction(
                file["path"], file["size"], {PARTITION_COLUMN: file["date"]}, 0, True, file["stats"]
            )
            for file in files
        ]
        handle = DeltaTable(self.uri(table))
        handle.create_write_transaction(
            adds,
            "append",
            handle.schema(),
            [PARTITION_COLUMN],
            commit_properties=CommitProperties(
                app_transactions=[
                    Transaction(f"bronze/{topic}/{number}", version)
                    for number, version in positions.items()
                ]
            ),
        )


def row_of(topic: str, partition: int, offset: int, message: Message) -> Row:
    """A message as a row of the table that it belongs to."""
    row: Row = {
        "key": message.key,
        "value": message.value,
        "headers": [{"key": name, "value": value} for name, value in message.headers or ()] or None,
        "_kafka_partition": partition,
        "_kafka_offset": offset,
        "_kafka_timestamp": message.timestamp_ms * 1000,
        "_ingested_at": INGESTED_US,
    }
    if message.kind is not Kind.VALID:
        row |= {
            "_kafka_topic": topic,
            "error_class": ERROR_CLASSES[message.kind],
            "error_message": "it is malformed",
            "error_position": 0,
            "service_version": "1",
        }
    return row


def _count(rows: list[Row], partition: int) -> int:
    return sum(row["_kafka_partition"] == partition for row in rows)


def _date_text() -> str:
    return str(pa.scalar(DATE_DAYS, pa.int32()).cast(pa.date32()).as_py())
