"""Holds the table `bronze_cycles` against the log of records and the tables' own logs.

`check_cycles` reports: unreadable, readers_differ, doubled, missing, invented, wrong_status,
wrong_counts, wrong_ranges, wrong_version, wrong_position, broken_chain.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deltalake import DeltaTable

from tests.rig.lake import (
    RECORDS, bronze_table, dlq_table, open_lake, read_numbered, table_uri,
)
from tests.rig.readers import TableMissing, reader_named
from tests.rig.record_log import Part, RecordEntry, parse_records
from tests.rig.report import Report

TABLE = "bronze_cycles"
POSITION = "bronze/cycles"
COLUMNS = ["record", "cycle_id", "topic", "status", "table_version", "dlq_table_version", "rows",
           "dead_letters", "ranges", "files"]

Key = tuple[int, str]
Rows = dict[Key, list[dict[str, Any]]]


def check_cycles(
    lake_uri: str, options: Mapping[str, str] | None = None, *, caught_up: bool = True
) -> Report:
    """Every record through the ledger's position is in it once, as it was and where it is.

    caught_up: whether the newest record must be in it.  Records that were trimmed are judged by
    their rows alone: ranges of a partition must follow each other.
    """
    report = Report()
    uri = table_uri(lake_uri, TABLE)
    rows = _rows(report, uri, options)
    if rows is None:
        return report
    position = DeltaTable(uri, storage_options=dict(options or {})).transaction_version(POSITION)
    lake = open_lake(lake_uri, options)
    records = parse_records(report, read_numbered(lake, RECORDS))
    _check_position(report, position, records, rows, caught_up)
    _check_records(report, records, rows, position or 0)
    _check_chains(report, rows)
    _check_versions(report, lake_uri, options, rows)
    return report


def _rows(report: Report, uri: str, options: Mapping[str, str] | None) -> Rows | None:
    found: list[Rows] = []
    for name in ("deltalake", "duckdb"):
        rows: Rows = {}
        try:
            for batch in reader_named(name, options).batches(uri, COLUMNS):
                for row in batch.to_pylist():
                    rows.setdefault((row["record"], row["topic"]), []).append(row)
        except TableMissing as error:
            report.add("unreadable", TABLE, f"{name}: {error}")
            return None
        report.checked[f"ledger rows by {name}"] += sum(map(len, rows.values()))
        found.append(rows)
    if found[0] != found[1]:
        report.add("readers_differ", TABLE, "deltalake and duckdb see other rows")
    for (record, topic), same in found[0].items():
        if len(same) > 1:
            report.add("doubled", TABLE, f"record {record}, {topic}: {len(same)} rows")
    return found[0]


def _check_position(
    report: Report, position: int | None, records: list[RecordEntry], rows: Rows, caught_up: bool
) -> None:
    newest = max((record.number for record in records), default=-1)
    entered = max((record for record, _ in rows), default=-1)
    if position is None or entered >= position:
        report.add("wrong_position", TABLE, f"{position}, there are rows of record {entered}")
    elif position > newest + 1 or (caught_up and position != newest + 1):
        report.add("wrong_position", TABLE, f"{position}, the newest record is {newest}")


def _check_records(
    report: Report, records: list[RecordEntry], rows: Rows, position: int
) -> None:
    oldest = min((record.number for record in records), default=0)
    expected: set[Key] = set()
    for record in records:
        if record.number >= position or record.kind != "cycle":
            continue
        for part in record.parts:
            expected.add((record.number, part.topic))
            _check_part(report, part, rows.get((record.number, part.topic), []))
        for topic in record.excluded:
            expected.add((record.number, topic))
            found = [row["status"] for row in rows.get((record.number, topic), [])]
            if found != ["excluded"]:
                report.add("wrong_status", TABLE, f"record {record.number}, {topic}: {found}")
    for record, topic in rows.keys() - expected:
        if record >= oldest:
            report.add("invented", TABLE, f"record {record}, {topic}")


def _check_part(report: Report, part: Part, found: list[dict[str, Any]]) -> None:
    if not found:
        report.add("missing", TABLE, str(part))
        return
    row = found[0]
    report.checked["ledger rows judged"] += 1
    if row["status"] != "committed":
        report.add("wrong_status", TABLE, f"{part}: {row['status']}")
    ranges = {entry["partition"]: (entry["start"], entry["end"], entry["rows"],
                                   entry["dead_letters"], entry["skipped"], entry["absent"])
              for entry in row["ranges"]}
    if ranges != {entry.partition: (entry.start, entry.end, entry.rows, entry.dead_letters,
                                    entry.skipped, entry.absent) for entry in part.ranges}:
        report.add("wrong_ranges", TABLE, f"{part}: {row['ranges']}")
    counts = (sum(entry.rows for entry in part.ranges),
              sum(entry.dead_letters for entry in part.ranges))
    if (row["rows"], row["dead_letters"]) != counts:
        report.add("wrong_counts", TABLE, f"{part}: {row['rows']}, {row['dead_letters']}")
    paths = {entry["path"] for entry in row["files"]}
    if paths != {file.path for file in part.files}:
        report.add("wrong_counts", TABLE, f"{part}: files {sorted(paths)}")


def _check_chains(report: Report, rows: Rows) -> None:
    ends: dict[tuple[str, int], int] = {}
    for (record, topic), (row, *_) in sorted(
            (item for item in rows.items() if item[1][0]["status"] == "committed")):
        for entry in row["ranges"]:
            place = topic, entry["partition"]
            if ends.get(place, entry["start"]) != entry["start"]:
                report.add("broken_chain", TABLE, f"record {record}, {place}: begins at "
                                                  f"{entry['start']}, not {ends[place]}")
            ends[place] = entry["end"]
    report.checked["ledger chains"] += len(ends)


def _check_versions(
    report: Report, lake_uri: str, options: Mapping[str, str] | None, rows: Rows
) -> None:
    """The version in a row is the one whose log entry brought the record in."""
    lake = open_lake(lake_uri, options)
    for topic in sorted({topic for _, topic in rows if topic}):
        for table, column in ((bronze_table(topic), "table_version"),
                              (dlq_table(topic), "dlq_table_version")):
            brought = {record: version for version, data
                       in read_numbered(lake, f"{table}/_delta_log").items()
                       for record in [_record_of(data)] if record is not None}
            for (record, owner), (row, *_) in rows.items():
                if owner != topic or row["status"] != "committed":
                    continue
                wanted = brought.get(record)
                if row[column] != wanted and wanted is not None:
                    report.add("wrong_version", table, f"record {record}: {row[column]}, the log "
                                                       f"has {wanted}")


def _record_of(entry: bytes) -> int | None:
    for line in entry.splitlines():
        info = json.loads(line).get("commitInfo")
        if info is not None:
            record = info.get("bronze", {}).get("record")
            return None if record is None else int(record)
    return None
