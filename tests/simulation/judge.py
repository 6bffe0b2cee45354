"""The judge: looks at each record, commit and offset as it takes effect, and at the end.

It knows Kafka's topics and the store's objects, and trusts nothing the service says of itself.
`Violation` passes through the service: it is no `Exception`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.naming import bronze_table, dlq_table, position_app_id
from shared.records import BRONZE, DLQ, CycleRecord, Manifest, Range, StartRecord, decode
from tests.fakes.source import Entry, MemoryTopic
from tests.fakes.tables import Version
from tests.simulation.file_twin import read_rows

Place = tuple[str, int, int]
"""Topic, partition, offset."""


class Violation(BaseException):
    """A promise was broken."""


@dataclass
class Decided:
    """A decided manifest, and which of its tables have it."""

    number: int
    manifest: Manifest
    done: set[str] = field(default_factory=set)

    @property
    def owed(self) -> bool:
        """Whether a table still lacks it."""
        return bool(self.tables - self.done)

    @property
    def tables(self) -> set[str]:
        """The tables it concerns."""
        return {BRONZE, DLQ} if self.manifest.dead_letter_spans else {BRONZE}


class Judge:
    """See the module.  topics: by name; objects: what the store holds, by path."""

    def __init__(self, topics: Mapping[str, MemoryTopic], objects: Mapping[str, bytes]) -> None:
        self._topics, self._objects = topics, objects
        self._folders = {bronze_table(t): (t, BRONZE) for t in topics}
        self._folders |= {dlq_table(t): (t, DLQ) for t in topics}
        self.decided: dict[str, list[Decided]] = {topic: [] for topic in topics}
        self.positions: dict[tuple[str, int], int] = {}
        self.begun: dict[tuple[str, int], int] = {}
        self.landed: dict[Place, str] = {}
        self._frontier: dict[tuple[str, int], int] = {}
        self.numbers: list[int] = []
        self._newest_start: dict[str, str] = {}
        self._cycle_ids: dict[str, int] = {}
        self._lost: set[Place] = set()
        self.cycles = 0

    # -- records ----------------------------------------------------------------------------

    def record_written(self, number: int, data: bytes) -> None:
        """A record has appeared in the log."""
        record = decode(data, number)
        if number != len(self.numbers):
            raise Violation(f"record {number} follows {len(self.numbers) - 1}")
        self.numbers.append(number)
        self._check_claim(number, record.complete_through)
        if isinstance(record, StartRecord):
            self._newest_start[record.instance] = record.uuid
        else:
            self._check_cycle(number, record)

    def _check_claim(self, number: int, claim: int) -> None:
        for topic, entries in self.decided.items():
            for entry in entries:
                if entry.number <= claim and entry.owed:
                    raise Violation(f"record {number} claims everything through {claim} complete, "
                                    f"topic {topic} owes record {entry.number}")

    def _check_cycle(self, number: int, record: CycleRecord) -> None:
        if self._newest_start.get(record.instance) != record.uuid:
            raise Violation(f"record {number} is by a service whose number a newer one has taken")
        if record.cycle_id <= self._cycle_ids.get(record.uuid, -1):
            raise Violation(f"record {number}: cycle {record.cycle_id} was decided before")
        self._cycle_ids[record.uuid] = record.cycle_id
        self.cycles += 1
        for manifest in record.manifests:
            for part in manifest.ranges:
                self._check_range(number, manifest.topic, part)
            rows, dead = self._counted(manifest)
            if rows != sum(part.rows for part in manifest.ranges):
                raise Violation(f"record {number}: files of {manifest.topic} hold {rows} rows")
            if dead != sum(part.dead_letters for part in manifest.ranges):
                raise Violation(f"record {number}: files of {manifest.topic} hold {dead} dead")
            self.decided[manifest.topic].append(Decided(number, manifest))

    @staticmethod
    def _counted(manifest: Manifest) -> tuple[int, int]:
        return (sum(file.rows for file in manifest.files_of(BRONZE)),
                sum(file.rows for file in manifest.files_of(DLQ)))

    def _check_range(self, number: int, topic: str, part: Range) -> None:
        place = topic, part.partition
        wanted = self._frontier.get(place, self.positions.get(place))
        if part.start != wanted:
            raise Violation(f"record {number}: {topic}[{part.partition}] begins at {part.start}, "
                            f"decided is {wanted}")
        self._frontier[place] = part.end
        for gap in part.lost:
            if gap.end > self._topics[topic].low(part.partition):
                raise Violation(f"record {number} calls lost what Kafka holds: {part}")
            self._lost |= {(topic, part.partition, o) for o in range(gap.start, gap.end)}
        entries = self._entries(topic, part.partition)[part.start:part.end]
        lost = sum(gap.end - gap.start for gap in part.lost)
        controls = sum(
            entry.control for offset, entry in enumerate(entries, part.start)
            if (topic, part.partition, offset) not in self._lost)
        fates = part.rows + part.dead_letters + part.skipped + lost + controls
        if fates != part.end - part.start or len(entries) != part.end - part.start:
            raise Violation(f"record {number}: fates of {topic}[{part.partition}] [{part.start}, "
                            f"{part.end}) do not add up: {part}, {controls} control records")

    def _entries(self, topic: str, partition: int) -> list[Entry]:
        return self._topics[topic].entries.get(partition, [])

    def record_deleted(self, number: int) -> None:
        """A record was trimmed."""
        for topic, entries in self.decided.items():
            if any(entry.number == number and entry.owed for entry in entries):
                raise Violation(f"record {number} was deleted, topic {topic} owes it")

    # -- commits ----------------------------------------------------------------------------

    def committed(self, folder: str, commit: Version) -> None:
        """A table has a new version."""
        topic, table = self._folders[folder]
        moved = {partition: commit.txns[position_app_id(topic, partition)]
                 for partition in range(self._topics[topic].partition_count)
                 if position_app_id(topic, partition) in commit.txns}
        undone = [entry for entry in self.decided[topic]
                  if table in entry.tables and table not in entry.done]
        begins = table == BRONZE and all((topic, p) not in self.positions for p in moved)
        if not commit.files and begins:
            for partition, offset in moved.items():
                if offset > self._topics[topic].low(partition):
                    raise Violation(f"{topic}[{partition}] begins at {offset}")
                self.positions[topic, partition] = self.begun[topic, partition] = offset
            return
        if not undone:
            raise Violation(f"{folder} was changed without a decided record: {commit}")
        entry = undone[0]
        spans = entry.manifest.spans if table == BRONZE else entry.manifest.dead_letter_spans
        if moved != {span.partition: span.end for span in spans} or (
                tuple(commit.files) != entry.manifest.files_of(table)):
            raise Violation(f"{folder}: what was committed is not record {entry.number}, the "
                            f"oldest it owes: {commit}")
        if table == BRONZE:
            self._move(topic, entry)
        entry.done.add(table)
        self._look_into(folder, topic, table, entry)

    def _move(self, topic: str, entry: Decided) -> None:
        if DLQ in entry.tables - entry.done:
            raise Violation(f"record {entry.number}: rows of {topic} before its dead letters")
        for span in entry.manifest.spans:
            if self.positions.get((topic, span.partition)) != span.start:
                raise Violation(f"{topic}[{span.partition}] moved from "
                                f"{self.positions.get((topic, span.partition))} by {span}")
            self.positions[topic, span.partition] = span.end

    def _look_into(self, folder: str, topic: str, table: str, entry: Decided) -> None:
        for file in entry.manifest.files_of(table):
            data = self._objects.get(f"{folder}/{file.path}")
            if data is None or len(data) != file.size:
                raise Violation(f"{folder}/{file.path} is not there with {file.size} bytes")
            rows = read_rows(data)
            if len(rows) != file.rows:
                raise Violation(f"{folder}/{file.path} has {len(rows)} rows, not {file.rows}")
            for row in rows:
                self._check_row(folder, topic, table, entry.manifest, row)

    def _check_row(
        self, folder: str, topic: str, table: str, manifest: Manifest, row: dict[str, Any]
    ) -> None:
        partition, offset = row["_kafka_partition"], row["_kafka_offset"]
        place = topic, partition, offset
        if place in self.landed:
            raise Violation(f"{place} landed twice: in {self.landed[place]} and in {folder}")
        if not any(span.partition == partition and span.start <= offset < span.end
                   for span in manifest.spans):
            raise Violation(f"{place} is in {folder}, outside of its record's ranges")
        entries = self._entries(topic, partition)
        if offset >= len(entries) or entries[offset].control:
            raise Violation(f"{place} is in {folder}, and is no message")
        entry = entries[offset]
        if (table == DLQ) != is_malformed(entry):
            raise Violation(f"{place} is in the wrong table: {folder}")
        value = row["value"].encode() if isinstance(row["value"], str) else row["value"]
        headers = tuple((h["key"], h["value"]) for h in row["headers"] or ())
        stamp = row["_kafka_timestamp"]
        found_ms = None if stamp is None else round(stamp.timestamp() * 1000)
        if (value, row["key"], headers, found_ms) != (
                entry.value, entry.key, entry.headers, entry.timestamp_ms):
            raise Violation(f"{place} in {folder} was altered: {row}")
        self.landed[place] = folder

    # -- offsets, and the end ---------------------------------------------------------------

    def offsets_told(self, topic: str) -> None:
        """The group's offsets of a topic have moved."""
        for partition, offset in self._topics[topic].group_offsets.items():
            position = self.positions.get((topic, partition))
            if position is None or offset > position:
                raise Violation(f"the group is at {offset} of {topic}[{partition}], the table at "
                                f"{position}")

    def finish(self, *, dlq_enabled: bool = True) -> int:
        """Everything has landed exactly once; gives the number of messages."""
        count = 0
        for topic, held in self._topics.items():
            for partition in range(held.partition_count):
                count += self._finish_partition(topic, partition, dlq_enabled)
        owed = [(topic, entry.number) for topic, entries in self.decided.items()
                for entry in entries if entry.owed]
        if owed:
            raise Violation(f"decided and never committed: {owed}")
        if len(self.landed) != count:
            raise Violation(f"{len(self.landed)} rows landed, {count} were wanted")
        return count

    def _finish_partition(self, topic: str, partition: int, dlq_enabled: bool) -> int:
        entries, count = self._entries(topic, partition), 0
        if self.positions.get((topic, partition)) != len(entries):
            raise Violation(f"{topic}[{partition}] ended at "
                            f"{self.positions.get((topic, partition))} of {len(entries)}")
        for offset, entry in enumerate(entries):
            place = topic, partition, offset
            skipped = offset < self.begun[topic, partition] or entry.control or (is_malformed(entry) and not dlq_enabled)
            if skipped or place in self._lost:
                continue
            count += 1
            if place not in self.landed:
                raise Violation(f"{place} is in no table")
        return count


def is_malformed(entry: Entry) -> bool:
    """Whether a message belongs into the dead letter table, without asking the service."""
    if entry.value is None:
        return False
    try:
        json.loads(entry.value.decode())
    except ValueError:
        return True
    return False
