"""A checkpoint of ours says what the entries said, to every reader; the log is then cleaned up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

import keeper.table_log as module
from keeper.log_cleanup import may_clean_up
from keeper.table_log import Kept, TableLog
from keeper.turn import build_turn
from shared.block import Block
from shared.clock import SystemClock
from shared.errors import TableUnavailable
from shared.object_store import Store, StoredObject, open_store
from shared.records import BRONZE, DataFile
from tests.fakes.config import make_config
from tests.rig.readers import DuckdbReader
from workers.delta_table import CHECKPOINT_INTERVAL, DeltaStore
from workers.log_entry import entry_path
from workers.schemas import BRONZE_FILE, table_schema

FOLDER = "bronze_orders"
SCHEMA = table_schema(BRONZE_FILE)
DAY_S = 86_400
FOREIGN = "_ingestion_date = '1970-01-01'"
"""The rows of `append`, by their partition: to delete them no file is read."""


class Lake:
    """A table in a folder, and its log's keeper."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store: Store = open_store(make_config(environ={"LAKE_URI": str(folder)}).lake)
        self.tables = DeltaStore(str(folder), {}, self.store)
        self.table = self.tables.create(FOLDER, SCHEMA)
        self.log = TableLog(self.store, self.tables, FOLDER, SystemClock().unix_ms)

    def commit(self, count: int = CHECKPOINT_INTERVAL) -> None:
        """Commits of ours, each with a file and a position."""
        for _ in range(count):
            number = self.table.version
            stats = json.dumps({"numRecords": 3, "minValues": {"_kafka_offset": number}})
            file = DataFile(BRONZE, f"_ingestion_date=2026-01-31/f{number}", 100, 3, "2026-01-31",
                            stats, 1_770_000_000_000)
            self.table.commit((file,), {"bronze/orders/0": number, f"bronze/orders/{number}": 1},
                              {"record": number})

    def append(self) -> None:
        """Rows of somebody else's."""
        write_deltalake(self.folder / FOLDER, pa.table({
            field.name: pa.array([7], field.type) if field.name in ("_kafka_partition",
                                                                    "_kafka_offset")
            else pa.array([0], pa.int32()).cast(pa.date32()) if field.name == "_ingestion_date"
            else pa.nulls(1, field.type) for field in SCHEMA}), mode="append")
        self.table.refresh()

    def seen(self) -> dict[str, Any]:
        """What the library makes of the log."""
        table = DeltaTable(self.folder / FOLDER)
        adds = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        metadata = table.metadata()
        return {
            "version": table.version(), "adds": sorted(adds, key=lambda add: add["path"]),
            "schema": table.schema().to_json(), "id": metadata.id,
            "properties": metadata.configuration, "partitions": metadata.partition_columns,
            "positions": {number: table.transaction_version(f"bronze/orders/{number}")
                          for number in range(60)}}

    def forget_entries(self) -> None:
        """Leave nothing but the checkpoint."""
        for path in self.entries():
            path.unlink()

    def entries(self) -> list[Path]:
        """The log's entries."""
        return sorted((self.folder / FOLDER / "_delta_log").glob("*[0-9].json"))

    def checkpoints(self) -> list[int]:
        """Versions that have a checkpoint."""
        return sorted(int(path.name[:20]) for path in
                      (self.folder / FOLDER / "_delta_log").glob("*.checkpoint.parquet"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Give an empty table."""
    return Lake(tmp_path)


def test_a_checkpoint_is_due_after_so_many_versions(lake: Lake) -> None:
    """Not before, and not twice."""
    lake.commit(CHECKPOINT_INTERVAL - 2)
    assert lake.log.keep() == Kept()
    lake.commit(1)
    assert lake.log.keep() == Kept(CHECKPOINT_INTERVAL - 1)
    assert lake.log.keep() == Kept()
    lake.commit(CHECKPOINT_INTERVAL)
    assert lake.log.keep() == Kept(2 * CHECKPOINT_INTERVAL - 1)
    assert lake.checkpoints() == [CHECKPOINT_INTERVAL - 1, 2 * CHECKPOINT_INTERVAL - 1]


def test_the_checkpoint_alone_says_what_the_entries_said(lake: Lake) -> None:
    """Files with statistics and partition values, positions, schema, properties, protocol."""
    lake.commit()
    before = lake.seen()
    assert lake.log.keep().checkpoint == before["version"]
    lake.forget_entries()
    after = lake.seen()
    assert after == before
    protocol = DeltaTable(lake.folder / FOLDER).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)


def test_a_checkpoint_upon_a_checkpoint_loses_nothing(lake: Lake) -> None:
    """What came before the last one is in no entry any more."""
    lake.commit()
    lake.log.keep()
    lake.forget_entries()
    lake.table.refresh()
    lake.commit()
    before = lake.seen()
    lake.log.keep()
    lake.forget_entries()
    assert lake.seen() == before
    assert len(before["adds"]) == 2 * CHECKPOINT_INTERVAL


def test_a_checkpoint_upon_the_librarys_loses_nothing(lake: Lake) -> None:
    """Tables of an older release have such ones."""
    lake.commit()
    lake.tables.checkpoint(FOLDER)
    lake.forget_entries()
    lake.table.refresh()
    lake.commit()
    before = lake.seen()
    assert lake.log.keep().checkpoint == before["version"]
    lake.forget_entries()
    assert lake.seen() == before


def test_what_others_do_to_a_table_is_in_the_checkpoint(lake: Lake) -> None:
    """Appends, deletes, compactions: removed files stay removed, the new ones are there."""
    lake.append()
    lake.append()
    table = DeltaTable(lake.folder / FOLDER)
    table.optimize.compact()
    lake.table.refresh()
    lake.commit()
    DeltaTable(lake.folder / FOLDER).delete(FOREIGN)
    lake.table.refresh()
    lake.append()
    before = lake.seen()
    lake.log.keep()
    lake.forget_entries()
    assert lake.seen() == before
    rows = pq.read_table(lake.folder / FOLDER / "_delta_log"
                         / f"{before['version']:020d}.checkpoint.parquet")
    assert sum(remove is not None for remove in rows["remove"].to_pylist()) == 3


def test_a_file_that_a_later_entry_removes_leaves_the_old_checkpoint(lake: Lake) -> None:
    """Of the files that the checkpoint before had."""
    lake.append()
    lake.commit()
    lake.log.keep()
    DeltaTable(lake.folder / FOLDER).delete(FOREIGN)
    lake.table.refresh()
    lake.commit()
    before = lake.seen()
    lake.log.keep()
    lake.forget_entries()
    assert lake.seen() == before
    assert len(before["adds"]) == 2 * CHECKPOINT_INTERVAL


def test_duckdb_reads_a_table_from_our_checkpoint(lake: Lake) -> None:
    """Another implementation of Delta agrees."""
    for _ in range(3):
        lake.append()
    for _ in range(CHECKPOINT_INTERVAL):
        lake.table.commit((), {"bronze/orders/0": lake.table.version}, {})
    lake.log.keep()
    lake.forget_entries()
    batches = DuckdbReader(None).batches(str(lake.folder / FOLDER), ["_kafka_offset"])
    assert [row["_kafka_offset"] for batch in batches for row in batch.to_pylist()] == [7, 7, 7]


def test_a_table_with_features_is_left_to_the_library(lake: Lake) -> None:
    """What they mean is not lost: the library writes that checkpoint."""
    lake.commit()
    DeltaTable(lake.folder / FOLDER).alter.set_table_properties(
        {"delta.enableChangeDataFeed": "true"})
    assert DeltaTable(lake.folder / FOLDER).protocol().min_writer_version > 2
    before = lake.seen()
    assert lake.log.keep().checkpoint == before["version"]
    lake.forget_entries()
    assert lake.seen() == before


@pytest.mark.parametrize("hint", ["{not JSON", '{"size": 1}', '{"version": null}'])
def test_a_hint_that_cannot_be_read_is_written_anew(lake: Lake, hint: str) -> None:
    """It is a hint, and must not keep checkpoints from being written for ever."""
    lake.commit()
    (lake.folder / FOLDER / "_delta_log" / "_last_checkpoint").write_text(hint)
    assert lake.log.keep().checkpoint == CHECKPOINT_INTERVAL
    assert lake.log.keep() == Kept()


@pytest.mark.parametrize("content", ['{"add": ', '{"add": {"size": 1}}', '{"add": 5}', "[]", "5"])
def test_a_damaged_entry_makes_no_checkpoint(lake: Lake, content: str) -> None:
    """A checkpoint would hide the damage, and what was in the entry would be gone."""
    lake.commit()
    (lake.folder / entry_path(FOLDER, CHECKPOINT_INTERVAL + 1)).write_text(content)
    with pytest.raises(TableUnavailable, match=f"entry {CHECKPOINT_INTERVAL + 1} cannot be read"):
        lake.log.keep()
    assert lake.checkpoints() == []


def test_a_missing_entry_makes_no_checkpoint(lake: Lake) -> None:
    """The same for a hole."""
    lake.commit()
    (lake.folder / entry_path(FOLDER, 4)).unlink()
    with pytest.raises(TableUnavailable, match="entry 4 is missing"):
        lake.log.keep()


def age(lake: Lake, days: float) -> None:
    """Let everything in the log be so old."""
    then = time.time() - days * DAY_S
    for path in (lake.folder / FOLDER / "_delta_log").iterdir():
        os.utime(path, (then, then))


def test_old_entries_are_deleted_below_an_old_checkpoint(lake: Lake) -> None:
    """Every version from that checkpoint on can still be read."""
    lake.commit()
    first = lake.log.keep().checkpoint
    assert first is not None
    lake.commit(5)
    age(lake, 31)
    lake.commit(CHECKPOINT_INTERVAL)
    kept = lake.log.keep()
    assert kept.deleted == first
    assert int(lake.entries()[0].name[:20]) == first
    assert DeltaTable(lake.folder / FOLDER, version=first).version() == first
    assert DeltaTable(lake.folder / FOLDER, version=first + 3).version() == first + 3


@pytest.mark.parametrize(("properties", "days"), [
    ({}, 29), ({"delta.enableExpiredLogCleanup": "false"}, 99),
    ({"delta.logRetentionDuration": "interval 60 days"}, 50),
    ({"delta.logRetentionDuration": "interval 2 fortnights"}, 99)])
def test_younger_entries_and_those_a_table_wants_to_keep_stay(
    lake: Lake, properties: dict[str, str], days: float
) -> None:
    """Also where the table says it in words we do not know."""
    lake.commit()
    if properties:
        DeltaTable(lake.folder / FOLDER).alter.set_table_properties(
            properties, raise_if_not_exists=False)
        lake.table.refresh()
    lake.log.keep()
    age(lake, days)
    lake.commit(CHECKPOINT_INTERVAL)
    assert lake.log.keep().deleted == 0


def test_without_an_old_checkpoint_no_entry_is_deleted(lake: Lake) -> None:
    """Nothing else holds what they say for the versions that may still be asked for."""
    lake.commit()
    age(lake, 99)
    assert lake.log.keep() == Kept(CHECKPOINT_INTERVAL, 0)


def test_a_long_log_is_cleaned_up_a_bounded_number_at_a_time(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest has time."""
    monkeypatch.setattr(module, "DELETES_MAX", 24)
    lake.commit()
    lake.log.keep()
    age(lake, 31)
    lake.commit(CHECKPOINT_INTERVAL)
    assert 0 < lake.log.keep().deleted <= 24


# -- damaged and odd tables ---------------------------------------------------------------------


def checkpoint_path(lake: Lake, version: int) -> Path:
    """Where a checkpoint of ours lies."""
    return lake.folder / FOLDER / "_delta_log" / f"{version:020d}.checkpoint.parquet"


def rewrite_checkpoint(lake: Lake, version: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Let each row of a checkpoint be another one, as another writer may have left it."""
    path = checkpoint_path(lake, version)
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def add_entry(lake: Lake, *actions: dict[str, Any]) -> int:
    """Somebody else's entry; its version."""
    version = lake.table.version + 1
    (lake.folder / entry_path(FOLDER, version)).write_text("\n".join(map(json.dumps, actions)))
    lake.table.refresh()
    return version


def torn(content: bytes) -> bytes:
    """Without its end."""
    return content[:len(content) // 2]


def with_broken_pages(content: bytes) -> bytes:
    """The footer is well, what it points to is not."""
    return content[:4] + b"\xff" * (len(content) // 2) + content[4 + len(content) // 2:]


@pytest.mark.parametrize("damage", [torn, with_broken_pages, lambda content: b""])
def test_a_damaged_checkpoint_is_named(
    lake: Lake, damage: Callable[[bytes], bytes]
) -> None:
    """The table, the file; nothing is written upon it."""
    lake.commit()
    version = lake.log.keep().checkpoint
    assert version is not None
    lake.commit()
    path = checkpoint_path(lake, version)
    path.write_bytes(damage(path.read_bytes()))
    for use in (lake.log.keep, lake.log.read):
        with pytest.raises(TableUnavailable, match=f"{FOLDER}: checkpoint .*{path.name} cannot be"):
            use()
    assert lake.checkpoints() == [version]


def without_schema(row: dict[str, Any]) -> None:
    """A table of no columns: that is none."""
    if row["metaData"]:
        row["metaData"]["schemaString"] = None


def without_versions(row: dict[str, Any]) -> None:
    """A protocol that says nothing."""
    if row["protocol"]:
        row["protocol"]["minReaderVersion"] = None


def without_paths(row: dict[str, Any]) -> None:
    """A file that is nowhere."""
    if row["add"]:
        row["add"]["path"] = None


def without_sizes(row: dict[str, Any]) -> None:
    """The protocol asks for them."""
    if row["add"]:
        row["add"]["size"] = None


@pytest.mark.parametrize(
    "change", [without_schema, without_versions, without_paths, without_sizes])
def test_a_checkpoint_that_says_what_none_may_is_named(
    lake: Lake, change: Callable[[dict[str, Any]], None]
) -> None:
    """It is a good Parquet file, and no good checkpoint."""
    lake.commit()
    version = lake.log.keep().checkpoint
    assert version is not None
    lake.commit()
    rewrite_checkpoint(lake, version, change)
    with pytest.raises(TableUnavailable, match=f"checkpoint .*{version:020d}.* cannot be read"):
        lake.log.keep()


@pytest.mark.parametrize("action", [
    {"add": {"path": None, "partitionValues": {}, "size": 1, "modificationTime": 1}},
    {"add": {"path": "f", "partitionValues": {}, "size": None, "modificationTime": 1}},
    {"add": {"path": "f", "partitionValues": {}, "size": "1 kB", "modificationTime": 1}},
    {"add": {"path": "f", "partitionValues": [], "size": 1, "modificationTime": 1}},
    {"add": {"path": "f", "partitionValues": {}, "size": 2 ** 70, "modificationTime": 1}},
    {"add": {"path": "f", "partitionValues": {}, "size": 1, "modificationTime": 1, "tags": 5}},
    {"remove": {"path": "f", "deletionTimestamp": "yesterday"}},
    {"txn": {"appId": "x", "version": 1, "lastUpdated": "yesterday"}},
])
def test_an_entry_that_says_what_no_checkpoint_can_hold_is_named(
    lake: Lake, action: dict[str, Any]
) -> None:
    """By its number, and before anything is written."""
    lake.commit()
    version = add_entry(lake, action)
    with pytest.raises(TableUnavailable, match=f"entry {version} cannot be read"):
        lake.log.keep()
    assert lake.checkpoints() == []


@pytest.mark.parametrize("name", ["provider", "options", "tags", "configuration"])
def test_a_property_may_have_any_name(lake: Lake, name: str) -> None:
    """Also one that is a field elsewhere in the log."""
    metadata = json.loads((lake.folder / entry_path(FOLDER, 0)).read_text().splitlines()[2])
    metadata["metaData"]["configuration"][name] = "x"
    add_entry(lake, metadata)
    lake.commit()
    before = lake.seen()
    assert before["properties"][name] == "x"
    assert lake.log.keep().checkpoint == before["version"]
    lake.forget_entries()
    assert lake.seen() == before


@pytest.mark.parametrize("is_in_checkpoint", [False, True])
@pytest.mark.parametrize("values", [{"_ingestion_date": None}, {}])
def test_files_without_a_date_are_in_no_plan(
    lake: Lake, values: dict[str, None], *, is_in_checkpoint: bool
) -> None:
    """Another writer's row without a date, or a table that is no longer partitioned."""
    lake.commit(5)
    add_entry(lake, {"add": {"path": "elsewhere", "partitionValues": values, "size": 1,
                             "modificationTime": 1, "dataChange": True, "stats": "{}"}})
    lake.commit(CHECKPOINT_INTERVAL)
    if is_in_checkpoint:
        assert lake.log.keep().checkpoint is not None
    _, state = lake.log.read()
    files = state.live_files("9999-01-01", 1000, 1000)
    assert len(files) == CHECKPOINT_INTERVAL + 5
    assert "elsewhere" not in {file.path for file in files}
    assert state.which_live({"elsewhere"}) == {"elsewhere"}


def test_a_damaged_table_keeps_no_other_from_its_checkpoint(tmp_path: Path) -> None:
    """The turn says what is wrong with the one, and goes on with the next."""
    config = make_config(("a", "b"), {"LAKE_URI": str(tmp_path), "DLQ_ENABLED": "false"})
    block = Block.create(tmp_path / "block", 2, b"{}")
    store = open_store(config.lake)
    tables = DeltaStore(str(tmp_path), {}, store)
    for topic in config.topics:
        table = tables.create(f"bronze_{topic}", SCHEMA)
        for _ in range(CHECKPOINT_INTERVAL):
            table.commit((), {"bronze/orders/0": table.version}, {})
    build_turn(config, block).run()
    damaged, other = (tmp_path / f"bronze_{topic}" / "_delta_log" for topic in config.topics)
    for path in damaged.glob("*.checkpoint.parquet"):
        path.write_bytes(b"torn")
    for topic in config.topics:
        table = tables.open(f"bronze_{topic}") if topic == "b" else None
        for _ in range(CHECKPOINT_INTERVAL):
            if table is not None:
                table.commit((), {"bronze/orders/0": table.version}, {})
    for version in range(CHECKPOINT_INTERVAL + 1, 2 * CHECKPOINT_INTERVAL + 1):
        (damaged / f"{version:020d}.json").write_text("{}")
    assert not build_turn(config, block).run()
    assert len(list(other.glob("*.checkpoint.parquet"))) == 2
    said = json.loads(block.keeper_error.read() or b"")
    assert said["name"] == "TableUnavailable" and "bronze_a" in said["message"]


# -- clean-up of any log ------------------------------------------------------------------------


def log_names(lake: Lake) -> set[str]:
    """What lies in the log's folder."""
    folder = lake.folder / FOLDER / "_delta_log"
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def put_in_log(lake: Lake, *names: str) -> None:
    """Files of other writers."""
    for name in names:
        path = lake.folder / FOLDER / "_delta_log" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"foreign")


def aged(lake: Lake, days: float = 31) -> int:
    """A table with an old checkpoint, whose version is returned, and a new one due."""
    lake.commit()
    first = lake.log.keep().checkpoint
    assert first is not None
    age(lake, days)
    lake.commit(CHECKPOINT_INTERVAL)
    return first


def test_a_long_gap_between_two_checkpoints_is_cleaned_up(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many entries lie before the first old checkpoint, all go in the end."""
    monkeypatch.setattr(module, "DELETES_MAX", 7)
    first = aged(lake)
    deleted = 0
    for _ in range(10):
        deleted += lake.log.keep().deleted
        lake.commit(CHECKPOINT_INTERVAL)
    assert deleted == first
    assert int(lake.entries()[0].name[:20]) == first


def test_what_others_leave_in_a_log_keeps_no_entry_from_being_deleted(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that nobody deletes may stand before all others."""
    monkeypatch.setattr(module, "DELETES_MAX", 30)
    put_in_log(lake, *(f".hidden{number}" for number in range(40)),
               *(f"0000000000000000000{number}.checkpoint.0b-uuid.json" for number in range(9)))
    first = aged(lake)
    assert lake.log.keep().deleted == first
    assert int(lake.entries()[0].name[:20]) == first


def test_companions_of_old_entries_go_with_them(lake: Lake) -> None:
    """Checksums, compacted entries, and checkpoints in parts; those from the old checkpoint on
    stay, and so does what no one knows."""
    below = ["00000000000000000003.crc",
             "00000000000000000002.00000000000000000005.compacted.json",
             "00000000000000000004.checkpoint.0000000001.0000000002.parquet",
             "00000000000000000004.checkpoint.0000000002.0000000002.parquet"]
    above = ["00000000000000000020.crc", "00000000000000000021.crc",
             "00000000000000000019.00000000000000000022.compacted.json"]
    strange = ["00000000000000000003.crc.bak", "3.crc", "notes.txt",
               "_sidecars/00000000000000000003.json", "backup/00000000000000000003.json"]
    first = aged(lake)
    assert first == 20
    put_in_log(lake, *below, *above, *strange)
    then = time.time() - 31 * DAY_S
    for name in (*below, *above, *strange):
        os.utime(lake.folder / FOLDER / "_delta_log" / name, (then, then))
    assert lake.log.keep().deleted == first + len(below)
    assert {*above, *strange} <= log_names(lake)
    assert not {*below} & log_names(lake)


def test_a_copy_in_a_subfolder_neither_goes_nor_saves_the_entry(lake: Lake) -> None:
    """Only what lies in the log itself is the log; a checkpoint elsewhere covers nothing."""
    first = aged(lake)
    copies = {f"backup/{version:020d}.json" for version in range(5)} | {
        f"backup/{first + 3:020d}.checkpoint.parquet"}
    put_in_log(lake, *copies)
    then = time.time() - 31 * DAY_S
    for path in (lake.folder / FOLDER / "_delta_log" / "backup").iterdir():
        os.utime(path, (then, then))
    assert cleaned(lake) == first
    assert copies <= log_names(lake)
    assert int(lake.entries()[0].name[:20]) == first


def cleaned(lake: Lake) -> int:
    """What a clean-up alone deletes, without the reading before it."""
    return lake.log._clean_up({})


def test_a_checkpoint_in_parts_covers_when_it_is_whole(lake: Lake) -> None:
    """Of one with a part missing, nobody could read the versions behind it."""
    lake.commit(40)
    put_in_log(lake, "00000000000000000020.checkpoint.0000000002.0000000002.parquet")
    age(lake, 31)
    assert cleaned(lake) == 0
    part = lake.folder / FOLDER / "_delta_log" / (
        "00000000000000000020.checkpoint.0000000001.0000000002.parquet")
    lake.tables.checkpoint(FOLDER)
    whole = next((lake.folder / FOLDER / "_delta_log").glob("*.checkpoint.parquet"))
    part.write_bytes(whole.read_bytes())
    part.with_name(part.name.replace("0000000001.", "0000000002.", 1)).write_bytes(
        whole.read_bytes())
    whole.unlink()
    assert cleaned(lake) == 0, "one of its parts is young"
    age(lake, 31)
    assert cleaned(lake) == 20
    assert {path.name for path in part.parent.glob("*.checkpoint*")} == {
        part.name, part.name.replace("0000000001.", "0000000002.", 1)}


def test_a_damaged_checkpoint_covers_nothing(lake: Lake) -> None:
    """What lies below it is the only way left to the versions behind it."""
    first = aged(lake)
    second = lake.log.keep()
    assert second.deleted == first
    before = log_names(lake)
    assert second.checkpoint is not None
    checkpoint_path(lake, second.checkpoint).write_bytes(b"torn")
    age(lake, 31)
    with pytest.raises(TableUnavailable, match=f"{second.checkpoint:020d}.* cannot be read"):
        cleaned(lake)
    assert log_names(lake) == before


def test_what_a_clean_up_leaves_has_every_version_of_the_retention(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is cut short."""
    monkeypatch.setattr(module, "DELETES_MAX", 3)
    for _ in range(3):
        lake.commit(CHECKPOINT_INTERVAL)
        lake.log.keep()
    versions = range(lake.table.version + 1)
    for version in versions:
        then = time.time() - (31 if version <= 50 else 1) * DAY_S
        for path in (lake.folder / FOLDER / "_delta_log").glob(f"{version:020d}*"):
            os.utime(path, (then, then))
    for _ in range(30):
        cleaned(lake)
        for version in range(50, versions[-1] + 1):
            assert DeltaTable(lake.folder / FOLDER, version=version).version() == version
    assert int(lake.entries()[0].name[:20]) == 40
    assert lake.checkpoints() == [40, 60]


def test_on_a_store_the_walk_ends_at_the_first_young_entry(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names come in order there: what is behind it is younger still, and may be a month's."""
    first = aged(lake)
    walked = []
    found = [thing for chunk in lake.store.walk(f"{FOLDER}/_delta_log/") for thing in chunk]

    def walk(prefix: str) -> Iterator[list[StoredObject]]:
        for thing in sorted(found, key=lambda thing: thing.path):
            walked.append(thing.path)
            yield [thing]
    monkeypatch.setattr(lake.store, "walk", walk)
    monkeypatch.setattr(Store, "lists_in_order", True)
    assert cleaned(lake) == first
    assert walked[-1] == entry_path(FOLDER, first + 1)


@pytest.mark.parametrize(("properties", "deletes"), [
    ({"delta.enableChangeDataFeed": "true"}, True),
    ({"delta.enableChangeDataFeed": "true", "delta.enableExpiredLogCleanup": "false"}, False),
    ({"delta.enableChangeDataFeed": "true", "delta.logRetentionDuration": "interval 9 weeks"},
     False)])
def test_a_table_with_features_is_cleaned_up_as_well(
    lake: Lake, properties: dict[str, str], *, deletes: bool
) -> None:
    """Its entries are as many, and its retention is its own."""
    lake.commit()
    DeltaTable(lake.folder / FOLDER).alter.set_table_properties(
        properties, raise_if_not_exists=False)
    lake.table.refresh()
    first = lake.log.keep().checkpoint
    assert first is not None
    age(lake, 31)
    lake.commit(CHECKPOINT_INTERVAL)
    assert lake.log.keep().deleted == (first if deletes else 0)


@pytest.mark.parametrize("feature", [
    "checkpointProtection", "inCommitTimestamp", "v2Checkpoint", "catalogManaged", "unheard-of"])
def test_a_feature_with_rules_for_the_log_is_let_be(lake: Lake, feature: str) -> None:
    """What may be deleted there, another writer knows."""
    assert may_clean_up({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [],
                         "writerFeatures": ["changeDataFeed", "appendOnly"]})
    assert not may_clean_up({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": None,
                             "writerFeatures": ["changeDataFeed", feature]})
    assert not may_clean_up({"minReaderVersion": 3, "minWriterVersion": 7,
                             "readerFeatures": [feature], "writerFeatures": []})
    assert not may_clean_up({"minReaderVersion": 4, "minWriterVersion": 7})
    assert not may_clean_up({"minReaderVersion": 1, "minWriterVersion": 8})
    assert may_clean_up({"minReaderVersion": 2, "minWriterVersion": 6})


# -- removals that a checkpoint tells of ----------------------------------------------------------


@pytest.mark.parametrize(("asked", "days", "is_told"), [
    ("interval 4 weeks", 29, True), ("interval 4 weeks", 31, False),
    ("28 DAYS", 29, True), ("interval 672 hours", 31, False),
    ("interval 2 fortnights", 999, True)])
def test_a_removal_is_told_of_for_as_long_as_the_table_asks(
    lake: Lake, asked: str, days: int, *, is_told: bool
) -> None:
    """Readers of older versions have the files for so long; in words unknown, for ever."""
    metadata = json.loads((lake.folder / entry_path(FOLDER, 0)).read_text().splitlines()[2])
    metadata["metaData"]["configuration"]["delta.deletedFileRetentionDuration"] = asked
    add_entry(lake, metadata)
    removed_ms = int((time.time() - days * DAY_S) * 1000)
    add_entry(lake, {"remove": {"path": "f", "deletionTimestamp": removed_ms, "dataChange": True}})
    for _ in range(2):
        lake.commit()
        version = lake.log.keep().checkpoint
        assert version is not None
        removes = pq.read_table(checkpoint_path(lake, version))["remove"].to_pylist()
        assert any(remove is not None for remove in removes) is is_told
