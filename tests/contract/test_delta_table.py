"""What the service relies on of a Delta table: memory, a local folder, a real MinIO."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from shared.errors import (
    CommitConflict, StorageUnavailable, TableMismatch, TableUnavailable, TableVanished,
)
from shared.object_store import open_store
from shared.records import BRONZE, DataFile
from tests.fakes.config import make_config
from tests.fakes.tables import MemoryTables
from workers.delta_table import CHECKPOINT_INTERVAL, DeltaStore, TableStore
from workers.log_entry import appends_only, compaction_entry, entry_path, is_compaction
from workers.schemas import BRONZE_FILE, DLQ_FILE, table_schema

FOLDER = "bronze_orders"
SCHEMA = table_schema(BRONZE_FILE)


@pytest.fixture(params=["memory", "folder", "minio"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> TableStore:
    """Give an empty lake of each kind."""
    if request.param == "memory":
        return MemoryTables()
    if request.param == "folder":
        return folder_store(tmp_path)
    minio = request.getfixturevalue("minio")
    environ = minio.environment(request.getfixturevalue("lake_prefix"))
    config = make_config(environ=environ).lake
    return DeltaStore(config.uri, config.storage_options(), open_store(config))


def folder_store(folder: Path) -> DeltaStore:
    """Open a lake in a folder."""
    return DeltaStore(str(folder), {}, open_store(make_config(environ={"LAKE_URI": str(folder)}).lake))


def a_file(name: str, rows: int = 3) -> DataFile:
    """Describe a file; whether it exists is no matter to a commit."""
    return DataFile(BRONZE, f"_ingestion_date=2026-01-31/{name}", 100, rows, "2026-01-31",
                    f'{{"numRecords":{rows}}}', 1_770_000_000_000)


def test_table_is_made_once_and_opened_afterwards(lake: TableStore) -> None:
    """Two services may start on an empty lake at once."""
    assert lake.open(FOLDER) is None
    first = lake.create(FOLDER, SCHEMA)
    second = lake.create(FOLDER, SCHEMA)
    opened = lake.open(FOLDER)
    assert opened is not None
    assert first.version == second.version == opened.version == 0
    lake.check(FOLDER, opened, SCHEMA)


def test_table_of_other_columns_is_refused(lake: TableStore) -> None:
    """Rows that do not fit must be found at start, not by the first reader."""
    table = lake.create(FOLDER, table_schema(DLQ_FILE))
    with pytest.raises(TableMismatch, match=f"table {FOLDER}: .*value"):
        lake.check(FOLDER, table, SCHEMA)


def test_commit_moves_version_and_positions_at_once(lake: TableStore) -> None:
    """The position and the rows up to it appear together, for the writer and for others."""
    table = lake.create(FOLDER, SCHEMA)
    assert table.txn_version("bronze/orders/0") is None
    table.commit((a_file("a"),), {"bronze/orders/0": 3, "bronze/orders/1": 7}, {"record": 1})
    other = lake.open(FOLDER)
    assert other is not None
    for seen in (table, other):
        assert seen.version == 1
        assert seen.txn_version("bronze/orders/0") == 3
        assert seen.txn_version("bronze/orders/1") == 7
        assert seen.txn_version("bronze/orders/2") is None


def test_commit_without_files_only_moves_positions(lake: TableStore) -> None:
    """Where reading begins is fixed before the first message."""
    table = lake.create(FOLDER, SCHEMA)
    table.commit((), {"bronze/orders/0": 0}, {"begin": True})
    table.refresh()
    assert (table.version, table.txn_version("bronze/orders/0")) == (1, 0)


def test_commit_on_a_stale_snapshot_is_refused(lake: TableStore) -> None:
    """Check and commit are of one snapshot: whoever was faster makes ours fail, whoever it was."""
    mine = lake.create(FOLDER, SCHEMA)
    other = lake.open(FOLDER)
    assert other is not None
    other.commit((), {"somebody/else": 1}, {})
    with pytest.raises(CommitConflict):
        mine.commit((a_file("a"),), {"bronze/orders/0": 3}, {})
    assert mine.txn_version("bronze/orders/0") is None
    mine.refresh()
    assert mine.version == 1
    assert mine.txn_version("bronze/orders/0") is None
    mine.commit((a_file("a"),), {"bronze/orders/0": 3}, {})
    assert mine.txn_version("bronze/orders/0") == 3


def test_snapshot_does_not_move_by_itself(lake: TableStore) -> None:
    """What was judged stays judged until `refresh`."""
    mine = lake.create(FOLDER, SCHEMA)
    other = lake.open(FOLDER)
    assert other is not None
    other.commit((), {"bronze/orders/0": 5}, {})
    assert (mine.version, mine.txn_version("bronze/orders/0")) == (0, None)
    mine.refresh()
    assert (mine.version, mine.txn_version("bronze/orders/0")) == (1, 5)


@pytest.fixture
def folder_lake(tmp_path: Path) -> TableStore:
    """Give a lake in a folder that a test may damage."""
    return folder_store(tmp_path)


def test_table_that_vanished_is_never_made_anew(folder_lake: TableStore, tmp_path: Path) -> None:
    """With the log the positions are gone: going on would read everything twice."""
    table = folder_lake.create(FOLDER, SCHEMA)
    shutil.rmtree(tmp_path / FOLDER)
    with pytest.raises(TableVanished, match=FOLDER):
        table.refresh()
    with pytest.raises((CommitConflict, StorageUnavailable, TableVanished)):
        table.commit((), {"bronze/orders/0": 1}, {})
    assert folder_lake.open(FOLDER) is None


def test_a_commit_behind_a_log_that_was_cut_is_refused(
    folder_lake: TableStore, tmp_path: Path
) -> None:
    """Its entry would make a log with a hole, or hide that positions went back."""
    table = folder_lake.create(FOLDER, SCHEMA)
    table.commit((), {"bronze/orders/0": 1}, {})
    (tmp_path / entry_path(FOLDER, 1)).unlink()
    with pytest.raises(CommitConflict, match="version 1 is gone, the newest is 0"):
        table.commit((), {"bronze/orders/0": 2}, {})
    assert (table.version, table.txn_version("bronze/orders/0")) == (0, None)


def test_a_commit_follows_a_checkpoint_whose_entry_was_cleaned_up(
    folder_lake: TableStore, tmp_path: Path
) -> None:
    """A quiet table's log may be nothing but its checkpoint when the next row comes."""
    table = folder_lake.create(FOLDER, SCHEMA)
    table.commit((a_file("a"),), {"bronze/orders/0": 3}, {})
    DeltaTable(tmp_path / FOLDER).create_checkpoint()
    for version in (0, 1):
        (tmp_path / entry_path(FOLDER, version)).unlink()
    table.commit((a_file("b"),), {"bronze/orders/0": 6}, {})
    fresh = folder_lake.open(FOLDER)
    assert fresh is not None
    assert (fresh.version, fresh.txn_version("bronze/orders/0")) == (2, 6)


