"""The judge: holds what the tables say against the ledger, row by row.

`check` looks at rows, `check_log` at commits and records, `group_offsets_equal_txn` and
`group_offsets_not_ahead` at the consumer group. Each gives a `Report`; one without anomalies means
that every message is in exactly one table, unaltered, and nothing else is.

Kinds that `check` reports: missing_table, wrong_columns, wrong_partitioning, wrong_protocol,
phantom, aborted_landed, doubled, altered, both_tables, wrong_table, lost, wrong_error_class,
wrong_metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from tests.rig.group_checker import group_offsets_equal_txn, group_offsets_not_ahead
from tests.rig.lake import bronze_table, dlq_table, table_uri
from tests.rig.ledger import (
    DIGEST_BYTES,
    ERROR_CLASSES,
    Kind,
    Ledger,
    PartitionLedger,
    digest_of,
    pack_headers,
)
from tests.rig.log_checker import check_log
from tests.rig.readers import DeltalakeReader, Reader, TableMissing, reader_named
from tests.rig.report import Anomaly, Report

__all__ = [
    "Anomaly",
    "Report",
    "check",
    "check_log",
    "group_offsets_equal_txn",
    "group_offsets_not_ahead",
]

HEADERS = "array<struct<key:string,value:binary>>"

BRONZE_COLUMNS = {
    "key": "binary",
    "value": "string",
    "headers": HEADERS,
    "_kafka_partition": "integer",
    "_kafka_offset": "long",
    "_kafka_timestamp": "timestamp",
    "_ingested_at": "timestamp",
    "_ingestion_date": "date",
}
DLQ_COLUMNS = {
    "key": "binary",
    "value": "binary",
    "headers": HEADERS,
    "_kafka_topic": "string",
    "_kafka_partition": "integer",
    "_kafka_offset": "long",
    "_kafka_timestamp": "timestamp",
    "error_class": "string",
    "error_message": "string",
    "error_position": "long",
    "_ingested_at": "timestamp",
    "_ingestion_date": "date",
    "service_version": "string",
}
PARTITION_COLUMNS = ["_ingestion_date"]
PROTOCOL = (1, 2)

IN_BRONZE = 1
IN_DLQ = 2
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class _Table:
    """One of a topic's two tables."""

    name: str
    columns: Mapping[str, str]
    bit: int

    @property
    def is_dlq(self) -> bool:
        return self.bit == IN_DLQ


def check(
    ledger: Ledger,
    lake_uri: str,
    storage_options: Mapping[str, str] | None = None,
    topics: Iterable[str] | None = None,
    readers: Sequence[str] = ("deltalake", "duckdb"),
    *,
    complete: bool = True,
    dlq: bool = True,
    prefix: str = "",
    spans: Mapping[int, tuple[int, int]] | None = None,
) -> Report:
    """Hold every row of every table against the ledger.

    Args:
        ledger: what was written; its producer must not be at work.
        lake_uri: ``s3://bucket/prefix`` or a folder.
        storage_options: as deltalake takes them.
        topics: those to look at; by default all of the ledger. None at all is a ValueError.
        readers: each reads everything on its own.
        complete: every message must be in. Otherwise only those below the position that the
            bronze table holds for the partition, so that a running service can be judged.
        dlq: whether the dead letter queue is on. When it is off, malformed messages must be in
            no table at all.
        prefix: before the usual names of the tables, for those of a rewind.
        spans: partition to offsets [start, end): nothing else may be there. By default all.
    """
    report = Report()
    names = ledger.topics() if topics is None else list(topics)
    if not names or not readers:
        raise ValueError("no topics or no readers: the verdict would mean nothing")
    for name in readers:
        reader = reader_named(name, storage_options)
        for topic in names:
            _TopicJudge(report, ledger, lake_uri, topic, reader, dlq, prefix, spans).judge(
                None if complete else _positions(ledger, lake_uri, storage_options, topic)
            )
    return report


