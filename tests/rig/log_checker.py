"""Holds the tables' commits against the log of records: all or nothing, and nothing else.

`check_log` reads `_delta_log` and `_bronze/log` as plain JSON. On top of the kinds of
`record_log` it reports: no_table, log_hole, wrong_protocol, txn_fell, txn_doubled, txn_jump,
txn_differs, visible_unrecorded, mixed_commit, partial_commit, undecided_commit, recommitted,
out_of_order, removed, undone_record, torn_record, complete_through_wrong, torn_cut, file_missing,
file_size, file_rows, file_date, file_columns.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from tests.rig.lake import (
    READERS,
    RECORDS,
    Commit,
    Kept,
    bronze_table,
    dlq_table,
    list_numbers,
    open_lake,
    read_commits,
    read_numbered,
)
from tests.rig.ledger import Ledger
from tests.rig.record_log import FileEntry, Part, RecordEntry, check_records, parse_records
from tests.rig.report import Report

POSITION = re.compile(r"bronze/(?P<topic>.+)/(?P<partition>\d+)")
PROTOCOL = {"minReaderVersion": 1, "minWriterVersion": 2}
NEVER = 1 << 62
"""A version that no table reaches."""

_HEADERS = "list<struct<key: string, value: binary>>"
_COMMON = {
    "key": "binary",
    "headers": _HEADERS,
    "_kafka_partition": "int32",
    "_kafka_offset": "int64",
    "_kafka_timestamp": "timestamp[us, tz=UTC]",
    "_ingested_at": "timestamp[us, tz=UTC]",
}
BRONZE_FILE_COLUMNS = {**_COMMON, "value": "string"}
DLQ_FILE_COLUMNS = {
    **_COMMON,
    "value": "binary",
    "_kafka_topic": "string",
    "error_class": "string",
    "error_message": "string",
    "error_position": "int64",
    "service_version": "string",
}


def check_log(
    lake_uri: str,
    storage_options: Mapping[str, str] | None = None,
    topics: Iterable[str] = (),
    *,
    settled: bool = True,
    behind: Collection[str] = (),
    ledger: Ledger | None = None,
    kept: Kept | None = None,
) -> Report:
    """Hold every commit against the records, and every record against the commits.

    Args:
        topics: their bronze tables must exist; topics that records name are looked at, too.
        settled: nothing is under way, so every record must be complete. Otherwise the newest
            record that names a topic may be incomplete for it.
        behind: topics whose newest record may be incomplete although the service is settled.
        ledger: when given, the fates in the records are held against it.
        kept: what earlier looks have read. A log that was trimmed can only be judged with it,
            because trimmed records' commits stay.
    """
    report = Report()
    kept = kept or Kept()
    lake = open_lake(lake_uri, storage_options)
    # Numbers first and contents last: a commit that is seen is then never newer than the records
    # that are seen, and a record that had been listed had its whole chance to be committed.
    listed = list_numbers(lake, RECORDS)
    before = parse_records(Report(), read_numbered(lake, RECORDS, kept.records))
    names = sorted({part.topic for record in before for part in record.parts} | set(topics))
    tables = {
        table: read_commits(
            lake, table, None if kept.commits is None else kept.commits.setdefault(table, {})
        )
        for topic in names
        for table in (bronze_table(topic), dlq_table(topic))
    }
    found = read_numbered(lake, RECORDS, kept.records)
    records = parse_records(report, found)
    check_records(report, records, found, ledger)
    parts = [part for record in records for part in record.parts]
    done: dict[str, dict[int, int]] = {}
    for topic in names:
        own = [part for part in parts if part.topic == topic]
        if not tables[bronze_table(topic)]:
            report.add("no_table", bronze_table(topic), "there is no commit")
        for table in (bronze_table(topic), dlq_table(topic)):
            judge = _TableJudge(report, table, topic, own)
            for commit in tables[table]:
                judge.commit(commit)
            done[table] = judge.done
    old = [record for record in records if not listed or record.number <= listed[-1]]
    _check_completeness(report, records, old, done, set() if settled else set(names), set(behind))
    _check_cuts(report, old, done, {table: len(found) for table, found in tables.items()})
    _check_files(report, lake, [file for part in parts for file in part.files], kept.files)
    return report


class _TableJudge:
    """Walks the commits of one table and finds the record that each one carries out."""

    def __init__(self, report: Report, table: str, topic: str, parts: list[Part]) -> None:
        self.done: dict[int, int] = {}
        """Record number to the version that carried it out."""
        self._report = report
        self._table = table
        self._topic = topic
        self._is_bronze = table == bronze_table(topic)
        self._parts = parts
        self._owners = {path: part for part in parts for path in part.paths(table)}
        self._files = {
            file.path: file for part in parts for file in part.files if file.table == table
        }
        self._txns: dict[str, int] = {}
        self._next_version = 0

    def commit(self, commit: Commit) -> None:
        """Judge one version."""
        self._report.checked["commits"] += 1
        if commit.version != self._next_version:
            self._add("log_hole", commit, f"follows version {self._next_version - 1}")
        self._next_version = commit.version + 1
        if commit.protocol is not None and commit.protocol != PROTOCOL:
            self._add("wrong_protocol", commit, str(commit.protocol))
        for remove in commit.removes:
            if remove.get("dataChange", True):
                self._add("removed", commit, str(remove["path"]))
        positions = self._positions(commit)
        # Rewriting files without changing data, as compaction does, is nobody's decision.
        adds = [add for add in commit.adds if add.get("dataChange", True)]
        part = self._owner(commit, adds, positions)
        if part is not None:
            self._judge_part(commit, part, positions)
        for name, version in commit.txns:
            if version < self._txns.get(name, version):
                self._add("txn_fell", commit, f"{name} from {self._txns[name]} to {version}")
            self._txns[name] = version

    def _add(self, kind: str, commit: Commit, detail: str) -> None:
        self._report.add(kind, self._table, f"version {commit.version}: {detail}")

    def _positions(self, commit: Commit) -> dict[int, int]:
        """The positions that a commit sets, by partition."""
        names = [name for name, _ in commit.txns]
        if len(set(names)) != len(names):
            self._add("txn_doubled", commit, str(sorted(names)))
        positions = {}
        for name, version in commit.txns:
            match = POSITION.fullmatch(name)
            if match and match["topic"] == self._topic:
                positions[int(match["partition"])] = version
        return positions

    def _known(self, partition: int) -> int | None:
        """The partition's position before the commit at hand."""
        return self._txns.get(f"bronze/{self._topic}/{partition}")

    def _owner(
        self, commit: Commit, adds: list[dict[str, Any]], positions: dict[int, int]
    ) -> Part | None:
        """The record's part that a commit carries out; None when it is not about data."""
        if not adds:
            if all(self._known(partition) is None for partition in positions):
                return None  # Where reading starts, or no position at all.
            for part in self._parts:
                ends = {entry.partition: entry.end for entry in part.ranges}
                if ends == positions and not part.paths(self._table):
                    return part
            self._add("undecided_commit", commit, f"positions {positions} are in no record")
            return None
        owners: dict[int, Part] = {}
        for add in adds:
            path = unquote(str(add["path"]))
            owner = self._owners.get(path)
            if owner is None:
                self._add("visible_unrecorded", commit, path)
            else:
                owners[owner.number] = owner
                self._judge_add(commit, add, self._files[path])
        if len(owners) > 1:
            self._add("mixed_commit", commit, f"files of records {sorted(owners)}")
        if len(owners) != 1:
            return None
        (part,) = owners.values()
        if commit.paths != part.paths(self._table):
            missing = sorted(part.paths(self._table) - commit.paths)
            self._add("partial_commit", commit, f"{part}: without {missing}")
        return part

    def _judge_add(self, commit: Commit, add: Mapping[str, Any], file: FileEntry) -> None:
        """The log says of a file what the record says of it."""
        if add["size"] != file.size:
            self._add("file_size", commit, f"{file.path}: {add['size']}, record {file.size}")
        rows = json.loads(add["stats"])["numRecords"] if add.get("stats") else None
        if rows != file.rows:
            self._add("file_rows", commit, f"{file.path}: {rows} rows, record {file.rows}")
        if add["partitionValues"] != {"_ingestion_date": file.date}:
            self._add("file_date", commit, f"{file.path}: {add['partitionValues']}")

    def _judge_part(self, commit: Commit, part: Part, positions: dict[int, int]) -> None:
        """A part is carried out once, in order, from its starts to its ends."""
        if part.number in self.done:
            self._add("recommitted", commit, f"{part}: first in version {self.done[part.number]}")
            return
        if self.done and part.number < max(self.done):
            self._add("out_of_order", commit, f"{part}: after record {max(self.done)}")
        self.done[part.number] = commit.version
        ends = {entry.partition: entry.end for entry in part.ranges}
        if not self._is_bronze:
            # Positions are sparse here: those with dead letters must be there, others may.
            needed = {entry.partition for entry in part.ranges if entry.dead_letters}
            needed |= set(positions)
            ends = {number: end for number, end in ends.items() if number in needed}
        if positions != ends:
            self._add("txn_differs", commit, f"{part}: positions {positions}, record {ends}")
        for entry in part.ranges:
            known = self._known(entry.partition)
            if self._is_bronze:
                is_right = known == entry.start
            else:
                is_right = known is None or known <= entry.start
            if entry.partition in ends and not is_right:
                self._add(
                    "txn_jump",
                    commit,
                    f"{part} partition {entry.partition}: from {known}, record {entry.start}",
                )


