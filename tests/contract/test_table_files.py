"""Compaction and vacuum on a real table: no row changes, nobody's file is taken, and the log says
so to every reader."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

import keeper.compaction as plan_module
import keeper.table_files as module
from keeper.table_files import Compacted, TableFiles, Vacuumed
from keeper.table_log import TableLog
from keeper.turn import build_turn
from shared.block import Block
from shared.clock import rfc3339
from shared.errors import CommitConflict, StorageUnavailable, TableUnavailable
from shared.object_store import Store, open_store
from shared.record_log import RecordLog
from shared.records import BRONZE, CycleRecord, DataFile, Manifest, StartRecord, encode
from shared.replay_log import ReplayLog
from shared.replay_plan import Plan
from tests.fakes.clock import FakeClock
from tests.fakes.config import make_config
from tests.rig.readers import DuckdbReader
from workers.delta_table import DeltaStore
from workers.log_entry import entry_path
from workers.parquet_file import ParquetFile
from workers.schemas import BRONZE_FILE, table_schema

FOLDER = "bronze_orders"
POSITION = "bronze/orders/0"
TARGET = 1_000_000
DAY_S = 86_400
COLUMNS = ["_kafka_partition", "_kafka_offset", "value"]


class Lake:
    """A table of small files, and what looks after them; `now` is the clock's, in Unix seconds."""

    def __init__(self, environ: dict[str, str], options: dict[str, str]) -> None:
        self.config = make_config(environ=environ).lake
        self.options = options
        self.store: Store = open_store(self.config)
        self.tables = DeltaStore(self.config.uri, self.config.storage_options(), self.store)
        self.table = self.tables.create(FOLDER, table_schema(BRONZE_FILE))
        self.clock = FakeClock()
        self.now = time.time()
        self.clock.unix_ms = lambda: int(self.now * 1000)  # type: ignore[method-assign]
        self.records = RecordLog(self.store)
        self.log = TableLog(self.store, self.tables, FOLDER, self.clock.unix_ms)
        self.files = TableFiles(
            self.store, self.log, self.records, FOLDER, BRONZE_FILE, self.clock,
            ReplayLog(self.store, "orders"))
        self.next_offset = 0

    @property
    def uri(self) -> str:
        """Where the table lies."""
        return f"{self.config.uri}/{FOLDER}"

    def day(self, days_ago: int) -> str:
        """An ISO date."""
        moment = datetime.fromtimestamp(self.now, UTC) - timedelta(days=days_ago)
        return moment.date().isoformat()

    def send(self, days_ago: int = 2, rows: int = 10) -> DataFile:
        """A file in the store that no log names."""
        file = ParquetFile(BRONZE, BRONZE_FILE, self.day(days_ago), 1 << 20)
        first, self.next_offset = self.next_offset, self.next_offset + rows
        moment = datetime.fromtimestamp(self.now, UTC)
        columns: dict[str, list[Any]] = {
            "value": [f"v{offset}" for offset in range(first, first + rows)],
            "headers": [[{"key": "k", "value": b"\0"}]] * rows,
            "_kafka_partition": [0] * rows,
            "_kafka_offset": list(range(first, first + rows)),
            "_kafka_timestamp": [moment] * rows, "_ingested_at": [moment] * rows}
        batch = pa.record_batch([pa.array(columns.get(field.name, [None] * rows), field.type)
                                 for field in BRONZE_FILE], schema=BRONZE_FILE)
        file.append(batch, batch.nbytes)
        encoded = file.close(int(self.now * 1000) - days_ago * DAY_S * 1000)
        self.store.put(f"{FOLDER}/{encoded.file.path}", encoded.content)
        return encoded.file

    def commit(self, *files: DataFile) -> None:
        """Bring files in, as a worker does."""
        self.table.commit(files, {POSITION: self.next_offset}, {"record": self.table.version})

    def fill(self, count: int, days_ago: int = 2) -> None:
        """So many commits of a file each."""
        for _ in range(count):
            self.commit(self.send(days_ago))

    def compact(self, target: int = TARGET) -> Compacted:
        """With time enough."""
        return self.files.compact(target, self.clock.monotonic() + 1000)

    def vacuum(self, days: int = 7, started_s: float | None = None, visit: int = 0) -> Vacuumed:
        """With time enough; started_s: when the service did."""
        started_ms = int((self.now if started_s is None else started_s) * 1000)
        return self.files.vacuum(days, started_ms, visit, self.clock.monotonic() + 1000)

    def rows(self, version: int | None = None) -> list[tuple[Any, ...]]:
        """What deltalake reads, in order."""
        table = DeltaTable(self.uri, version=version, storage_options=self.options)
        read = table.to_pyarrow_table(columns=COLUMNS)
        return sorted((tuple(row.values()) for row in read.to_pylist()), key=repr)

    def duckdb_rows(self) -> list[tuple[Any, ...]]:
        """What DuckDB reads, in order."""
        batches = DuckdbReader(self.options or None).batches(self.uri, COLUMNS)
        return sorted((tuple(row.values()) for batch in batches for row in batch.to_pylist()),
                      key=repr)

    def adds(self) -> list[dict[str, Any]]:
        """The files of the newest version, with their statistics."""
        table = DeltaTable(self.uri, storage_options=self.options)
        return list(pa.table(table.get_add_actions(flatten=True)).to_pylist())

    def data_files(self) -> set[str]:
        """The objects beside the log."""
        paths = {path.removeprefix(f"{FOLDER}/") for path in self.store.sizes(f"{FOLDER}/")}
        return {path for path in paths if not path.startswith("_delta_log/")}


