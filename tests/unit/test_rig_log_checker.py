"""The judge of commits and records: a good log passes, and every torn or invented one is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tests.rig.checker import Report, check_log
from tests.rig.toy_lake import BRONZE_SCHEMA, Record, ToyLake
from tests.services import MinioService

BRONZE, DLQ = "bronze_a", "dlq_bronze_a"


def judge(lake: ToyLake, **arguments: Any) -> Report:
    return check_log(str(lake.folder), topics=lake.topics, **arguments)


def first_range(record: Record) -> Record:
    found: Record = record["manifests"][0]["ranges"][0]
    return found


def bronze_file(record: Record) -> Record:
    return next(file for file in record["manifests"][0]["files"] if file["table"] == "bronze")


@pytest.fixture
def lake(tmp_path: Path) -> ToyLake:
    """Give a lake with two good cycles."""
    made = ToyLake(tmp_path)
    made.cycle(20)
    made.cycle(20)
    return made


def test_log_checker_passes_a_good_log(lake: ToyLake) -> None:
    """Two cycles of two topics with dead letters, judged with the ledger, are without fault."""
    report = judge(lake, ledger=lake.ledger)
    report.assert_ok()
    assert report.checked == {"commits": 14, "records": 3, "files": 8, "cuts": 2}


def test_log_checker_passes_a_record_without_files(lake: ToyLake) -> None:
    """Offsets that were only control records move positions and add no file."""

    def pass_a_control_record(record: Record) -> None:
        for part in record["manifests"]:
            for entry in part["ranges"]:
                entry["end"] += 1

    parts = [lake.prepare(topic, 0) for topic in lake.topics]
    record = lake.decide(parts, pass_a_control_record)
    for topic in lake.topics:
        lake.carry_out(record, topic)
    judge(lake).assert_ok()


def test_log_checker_reads_s3(lake: ToyLake, minio: MinioService, lake_prefix: str) -> None:
    """The same verdict from a bucket."""
    client = minio.client()
    for path in lake.folder.rglob("*"):
        if path.is_file():
            name = f"{lake_prefix}/{path.relative_to(lake.folder)}"
            client.fput_object(minio.bucket, name, str(path))
    uri, options = minio.lake_uri(lake_prefix), minio.storage_options()
    report = check_log(uri, options, lake.topics, ledger=lake.ledger)
    report.assert_ok()
    assert report.checked == {"commits": 14, "records": 3, "files": 8, "cuts": 2}
    client.remove_object(minio.bucket, f"{lake_prefix}/_bronze/log/{2:020d}.json")
    assert "visible_unrecorded" in check_log(uri, options, lake.topics).kinds()


def undone(lake: ToyLake, *topics: str) -> None:
    """A cycle that only the given topics carry out."""
    record = lake.decide([lake.prepare(topic, 20) for topic in lake.topics])
    for topic in topics:
        lake.carry_out(record, topic)


def test_log_checker_sees_a_torn_cycle(lake: ToyLake) -> None:
    """One topic shows a decided cycle and the other one does not, with the service at rest."""
    undone(lake, "a")
    assert judge(lake).counts == {"undone_record": 1}
    judge(lake, settled=False).assert_ok()
    judge(lake, behind={"b"}).assert_ok()
    assert judge(lake, behind={"a"}).counts == {"undone_record": 1}


def test_log_checker_allows_only_the_newest_record_to_be_undone(lake: ToyLake) -> None:
    """A topic that is behind may have one record to carry out, never two."""
    undone(lake, "a")
    undone(lake, "a")
    report = judge(lake, settled=False)
    assert "undone_record" in report.kinds()
    assert all(anomaly.where != BRONZE for anomaly in report.anomalies)


def test_log_checker_sees_a_skipped_record(lake: ToyLake) -> None:
    """A topic committed something newer before what was decided first."""
    undone(lake, "a")
    undone(lake, "a", "b")
    assert {"undone_record", "txn_jump"} <= judge(lake, settled=False).kinds()


def test_log_checker_sees_bronze_without_its_dead_letters(lake: ToyLake) -> None:
    """Dead letters become visible first, so this state is wrong at any moment."""
    record = lake.decide([lake.prepare("a", 20)])
    lake.carry_out(record, "a", ["bronze"])
    assert judge(lake, settled=False).kinds() == {"torn_record"}


def test_log_checker_sees_rows_nobody_decided(lake: ToyLake) -> None:
    """A file in no record was committed without a decision."""
    part = lake.prepare("a", 20).manifest
    lake.commit(BRONZE, [bronze_file({"manifests": [part]})], {0: 60, 1: 60})
    assert judge(lake).kinds() == {"visible_unrecorded"}


def test_log_checker_sees_positions_nobody_decided(lake: ToyLake) -> None:
    """Positions that moved without a record are a silent hole."""
    lake.commit(BRONZE, [], {0: 50})
    assert judge(lake).kinds() == {"undecided_commit"}


def test_log_checker_sees_a_position_that_fell(lake: ToyLake) -> None:
    """Reading would begin again below what is in the table."""
    lake.commit(BRONZE, [], {0: 30})
    assert judge(lake).kinds() == {"undecided_commit", "txn_fell"}


def test_log_checker_sees_a_record_carried_out_twice(lake: ToyLake) -> None:
    """The same files in two versions: readers of changes see them twice."""
    record = lake.cycle(20)
    lake.carry_out(record, "a")
    assert judge(lake).kinds() == {"recommitted"}


def test_log_checker_sees_a_commit_of_two_records(lake: ToyLake) -> None:
    """Two cycles in one commit are one cycle that was torn and one that was hurried."""
    parts = [lake.prepare("a", 20), lake.prepare("a", 20)]
    records = [lake.decide([part]) for part in parts]
    files = [bronze_file(record) for record in records]
    for record in records:
        lake.carry_out(record, "a", ["dlq"])
    lake.commit(BRONZE, files, {0: 80, 1: 80})
    assert "mixed_commit" in judge(lake, settled=False).kinds()


def test_log_checker_sees_part_of_the_files(lake: ToyLake) -> None:
    """All or nothing holds within a table, too."""
    part = lake.prepare("a", 20)
    part.manifest["files"].append(lake.upload(BRONZE, "bronze", []))
    record = lake.decide([part])
    lake.carry_out(record, "a", ["dlq"])
    lake.commit(BRONZE, [bronze_file(record)], {0: 60, 1: 60})
    assert judge(lake).kinds() == {"partial_commit"}


def test_log_checker_sees_other_positions_than_decided(lake: ToyLake) -> None:
    """Files without their positions are read again after a restart."""
    record = lake.decide([lake.prepare("a", 20)])
    lake.carry_out(record, "a", ["dlq"])
    files = [file for file in record["manifests"][0]["files"] if file["table"] == "bronze"]
    lake.commit(BRONZE, files, {0: 60})
    assert judge(lake).kinds() == {"txn_differs"}


def set_in(find: Callable[[Record], Record], **values: object) -> Callable[[Record], None]:
    """A change of a record that sets some values somewhere in it."""
    return lambda record: find(record).update(values)


def whole(record: Record) -> Record:
    return record


RECORD_FAULTS: dict[str, tuple[Callable[[Record], None], set[str]]] = {
    "hole": (set_in(first_range, start=41), {"hole", "bad_fates", "txn_jump"}),
    "overlap": (set_in(first_range, start=39), {"overlap", "txn_jump", "bad_fates"}),
    "beyond": (set_in(first_range, end=59), {"bad_fates"}),
    "backwards": (set_in(first_range, end=30), {"bad_range", "bad_fates", "txn_fell"}),
    "rows": (lambda record: first_range(record).update(rows=1), {"bad_fates"}),
    "invented loss": (
        set_in(first_range, lost=[{"start": 40, "end": 41, "cause": "x"}]), {"bad_fates"},
    ),
    "loss outside": (
        set_in(first_range, lost=[{"start": 1, "end": 2, "cause": "x"}]),
        {"bad_range", "bad_fates"},
    ),
    "other service": (set_in(whole, uuid="stranger"), {"fenced_decided"}),
    "old cycle": (set_in(whole, cycle_id=2), {"cycle_id_fell"}),
    "too complete": (set_in(whole, complete_through=3), {"complete_through_wrong"}),
    "less complete": (set_in(whole, complete_through=0), {"complete_through_wrong"}),
    "unknown version": (
        set_in(whole, record_version=2), {"record_unreadable", "visible_unrecorded"},
    ),
    "excluded": (set_in(whole, excluded={"a": "isolated"}), {"excluded_and_named"}),
    "torn cut": (set_in(whole, table_versions={BRONZE: 3, "bronze_b": 2}), {"torn_cut"}),
    "future cut": (set_in(whole, table_versions={BRONZE: 99}), {"torn_cut"}),
    "unknown table": (set_in(whole, table_versions={"c": 0}), {"torn_cut"}),
    "row count": (set_in(bronze_file, rows=1), {"file_rows", "bad_fates"}),
    "date": (set_in(bronze_file, date="2001-01-01"), {"file_date"}),
}


@pytest.mark.parametrize("name", RECORD_FAULTS)
def test_log_checker_sees_a_wrong_record(lake: ToyLake, name: str) -> None:
    """Each statement of a record is held against something else."""
    change, kinds = RECORD_FAULTS[name]
    originals: list[Record] = []

    def keep_then_change(record: Record) -> None:
        originals.append(json.loads(json.dumps(record)))
        change(record)

    record = lake.decide([lake.prepare(topic, 20) for topic in lake.topics], keep_then_change)
    is_about_ranges = {"txn_fell"} & kinds
    for topic in lake.topics:
        lake.carry_out(record if is_about_ranges else originals[0], topic)
    found = judge(lake, ledger=lake.ledger).kinds()
    assert kinds <= found
    assert found <= kinds | {"txn_differs", "txn_jump", "undecided_commit"}


def test_log_checker_sees_a_missing_record_number(lake: ToyLake) -> None:
    """Numbers are dense: a hole is a record that somebody removed."""
    (lake.folder / "_bronze/log" / f"{1:020d}.json").unlink()
    assert {"record_hole", "visible_unrecorded"} <= judge(lake).kinds()


def test_log_checker_allows_trimmed_records_only_from_the_front(lake: ToyLake) -> None:
    """Without the start record everything else still fits together."""
    (lake.folder / "_bronze/log" / f"{0:020d}.json").unlink()
    judge(lake).assert_ok()


def test_log_checker_sees_a_decision_after_a_newer_start(lake: ToyLake) -> None:
    """A service that was fenced must not decide any more."""
    old = lake.uuid
    lake.uuid = "newer"
    lake.start()
    lake.uuid = old
    lake.cycle(5)
    assert judge(lake).kinds() == {"fenced_decided"}


def damage(lake: ToyLake, change: Callable[[Path], None]) -> None:
    """Alter one data file behind everybody's back."""
    change(next((lake.folder / BRONZE).rglob("*.parquet")))


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def garble(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("change", "kind"),
    [(Path.unlink, "file_missing"), (cut_short, "file_size"), (garble, "file_rows")],
)
def test_log_checker_sees_a_damaged_file(
    lake: ToyLake, change: Callable[[Path], None], kind: str
) -> None:
    """What the log says of a file is true of the file."""
    damage(lake, change)
    assert judge(lake).kinds() == {kind}


