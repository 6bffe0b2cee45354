"""What the service relies on of a Delta table: memory, a local folder, a real MinIO."""

from __future__ import annotations

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
from shared.records import BRONZE, DataFile
from tests.fakes.config import make_config
from tests.fakes.tables import MemoryTables
from workers.delta_table import REOPEN_COMMITS, DeltaStore, TableStore
from workers.schemas import BRONZE_FILE, DLQ_FILE, table_schema

FOLDER = "bronze_orders"
SCHEMA = table_schema(BRONZE_FILE)


@pytest.fixture(params=["memory", "folder", "minio"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> TableStore:
    """Give an empty lake of each kind."""
    if request.param == "memory":
        return MemoryTables()
    if request.param == "folder":
        return DeltaStore(str(tmp_path), {})
    minio = request.getfixturevalue("minio")
    environ = minio.environment(request.getfixturevalue("lake_prefix"))
    config = make_config(environ=environ).lake
    return DeltaStore(config.uri, config.storage_options())


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
    return DeltaStore(str(tmp_path), {})


def test_table_that_vanished_is_never_made_anew(folder_lake: TableStore, tmp_path: Path) -> None:
    """With the log the positions are gone: going on would read everything twice."""
    table = folder_lake.create(FOLDER, SCHEMA)
    shutil.rmtree(tmp_path / FOLDER)
    with pytest.raises(TableVanished, match=FOLDER):
        table.refresh()
    with pytest.raises((CommitConflict, StorageUnavailable, TableVanished)):
        table.commit((), {"bronze/orders/0": 1}, {})
    assert folder_lake.open(FOLDER) is None


def test_positions_survive_many_commits_and_checkpoints(folder_lake: TableStore, tmp_path: Path) -> None:
    """A handle is opened anew now and then; no position may get lost on the way."""
    table = folder_lake.create(FOLDER, SCHEMA)
    table.commit((), {"bronze/orders/quiet": 11}, {})
    for position in range(1, 2 * REOPEN_COMMITS + 2):
        table.commit((a_file(f"f{position}"),), {"bronze/orders/0": position}, {})
        assert table.txn_version("bronze/orders/0") == position
    assert table.txn_version("bronze/orders/quiet") == 11
    assert list((tmp_path / FOLDER / "_delta_log").glob("*.checkpoint.parquet"))
    fresh = folder_lake.open(FOLDER)
    assert fresh is not None
    assert fresh.version == table.version == 2 * REOPEN_COMMITS + 2
    assert fresh.txn_version("bronze/orders/0") == 2 * REOPEN_COMMITS + 1
    assert fresh.txn_version("bronze/orders/quiet") == 11


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


def test_a_damaged_log_is_told_apart_from_a_store_that_is_away(
    folder_lake: DeltaStore, tmp_path: Path
) -> None:
    """The person on call must look at the table, not at the network."""
    table = folder_lake.create(FOLDER, SCHEMA)
    hint = tmp_path / FOLDER / "_delta_log" / "_last_checkpoint"
    hint.write_text('{"version": 99, "size": 3}')
    with pytest.raises(TableUnavailable, match="Invalid Checkpoint"):
        folder_lake.open(FOLDER)
    with pytest.raises(TableUnavailable, match="Invalid Checkpoint"):
        table.refresh()
    hint.unlink()
    table.refresh()