def test_positions_survive_many_commits(folder_lake: TableStore) -> None:
    """The snapshot follows its own commits without reading; no position may get lost on the way."""
    table = folder_lake.create(FOLDER, SCHEMA)
    table.commit((), {"bronze/orders/quiet": 11}, {})
    commits = 2 * CHECKPOINT_INTERVAL + 1
    for position in range(1, commits + 1):
        table.commit((a_file(f"f{position}"),), {"bronze/orders/0": position}, {})
        assert table.txn_version("bronze/orders/0") == position
    assert table.txn_version("bronze/orders/quiet") == 11
    fresh = folder_lake.open(FOLDER)
    assert fresh is not None
    assert fresh.version == table.version == commits + 1
    assert fresh.txn_version("bronze/orders/0") == commits
    assert fresh.txn_version("bronze/orders/quiet") == 11


def test_a_position_that_was_never_asked_for_is_that_of_the_snapshot(
    folder_lake: TableStore
) -> None:
    """Also after a commit of ours and one of somebody else: a partition may be given to us late."""
    mine = folder_lake.create(FOLDER, SCHEMA)
    mine.commit((), {"bronze/orders/0": 1, "bronze/orders/1": 1}, {})
    other = folder_lake.open(FOLDER)
    assert other is not None
    mine.refresh()
    mine.commit((), {"bronze/orders/0": 2}, {})
    other.refresh()
    other.commit((), {"bronze/orders/1": 9}, {})
    assert mine.txn_version("bronze/orders/1") == 1


