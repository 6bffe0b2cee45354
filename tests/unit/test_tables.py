"""Rolling a decided manifest forward: whatever a commit answers, it lands once and whole."""

from __future__ import annotations

import pytest

from shared.errors import (
    CommitConflict, MissingFile, RecoverableError, StorageUnavailable, TableMismatch,
    TableUnavailable, TableVanished, TornRecord,
)
from shared.naming import birth_certificate, position_app_id, topic_id_app_id
from shared.records import BRONZE, DLQ, DataFile, Manifest, Range
from tests.fakes.faults import FOREVER, When
from tests.fakes.store import MemoryStore
from tests.fakes.tables import MemoryTables, TableState
from workers.schemas import BRONZE_FILE, DLQ_FILE, table_schema
from workers.tables import COMMIT_ATTEMPTS_MAX, TopicTables, Versions

FOLDERS = {BRONZE: "bronze_orders", DLQ: "dlq_bronze_orders"}


def app(partition: int) -> str:
    """The position's name in both tables."""
    return position_app_id("orders", partition)


class Lake:
    """A topic's tables on twins, standing at offset 10 of partitions 0 and 1."""

    def __init__(self, *, dlq_enabled: bool = True) -> None:
        self.store, self.twins = MemoryStore(), MemoryTables()
        self.doubts: list[RecoverableError] = []
        self.tables = self.make(dlq_enabled=dlq_enabled)
        self.tables.ensure()
        self.tables.begin({0: 10, 1: 10}, "id-1")

    def make(self, *, dlq_enabled: bool = True) -> TopicTables:
        """The tables as another process would see them."""
        return TopicTables(self.store, self.twins, "orders", dlq_enabled=dlq_enabled,
                           on_doubt=self.doubts.append)

    def state(self, table: str = BRONZE) -> TableState:
        """What the lake holds of a table."""
        return self.twins.states[FOLDERS[table]]

    def manifest(self, *ranges: Range, files: dict[str, str] | None = None) -> Manifest:
        """A manifest with one uploaded file per table named in `files`."""
        named = {BRONZE: "b"} if files is None else files
        made = []
        for table, name in named.items():
            self.store.objects[f"{FOLDERS[table]}/{name}"] = b"12345"
            made.append(DataFile(table, name, 5, 1, "2026-01-31", "{}", 0))
        return Manifest("orders", "id-1", 1, tuple(made), ranges or (Range(0, 10, 20, 10),))

    def holds_once(self, manifest: Manifest) -> bool:
        """Whether every file is added exactly once and positions are at the ranges' ends."""
        bronze = self.state()
        return (all(self.state(f.table).paths.count(f.path) == 1 for f in manifest.files)
                and all(bronze.txns()[app(r.partition)] == r.end for r in manifest.ranges))


@pytest.fixture
def lake() -> Lake:
    """Give tables that have begun."""
    return Lake()


BOTH = {BRONZE: "b", DLQ: "d"}
DEAD = Range(0, 10, 20, rows=9, dead_letters=1)


def test_a_manifest_lands_with_its_positions_in_both_tables(lake: Lake) -> None:
    """Rows and the offsets they end at become visible together."""
    manifest = lake.manifest(DEAD, Range(1, 10, 15, 5), files=BOTH)
    versions = lake.tables.roll_forward(7, manifest)
    assert lake.holds_once(manifest)
    assert lake.state(DLQ).txns() == {app(0): 20}
    assert versions == Versions(lake.state().version, lake.state(DLQ).version)


def test_dead_letters_land_before_the_rows(lake: Lake) -> None:
    """Once the bronze table holds a range, all of the range has landed."""
    lake.tables.roll_forward(7, lake.manifest(DEAD, files=BOTH))
    commits = [path for operation, path in lake.twins.faults.seen if operation == "commit"]
    assert commits[-2:] == [FOLDERS[DLQ], FOLDERS[BRONZE]]


def test_rows_wait_while_the_dlq_is_away(lake: Lake) -> None:
    """Else a dead letter could be passed over for ever."""
    lake.twins.faults.order("commit", "dlq_", times=FOREVER)
    with pytest.raises(StorageUnavailable, match="told to fail"):
        lake.tables.roll_forward(7, lake.manifest(DEAD, files=BOTH))
    assert lake.state().txns()[app(0)] == 10


def test_the_dlq_is_not_touched_without_dead_letters(lake: Lake) -> None:
    """Its positions are sparse."""
    versions = lake.tables.roll_forward(7, lake.manifest())
    assert versions.dlq is None
    assert lake.state(DLQ).version == 0


@pytest.mark.parametrize("table", [BRONZE, DLQ])
@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("error", [
    StorageUnavailable("commit", "t", "reset"), CommitConflict("t version 2")],
    ids=["io", "conflict"])
