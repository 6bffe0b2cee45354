"""The log of records as the judge reads it: plain JSON, and the rules that need no table.

Kinds reported here: record_hole, record_unreadable, fenced_decided, cycle_id_fell,
complete_through_wrong, topic_twice, excluded_and_named, bad_range, bad_fates, overlap, hole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.rig.lake import bronze_table, dlq_table
from tests.rig.ledger import ERROR_CLASSES, Kind, Ledger
from tests.rig.report import Report

RECORD_VERSION = 1
WHERE = "the log of records"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file that a record names; `table` is the table's folder, `path` relative to it."""

    table: str
    path: str
    size: int
    rows: int
    date: str


@dataclass(frozen=True, slots=True)
class RangeEntry:
    """Offsets [start, end) of a partition and what became of them."""

    partition: int
    start: int
    end: int
    rows: int
    dead_letters: int
    skipped: int
    lost: tuple[tuple[int, int], ...]

    @property
    def absent(self) -> int:
        """What is left when all stated fates are taken away; below zero is a lie."""
        lost = sum(end - start for start, end in self.lost)
        return self.end - self.start - self.rows - self.dead_letters - self.skipped - lost


@dataclass(frozen=True, slots=True)
class Part:
    """One topic's part of one cycle record."""

    number: int
    topic: str
    files: tuple[FileEntry, ...]
    ranges: tuple[RangeEntry, ...]

    def __str__(self) -> str:
        return f"record {self.number} for {self.topic}"

    def paths(self, table: str) -> set[str]:
        """The files for one table."""
        return {file.path for file in self.files if file.table == table}

    @property
    def tables(self) -> list[str]:
        """The tables that must get a commit for this part."""
        bronze, dlq = bronze_table(self.topic), dlq_table(self.topic)
        return [dlq, bronze] if self.paths(dlq) else [bronze]


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """One record of either kind."""

    number: int
    kind: str
    instance: str
    uuid: str
    cycle_id: int
    complete_through: int
    parts: tuple[Part, ...]
    excluded: tuple[str, ...]
    table_versions: Mapping[str, int]


def parse_records(report: Report, found: Mapping[int, bytes]) -> list[RecordEntry]:
    """Every readable record, in order."""
    records = []
    for number, data in sorted(found.items()):
        try:
            records.append(_record(number, json.loads(data)))
        except (ValueError, KeyError, TypeError) as error:
            report.add("record_unreadable", WHERE, f"record {number}: {error!r}")
    report.checked["records"] += len(records)
    return records


def _record(number: int, data: dict[str, Any]) -> RecordEntry:
    if data["record_version"] != RECORD_VERSION:
        raise ValueError(f"record_version {data['record_version']}")
    if data["kind"] not in ("start", "cycle"):
        raise ValueError(f"kind {data['kind']}")
    is_cycle = data["kind"] == "cycle"
    return RecordEntry(
        number=number,
        kind=data["kind"],
        instance=data["instance"],
        uuid=data["uuid"],
        cycle_id=data["cycle_id"] if is_cycle else 0,
        complete_through=data["complete_through"],
        parts=tuple(_part(number, part) for part in data["manifests"]) if is_cycle else (),
        excluded=tuple(data["excluded"]) if is_cycle else (),
        table_versions=data["table_versions"] if is_cycle else {},
    )


def _part(number: int, data: dict[str, Any]) -> Part:
    topic = data["topic"]
    folders = {"bronze": bronze_table(topic), "dlq": dlq_table(topic)}
    return Part(
        number,
        topic,
        tuple(
            FileEntry(
                folders[file["table"]], file["path"], file["size"], file["rows"], file["date"]
            )
            for file in data["files"]
        ),
        tuple(
            RangeEntry(
                part["partition"],
                part["start"],
                part["end"],
                part.get("rows", 0),
                part.get("dead_letters", 0),
                part.get("skipped", 0),
                tuple((gap["start"], gap["end"]) for gap in part.get("lost", ())),
            )
            for part in data["ranges"]
        ),
    )


def check_records(
    report: Report, records: list[RecordEntry], numbers: Iterable[int], ledger: Ledger | None
) -> None:
    """All rules that can be seen from the records alone."""
    listed = sorted(numbers)
    for before, after in zip(listed, listed[1:], strict=False):
        if after != before + 1:
            report.add("record_hole", WHERE, f"record {after} follows {before}")
    _check_identities(report, records)
    for record in records:
        _check_record(report, record)
        for part in record.parts:
            _check_fates(report, part)
            if ledger is not None:
                _check_against_ledger(report, part, ledger)
    _check_tiling(report, [part for record in records for part in record.parts])


