"""A table's head as we read it from its log is what the library reads, whoever wrote the log."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake import Schema as DeltaSchema
from hypothesis import given
from hypothesis import strategies as st

from keeper.ledger_schema import LEDGER_FILE
from shared.errors import StorageUnavailable, TableUnavailable, TableVanished
from shared.object_store import Store, open_store
from tests.fakes.config import make_config
from tests.fakes.store import MemoryStore
from workers.log_entry import VERSION_MAX, append_entry, entry_path, first_entry, log_folder
from workers.log_head import LogHead
from workers.log_listing import hint_path, log_files
from workers.log_snapshot import ENTRIES_AT_ONCE, read_snapshot
from workers.schemas import BRONZE_FILE, DLQ_FILE, delta_schema, table_schema

FOLDER = "bronze_orders"
APP_IDS = [f"bronze/orders/{number}" for number in range(4)]
PART_ROWS = 3


def store_of(folder: Path) -> Store:
    """The store of a lake in a folder."""
    return open_store(make_config(environ={"LAKE_URI": str(folder)}).lake)


def begun(store: MemoryStore) -> MemoryStore:
    """The store with an empty table in it."""
    entry = first_entry(delta_schema(table_schema(BRONZE_FILE)), {"a": "b"}, "id", 0)
    store.put_if_absent(entry_path(FOLDER, 0), entry)
    return store


def append(store: MemoryStore, version: int, **positions: int) -> None:
    """Commit positions as a version."""
    store.put(entry_path(FOLDER, version), append_entry((), positions, {}, 0))


def foreign_table(folder: Path, commits: int) -> DeltaTable:
    """A table of the library's with positions, properties and an added column."""
    uri = str(folder / FOLDER)
    for number in range(commits):
        positions = [Transaction(APP_IDS[number % len(APP_IDS)], number * 10)]
        write_deltalake(uri, pa.table({"a": [number], "day": ["x"]}), mode="append",
                        partition_by=["day"],
                        commit_properties=CommitProperties(app_transactions=positions))
    table = DeltaTable(uri)
    table.alter.set_table_properties({"delta.logRetentionDuration": "interval 40 days"})
    return table


def assert_same(folder: Path) -> None:
    """Both readers see the same."""
    version, head = read_snapshot(store_of(folder), FOLDER)
    table = DeltaTable(folder / FOLDER)
    assert version == table.version()
    assert {app_id: head.position(app_id) for app_id in APP_IDS} == {
        app_id: table.transaction_version(app_id) for app_id in APP_IDS}
    assert head.fields == json.loads(table.schema().to_json())["fields"]
    metadata, protocol = table.metadata(), table.protocol()
    assert head.configuration == metadata.configuration
    assert head.partition_columns == metadata.partition_columns
    assert head.protocol is not None
    assert (head.protocol["minWriterVersion"], head.protocol.get("writerFeatures")) == (
        protocol.min_writer_version, protocol.writer_features)


@pytest.mark.parametrize("schema", [
    table_schema(BRONZE_FILE), table_schema(DLQ_FILE), table_schema(LEDGER_FILE)])
def test_our_columns_are_what_the_library_makes_of_them(schema: pa.Schema) -> None:
    """Tables made before and after are the same."""
    assert delta_schema(schema) == json.loads(DeltaSchema.from_arrow(schema).to_json())


def test_a_table_of_another_writer_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    """With entries alone, with a checkpoint, behind one, and with its entries gone."""
    table = foreign_table(tmp_path, 6)
    assert_same(tmp_path)
    table.create_checkpoint()
    assert_same(tmp_path)
    for version in range(table.version()):
        (tmp_path / entry_path(FOLDER, version)).unlink()
    assert_same(tmp_path)
    last = tmp_path / entry_path(FOLDER, table.version())
    last.rename(tmp_path / "aside")
    assert_same(tmp_path)
    (tmp_path / "aside").rename(last)
    foreign_table(tmp_path, 3)
    assert_same(tmp_path)


@pytest.mark.parametrize("hint", [
    b"", b"{not JSON", b"[]", b"7", b'{"size": 7}', b'{"version": "x"}', b'{"version": -8}', b"null",
    b'{"version": Infinity}'])
def test_a_hint_that_says_nothing_is_none(tmp_path: Path, hint: bytes) -> None:
    """It saves a listing, no more; the checkpoint is found without it."""
    table = foreign_table(tmp_path, 6)
    table.create_checkpoint()
    (tmp_path / log_folder(FOLDER) / "_last_checkpoint").write_bytes(hint)
    (tmp_path / entry_path(FOLDER, 0)).unlink()
    version, head = read_snapshot(store_of(tmp_path), FOLDER)
    assert (version, head.position(APP_IDS[1])) == (table.version(), 50)