def test_after_an_error_of_any_kind_the_table_is_asked_and_nothing_doubles(
    lake: Lake, table: str, when: When, error: RecoverableError
) -> None:
    """An error from a commit is a question: it may have happened, under either name."""
    manifest = lake.manifest(DEAD, files=BOTH)
    # The DLQ's commit is the first one.
    fault = lake.twins.faults.order(
        "commit", when=when, error=error, skip=0 if table == DLQ else 1)
    if when is When.BEFORE and isinstance(error, StorageUnavailable):
        # Nothing happened: that is for the caller to try again, after a heartbeat.
        with pytest.raises(StorageUnavailable):
            lake.tables.roll_forward(7, manifest)
    lake.tables.roll_forward(7, manifest)
    assert fault.fired == 1
    assert lake.doubts == [error]
    assert lake.holds_once(manifest)


def test_another_writers_commit_in_between_is_read_back_and_passed(lake: Lake) -> None:
    """Optimizers and other instances write to the table too, under other names."""
    manifest = lake.manifest()
    lake.twins.faults.once_before(
        "commit", FOLDERS[BRONZE], lambda: lake.state().append({"somebody": 1}))
    lake.tables.roll_forward(7, manifest)
    assert lake.holds_once(manifest)
    assert isinstance(lake.doubts[0], CommitConflict)


def test_the_same_manifest_committed_by_somebody_else_in_between_is_done(lake: Lake) -> None:
    """Two processes may roll the same record forward at once."""
    manifest = lake.manifest()
    other = lake.make()
    other.ensure()
    lake.twins.faults.once_before(
        "commit", FOLDERS[BRONZE], lambda: other.roll_forward(7, manifest) and None)
    lake.tables.roll_forward(7, manifest)
    assert lake.holds_once(manifest)


def test_rolling_forward_again_changes_nothing(lake: Lake) -> None:
    """Every start does it with every record that may be undone."""
    manifest = lake.manifest(DEAD, files=BOTH)
    lake.tables.roll_forward(7, manifest)
    before = [lake.state(table).version for table in (BRONZE, DLQ)]
    later = lake.make()
    later.ensure()
    later.roll_forward(7, manifest)
    assert [lake.state(table).version for table in (BRONZE, DLQ)] == before


def test_a_crash_between_the_two_tables_is_completed(lake: Lake) -> None:
    """The DLQ has the range, the bronze table not yet."""
    manifest = lake.manifest(DEAD, files=BOTH)
    lake.state(DLQ).append({app(0): 20}, [f for f in manifest.files if f.table == DLQ])
    later = lake.make()
    later.ensure()
    later.roll_forward(7, manifest)
    assert lake.holds_once(manifest)


def test_a_dlq_behind_the_range_takes_it(lake: Lake) -> None:
    """Its position is where its last dead letter was, which may be long ago."""
    lake.state(DLQ).append({app(0): 4})
    lake.tables._dlq.refresh()  # type: ignore[union-attr]
    lake.tables.roll_forward(7, lake.manifest(DEAD, files=BOTH))
    assert lake.state(DLQ).txns() == {app(0): 20}


@pytest.mark.parametrize("positions", [{0: 20}, {0: 15}, {0: 9}, {1: 9}, {0: 25, 1: 12}])
def test_a_table_that_holds_a_part_of_a_record_stops_the_topic(
    lake: Lake, positions: dict[int, int]
) -> None:
    """Somebody else writes our positions; to guess would lose or double rows."""
    manifest = lake.manifest(Range(0, 10, 20, 10), Range(1, 10, 20, 10))
    lake.state().append({app(p): value for p, value in positions.items()})
    lake.tables.refresh()
    with pytest.raises(TornRecord, match=r"table bronze_orders, record 7: .*\(0, 10, 20\)"):
        lake.tables.roll_forward(7, manifest)
    assert lake.state().paths == []


def test_a_torn_dlq_stops_the_topic_before_any_row(lake: Lake) -> None:
    """The same holds for the table of dead letters."""
    lake.state(DLQ).append({app(0): 15})
    lake.tables.refresh()
    with pytest.raises(TornRecord, match="table dlq_bronze_orders"):
        lake.tables.roll_forward(7, lake.manifest(DEAD, files=BOTH))
    assert lake.state().txns()[app(0)] == 10


@pytest.mark.parametrize("damage", [None, b"123"])
@pytest.mark.parametrize("table", [BRONZE, DLQ])
def test_a_file_that_is_gone_or_short_is_never_committed(
    lake: Lake, table: str, damage: bytes | None
) -> None:
    """A table naming a missing file cannot be read at all."""
    manifest = lake.manifest(DEAD, files=BOTH)
    path = f"{FOLDERS[table]}/{BOTH[table]}"
    if damage is None:
        del lake.store.objects[path]
    else:
        lake.store.objects[path] = damage
    with pytest.raises(MissingFile, match=f"record 7 names {path} with 5 bytes"):
        lake.tables.roll_forward(7, manifest)
    assert lake.state().txns()[app(0)] == 10