def test_positions_are_answered_from_the_snapshot_alone(
    folder_lake: TableStore, tmp_path: Path
) -> None:
    """A commit is all puts and looks, and a store that is away does not make one forget."""
    table = folder_lake.create(FOLDER, SCHEMA)
    table.commit((), {"bronze/orders/0": 4, "bronze/orders/1": 5}, {})
    table.refresh()
    shutil.rmtree(tmp_path / FOLDER)
    assert [table.txn_version(f"bronze/orders/{number}") for number in range(3)] == [4, 5, None]


def test_commits_tell_which_record_they_brought_in_newest_first(lake: TableStore) -> None:
    """Down to the first one of an older record; what others commit names none."""
    table = lake.create(FOLDER, SCHEMA)
    table.commit((), {"bronze/orders/0": 0}, {"begin": True})
    for record in (3, 4, 6):
        table.commit((a_file(f"f{record}"),), {"bronze/orders/0": record}, {"record": record})
    found = lake.commits(FOLDER, 4)
    assert [(commit.version, commit.record) for commit in found] == [(4, 6), (3, 4), (2, 3)]
    assert [(commit.version, commit.record) for commit in lake.commits(FOLDER, 0)] == [
        (4, 6), (3, 4), (2, 3), (1, None), (0, None)]
    assert lake.commits("bronze_nothing", 0) == []


def test_commits_are_told_as_far_as_the_log_goes(folder_lake: TableStore, tmp_path: Path) -> None:
    """With a checkpoint, a foreign commit, and entries that were cleaned up."""
    table = folder_lake.create(FOLDER, SCHEMA)
    for record in (1, 2, 3):
        table.commit((a_file(f"f{record}"),), {"bronze/orders/0": record}, {"record": record})
    DeltaTable(tmp_path / FOLDER).create_checkpoint()
    for version in (0, 1):
        (tmp_path / entry_path(FOLDER, version)).unlink()
    write_deltalake(tmp_path / FOLDER, pa.table({
        field.name: pa.nulls(1, field.type) if field.name != "_ingestion_date"
        else pa.array([0], pa.int32()).cast(pa.date32()) for field in SCHEMA}), mode="append")
    found = folder_lake.commits(FOLDER, 0)
    assert [(commit.version, commit.record) for commit in found] == [(4, None), (3, 3), (2, 2)]
    assert all(commit.at_ms for commit in found)


def test_a_commit_behind_the_newest_one_needs_no_snapshot(lake: TableStore) -> None:
    """Version and positions are in the newest entry; of two who append behind it one is refused."""
    assert lake.newest(FOLDER) is None
    lake.create(FOLDER, SCHEMA)
    found = lake.newest(FOLDER)
    assert found is not None and (found.version, found.txns) == (0, {})
    lake.append(FOLDER, 0, (a_file("a"),), {"bronze/cycles": 5, "other": 1}, {})
    found = lake.newest(FOLDER)
    assert found is not None
    assert (found.version, found.txns) == (1, {"bronze/cycles": 5, "other": 1})
    with pytest.raises(CommitConflict):
        lake.append(FOLDER, 0, (a_file("b"),), {"bronze/cycles": 9}, {})
    opened = lake.open(FOLDER)
    assert opened is not None
    assert (opened.version, opened.txn_version("bronze/cycles")) == (1, 5)