def _check_identities(report: Report, records: list[RecordEntry]) -> None:
    """After a start record only its own service may decide, and its cycles only grow."""
    uuids: dict[str, str] = {}
    cycle_ids: dict[str, int] = {}
    complete: dict[str, int] = {}
    for record in records:
        where = f"record {record.number}"
        if record.complete_through < complete.get(record.uuid, -1):
            report.add("complete_through_wrong", WHERE, f"{where}: fell")
        complete[record.uuid] = record.complete_through
        if record.kind == "start":
            uuids[record.instance] = record.uuid
            continue
        if uuids.setdefault(record.instance, record.uuid) != record.uuid:
            report.add(
                "fenced_decided", WHERE, f"{where}: {record.uuid} of instance {record.instance}"
            )
        if record.cycle_id <= cycle_ids.get(record.instance, -1):
            report.add("cycle_id_fell", WHERE, f"{where}: cycle {record.cycle_id}")
        cycle_ids[record.instance] = record.cycle_id


def _check_record(report: Report, record: RecordEntry) -> None:
    topics = [part.topic for part in record.parts]
    if len(set(topics)) != len(topics):
        report.add("topic_twice", WHERE, f"record {record.number}: {topics}")
    both = set(topics) & set(record.excluded)
    if both:
        report.add("excluded_and_named", WHERE, f"record {record.number}: {sorted(both)}")
    if record.complete_through >= record.number:
        report.add("complete_through_wrong", WHERE, f"record {record.number}: names itself")


def _check_fates(report: Report, part: Part) -> None:
    """Ranges are ranges, gaps lie inside them, and the fates add up to files and offsets."""
    for entry in part.ranges:
        what = f"{part}: {entry}"
        edges = [entry.start, *(edge for gap in entry.lost for edge in gap), entry.end]
        if edges != sorted(edges) or entry.start < 0:
            report.add("bad_range", WHERE, what)
        counts = (entry.rows, entry.dead_letters, entry.skipped, entry.absent)
        if min(counts) < 0:
            report.add("bad_fates", WHERE, what)
    for table, stated in (
        (bronze_table(part.topic), sum(entry.rows for entry in part.ranges)),
        (dlq_table(part.topic), sum(entry.dead_letters for entry in part.ranges)),
    ):
        rows = sum(file.rows for file in part.files if file.table == table)
        if rows != stated:
            report.add(
                "bad_fates", WHERE, f"{part}: files of {table} have {rows} rows, ranges {stated}"
            )


def _check_against_ledger(report: Report, part: Part, ledger: Ledger) -> None:
    """The fates that a range states are those that its messages must have."""
    for entry in part.ranges:
        kinds = ledger.partition(part.topic, entry.partition).kinds[entry.start : entry.end]
        if kinds.count(Kind.FORGIVEN):
            continue
        malformed = sum(kinds.count(kind) for kind in ERROR_CLASSES)
        stated = (entry.rows, entry.dead_letters + entry.skipped)
        if stated != (kinds.count(Kind.VALID), malformed) or entry.lost:
            report.add(
                "bad_fates",
                WHERE,
                f"{part}: {entry}, written {kinds.count(Kind.VALID)} valid, {malformed} malformed",
            )


def _check_tiling(report: Report, parts: list[Part]) -> None:
    """Per partition each range begins where the one before it ended."""
    frontier: dict[tuple[str, int], tuple[int, int]] = {}
    seen: dict[tuple[int, str], list[int]] = defaultdict(list)
    for part in parts:
        for entry in part.ranges:
            key = (part.topic, entry.partition)
            seen[part.number, part.topic].append(entry.partition)
            end, number = frontier.get(key, (entry.start, part.number))
            if entry.start != end:
                report.add(
                    "overlap" if entry.start < end else "hole",
                    WHERE,
                    f"{part} partition {entry.partition}: starts at {entry.start}, "
                    f"record {number} ended at {end}",
                )
            frontier[key] = (entry.end, part.number)
    for (number, topic), partitions in seen.items():
        if len(set(partitions)) != len(partitions):
            report.add("bad_range", WHERE, f"record {number} for {topic}: {partitions}")
