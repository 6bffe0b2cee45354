"""The ledger read as data; see the package.  Reads only, keeps nothing but open tables."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from bronze_reader.datasets import dataset_of

LEDGER = "bronze_cycles"
REPLAYS = "dlq_replays"
_REPLAY_COLUMNS = ["_kafka_partition", "_kafka_offset"]
_CUT_COLUMNS = ["record", "cycle_id", "instance", "topic", "decided_at", "completed_at",
                "valid_through", "table_version", "dlq_table_version", "dead_letters"]
_ARRIVAL_COLUMNS = ["record", "cycle_id", "topic", "decided_at", "rows", "dead_letters",
                    "error_classes", "ranges"]


class ReaderError(Exception):
    """Base of what this package raises by itself; what the store raises passes through."""


class LedgerMissing(ReaderError):
    """There is no ledger at this place, or nothing in it yet."""


class CycleNotFound(ReaderError):
    """No cycle in the ledger is the one that was asked for."""


class CycleAmbiguous(ReaderError):
    """Several instances have a cycle of this number."""


class TopicNotInCut(ReaderError):
    """The topic had brought nothing up to this cycle."""


class VersionUnknown(ReaderError):
    """The table's log was cleaned up before the cycle was entered: no version is known."""


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets [start, end) of one partition."""

    partition: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one cycle brought one topic.

    error_classes: dead letters by what is wrong with them; their sum is dead_letters.
    """

    record: int
    cycle_id: int
    topic: str
    decided_at: datetime
    rows: int
    dead_letters: int
    error_classes: Mapping[str, int]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """All tables as of one completed cycle.

    record: its number in the lake's log, by which cycles are ordered.
    completed_at: when its last topic became visible; None where that is not known any more.
    valid_through: topic -> the moment up to which Kafka had been read, None where not known.
    versions: table -> version; None where it is not known any more.
    """

    record: int
    cycle_id: int
    decided_at: datetime
    completed_at: datetime | None
    valid_through: Mapping[str, datetime | None]
    versions: Mapping[str, int | None]
    _lake: Lake = field(repr=False, compare=False)

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that had brought something by then."""
        return tuple(sorted(self.valid_through))

    def uri(self, topic: str, *, dlq: bool = False) -> str:
        """Where the topic's table lies; raises `TopicNotInCut`."""
        return self._lake.uri_of(self._table(topic, dlq=dlq))

    def version(self, topic: str, *, dlq: bool = False) -> int:
        """The version of the topic's table in this cut.

        A DLQ table without dead letters up to then is at version 0: empty.  Raises
        `TopicNotInCut` and `VersionUnknown`.
        """
        table = self._table(topic, dlq=dlq)
        version = self.versions[table]
        if version is None:
            raise VersionUnknown(f"{table} as of record {self.record}: its log was cleaned up "
                                 "before the cycle was entered into the ledger")
        return version

    def open(self, topic: str, *, dlq: bool = False) -> DeltaTable:
        """The topic's table at the version of this cut; raises as `version`."""
        return DeltaTable(self.uri(topic, dlq=dlq), version=self.version(topic, dlq=dlq),
                          storage_options=self._lake.storage_options)

    def dataset(self, topic: str, *, dlq: bool = False) -> ds.Dataset:
        """The same as an Arrow dataset, for engines that read one; nothing is read yet."""
        return dataset_of(self.open(topic, dlq=dlq), self.uri(topic, dlq=dlq),
                          self._lake.storage_options)

    def _table(self, topic: str, *, dlq: bool) -> str:
        if topic not in self.valid_through:
            raise TopicNotInCut(f"topic {topic} has brought nothing up to record {self.record}; "
                                f"there are: {', '.join(self.topics)}")
        return f"dlq_bronze_{topic}" if dlq else f"bronze_{topic}"