def _check_completeness(
    report: Report,
    records: list[RecordEntry],
    old: list[RecordEntry],
    done: Mapping[str, Mapping[int, int]],
    busy: set[str],
    behind: set[str],
) -> None:
    """Every part is carried out in all of its tables, but perhaps the newest of its topic."""
    newest = {part.topic: part.number for record in old for part in record.parts}
    undone: list[int] = []
    for record in records:
        for part in record.parts:
            missing = [table for table in part.tables if part.number not in done.get(table, {})]
            if not missing:
                continue
            undone.append(part.number)
            # The dead letters come first, so a bronze commit without them is torn at any time.
            if missing == [dlq_table(part.topic)]:
                report.add("torn_record", dlq_table(part.topic), f"{part} is only in bronze")
            elif part.number < newest.get(part.topic, 0):
                report.add("undone_record", missing[0], f"{part} is older than its newest")
            elif part.topic not in busy | behind:
                report.add("undone_record", missing[0], f"{part}")
    for record in old:
        early = [number for number in undone if number <= record.complete_through]
        if early:
            report.add(
                "complete_through_wrong",
                "the log of records",
                f"record {record.number} says {record.complete_through}, undone are {early}",
            )


def _check_cuts(
    report: Report,
    records: list[RecordEntry],
    done: Mapping[str, Mapping[int, int]],
    lengths: Mapping[str, int],
) -> None:
    """At the table versions that a record publishes, every record is in all tables or in none."""
    parts = [part for record in records for part in record.parts]
    histories = {table: _History(table, parts, done[table]) for table in done}
    for record in records:
        versions = record.table_versions
        where = f"the cut of record {record.number}"
        report.checked["cuts"] += bool(versions)
        for table, version in versions.items():
            if table not in done or version >= lengths[table]:
                report.add("torn_cut", where, f"{table} has no version {version}")
        cut = {table: at for table, at in versions.items() if table in histories}
        newest = max((histories[table].newest(at) for table, at in cut.items()), default=-1)
        for table, version in cut.items():
            if histories[table].oldest_missing(version) > newest:
                continue
            for number in histories[table].missing(version, newest):
                detail = f"record {newest} is in it, record {number} is not in {table}"
                report.add("torn_cut", where, detail)