def test_files_of_a_done_record_are_not_looked_for(lake: Lake) -> None:
    """Compaction and VACUUM may have removed them long since."""
    manifest = lake.manifest()
    lake.tables.roll_forward(7, manifest)
    lake.store.objects.clear()
    lake.tables.roll_forward(7, manifest)


@pytest.mark.parametrize("table", [BRONZE, DLQ])
def test_a_schema_changed_by_another_writer_is_noticed_before_our_commit(
    lake: Lake, table: str
) -> None:
    """The start's check is long past by then, and nothing else compares files with columns."""
    other = table_schema({BRONZE: DLQ_FILE, DLQ: BRONZE_FILE}[table])

    def change() -> None:
        state = lake.state(table)
        state.schema = other
        state.append({})

    manifest = lake.manifest(Range(0, 10, 20, 9, 1), files=BOTH)
    lake.twins.faults.once_before("commit", FOLDERS[table], change)
    with pytest.raises(TableMismatch, match=FOLDERS[table]):
        lake.tables.roll_forward(7, manifest)
    assert lake.state(table).paths == []
    assert lake.state(BRONZE).txns()[app(0)] == 10


def change_schema(lake: Lake, table: str) -> None:
    """As another writer might."""
    state = lake.state(table)
    state.schema = table_schema({BRONZE: DLQ_FILE, DLQ: BRONZE_FILE}[table])
    state.append({})


@pytest.mark.parametrize("table", [BRONZE, DLQ])
def test_a_schema_changed_by_another_writer_is_noticed_by_every_look(
    lake: Lake, table: str
) -> None:
    """A snapshot that moved on by itself would be committed to without a conflict."""
    change_schema(lake, table)
    with pytest.raises(TableMismatch, match=FOLDERS[table]):
        lake.tables.refresh()
    other = lake.make(dlq_enabled=False)
    with pytest.raises(TableMismatch, match=FOLDERS[table]):
        other.open_existing()
        other.roll_forward(7, lake.manifest(DEAD, files=BOTH))
    assert lake.state(table).paths == []


@pytest.mark.parametrize("table", [BRONZE, DLQ])
def test_a_schema_changed_while_a_commit_failed_is_noticed_by_the_next_try(
    lake: Lake, table: str
) -> None:
    """The failed one is looked for in the newest snapshot, and that one is then committed to."""
    manifest = lake.manifest() if table == BRONZE else lake.manifest(DEAD, files=BOTH)
    lake.twins.faults.order("commit", FOLDERS[table])
    lake.twins.faults.once_before("refresh", FOLDERS[table], lambda: change_schema(lake, table))
    with pytest.raises(TableMismatch, match=FOLDERS[table]):
        lake.tables.roll_forward(7, manifest)
    assert lake.state(table).paths == []


def test_commit_attempts_are_bounded(lake: Lake) -> None:
    """A table that refuses for ever must not hold the worker's heartbeat."""
    conflict = CommitConflict("always")
    fault = lake.twins.faults.order("commit", FOLDERS[BRONZE], times=FOREVER, error=conflict)
    with pytest.raises(TableUnavailable, match=f"refused {COMMIT_ATTEMPTS_MAX} times: always"):
        lake.tables.roll_forward(7, lake.manifest())
    assert fault.fired == COMMIT_ATTEMPTS_MAX == len(lake.doubts)


def test_a_refresh_that_fails_after_a_lost_answer_is_made_good_by_the_next_call(lake: Lake) -> None:
    """The caller backs off and calls again; the stale snapshot must not double the rows."""
    manifest = lake.manifest()
    lake.twins.faults.order("commit", FOLDERS[BRONZE], when=When.AFTER)
    lake.twins.faults.order("refresh", FOLDERS[BRONZE])
    with pytest.raises(StorageUnavailable):
        lake.tables.roll_forward(7, manifest)
    lake.tables.roll_forward(7, manifest)
    assert lake.holds_once(manifest)


def test_tables_are_made_empty_and_certified(lake: Lake) -> None:
    """Readers find them before the first message, and their loss will be noticed."""
    assert lake.state().paths == lake.state(DLQ).paths == []
    assert lake.state().schema.equals(table_schema(BRONZE_FILE))
    assert lake.state(DLQ).schema.equals(table_schema(DLQ_FILE))
    assert {birth_certificate(folder) for folder in FOLDERS.values()} <= lake.store.objects.keys()


def test_no_dlq_is_made_when_it_is_off() -> None:
    """An empty table would promise what is not kept."""
    assert set(Lake(dlq_enabled=False).twins.states) == {FOLDERS[BRONZE]}