class Lake:
    """A lake by its base URI and the options its store needs, as deltalake takes them."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self._uri = uri.rstrip("/")
        self.storage_options = dict(storage_options or {})

    def uri_of(self, table: str) -> str:
        """Where a table lies."""
        return f"{self._uri}/{table}"

    def cut(
        self, *, cycle_id: int | None = None, record: int | None = None, at: datetime | None = None,
        instance: str | None = None,
    ) -> Cut:
        """The tables as of a cycle: the newest one, or the one that is named.

        at: the last cycle that was complete at that moment.  instance: of two services on one
        lake that both have the cycle_id.  Raises `LedgerMissing`, `CycleNotFound` and
        `CycleAmbiguous`; ValueError when more than one of cycle_id, record and at is given, or
        `at` has no time zone.
        """
        if sum(given is not None for given in (cycle_id, record, at)) > 1:
            raise ValueError("give one of cycle_id, record and at")
        if at is not None and at.tzinfo is None:
            raise ValueError(f"at={at} names no time zone: give one, such as datetime.UTC")
        rows = self._rows(_CUT_COLUMNS, ds.field("status") == "committed")
        chosen = _choose(rows, cycle_id, record, at, instance)
        return self._cut_at(chosen, rows)

    def between(self, after: Cut | int | None, until: Cut | int | None = None) -> list[Arrival]:
        """What came behind `after` (None: from the beginning), up to and with `until` (None: the
        newest), in the order of the cycles; both may be records' numbers."""
        low, high = _record(after), _record(until)
        wanted = ds.field("status") == "committed"
        if low is not None:
            wanted &= ds.field("record") > low
        if high is not None:
            wanted &= ds.field("record") <= high
        rows = sorted(self._rows(_ARRIVAL_COLUMNS, wanted),
                      key=lambda row: (row["record"], row["topic"]))
        return [_arrival(row) for row in rows]

    def rows_between(
        self, topic: str, after: Cut | int | None, until: Cut, *, dlq: bool = False,
    ) -> pa.RecordBatchReader:
        """The rows of a topic that came behind `after` up to and with `until`.

        They are found by their offsets, so it does not matter whether files were compacted since.
        Dead letters that were replayed in between are among them, however old their offsets are;
        where there are such, the table's log must still go back to `after` (else `VersionUnknown`).
        """
        table = until.open(topic, dlq=dlq)
        dataset = dataset_of(table, until.uri(topic, dlq=dlq), self.storage_options)
        parts = [(ds.field("_kafka_partition") == span.partition)
                 & (ds.field("_kafka_offset") >= span.start)
                 & (ds.field("_kafka_offset") < span.end)
                 for span in self.spans_between(topic, after, until)]
        if not dlq:
            replayed = self._replayed(topic, after, table)
            parts += [(ds.field("_kafka_partition") == partition)
                      & ds.field("_kafka_offset").isin(offsets)
                      for partition, offsets in replayed.items()]
        if not parts:
            return pa.RecordBatchReader.from_batches(dataset.schema, iter(()))
        return dataset.scanner(filter=functools.reduce(operator.or_, parts)).to_reader()

    def _replayed(
        self, topic: str, after: Cut | int | None, table: DeltaTable
    ) -> dict[int, list[int]]:
        """Partition -> offsets of the dead letters that became rows behind `after`, up to this
        version of the bronze table."""
        if not _last_replay(table, topic):
            return {}
        first = self._replay_at(topic, after)
        offsets: dict[int, list[int]] = {}
        replays = DeltaTable(self.uri_of(REPLAYS), storage_options=self.storage_options)
        # Later ones than this version has may be among them: their rows are not in it.
        wanted = (ds.field("_kafka_topic") == topic) & (ds.field("replay") > first)
        found = dataset_of(replays, self.uri_of(REPLAYS), self.storage_options).to_table(
            columns=_REPLAY_COLUMNS, filter=wanted)
        for row in found.to_pylist():
            offsets.setdefault(row["_kafka_partition"], []).append(row["_kafka_offset"])
        return offsets

    def _replay_at(self, topic: str, after: Cut | int | None) -> int:
        """The last replay that the topic's table had at a cut; 0 where there was none yet."""
        record = _record(after)
        if record is None:
            return 0
        rows = self._rows(["record", "table_version"], (ds.field("status") == "committed")
                          & (ds.field("topic") == topic) & (ds.field("record") <= record))
        if not rows:
            return 0
        version = max(rows, key=lambda row: int(row["record"]))["table_version"]
        try:
            if version is None:
                raise VersionUnknown(f"bronze_{topic} as of record {record}: no version is known")
            table = DeltaTable(self.uri_of(f"bronze_{topic}"), version=version,
                               storage_options=self.storage_options)
        except DeltaError as error:
            raise VersionUnknown(f"bronze_{topic} as of record {record}: its log was cleaned up "
                                 "since, and dead letters were replayed") from error
        return _last_replay(table, topic)

    def spans_between(
        self, topic: str, after: Cut | int | None, until: Cut | int | None = None,
    ) -> tuple[Span, ...]:
        """The offsets that came behind `after` up to and with `until`, one span a partition.

        For engines that filter by themselves; `sql_condition` writes them as SQL.
        """
        # Ranges of a partition follow each other without a hole, so one span covers them.
        joined: dict[int, Span] = {}
        for arrival in self.between(after, until):
            for span in arrival.spans if arrival.topic == topic else ():
                first = joined.get(span.partition, span)
                joined[span.partition] = Span(span.partition, first.start, span.end)
        return tuple(joined[partition] for partition in sorted(joined))

    def cycles(self, until: Cut) -> ds.Dataset:
        """The ledger up to and with `until`, committed cycles only; for engines that query it."""
        return self._ledger().filter(
            (ds.field("status") == "committed") & (ds.field("record") <= until.record))

    def _cut_at(self, chosen: Mapping[str, Any], rows: list[dict[str, Any]]) -> Cut:
        versions: dict[str, int | None] = {}
        valid_through: dict[str, datetime | None] = {}
        for row in sorted(rows, key=lambda row: row["record"]):
            topic = row["topic"]
            if row["record"] > chosen["record"]:
                break
            versions[f"bronze_{topic}"] = row["table_version"]
            valid_through[topic] = row["valid_through"]
            # Without dead letters the table stays where it was; with them a null is no version.
            before = versions.setdefault(f"dlq_bronze_{topic}", 0)
            versions[f"dlq_bronze_{topic}"] = (
                row["dlq_table_version"] if row["dead_letters"] else before)
        return Cut(chosen["record"], chosen["cycle_id"], chosen["decided_at"],
                   chosen["completed_at"], valid_through, versions, self)

    def _rows(self, columns: list[str], wanted: ds.Expression) -> list[dict[str, Any]]:
        found = self._ledger().to_table(columns=columns, filter=wanted)
        rows: list[dict[str, Any]] = found.to_pylist()
        return rows

    def _ledger(self) -> ds.Dataset:
        try:
            table = DeltaTable(self.uri_of(LEDGER), storage_options=self.storage_options)
            return dataset_of(table, self.uri_of(LEDGER), self.storage_options)
        except TableNotFoundError as error:
            raise LedgerMissing(f"there is no {LEDGER} at {self._uri}: is that the lake's base "
                                "URI, and has its service run for a minute?") from error