def _positions(
    ledger: Ledger, lake_uri: str, options: Mapping[str, str] | None, topic: str
) -> dict[int, int]:
    """Per partition the next offset that the bronze table holds at this moment."""
    table = DeltalakeReader(options).table(table_uri(lake_uri, bronze_table(topic)))
    return {
        number: table.transaction_version(f"bronze/{topic}/{number}") or 0
        for number, _ in ledger.partitions(topic)
    }


class _TopicJudge:
    """Judges the tables of one topic as one reader sees them."""

    def __init__(
        self,
        report: Report,
        ledger: Ledger,
        lake_uri: str,
        topic: str,
        reader: Reader,
        dlq: bool,
        prefix: str,
        spans: Mapping[int, tuple[int, int]] | None,
    ) -> None:
        self._report = report
        self._lake_uri = lake_uri
        self._topic = topic
        self._reader = reader
        self._tables = [_Table(prefix + bronze_table(topic), BRONZE_COLUMNS, IN_BRONZE)]
        if dlq:
            self._tables.append(_Table(prefix + dlq_table(topic), DLQ_COLUMNS, IN_DLQ))
        self._malformed_bit = IN_DLQ if dlq else 0
        self._spans = spans
        self._ledgers = dict(ledger.partitions(topic))
        self._seen = {number: bytearray(len(part)) for number, part in self._ledgers.items()}

    def judge(self, positions: Mapping[int, int] | None) -> None:
        """Read both tables, then look at what did not turn up."""
        for table in self._tables:
            self._report.checked[f"tables by {self._reader.name}"] += 1
            try:
                has_columns = self._judge_schema(table)
            except TableMissing as error:
                self._add(table, "missing_table", str(error))
                continue
            if has_columns:
                uri = table_uri(self._lake_uri, table.name)
                for batch in self._reader.batches(uri, list(table.columns)):
                    self._judge_rows(table, batch)
                    self._judge_metadata(table, batch)
        for number, part in self._ledgers.items():
            end = None if positions is None else positions[number]
            self._judge_fates(number, part, end)

    def _add(self, table: _Table, kind: str, detail: str) -> None:
        self._report.add(kind, f"{table.name} by {self._reader.name}", detail)

    def _judge_schema(self, table: _Table) -> bool:
        """Look at columns, types and protocol; tell whether the rows can be read."""
        uri = table_uri(self._lake_uri, table.name)
        found = self._reader.schema(uri)
        # DuckDB lists the partition column where it likes; the order is the table's own.
        is_ordered = isinstance(self._reader, DeltalakeReader)
        if found != table.columns or (is_ordered and list(found) != list(table.columns)):
            self._add(table, "wrong_columns", f"found {found}, expected {dict(table.columns)}")
        if isinstance(self._reader, DeltalakeReader):
            handle = self._reader.table(uri)
            columns = handle.metadata().partition_columns
            if columns != PARTITION_COLUMNS:
                self._add(table, "wrong_partitioning", str(columns))
            protocol = handle.protocol()
            if (protocol.min_reader_version, protocol.min_writer_version) != PROTOCOL:
                self._add(table, "wrong_protocol", str(protocol))
        return found == table.columns

    def _judge_rows(self, table: _Table, batch: pa.RecordBatch) -> None:
        """Hold each row's content against the ledger, and note that it was seen."""
        values = batch.column("value")
        classes: Iterable[str | None] = (
            batch.column("error_class").to_pylist() if table.is_dlq else [None] * batch.num_rows
        )
        self._report.checked[f"rows by {self._reader.name}"] += batch.num_rows
        for partition, offset, key, value, headers, time_us, error_class in zip(
            batch.column("_kafka_partition").to_pylist(),
            batch.column("_kafka_offset").to_pylist(),
            batch.column("key").to_pylist(),
            values.cast(pa.binary()).to_pylist(),
            packed_headers(batch.column("headers")),
            batch.column("_kafka_timestamp").cast(pa.int64()).to_pylist(),
            classes,
            strict=True,
        ):
            part = self._ledgers.get(partition)
            kind = Kind.ABSENT if part is None or offset is None else part.kind(offset)
            if part is None or kind in (Kind.ABSENT, Kind.ABORTED):
                name = "aborted_landed" if kind is Kind.ABORTED else "phantom"
                self._add(table, name, f"partition {partition} offset {offset}")
                continue
            seen = self._seen[partition]
            if seen[offset] & table.bit:
                self._add(table, "doubled", f"partition {partition} offset {offset}")
            seen[offset] |= table.bit
            time_ms, rest_us = (-1, 0) if time_us is None else divmod(time_us, 1000)
            start = offset * DIGEST_BYTES
            expected = part.digests[start : start + DIGEST_BYTES]
            if rest_us or digest_of(key, value, headers, time_ms) != expected:
                self._add(table, "altered", f"partition {partition} offset {offset}")
            if table.is_dlq and kind in ERROR_CLASSES and error_class != ERROR_CLASSES[kind]:
                self._add(
                    table,
                    "wrong_error_class",
                    f"partition {partition} offset {offset}: {error_class!r} for {kind.name}",
                )

    def _judge_metadata(self, table: _Table, batch: pa.RecordBatch) -> None:
        """Look at the columns that the service fills by itself."""
        days = pc.divide(batch.column("_ingested_at").cast(pa.int64()), DAY_US)
        dates = batch.column("_ingestion_date").cast(pa.int32()).cast(pa.int64())
        wrong = {"_ingestion_date is not the day of _ingested_at": pc.not_equal(days, dates)}
        for name in ("_ingested_at", "_ingestion_date", "_kafka_timestamp"):
            wrong[f"{name} is null"] = batch.column(name).is_null()
        if table.is_dlq:
            position = batch.column("error_position")
            size = pc.binary_length(batch.column("value")).cast(pa.int64())
            topics = batch.column("_kafka_topic")
            wrong["_kafka_topic is another"] = pc.not_equal(topics, self._topic)
            wrong["error_position is outside of the value"] = pc.or_(
                pc.less(position, 0), pc.greater(position, size)
            )
            for name in ("_kafka_topic", "error_message", "service_version"):
                text = batch.column(name)
                empty = pc.equal(pc.utf8_length(text), 0)
                wrong[f"{name} is null or empty"] = pc.fill_null(empty, True)
        for what, mask in wrong.items():
            for row in pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist():
                partition = batch.column("_kafka_partition")[row]
                offset = batch.column("_kafka_offset")[row]
                self._add(
                    table, "wrong_metadata", f"partition {partition} offset {offset}: {what}"
                )

    def _judge_fates(self, partition: int, part: PartitionLedger, end: int | None) -> None:
        """Compare where each offset turned up with where it belongs."""
        expected = part.kinds.translate(self._belongs())
        if self._spans is not None:
            start, stop = self._spans.get(partition, (0, 0))
            expected[:start], expected[stop:] = bytes(start), bytes(len(part) - stop)
        seen = self._seen[partition]
        where = f"{self._topic} by {self._reader.name}"
        if seen == expected:
            return
        for offset, (has, wants) in enumerate(zip(seen, expected, strict=True)):
            detail = f"partition {partition} offset {offset}"
            if has == wants or part.kinds[offset] == Kind.FORGIVEN:
                continue
            if has == IN_BRONZE | IN_DLQ:
                self._report.add("both_tables", where, detail)
            elif has:
                self._report.add("wrong_table", where, detail)
            elif end is None or offset < end:
                self._report.add("lost", where, detail)

    def _belongs(self) -> bytes:
        """A translation of kinds into the table where each belongs; see `bytes.translate`."""
        bits = bytearray(256)
        bits[Kind.VALID] = IN_BRONZE
        for kind in ERROR_CLASSES:
            bits[kind] = self._malformed_bit
        return bytes(bits)


def packed_headers(column: pa.ListArray) -> list[bytes]:
    """Each row's headers as `pack_headers` packs them; null and an empty list are both b""."""
    names = column.values.field(0).to_pylist()
    values = column.values.field(1).to_pylist()
    edges = column.offsets.to_pylist()
    packed = []
    for valid, start, end in zip(
        column.is_valid().to_pylist(), edges[:-1], edges[1:], strict=True
    ):
        if valid and end > start:
            packed.append(pack_headers(zip(names[start:end], values[start:end], strict=True)))
        else:
            packed.append(b"")
    return packed