def test_a_commit_behind_an_entry_that_is_gone_is_refused(
    folder_lake: TableStore, tmp_path: Path
) -> None:
    """Somebody deleted the table meanwhile: an entry alone would make a log with a hole."""
    folder_lake.create(FOLDER, SCHEMA)
    (tmp_path / entry_path(FOLDER, 0)).unlink()
    with pytest.raises(CommitConflict, match="version 0 is gone"):
        folder_lake.append(FOLDER, 0, (a_file("a"),), {"bronze/cycles": 5}, {})
    assert not (tmp_path / entry_path(FOLDER, 1)).exists()


def test_a_commit_that_cannot_be_read_is_the_tables_fault(
    folder_lake: TableStore, tmp_path: Path
) -> None:
    """Not the store's: whoever is called must look at the table."""
    folder_lake.create(FOLDER, SCHEMA)
    for damage in ('{"commitInfo": {"times', '{"commitInfo": {}}\n{"add": {"path": "x',
                   '["txn"]', '{"txn": 5}'):
        (tmp_path / entry_path(FOLDER, 1)).write_text(damage)
        with pytest.raises(TableUnavailable, match="entry 1"):
            folder_lake.commits(FOLDER, 0)
        with pytest.raises(TableUnavailable, match="entry 1"):
            folder_lake.newest(FOLDER)


def test_log_entries_are_what_another_reader_reads(
    folder_lake: TableStore, tmp_path: Path
) -> None:
    """Partition values, statistics and sizes, byte for byte as they were given."""
    table = folder_lake.create(FOLDER, SCHEMA)
    file = a_file("a")
    table.commit((file,), {"bronze/orders/0": 3}, {"record": 1})
    seen = DeltaTable(tmp_path / FOLDER)
    adds = seen.get_add_actions(flatten=True)
    row = {name: adds.column(name)[0].as_py() for name in (
        "path", "size_bytes", "num_records", "partition._ingestion_date", "modification_time")}
    assert (row["path"], row["size_bytes"], row["num_records"]) == (file.path, 100, 3)
    assert str(row["partition._ingestion_date"]) == file.date
    newest = seen.history(1)[0]
    assert (newest["operation"], newest["bronze"]) == ("WRITE", {"record": 1})
    assert newest["engineInfo"].startswith("bronze-ingestion/")
    assert seen.metadata().configuration["delta.checkpointInterval"] == str(CHECKPOINT_INTERVAL)


def test_table_keeps_a_protocol_every_reader_knows(folder_lake: TableStore, tmp_path: Path) -> None:
    """Readers of bronze tables are not ours to upgrade."""
    folder_lake.create(FOLDER, SCHEMA)
    protocol = DeltaTable(tmp_path / FOLDER).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    assert not protocol.reader_features
    assert not protocol.writer_features


def foreign(folder: Path, schema: pa.Schema, partition_by: list[str]) -> None:
    """Make a table as another tool would."""
    write_deltalake(str(folder), pa.Table.from_batches([], schema), partition_by=partition_by)


@pytest.mark.parametrize(("change", "fault"), [
    (lambda s: (s.append(pa.field("extra", pa.string())), ["_ingestion_date"]), None),
    (lambda s: (s.append(pa.field("extra", pa.string(), nullable=False)), ["_ingestion_date"]),
     "extra is not ours and may not be null"),
    (lambda s: (s.set(s.get_field_index("key"), pa.field("key", pa.binary(), nullable=False)),
                ["_ingestion_date"]), "key may not be null"),
    (lambda s: (s.set(s.get_field_index("headers"), pa.field("headers", pa.list_(pa.struct([
        pa.field("key", pa.string(), nullable=False),
        pa.field("value", pa.binary(), nullable=False)])))), ["_ingestion_date"]),
     "^[^;]*headers.value may not be null[^;]*$"),
    (lambda s: (s.set(s.get_field_index("_kafka_offset"),
                      pa.field("_kafka_offset", pa.int64(), nullable=False)),
                ["_ingestion_date"]), None),
    (lambda s: (s.remove(s.get_field_index("key")), ["_ingestion_date"]), "key is missing"),
    (lambda s: (s.set(s.get_field_index("value"), pa.field("value", pa.binary())),
                ["_ingestion_date"]), 'value is "binary", not "string"'),
    (lambda s: (s, []), r"partitioned by \[\], not _ingestion_date"),
])
def test_existing_table_is_held_to_our_columns(
    folder_lake: TableStore, tmp_path: Path, change: Callable[[pa.Schema], tuple[Any, list[str]]],
    fault: str | None,
) -> None:
    """A column that somebody added and that may be null is no reason to stop; the rest is."""
    schema, partition_by = change(SCHEMA)
    foreign(tmp_path / FOLDER, schema, partition_by)
    table = folder_lake.open(FOLDER)
    assert table is not None
    if fault is None:
        folder_lake.check(FOLDER, table, SCHEMA)
        table.commit((a_file("a"),), {"bronze/orders/0": 1}, {})
        assert table.txn_version("bronze/orders/0") == 1
    else:
        with pytest.raises(TableMismatch, match=fault):
            folder_lake.check(FOLDER, table, SCHEMA)