def sql_condition(spans: Iterable[Span]) -> str:
    """A condition that is true for the rows in the spans, and false where there are none.

    In the SQL that DuckDB, Polars and Spark share; they skip files by it.
    """
    parts = [f"(_kafka_partition = {span.partition:d} and _kafka_offset >= {span.start:d}"
             f" and _kafka_offset < {span.end:d})" for span in spans]
    return f"({' or '.join(parts)})" if parts else "false"


def _choose(
    rows: list[dict[str, Any]], cycle_id: int | None, record: int | None, at: datetime | None,
    instance: str | None,
) -> dict[str, Any]:
    """One row of the cycle that was asked for."""
    if not rows:
        raise LedgerMissing("no cycle is in the ledger yet")
    if instance is not None:
        rows = [row for row in rows if row["instance"] == instance]
    if cycle_id is not None:
        rows = [row for row in rows if row["cycle_id"] == cycle_id]
        if len({row["record"] for row in rows}) > 1:
            raise CycleAmbiguous(f"cycle {cycle_id} is in records "
                                 f"{sorted({row['record'] for row in rows})}: give an instance "
                                 "or a record")
    if record is not None:
        rows = [row for row in rows if row["record"] == record]
    if at is not None:
        # Of two instances' cycles the later record may be complete first; a cut has them all.
        late = [row["record"] for row in rows if (row["completed_at"] or row["decided_at"]) > at]
        rows = [row for row in rows if row["record"] < min(late, default=row["record"] + 1)]
    if not rows:
        raise CycleNotFound("no cycle in the ledger is the one that was asked for")
    return max(rows, key=lambda row: int(row["record"]))


def _last_replay(table: DeltaTable, topic: str) -> int:
    return int(table.transaction_version(f"bronze/{topic}/replay") or 0)


def _record(given: Cut | int | None) -> int | None:
    return given.record if isinstance(given, Cut) else given


def _arrival(row: Mapping[str, Any]) -> Arrival:
    return Arrival(
        row["record"], row["cycle_id"], row["topic"], row["decided_at"], row["rows"],
        row["dead_letters"],
        {one["error_class"]: one["count"] for one in row["error_classes"] or ()},
        tuple(Span(part["partition"], part["start"], part["end"]) for part in row["ranges"]))