def test_a_checkpoint_in_parts_is_read_where_it_is_whole(tmp_path: Path) -> None:
    """Other engines cut large ones; one that is not whole does not count."""
    table = foreign_table(tmp_path, 5)
    table.create_checkpoint()
    whole = tmp_path / log_folder(FOLDER) / f"{table.version():020d}.checkpoint.parquet"
    rows = pq.read_table(whole)
    whole.unlink()
    hint = tmp_path / log_folder(FOLDER) / "_last_checkpoint"
    hint.unlink()
    parts = -(-rows.num_rows // PART_ROWS)
    for number in range(parts - 1, -1, -1):
        assert read_snapshot(store_of(tmp_path), FOLDER)[0] == table.version()
        pq.write_table(rows.slice(number * PART_ROWS, PART_ROWS), whole.with_name(
            f"{table.version():020d}.checkpoint.{number + 1:010d}.{parts:010d}.parquet"))
    hint.write_text(json.dumps({"version": table.version(), "size": rows.num_rows, "parts": parts}))
    (tmp_path / entry_path(FOLDER, 0)).unlink()
    assert parts > 1
    assert_same(tmp_path)


def test_row_groups_without_what_is_wanted_are_not_read(tmp_path: Path) -> None:
    """A table of ten thousand files has its positions in one of many."""
    table = foreign_table(tmp_path, 4)
    table.create_checkpoint()
    path = tmp_path / log_folder(FOLDER) / f"{table.version():020d}.checkpoint.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows, path, row_group_size=1)
    assert_same(tmp_path)
    pq.write_table(rows, path, row_group_size=1, write_statistics=False)
    assert_same(tmp_path)


def test_the_newest_checkpoint_counts_also_where_the_hint_is_older() -> None:
    """The hint is written behind the checkpoint, by whoever is not killed before."""
    paths = [f"{log_folder(FOLDER)}{name}" for name in (
        f"{3:020d}.checkpoint.parquet", f"{3:020d}.json", f"{5:020d}.json", f"{4:020d}.json",
        f"{5:020d}.checkpoint.{1:010d}.{2:010d}.parquet", "_last_checkpoint", f"{5:020d}.crc",
        f"{4:020d}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11.parquet")]
    found = log_files([paths], {})
    assert (found.checkpoint, found.parts, found.newest) == (3, (paths[0],), 5)
    second = f"{log_folder(FOLDER)}{5:020d}.checkpoint.{2:010d}.{2:010d}.parquet"
    found = log_files([paths, [second]], {})
    assert (found.checkpoint, found.parts, found.newest) == (5, (paths[4], second), 5)
    assert log_files([], {}).newest == -1


def test_what_else_lies_in_a_log_is_passed_over(tmp_path: Path) -> None:
    """A copy that somebody put aside, other tools' files, a name that is a date."""
    table = foreign_table(tmp_path, 4)
    table.create_checkpoint()
    log = tmp_path / log_folder(FOLDER)
    for name in ("backup", "_staged_commits"):
        shutil.copytree(log, log.parent / "aside", dirs_exist_ok=True)
        shutil.move(log.parent / "aside", log / name)
    (log / "backup" / f"{50:020d}.json").write_text("{}")
    (log / "20260714120000123456.json").write_text("{}")
    (log / "20260714120000123456.checkpoint.parquet").write_bytes(b"")
    (log / f"{60:020d}").write_text("{}")
    (log / f"{60:020d}.json.tmp").write_text("{}")
    assert_same(tmp_path)
    (log / "_last_checkpoint").unlink()
    assert_same(tmp_path)


def test_a_gap_of_any_length_is_told_at_once() -> None:
    """A stray name must not cost the memory of all the versions before it."""
    store = begun(MemoryStore())
    append(store, VERSION_MAX, a=1)
    with pytest.raises(TableUnavailable, match="entry 1 is missing"):
        read_snapshot(store, FOLDER)


@given(st.sets(st.integers(0, 12)), st.sets(st.tuples(st.integers(0, 12), st.integers(0, 2))),
       st.randoms(use_true_random=False), st.integers(1, 9))
def test_a_listing_in_pages_is_the_listing(
    versions: set[int], checkpoints: set[tuple[int, int]], chance: Random, size: int
) -> None:
    """Whatever was forgotten on the way; on a disk the pages come in any order."""
    paths = [entry_path(FOLDER, version) for version in versions]
    for version, parts in checkpoints:
        name = f"{log_folder(FOLDER)}{version:020d}.checkpoint"
        paths += [f"{name}.{number + 1:010d}.{parts:010d}.parquet" for number in range(parts)] or [
            f"{name}.parquet"]
    whole = log_files([paths], {})
    chance.shuffle(paths)
    pages = [paths[start:start + size] for start in range(0, len(paths), size)]
    assert log_files(pages, {}) == whole
    assert whole.newest == max([*versions, *(version for version, _ in checkpoints)], default=-1)
    assert whole.checkpoint == max((version for version, _ in checkpoints), default=-1)


def test_blank_lines_and_marks_of_byte_order_are_no_damage() -> None:
    """Other writers' habits."""
    head = LogHead()
    head.apply_entry(b'\xef\xbb\xbf{"txn": {"appId": "a", "version": 1}}\r\n\r\n'
                     b'{"txn": {"appId": "b", "version": 2}}\n\n')
    assert (head.position("a"), head.position("b")) == (1, 2)


def test_a_checkpoint_of_a_newer_form_does_not_hide_the_log() -> None:
    """Its hint says where it is, and we read what came before it."""
    store = begun(MemoryStore())
    for version in range(1, 5):
        append(store, version, a=version)
    store.put(hint_path(FOLDER), b'{"version": 3, "v2Checkpoint": {"path": "x.parquet"}}')
    version, head = read_snapshot(store, FOLDER)
    assert (version, head.position("a")) == (4, 4)


def test_a_long_log_beats_all_along() -> None:
    """A worker that reads one for minutes is not one that hangs."""
    store, beats = begun(MemoryStore()), []
    for version in range(1, 3 * ENTRIES_AT_ONCE):
        append(store, version, a=version)
    read_snapshot(store, FOLDER, lambda: beats.append(1))
    assert len(beats) == 3


def test_invariants_inside_a_column_are_seen() -> None:
    """Also of a field of a struct in a list."""
    head = LogHead()
    inner = {"name": "b", "type": "string", "nullable": True,
             "metadata": {"delta.invariants": "b > 0"}}
    column = {"name": "a", "nullable": True, "metadata": {}, "type": {
        "type": "array", "containsNull": True, "elementType": {"type": "struct", "fields": [inner]}}}
    head.apply("protocol", {"minReaderVersion": 1, "minWriterVersion": 2})
    head.apply("metaData", {"schemaString": json.dumps({"type": "struct", "fields": [column]})})
    assert head.unknown_features() == ["invariants"]


@given(st.lists(st.tuples(st.sampled_from(APP_IDS), st.integers(0, 2**62)), max_size=20),
       st.integers(0, 20))
def test_positions_are_the_last_ones_of_the_log(moves: list[tuple[str, int]], extra: int) -> None:
    """Whatever else is between them."""
    store, held = begun(MemoryStore()), {}
    for version, (app_id, position) in enumerate(moves, 1):
        append(store, version, **{app_id: position})
        held[app_id] = position
    for version in range(len(moves) + 1, len(moves) + 1 + extra):
        store.put(entry_path(FOLDER, version), b'{"add": {"path": "a \\"txn\\" b"}}\n{"cdc": {}}')
    version, head = read_snapshot(store, FOLDER)
    assert version == len(moves) + extra
    assert {name: head.position(name) for name in APP_IDS} == {
        name: held.get(name) for name in APP_IDS}


def test_a_log_of_many_entries_is_read_to_its_end() -> None:
    """They come some at a time, and in order."""
    store = begun(MemoryStore())
    last = 2 * ENTRIES_AT_ONCE + 3
    for version in range(1, last + 1):
        append(store, version, a=version)
    version, head = read_snapshot(store, FOLDER)
    assert (version, head.position("a")) == (last, last)


def test_no_log_is_no_table() -> None:
    """What else may lie there does not make one."""
    store = MemoryStore()
    store.put(f"{log_folder(FOLDER)}notes.txt", b"")
    with pytest.raises(TableVanished, match=FOLDER):
        read_snapshot(store, FOLDER)


def damaged(what: str) -> MemoryStore:
    """A table of three versions to which something was done."""
    store = begun(MemoryStore())
    append(store, 1, a=1)
    append(store, 2, a=2)
    hint, entry = f"{log_folder(FOLDER)}_last_checkpoint", entry_path(FOLDER, 1)
    checkpoint = f"{log_folder(FOLDER)}{1:020d}.checkpoint.parquet"
    changes: dict[str, dict[str, bytes | None]] = {
        "entry missing": {entry: None},
        "beginning missing": {entry_path(FOLDER, 0): None},
        "entry cut": {entry: b'{"txn":{"appId":"a","ver'},
        "entry cut in what does not count here": {entry: b'{"commitInfo":{"time'},
        "entry of another form": {entry: b'["txn"]'},
        "position without a number": {entry: b'{"txn":{"appId":"a","version":"x"}}'},
        "position with a fraction": {entry: b'{"txn":{"appId":"a","version":3.5}}'},
        "position without end": {entry: b'{"txn":{"appId":"a","version":Infinity}}'},
        "protocol without a version": {entry: b'{"protocol":{}}'},
        "schema cut": {entry: b'{"metaData":{"schemaString":"{"}}'},
        "no beginning": {entry_path(FOLDER, 0): b'{"commitInfo":{}}'},
        "hint without a checkpoint": {hint: b'{"version":1}'},
        "hint behind the log": {hint: b'{"version":7}'},
        "checkpoint cut": {hint: b'{"version":1}', checkpoint: b"PAR1"},
        "checkpoint empty": {hint: b'{"version":1}', checkpoint: b""},
    }
    for path, data in changes[what].items():
        if data is None:
            store.delete(path)
        else:
            store.put(path, data)
    return store


@pytest.mark.parametrize(("what", "text"), [
    ("entry missing", "entry 1 is missing from its log"),
    ("beginning missing", "entry 0 is missing from its log"),
    ("entry cut", "entry 1 cannot be read"),
    ("entry cut in what does not count here", "entry 1 cannot be read"),
    ("entry of another form", "entry 1 cannot be read"),
    ("position without a number", "entry 1 cannot be read"),
    ("position with a fraction", "entry 1 cannot be read"),
    ("position without end", "entry 1 cannot be read"),
    ("protocol without a version", "entry 1 cannot be read"),
    ("schema cut", "entry 1 cannot be read"),
    ("no beginning", "no metadata or no protocol"),
    ("hint without a checkpoint", "version 1, whose checkpoint is not there"),
    ("hint behind the log", "version 7, whose checkpoint is not there"),
    ("checkpoint cut", "cannot be read"),
    ("checkpoint empty", "cannot be read"),
])
def test_damage_is_told_by_what_is_damaged(what: str, text: str) -> None:
    """A snapshot with a hole in it would have positions that were never there, and a commit behind
    damage would bury it."""
    with pytest.raises(TableUnavailable, match=f"table {FOLDER}.*{re.escape(text)}"):
        read_snapshot(damaged(what), FOLDER)


def test_an_entry_that_is_cut_anywhere_but_behind_a_line_is_damage() -> None:
    """Whoever was writing it died, or a disk was full."""
    entry = append_entry((), {"a": 1, "b": 2}, {"record": 7}, 0)
    for end in range(1, len(entry)):
        cut = entry[:end]
        if entry[end:end + 1] != b"\n" and not cut.endswith(b"\n"):
            with pytest.raises(ValueError):
                LogHead().apply_entry(cut)


@pytest.mark.parametrize(("operation", "calls"), [("get", 3), ("list", 1)])
def test_a_store_that_is_away_is_not_a_damaged_table(operation: str, calls: int) -> None:
    """Whichever request it is that fails: the hint's, the listing's, an entry's."""
    store = begun(MemoryStore())
    append(store, 1, a=1)
    for skip in range(calls):
        fault = store.faults.order(operation, skip=skip)
        with pytest.raises(StorageUnavailable):
            read_snapshot(store, FOLDER)
        assert fault.fired
    assert read_snapshot(store, FOLDER)[0] == 1


def test_a_store_that_goes_away_inside_a_checkpoint_is_not_a_damaged_one(tmp_path: Path) -> None:
    """The Parquet library asks for the bytes, and what it is told must come through."""
    foreign_table(tmp_path, 2).create_checkpoint()
    store = store_of(tmp_path)

    class Cut:
        closed = False

        def read(self, size: int = -1) -> bytes:
            raise StorageUnavailable("get", "checkpoint", f"{size} bytes did not come")

        def seek(self, offset: int, whence: int = 0) -> int:
            return 10_000

        def tell(self) -> int:
            return 10_000

        def close(self) -> None:
            pass

    class Store:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def open(self, path: str) -> Any:
            return Cut()

    with pytest.raises(StorageUnavailable, match="did not come"):
        read_snapshot(Store(), FOLDER)  # type: ignore[arg-type]