def test_log_checker_sees_wrong_columns_in_a_file(tmp_path: Path) -> None:
    """delta-rs takes any file; a column of another type breaks readers later."""
    lake = ToyLake(tmp_path, topics=["a"])
    place = BRONZE_SCHEMA.get_field_index("_kafka_offset")
    lake.schemas[BRONZE] = BRONZE_SCHEMA.set(place, pa.field("_kafka_offset", pa.int32()))
    lake.cycle(10)
    assert judge(lake).kinds() == {"file_columns"}


def test_log_checker_sees_removed_rows(lake: ToyLake) -> None:
    """Nothing of ours ever deletes a row; compaction, which keeps every row, is allowed."""
    table = DeltaTable(lake.uri(BRONZE))
    table.optimize.compact()
    judge(lake).assert_ok()
    table.delete("_kafka_offset = 0")
    assert "removed" in judge(lake).kinds()


def test_log_checker_sees_a_missing_table_and_a_hole_in_its_log(lake: ToyLake) -> None:
    """A vanished log is never mistaken for an empty one."""
    assert check_log(str(lake.folder), topics=["c"]).kinds() == {"no_table"}
    (lake.folder / BRONZE / "_delta_log" / f"{1:020d}.json").unlink()
    assert "log_hole" in judge(lake).kinds()