def folder_lake(folder: Path) -> Lake:
    """A lake in a folder."""
    return Lake({"LAKE_URI": str(folder)}, {})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Give a lake in a folder."""
    return folder_lake(tmp_path)


@pytest.fixture(params=["folder", "minio"])
def any_lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Give one of each kind."""
    if request.param == "folder":
        return folder_lake(tmp_path)
    minio = request.getfixturevalue("minio")
    return Lake(minio.environment(request.getfixturevalue("lake_prefix")),
                minio.storage_options())


# -- compaction ---------------------------------------------------------------------------------


def test_small_files_of_a_closed_day_become_one(any_lake: Lake) -> None:
    """Every row stays, for two readers; positions stay; the old version can still be read."""
    any_lake.fill(7)
    before, version = any_lake.rows(), any_lake.table.version
    assert any_lake.compact() == Compacted(7, 1)
    assert any_lake.rows() == any_lake.duckdb_rows() == before
    assert any_lake.rows(version) == before
    [add] = any_lake.adds()
    assert add["num_records"] == 70
    assert (add["min._kafka_offset"], add["max._kafka_offset"]) == (0, 69)
    any_lake.table.refresh()
    assert any_lake.table.version == version + 1
    assert any_lake.table.txn_version(POSITION) == 70


def test_a_file_of_many_parts_is_whole(any_lake: Lake) -> None:
    """More than a store takes in one request here."""
    for _ in range(3):
        any_lake.commit(any_lake.send(rows=1))
    file = ParquetFile(BRONZE, BRONZE_FILE, any_lake.day(2), 1 << 20)
    noise = [os.urandom(3000).hex() for _ in range(5000)]
    batch = pa.record_batch([pa.array({
        "value": noise, "_kafka_partition": [1] * 5000,
        "_kafka_offset": list(range(5000))}.get(field.name, [None] * 5000), field.type)
        for field in BRONZE_FILE], schema=BRONZE_FILE)
    file.append(batch, batch.nbytes)
    encoded = file.close(0)
    assert len(encoded.content) > 12_000_000
    any_lake.store.put(f"{FOLDER}/{encoded.file.path}", encoded.content)
    any_lake.commit(encoded.file)
    before = any_lake.rows()
    assert any_lake.compact(64_000_000).old == 4
    assert any_lake.rows() == before


def test_a_day_that_is_not_over_is_let_be(lake: Lake) -> None:
    """Its files are still coming; an hour after midnight those that were late are there, too."""
    lake.fill(3, days_ago=0)
    assert lake.compact() == Compacted()
    midnight = datetime.fromtimestamp(lake.now, UTC).replace(hour=0, minute=0, second=0)
    lake.now = midnight.timestamp() + DAY_S + 3500
    assert lake.compact() == Compacted()
    lake.now += 200
    assert lake.compact() == Compacted(3, 1)


def test_days_are_kept_apart(lake: Lake) -> None:
    """A file belongs to one partition."""
    lake.fill(2, days_ago=2)
    lake.fill(2, days_ago=3)
    before = lake.rows()
    assert lake.compact() == Compacted(4, 2)
    assert sorted(add["partition._ingestion_date"].isoformat() for add in lake.adds()) == [
        lake.day(3), lake.day(2)]
    assert lake.rows() == before
    table = DeltaTable(lake.uri).to_pyarrow_table(columns=["_ingestion_date"])
    assert {day.isoformat() for day in table["_ingestion_date"].to_pylist()} == {
        lake.day(3), lake.day(2)}