@pytest.mark.parametrize(("protocol", "properties", "unknown"), [
    ((4, None), {}, None),
    ((4, None), {"delta.constraints.positive": "value > 0"}, "checkConstraints"),
    ((6, None), {}, "writer version 6"),
    ((7, ["appendOnly", "changeDataFeed"]), {}, None),
    ((7, ["rowTracking", "appendOnly"]), {}, "rowTracking"),
    # With it, Spark leaves our positions out of its checkpoints.
    ((2, None), {"delta.setTransactionRetentionDuration": "interval 30 days"},
     "delta.setTransactionRetentionDuration"),
])
def test_table_whose_writers_must_do_more_is_not_opened(
    folder_lake: TableStore, tmp_path: Path, protocol: tuple[int, list[str] | None],
    properties: dict[str, str], unknown: str | None
) -> None:
    """To write by older rules would break the table for those who count on the newer ones."""
    folder_lake.create(FOLDER, SCHEMA)
    first = tmp_path / entry_path(FOLDER, 0)
    actions = [json.loads(line) for line in first.read_text().splitlines()]
    version, features = protocol
    for action in actions:
        if "metaData" in action:
            action["metaData"]["configuration"] |= properties
        if "protocol" in action:
            action["protocol"] = {"minReaderVersion": 1, "minWriterVersion": version} | (
                {} if features is None else {"writerFeatures": features})
    first.write_text("\n".join(map(json.dumps, actions)))
    if unknown is None:
        table = folder_lake.open(FOLDER)
        assert table is not None
        table.commit((a_file("a"),), {"bronze/orders/0": 1}, {})
        assert DeltaTable(tmp_path / FOLDER).version() == 1
    else:
        with pytest.raises(TableUnavailable, match=f"does not know: {unknown}$"):
            folder_lake.open(FOLDER)