class _History:
    """When one table got each of the records that it must get; made for many questions."""

    def __init__(self, table: str, parts: list[Part], done: Mapping[int, int]) -> None:
        due = sorted({part.number for part in parts if table in part.tables})
        self._due = [(number, done.get(number, NEVER)) for number in due]
        # Maxima of what came before rise, whatever the order, so that they can be searched.
        self._latest = list(accumulate((at for _, at in self._due), max))
        landed = sorted((at, number) for number, at in done.items())
        self._versions = [at for at, _ in landed]
        self._newest = list(accumulate((number for _, number in landed), max))

    def newest(self, version: int) -> int:
        """The newest record that is in the table at a version; -1 for none."""
        count = bisect_right(self._versions, version)
        return self._newest[count - 1] if count else -1

    def oldest_missing(self, version: int) -> int:
        """The oldest record due that is not in the table at a version; NEVER for none."""
        at = bisect_right(self._latest, version)
        return self._due[at][0] if at < len(self._due) else NEVER

    def missing(self, version: int, newest: int) -> list[int]:
        """All of them that are not newer than a record."""
        return [number for number, at in self._due if at > version and number <= newest]


def _check_files(
    report: Report, lake: fs.FileSystem, files: list[FileEntry], right: set[str] | None
) -> None:
    """Every file that a record names is there, of the stated size, with the stated rows.

    right: those found right before, which are left out; this look's are added.
    """
    if right is not None:
        files = [file for file in files if f"{file.table}/{file.path}" not in right]

    def look(file: FileEntry) -> list[tuple[str, str]]:
        path = f"{file.table}/{file.path}"
        info = lake.get_file_info(path)
        if info.type is not fs.FileType.File:
            return [("file_missing", file.path)]
        if info.size != file.size:
            return [("file_size", f"{file.path}: {info.size} bytes, record {file.size}")]
        try:
            with lake.open_input_file(path) as stream, pq.ParquetFile(stream) as parquet:
                rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
        except pa.ArrowInvalid as error:
            return [("file_rows", f"{file.path}: not readable: {error}")]
        wrong = []
        if rows != file.rows:
            wrong.append(("file_rows", f"{file.path}: {rows} rows, record {file.rows}"))
        expected = DLQ_FILE_COLUMNS if file.table.startswith("dlq_") else BRONZE_FILE_COLUMNS
        columns = {field.name: _type_name(field.type) for field in schema}
        if columns != expected:
            wrong.append(("file_columns", f"{file.path}: {columns}"))
        return wrong

    with ThreadPoolExecutor(READERS) as pool:
        for file, wrong in zip(files, pool.map(look, files), strict=True):
            report.checked["files"] += 1
            for kind, detail in wrong:
                report.add(kind, file.table, detail)
            if right is not None and not wrong:
                right.add(f"{file.table}/{file.path}")


def _type_name(kind: pa.DataType) -> str:
    """An Arrow type in words, without what differs between writers and means nothing."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        inner = ", ".join(f"{field.name}: {_type_name(field.type)}" for field in kind)
        return f"struct<{inner}>"
    return str(kind).removeprefix("large_")