def test_what_is_large_is_not_written_again(lake: Lake) -> None:
    """Nor is a single file."""
    lake.fill(4)
    sizes = [add["size_bytes"] for add in lake.adds()]
    assert lake.compact(2 * min(sizes) - 2) == Compacted()
    assert lake.compact(2 * max(sizes)).old >= 3
    assert lake.compact(2 * min(sizes)) == Compacted()


def test_one_batch_has_so_many_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand requests, and an entry of the log of some hundred kilobytes."""
    monkeypatch.setattr(plan_module, "BATCH_FILES_MAX", 3)
    lake.fill(7)
    assert lake.compact() == Compacted(6, 2)
    assert lake.compact() == Compacted(3, 1)


def test_a_worker_goes_on_as_if_nothing_had_been(any_lake: Lake) -> None:
    """Its next commit steps over the compactions, without a conflict and without a look."""
    any_lake.fill(2)
    any_lake.fill(2, days_ago=3)
    version = any_lake.table.version
    assert any_lake.compact() == Compacted(4, 2)
    any_lake.commit(any_lake.send())
    assert any_lake.table.version == version + 3
    assert any_lake.table.txn_version(POSITION) == 50
    assert len(any_lake.rows()) == 50
    newest = any_lake.tables.newest(FOLDER)
    assert newest is not None and newest.txns == {POSITION: 50}


def test_the_newest_commit_behind_a_compaction_is_found(lake: Lake) -> None:
    """The ledger's position is read from it."""
    lake.fill(3)
    lake.compact()
    newest = lake.tables.newest(FOLDER)
    assert newest is not None
    assert (newest.version, newest.txns) == (lake.table.version + 1, {POSITION: 30})