@pytest.mark.parametrize("table", [BRONZE, DLQ])
def test_a_table_that_vanished_is_never_made_anew(lake: Lake, table: str) -> None:
    """Its positions are gone with it: everything would be read twice, or never."""
    del lake.twins.states[FOLDERS[table]]
    with pytest.raises(TableVanished, match=f"table {FOLDERS[table]} was made once"):
        lake.make().ensure()
    assert FOLDERS[table] not in lake.twins.states


def test_a_table_made_without_certificate_gets_one(lake: Lake) -> None:
    """The service may have died between the two."""
    lake.store.objects.clear()
    lake.make().ensure()
    assert birth_certificate(FOLDERS[BRONZE]) in lake.store.objects


def test_a_table_of_other_columns_is_refused_and_not_certified() -> None:
    """It is not ours, so its loss would not be ours either."""
    store, twins = MemoryStore(), MemoryTables()
    twins.create(FOLDERS[BRONZE], table_schema(DLQ_FILE))
    with pytest.raises(TableMismatch):
        TopicTables(store, twins, "orders", dlq_enabled=True).ensure()
    assert store.objects == {}


def test_a_record_naming_a_missing_dlq_stops_the_topic(lake: Lake) -> None:
    """DLQ off today, dead letters decided yesterday: they must still land."""
    del lake.twins.states[FOLDERS[DLQ]]
    later = lake.make(dlq_enabled=False)
    later.ensure()
    with pytest.raises(TableVanished, match="named by a decided record"):
        later.roll_forward(7, lake.manifest(DEAD, files=BOTH))
    assert lake.state().txns()[app(0)] == 10


def test_dead_letters_of_a_record_land_though_the_dlq_is_off_today(lake: Lake) -> None:
    """What was decided is committed whatever the configuration says now."""
    manifest = lake.manifest(DEAD, files=BOTH)
    later = lake.make(dlq_enabled=False)
    later.ensure()
    later.roll_forward(7, manifest)
    assert lake.holds_once(manifest)


def test_a_topic_configured_no_more_is_rolled_forward_without_making_tables(lake: Lake) -> None:
    """Recovery of a foreign topic opens what is there and makes nothing."""
    manifest = lake.manifest(DEAD, files=BOTH)
    later = lake.make()
    later.open_existing()
    later.roll_forward(7, manifest)
    assert lake.holds_once(manifest)
    with pytest.raises(TableVanished):
        TopicTables(lake.store, lake.twins, "gone", dlq_enabled=True).open_existing()


@pytest.mark.parametrize("when", list(When))
def test_the_start_of_a_partition_is_fixed_once(when: When) -> None:
    """A lost answer must not let it be resolved differently the second time."""
    lake = Lake()
    fault = lake.twins.faults.order("commit", FOLDERS[BRONZE], when=when)
    lake.tables.begin({1: 99, 2: 5}, "id-1")
    assert fault.fired == 1
    assert lake.state().txns() == {
        app(0): 10, app(1): 10, app(2): 5, topic_id_app_id("orders", "id-1"): 1}
    assert lake.tables.knows_topic_id("id-1")
    assert not lake.tables.knows_topic_id("id-2")
    assert lake.tables.positions([0, 1, 2, 3]) == {0: 10, 1: 10, 2: 5, 3: None}


def test_a_start_fixed_by_another_instance_in_between_is_kept(lake: Lake) -> None:
    """Two instances may see a new partition at once."""
    lake.twins.faults.once_before(
        "commit", FOLDERS[BRONZE], lambda: lake.state().append({app(2): 3}))
    lake.tables.begin({2: 5}, "id-1")
    assert lake.state().txns()[app(2)] == 3


def test_fixing_a_start_is_bounded_and_writes_nothing_when_done(lake: Lake) -> None:
    """Idle starts leave no empty commits."""
    version = lake.state().version
    lake.tables.begin({0: 0}, "id-1")
    assert lake.state().version == version
    fault = lake.twins.faults.order("commit", times=FOREVER)
    with pytest.raises(StorageUnavailable):
        lake.tables.begin({3: 0}, "id-1")
    assert fault.fired == COMMIT_ATTEMPTS_MAX


def test_a_snapshot_older_than_a_done_record_is_renewed_before_anything_is_called_torn(
    lake: Lake
) -> None:
    """Another instance did the record before this one after we had opened the table."""
    first = lake.manifest()
    second = lake.manifest(Range(0, 20, 30, 10), files={BRONZE: "second"})
    other = lake.make()
    other.ensure()
    other.roll_forward(6, first)
    assert lake.tables.positions([0]) == {0: 10}
    lake.tables.roll_forward(7, second)
    assert lake.holds_once(second)