def test_a_table_that_begins_to_ask_more_takes_no_commit_of_ours(
    folder_lake: TableStore, tmp_path: Path
) -> None:
    """However often it is tried: a refresh that is refused leaves the snapshot where it was."""
    table = folder_lake.create(FOLDER, SCHEMA)
    (tmp_path / entry_path(FOLDER, 1)).write_text(json.dumps({"protocol": {
        "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["rowTracking"]}}))
    for _ in range(3):
        with pytest.raises(CommitConflict):
            table.commit((a_file("a"),), {"bronze/orders/0": 1}, {})
        with pytest.raises(TableUnavailable, match="rowTracking"):
            table.refresh()
    assert DeltaTable(tmp_path / FOLDER).version() == 1


def test_a_damaged_log_is_told_apart_from_a_store_that_is_away(
    folder_lake: DeltaStore, tmp_path: Path
) -> None:
    """The person on call must look at the table, not at the network."""
    table = folder_lake.create(FOLDER, SCHEMA)
    hint = tmp_path / FOLDER / "_delta_log" / "_last_checkpoint"
    hint.write_text('{"version": 99, "size": 3}')
    with pytest.raises(TableUnavailable, match="whose checkpoint is not there"):
        folder_lake.open(FOLDER)
    with pytest.raises(TableUnavailable, match="whose checkpoint is not there"):
        table.refresh()
    hint.unlink()
    table.refresh()


def compact(lake: TableStore, name: str) -> None:
    """Put a compaction of ours behind the newest version, as the keeper does."""
    if isinstance(lake, MemoryTables):
        lake.states[FOLDER].compact()
        return
    store = lake._store
    newest = lake.newest(FOLDER)
    assert newest is not None
    entry = compaction_entry([("_ingestion_date=2026-01-31/a", 100, "2026-01-31")], a_file(name), 0)
    assert store.put_if_absent(entry_path(FOLDER, newest.version + 1), entry)


def test_a_commit_steps_over_compactions(lake: TableStore) -> None:
    """The keeper's work is no conflict: rows and positions are what they were."""
    table = lake.create(FOLDER, SCHEMA)
    table.commit((a_file("a"),), {"bronze/orders/0": 3}, {"record": 1})
    compact(lake, "b")
    compact(lake, "c")
    table.commit((a_file("d"),), {"bronze/orders/0": 6}, {"record": 2})
    assert table.version == 4
    assert table.txn_version("bronze/orders/0") == 6
    opened = lake.open(FOLDER)
    assert opened is not None and opened.version == 4


def test_what_came_behind_a_compaction_is_a_conflict(lake: TableStore) -> None:
    """Another writer's positions are not overwritten, nor is its version skipped."""
    table = lake.create(FOLDER, SCHEMA)
    table.commit((a_file("a"),), {"bronze/orders/0": 3}, {"record": 1})
    compact(lake, "b")
    other = lake.open(FOLDER)
    assert other is not None
    other.commit((a_file("c"),), {"bronze/orders/0": 6}, {"record": 2})
    with pytest.raises(CommitConflict):
        table.commit((a_file("d"),), {"bronze/orders/0": 6}, {"record": 2})
    table.refresh()
    assert table.txn_version("bronze/orders/0") == 6


def test_the_newest_commit_is_the_one_before_compactions(lake: TableStore) -> None:
    """With the version that the next one follows."""
    table = lake.create(FOLDER, SCHEMA)
    table.commit((a_file("a"),), {"bronze/orders/0": 3}, {"record": 1})
    compact(lake, "b")
    newest = lake.newest(FOLDER)
    assert newest is not None
    assert (newest.version, newest.record, dict(newest.txns)) == (2, 1, {"bronze/orders/0": 3})
    lake.append(FOLDER, newest.version, (), {"bronze/orders/0": 4}, {})
    assert [commit.is_compaction for commit in lake.commits(FOLDER, 0)][:3] == [False, True, False]


@pytest.mark.parametrize("change", [
    {"txn": {"appId": "bronze/orders/0", "version": 9}}, {"metaData": {"id": "x"}},
    {"add": {"path": "x", "dataChange": True}}, {"remove": {"path": "x", "dataChange": True}},
    {"protocol": {"minReaderVersion": 1}}, {"cdc": {"path": "x"}}])
def test_only_what_changes_nothing_is_a_compaction(change: dict[str, Any]) -> None:
    """Whatever it calls itself."""
    entry = compaction_entry([("a", 1, "2026-01-31")], a_file("b"), 0)
    assert is_compaction(entry)
    assert not is_compaction(entry + b"\n" + json.dumps(change).encode())
    assert not is_compaction(entry.replace(b'"compaction"', b'"optimization"'))
    assert not is_compaction(b'{"compaction": 5}')
    assert not is_compaction(b'not JSON "compaction"')


def test_only_files_and_positions_are_an_append() -> None:
    """A compaction may land behind it."""
    add, txn = {"add": {"path": "x", "dataChange": True}}, {"txn": {"appId": "a", "version": 1}}
    lines = [json.dumps(action).encode() for action in ({"commitInfo": {}}, add, txn)]
    assert appends_only(b"\n".join(lines))
    for other in ("remove", "metaData", "protocol", "cdc"):
        assert not appends_only(b"\n".join([*lines, json.dumps({other: {}}).encode()]))
    assert not appends_only(b"not JSON")