def test_what_workers_append_meanwhile_comes_first(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compaction takes the version behind it."""
    lake.fill(3)
    interpose(lake, monkeypatch, lambda: lake.fill(2))
    assert lake.compact() == Compacted(3, 1)
    assert len(lake.rows()) == 50
    assert len(lake.adds()) == 3


def interpose(lake: Lake, monkeypatch: pytest.MonkeyPatch, what: Callable[[], None]) -> None:
    """Let something happen between the reading and the commit of a compaction."""
    replace = lake.log.replace

    def later(*args: Any) -> int:
        what()
        return replace(*args)
    monkeypatch.setattr(lake.log, "replace", later)


def test_rows_that_somebody_deletes_meanwhile_do_not_come_back(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compaction is dropped: the file it has written holds them."""
    lake.fill(3)
    interpose(lake, monkeypatch, lambda: DeltaTable(lake.uri).delete("_kafka_offset < 5"))
    assert lake.compact() == Compacted()
    assert len(lake.rows()) == 25


def test_two_keepers_double_no_row(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two instances share a topic: the second one's work is dropped."""
    lake.fill(3)
    other = TableFiles(lake.store, TableLog(lake.store, lake.tables, FOLDER, lake.clock.unix_ms),
                       lake.records, FOLDER, BRONZE_FILE, lake.clock, None)
    interpose(lake, monkeypatch, lambda: other.compact(TARGET, 1e9) and None)
    assert lake.compact() == Compacted()
    assert len(lake.rows()) == 30


def test_an_answer_that_was_lost_is_read_back(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tried again by itself, and found its own entry."""
    lake.fill(3)
    put = lake.store.put_if_absent

    def twice(path: str, data: bytes) -> bool:
        put(path, data)
        return put(path, data)
    monkeypatch.setattr(lake.store, "put_if_absent", twice)
    assert lake.compact() == Compacted(3, 1)
    assert len(lake.rows()) == 30


@pytest.mark.parametrize("lands", [True, False])
def test_after_an_error_the_table_says_what_is_left_to_do(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, *, lands: bool
) -> None:
    """The commit took effect, or it did not: the next turn finds out."""
    lake.fill(3)
    put = lake.store.put_if_absent

    def unanswered(path: str, data: bytes) -> bool:
        if lands:
            put(path, data)
        raise StorageUnavailable("put", path, "no answer")
    with monkeypatch.context() as patch:
        patch.setattr(lake.store, "put_if_absent", unanswered)
        with pytest.raises(StorageUnavailable):
            lake.compact()
    assert lake.compact() == (Compacted() if lands else Compacted(3, 1))
    assert len(lake.rows()) == 30


def test_columns_that_somebody_added_are_not_lost(lake: Lake) -> None:
    """Such a table is left alone: our files do not have them."""
    lake.fill(2)
    row = {field.name: pa.nulls(1, field.type) for field in table_schema(BRONZE_FILE)}
    row["_ingestion_date"] = pa.array([lake.day(2)]).cast(pa.date32())
    write_deltalake(lake.uri, pa.table({**row, "region": pa.array(["eu"])}), mode="append",
                    schema_mode="merge")
    lake.table.refresh()
    lake.fill(2)
    assert lake.compact() == Compacted()
    assert sorted(DeltaTable(lake.uri).to_pyarrow_table()["region"].to_pylist(),
                  key=str) == [*[None] * 40, "eu"]


def test_a_file_of_another_form_is_let_be(lake: Lake) -> None:
    """Somebody else wrote it; the files around it become one."""
    lake.fill(2)
    row = {field.name: pa.nulls(1, field.type) for field in BRONZE_FILE}
    row["_ingestion_date"] = pa.array([lake.day(2)]).cast(pa.date32())
    row["extra"] = pa.nulls(1, pa.string())
    path = f"_ingestion_date={lake.day(2)}/foreign.parquet"
    pq.write_table(pa.table({**row}).drop_columns(["_ingestion_date"]),
                   Path(lake.uri) / path)
    size = (Path(lake.uri) / path).stat().st_size
    lake.commit(DataFile(BRONZE, path, size, 1, lake.day(2), '{"numRecords":1}', 0))
    assert lake.compact() == Compacted(2, 1)
    assert len(lake.rows()) == 21
    assert lake.compact() == Compacted()
    assert len(lake.data_files()) == 4, "what was begun for it is gone"


def test_a_table_with_features_of_others_is_let_be(lake: Lake) -> None:
    """Nobody knows what a rewritten file has to have there."""
    lake.fill(3)
    DeltaTable(lake.uri).alter.set_table_properties({"delta.enableChangeDataFeed": "true"})
    assert lake.compact() == Compacted()
    assert lake.vacuum(started_s=lake.now) == Vacuumed()


def test_a_table_that_is_not_there_is_no_error(lake: Lake) -> None:
    """Without DLQ_ENABLED there is none; the worker tells of one that vanished."""
    files = TableFiles(lake.store, TableLog(lake.store, lake.tables, "dlq", lake.clock.unix_ms),
                       lake.records, "dlq", BRONZE_FILE, lake.clock, None)
    assert files.compact(TARGET, 1e9) == Compacted()
    assert files.vacuum(7, 0, 0, 1e9) == Vacuumed()


def test_a_missing_or_broken_file_is_told(lake: Lake) -> None:
    """It must not be taken out of the table: it may come back from a backup."""
    lake.fill(3)
    path = Path(lake.uri) / lake.adds()[1]["path"]
    content = path.read_bytes()
    path.write_bytes(content[:200])
    with pytest.raises(TableUnavailable, match="cannot be read"):
        lake.compact()
    path.unlink()
    with pytest.raises(TableUnavailable, match="is not in the store"):
        lake.compact()
    path.write_bytes(content)
    assert lake.compact() == Compacted(3, 1)


def test_a_batch_ends_where_time_does(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read by then is committed, so a slow store's table shrinks, too."""
    lake.fill(6)
    get = lake.store.get

    def slow(path: str) -> bytes | None:
        if path.endswith(".parquet"):
            lake.clock.advance(10)
        return get(path)
    monkeypatch.setattr(lake.store, "get", slow)
    assert lake.files.compact(TARGET, lake.clock.monotonic() + 35) == Compacted(4, 1)
    assert lake.files.compact(TARGET, lake.clock.monotonic()) == Compacted(is_finished=False)
    assert len(lake.rows()) == 60


def test_a_compaction_that_was_frozen_for_long_is_dropped(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another keeper's vacuum may have taken its file."""
    lake.fill(3)
    get = lake.store.get

    def frozen(path: str) -> bytes | None:
        if path.endswith(".parquet"):
            lake.clock.advance(module.COMMIT_WITHIN_S)
        return get(path)
    monkeypatch.setattr(lake.store, "get", frozen)
    assert lake.files.compact(TARGET, 1e9) == Compacted()
    assert len(lake.rows()) == 30 and len(lake.adds()) == 3


def test_a_checkpoint_after_a_compaction_says_the_same(lake: Lake) -> None:
    """With the removed files told of, for the vacuum and for others'."""
    lake.fill(25)
    lake.compact()
    lake.table.refresh()
    before = lake.rows()
    kept = lake.log.keep()
    assert kept.checkpoint == lake.table.version
    for path in (Path(lake.uri) / "_delta_log").glob("*[0-9].json"):
        path.unlink()
    assert lake.rows() == lake.duckdb_rows() == before
    checkpoint = pq.read_table(
        Path(lake.uri) / "_delta_log" / f"{kept.checkpoint:020d}.checkpoint.parquet")
    assert checkpoint["remove"].null_count == len(checkpoint) - 25


def test_on_a_store_a_log_is_cleaned_up_in_one_request(
    any_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder and a store agree on what is old."""
    any_lake.fill(20)
    assert any_lake.log.keep().checkpoint == 20
    age(any_lake, 31)
    any_lake.fill(20)
    before = any_lake.rows()
    monkeypatch.setattr(any_lake.store, "delete", None)
    kept = any_lake.log.keep()
    assert (kept.checkpoint, kept.deleted) == (40, 41)
    assert sorted(any_lake.store.sizes(f"{FOLDER}/_delta_log/")) == [
        f"{FOLDER}/_delta_log/{40:020d}.checkpoint.parquet", entry_path(FOLDER, 40),
        f"{FOLDER}/_delta_log/_last_checkpoint"]
    assert any_lake.rows() == before
    any_lake.fill(1)
    assert len(any_lake.rows()) == len(before) + 10


# -- vacuum -------------------------------------------------------------------------------------


def age(lake: Lake, days: float) -> None:
    """Let time pass: for the clock; files stay as old as they are written."""
    lake.now += days * DAY_S


def test_replaced_files_are_deleted_after_the_retention(lake: Lake) -> None:
    """Not before: somebody may be reading them."""
    lake.fill(5)
    lake.compact()
    age(lake, 6.9)
    assert lake.vacuum() == Vacuumed()
    age(lake, 0.2)
    gone = lake.vacuum()
    assert gone.files == 5 and gone.size > 5000
    assert lake.data_files() == {add["path"] for add in lake.adds()}
    assert len(lake.rows()) == 50
    assert lake.vacuum() == Vacuumed()


def test_replaced_files_are_deleted_by_what_a_checkpoint_tells(lake: Lake) -> None:
    """The entry that removed them is not read again."""
    lake.fill(5)
    lake.compact()
    lake.table.refresh()
    for _ in range(20):
        lake.commit()
    assert lake.log.keep().checkpoint is not None
    age(lake, 7.1)
    assert lake.vacuum(started_s=0).files == 5


def test_on_a_store_files_are_deleted_in_one_request(
    any_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder and a store agree."""
    any_lake.fill(3)
    any_lake.compact()
    age(any_lake, 8)
    monkeypatch.setattr(any_lake.store, "delete", None)
    assert any_lake.vacuum().files == 3
    assert len(any_lake.data_files()) == 1


@pytest.mark.parametrize(("asked", "days", "is_gone"), [
    ("interval 30 days", 29, False), ("interval 30 days", 31, True),
    ("interval 1 days", 6, False), ("interval 1 days", 8, True),
    ("interval 2 fortnights", 99, False)])
def test_a_table_may_ask_for_a_longer_retention(
    lake: Lake, asked: str, days: int, *, is_gone: bool
) -> None:
    """In words that we know; else everything stays."""
    DeltaTable(lake.uri).alter.set_table_properties({"delta.deletedFileRetentionDuration": asked})
    lake.table.refresh()
    lake.fill(3)
    lake.compact()
    age(lake, days)
    assert (lake.vacuum(started_s=0).files == 3) is is_gone


def test_a_file_that_was_sent_and_not_decided_stays_while_its_service_lives(lake: Lake) -> None:
    """A topic may be isolated for weeks, with what it has prepared."""
    lake.send()
    age(lake, 99)
    assert lake.vacuum(started_s=lake.now - 100 * DAY_S) == Vacuumed()
    assert len(lake.data_files()) == 1


def test_what_a_dead_service_has_sent_is_deleted_after_long(lake: Lake) -> None:
    """Nobody can decide it any more; another instance's would have to be that old."""
    lake.send()
    age(lake, 29)
    assert lake.vacuum() == Vacuumed()
    age(lake, 2)
    assert lake.vacuum().files == 1


def test_a_file_of_a_decided_replay_stays_for_whoever_finishes_it(lake: Lake) -> None:
    """A killed replay may lie for months; a file of no replay beside it goes."""
    lake.fill(1)
    named, other = lake.send(3), lake.send(3)
    plan = Plan("orders", 1, 1, "u", "1", rfc3339(lake.clock.unix_ms()), ((0, 1),), (named,))
    assert ReplayLog(lake.store, "orders").put(plan)
    lake.now += 100 * DAY_S
    assert lake.vacuum().files == 1
    assert lake.store.size(f"{FOLDER}/{named.path}") == named.size
    assert lake.store.size(f"{FOLDER}/{other.path}") is None


def test_a_turn_of_the_keeper_looks_at_each_tables_own_replays(tmp_path: Path) -> None:
    """Else a vacuum would take what a replay has decided."""
    config = make_config(("orders", "payments"), {"LAKE_URI": str(tmp_path)})
    turn = build_turn(config, Block.create(tmp_path / "block", 2, b"{}"))
    store = open_store(config.lake)
    file = DataFile("bronze", "_ingestion_date=2020-01-01/part-x.zstd.parquet", 1, 1, "2020-01-01",
                    "{}", 0)
    plan = Plan("payments", 1, 1, "u", "1", rfc3339(0), ((0, 1),), (file,))
    assert ReplayLog(store, "payments").put(plan)
    held = {files._folder: [] if files._replays is None else files._replays.read()
            for files in turn._files}
    assert held == {"bronze_orders": [], "bronze_payments": [plan], "dlq_bronze_orders": [],
                    "dlq_bronze_payments": [], "bronze_cycles": []}


def test_a_decided_file_stays_until_it_is_committed(lake: Lake) -> None:
    """However long its topic is stopped, and whoever has started since."""
    file = lake.send()
    manifest = Manifest("orders", "id", 1, (file,), ())
    assert lake.records.put(0, encode(StartRecord("0", "u", "1", 0, rfc3339(0), -1)))
    assert lake.records.put(1, encode(CycleRecord(
        "0", "u", 1, rfc3339(0), (manifest,), {}, 0, {})))
    age(lake, 99)
    assert lake.vacuum() == Vacuumed()
    assert lake.records.put(2, encode(StartRecord("0", "v", "1", 1, rfc3339(0), 1)))
    assert lake.vacuum().files == 1, "a later record claims it done: then the table has it, or not"


def test_what_lands_between_the_looks_stays(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is listed as nobody's, and committed before the log is read."""
    file = lake.send()
    age(lake, 99)
    read = lake.log.read

    def landed() -> Any:
        lake.commit(file)
        return read()
    monkeypatch.setattr(lake.log, "read", landed)
    assert lake.vacuum() == Vacuumed()
    assert len(lake.rows()) == 10


def test_strangers_files_stay(lake: Lake) -> None:
    """What is not of the form of a data file, or not in a date's folder, is not ours to judge."""
    lake.fill(1)
    date = Path(lake.uri) / f"_ingestion_date={lake.day(2)}"
    (date / "notes.txt").write_text("mine")
    (Path(lake.uri) / "stray.parquet").write_text("mine")
    (Path(lake.uri) / "_change_data").mkdir()
    (Path(lake.uri) / "_change_data" / "a.parquet").write_text("mine")
    age(lake, 99)
    assert lake.vacuum() == Vacuumed()


def test_what_a_killed_keeper_left_in_a_folder_is_deleted(lake: Lake) -> None:
    """A file that was not finished has a number behind its name."""
    lake.fill(1)
    date = Path(lake.uri) / f"_ingestion_date={lake.day(2)}"
    (date / "compacted-1.zstd.parquet#1").write_text("half")
    age(lake, 99)
    assert lake.vacuum().files in (0, 1)  # object_store does not list what is not finished
    assert len(lake.rows()) == 10


def test_dates_are_looked_at_in_turn(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of years is not listed at once."""
    monkeypatch.setattr(module, "DATES_PER_SWEEP", 2)
    for days_ago in range(2, 7):
        lake.fill(2, days_ago)
    lake.compact()
    age(lake, 8)
    assert [lake.vacuum(visit=visit).files for visit in range(6)] == [4, 4, 2, 0, 0, 0]


def test_a_file_with_another_place_stops_the_vacuum(lake: Lake) -> None:
    """Its table is a clone of one that lies elsewhere: what is nobody's here may be that one's."""
    lake.fill(2)
    lake.compact()
    lake.table.refresh()
    lake.commit(DataFile(BRONZE, "s3://elsewhere/file.parquet", 1, 1, lake.day(2),
                         json.dumps({"numRecords": 1}), 0))
    age(lake, 99)
    assert lake.vacuum() == Vacuumed()


def test_a_removed_file_that_came_back_stays(lake: Lake) -> None:
    """RESTORE adds files again that were removed."""
    lake.fill(2)
    lake.compact()
    DeltaTable(lake.uri).restore(2)
    age(lake, 99)
    lake.vacuum()
    assert len(lake.rows()) == 20


def test_conflict_type_is_what_a_dropped_compaction_raises(lake: Lake) -> None:
    """For whoever calls the log itself."""
    lake.fill(2)
    version, state = lake.log.read()
    files = state.live_files(lake.day(0), TARGET, 10)
    DeltaTable(lake.uri).delete("_kafka_offset < 5")
    with pytest.raises(CommitConflict, match="is not an append"):
        lake.log.replace(version, files, lake.send())


@pytest.mark.parametrize("is_made_anew", [False, True])
def test_a_compaction_begins_no_log_where_the_table_is_gone(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, *, is_made_anew: bool
) -> None:
    """Deleted, or made anew meanwhile: an entry of ours would stand behind a hole."""
    lake.fill(3)

    def vanish() -> None:
        shutil.rmtree(Path(lake.uri) / "_delta_log")
        if is_made_anew:
            lake.tables.create(FOLDER, table_schema(BRONZE_FILE))
    interpose(lake, monkeypatch, vanish)
    assert lake.compact() == Compacted()
    assert sorted(lake.store.sizes(f"{FOLDER}/_delta_log/")) == [entry_path(FOLDER, 0)] * (
        is_made_anew)


def test_a_compaction_lands_upon_a_checkpoint_whose_entry_is_gone(lake: Lake) -> None:
    """The table is there: its log was cleaned up to the last checkpoint."""
    lake.fill(25)
    lake.log.keep()
    for path in (Path(lake.uri) / "_delta_log").glob("*[0-9].json"):
        path.unlink()
    assert lake.compact() == Compacted(25, 1)
    assert len(lake.rows()) == 250


def test_a_checkpoint_of_another_form_stops_no_turn(lake: Lake) -> None:
    """Its files have columns of which nobody here knows what they mean: the table is let be."""
    lake.fill(25)
    version = lake.log.keep().checkpoint
    path = Path(lake.uri) / "_delta_log" / f"{version:020d}.checkpoint.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        if row["add"]:
            row["add"]["stats_parsed"] = {"numRecords": 10}
    add = pa.struct([*table.schema.field("add").type,
                     pa.field("stats_parsed", pa.struct([pa.field("numRecords", pa.int64())]))])
    index = table.schema.get_field_index("add")
    pq.write_table(pa.Table.from_pylist(
        rows, table.schema.set(index, pa.field("add", add))), path)
    assert lake.compact() == Compacted()
    assert lake.vacuum() == Vacuumed()


@pytest.mark.parametrize(("asked", "days", "is_gone"), [
    ("interval 4 weeks", 27, False), ("interval 4 weeks", 29, True),
    ("interval 10 days 12 hours", 10.4, False), ("interval 10 days 12 hours", 10.6, True)])
def test_a_retention_in_weeks_and_hours_is_kept_to(
    lake: Lake, asked: str, days: float, *, is_gone: bool
) -> None:
    """As Delta has it, in one unit or several."""
    metadata = json.loads(
        (Path(lake.uri) / "_delta_log" / f"{0:020d}.json").read_text().splitlines()[2])
    metadata["metaData"]["configuration"]["delta.deletedFileRetentionDuration"] = asked
    (Path(lake.uri) / "_delta_log" / f"{1:020d}.json").write_text(json.dumps(metadata))
    lake.table.refresh()
    lake.fill(3)
    lake.compact()
    age(lake, days)
    assert (lake.vacuum(started_s=0).files == 3) is is_gone
