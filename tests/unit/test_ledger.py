"""The ledger: each complete cycle is entered once, in order, with what the tables' logs tell."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import keeper.ledger as module
from keeper.ledger import Ledger, Progress, encode
from keeper.ledger_rows import RowStatus, enter, missing, unix_ms
from keeper.ledger_schema import LEDGER_FILE, LEDGER_TABLE
from shared.errors import CommitConflict, StorageUnavailable, TableVanished
from shared.naming import LEDGER, LEDGER_APP_ID, bronze_table, dlq_table, record_path
from shared.record_log import RecordLog
from shared.records import (
    BRONZE, DLQ, CycleRecord, DataFile, Lost, Manifest, Range, StartRecord, encode as encode_record,
)
from tests.fakes.faults import When
from tests.fakes.store import MemoryStore
from tests.fakes.tables import MemoryTables, TableState, Version
from workers.log_entry import Commit
from workers.schemas import BRONZE_FILE, DLQ_FILE, table_schema

NOW_MS = 1_770_000_000_000
DECIDED = "2026-01-31T12:00:00.250Z"


def a_manifest(topic: str = "orders", **more: Any) -> Manifest:
    """Ten rows of partition 0, of which one is a dead letter."""
    files = (DataFile(DLQ, "d", 7, 1, "2026-01-31", "{}", 0),
             DataFile(BRONZE, "b", 100, 9, "2026-01-31", "{}", 0))
    given = {"files": files, "ranges": (Range(0, 10, 20, rows=9, dead_letters=1),),
             "flaws": {"json": 1}, "value_bytes": 1234, "valid_through_ms": NOW_MS, **more}
    return Manifest(topic, "id-1", 1, **given)


def a_cycle(
    *manifests: Manifest, cycle_id: int = 5, done: int = -1, written_at: str = DECIDED,
    excluded: dict[str, str] | None = None,
) -> CycleRecord:
    """A decided cycle."""
    return CycleRecord("0", "u", cycle_id, written_at, manifests, excluded or {}, done, {})


def history(number: int, bronze: int = 8, dlq: int = 3) -> dict[str, list[Commit]]:
    """Logs of the tables of `orders` in which record `number` has been brought in."""
    return {bronze_table("orders"): [Commit(bronze + 1, None, 9), Commit(bronze, number, NOW_MS)],
            dlq_table("orders"): [Commit(dlq, number, NOW_MS - 5), Commit(dlq - 1, 1, 1)]}


# -- rows ---------------------------------------------------------------------------------------


def test_a_row_tells_what_a_topic_got_and_which_version_shows_it() -> None:
    """Everything a reader needs to open the tables at this cycle, and nothing made up."""
    entry = enter(7, a_cycle(a_manifest()), history(7), is_complete=False)
    assert entry is not None
    assert entry.date == "2026-01-31"
    assert entry.values == ({
        "record": 7, "cycle_id": 5, "instance": "0", "topic": "orders", "status": "committed",
        "decided_at": unix_ms(DECIDED), "committed_at": NOW_MS, "completed_at": NOW_MS,
        "valid_through": NOW_MS, "table_version_before": 7, "table_version": 8,
        "dlq_table_version_before": 2, "dlq_table_version": 3, "rows": 9, "dead_letters": 1,
        "value_bytes": 1234, "file_bytes": 107,
        "error_classes": [{"error_class": "json", "count": 1}],
        "ranges": [{"partition": 0, "start": 10, "end": 20, "rows": 9, "dead_letters": 1,
                    "skipped": 0, "absent": 0, "lost": []}],
        "files": [{"table": "bronze", "path": "b", "rows": 9, "bytes": 100},
                  {"table": "dlq", "path": "d", "rows": 1, "bytes": 7}]},)


def test_a_topic_without_dead_letters_leaves_its_dlq_version_empty() -> None:
    """Its DLQ table was not touched, and is not even looked at."""
    manifest = a_manifest(ranges=(Range(0, 10, 20, rows=10),), files=(), flaws={})
    logs = {bronze_table("orders"): [Commit(8, 7, NOW_MS)]}
    entry = enter(7, a_cycle(manifest), logs, is_complete=False)
    assert entry is not None
    assert entry.values[0]["dlq_table_version"] is None
    assert entry.values[0]["completed_at"] == NOW_MS


def test_an_excluded_topic_has_a_row_with_the_reason() -> None:
    """A cycle never leaves a topic out silently."""
    entry = enter(7, a_cycle(a_manifest(), excluded={"payments": "isolated"}), history(7),
                  is_complete=False)
    assert entry is not None
    row = entry.values[1]
    assert (row["topic"], row["status"], row["reason"]) == (
        "payments", RowStatus.EXCLUDED, "isolated")
    assert row["record"] == 7


def test_a_record_is_not_entered_before_each_of_its_topics_has_committed() -> None:
    """A row says that the tables show it."""
    logs = {**history(7), bronze_table("late"): [Commit(4, 6, 1)]}
    late = a_manifest("late", ranges=(Range(0, 0, 1, rows=1),), flaws={})
    assert enter(7, a_cycle(a_manifest(), late), logs, is_complete=False) is None


def test_a_commit_whose_log_entry_is_gone_leaves_versions_and_times_empty() -> None:
    """A later record claims that it is in the tables; which version, nobody can tell any more."""
    logs = {bronze_table("orders"): [Commit(40, 30, 1)], dlq_table("orders"): []}
    entry = enter(7, a_cycle(a_manifest()), logs, is_complete=True)
    assert entry is not None
    row = entry.values[0]
    assert row["status"] == "committed"
    assert [row[name] for name in ("table_version", "table_version_before", "dlq_table_version",
                                   "committed_at", "completed_at")] == [None] * 5


def test_lost_and_absent_offsets_keep_their_cause() -> None:
    """Each offset has a fate, and it can be counted from the ledger alone."""
    part = Range(2, 0, 100, rows=10, skipped=5, lost=(Lost(0, 80, "retention"),))
    manifest = a_manifest(ranges=(part,), flaws={})
    entry = enter(7, a_cycle(manifest), history(7), is_complete=False)
    assert entry is not None
    assert entry.values[0]["ranges"] == [{
        "partition": 2, "start": 0, "end": 100, "rows": 10, "dead_letters": 0, "skipped": 5,
        "absent": 5, "lost": [{"start": 0, "end": 80, "cause": "retention"}]}]


def test_rows_become_columns_of_the_ledgers_types() -> None:
    """Missing values are null, times are UTC in microseconds."""
    entry = enter(7, a_cycle(a_manifest(), excluded={"x": "stopped"}), history(7),
                  is_complete=False)
    assert entry is not None
    columns = encode([*entry.values, *missing(1, 4, DECIDED).values])
    assert columns.schema == LEDGER_FILE
    rows = columns.to_pylist()
    assert [row["status"] for row in rows] == ["committed", "excluded", "missing"]
    assert rows[0]["decided_at"].isoformat() == "2026-01-31T12:00:00.250000+00:00"
    assert rows[0]["ranges"][0]["end"] == 20
    assert rows[1]["ranges"] is None
    assert (rows[2]["record"], rows[2]["topic"]) == (4, None)


# -- the table ----------------------------------------------------------------------------------


class Lake:
    """A lake on twins with the tables of two topics and a log of records."""

    def __init__(self) -> None:
        self.store, self.tables = MemoryStore(), MemoryTables()
        self.log = RecordLog(self.store)
        for topic in ("orders", "payments"):
            self.tables.states[bronze_table(topic)] = TableState(table_schema(BRONZE_FILE))
            self.tables.states[dlq_table(topic)] = TableState(table_schema(DLQ_FILE))

    def ledger(self) -> Ledger:
        """As a new process would have it."""
        return Ledger(self.store, self.tables, self.log, lambda: NOW_MS)

    def put(self, number: int, record: CycleRecord | StartRecord) -> None:
        """Write a record."""
        self.store.objects[record_path(number)] = encode_record(record)

    def start(self, number: int) -> None:
        """Write a start record."""
        self.put(number, StartRecord("0", "u", "1", 0, DECIDED, -1))

    def cycle(self, number: int, *topics: str, committed: bool = True, **more: Any) -> None:
        """Decide a cycle of these topics, and bring it into their tables."""
        self.put(number, a_cycle(*(a_manifest(topic) for topic in topics), **more))
        for topic in topics if committed else ():
            self.commit(number, topic)

    def commit(self, number: int, topic: str) -> None:
        """Bring a topic's part of a record into its tables."""
        for folder in (dlq_table(topic), bronze_table(topic)):
            self.tables.states[folder].commits.append(Version((), {}, number))

    def rows(self) -> list[dict[str, Any]]:
        """What a reader of the ledger sees."""
        state = self.tables.states[LEDGER]
        tables = [pq.read_table(io.BytesIO(self.store.objects[f"{LEDGER}/{path}"]))
                  for path in state.paths]
        return pa.concat_tables(tables).to_pylist() if tables else []

    def entered(self) -> list[tuple[int, str]]:
        """(record, topic) of each row."""
        return [(row["record"], row["topic"]) for row in self.rows()]

    def position(self) -> int | None:
        """The first record that is not in it."""
        return self.tables.states[LEDGER].txns().get(LEDGER_APP_ID)


@pytest.fixture
def lake() -> Lake:
    """Give a lake whose first service has started."""
    made = Lake()
    made.start(0)
    return made


def test_complete_cycles_are_entered_in_one_commit_with_the_position(lake: Lake) -> None:
    """The next keeper goes on behind them."""
    lake.cycle(1, "orders", "payments")
    lake.cycle(2, "orders")
    assert lake.ledger().advance() == Progress(3, 0, 3)
    assert lake.entered() == [(1, "orders"), (1, "payments"), (2, "orders")]
    assert lake.position() == 3
    assert lake.tables.states[LEDGER].version == 1
    assert lake.tables.states[LEDGER].schema == LEDGER_TABLE
    assert lake.ledger().advance() == Progress(3, 0, 0)
    assert lake.tables.states[LEDGER].version == 1


def test_the_ledger_stops_before_the_first_cycle_that_is_not_complete(lake: Lake) -> None:
    """In order, none left out: a later one that is complete waits for it."""
    lake.cycle(1, "orders")
    lake.cycle(2, "orders", "payments", committed=False)
    lake.commit(2, "orders")
    lake.cycle(3, "orders")
    assert lake.ledger().advance() == Progress(2, 2, 2)
    assert lake.ledger().advance() == Progress(2, 2, 0)
    lake.commit(2, "payments")
    assert lake.ledger().advance() == Progress(4, 0, 2)
    assert lake.entered() == [(1, "orders"), (2, "orders"), (2, "payments"), (3, "orders")]


def test_a_claim_of_a_later_record_stands_for_commits_nobody_sees_any_more(lake: Lake) -> None:
    """A table's log was cleaned up before the first keeper came."""
    lake.cycle(1, "orders", committed=False)
    lake.cycle(2, "orders", done=1)
    assert lake.ledger().advance() == Progress(3, 0, 3)
    assert [row["table_version"] for row in lake.rows()] == [None, 1]


@pytest.mark.parametrize("when", When)
def test_an_unanswered_commit_enters_nothing_twice(lake: Lake, when: When) -> None:
    """It may have taken effect; the position, read anew, tells."""
    lake.cycle(1, "orders")
    lake.tables.states[LEDGER] = TableState(LEDGER_TABLE)
    lake.tables.faults.order("commit", LEDGER, when=when)
    ledger = lake.ledger()
    with pytest.raises(StorageUnavailable):
        ledger.advance()
    ledger.advance()
    lake.ledger().advance()
    assert lake.entered() == [(1, "orders")]


def test_of_two_keepers_one_enters_a_record(lake: Lake) -> None:
    """Two instances share a lake; the slower one is refused and finds the work done."""
    lake.cycle(1, "orders")
    slow, fast = lake.ledger(), lake.ledger()
    lake.tables.faults.once_before("commit", LEDGER, lambda: fast.advance())
    with pytest.raises(CommitConflict):
        slow.advance()
    assert slow.advance() == Progress(2, 0, 0)
    assert lake.entered() == [(1, "orders")]


def test_records_that_are_gone_before_they_were_entered_are_named(lake: Lake) -> None:
    """A hole in the ledger is told in it."""
    lake.cycle(1, "orders")
    lake.ledger().advance()
    for number in (2, 3, 4):
        lake.cycle(number, "orders")
    for number in (0, 1, 2, 3):
        del lake.store.objects[record_path(number)]
    assert lake.ledger().advance() == Progress(5, 0, 1)
    assert [(row["record"], row["status"]) for row in lake.rows()] == [
        (1, "committed"), (3, "missing"), (4, "committed")]
    assert "records 2 to 3" in lake.rows()[1]["reason"]


def test_a_ledger_begins_with_the_oldest_record_there_is(lake: Lake) -> None:
    """An older release has trimmed, and kept no ledger: nothing is said of what nobody knows."""
    for number in (1, 2):
        lake.cycle(number, "orders")
    del lake.store.objects[record_path(0)], lake.store.objects[record_path(1)]
    assert lake.ledger().advance() == Progress(3, 0, 1)
    assert lake.entered() == [(2, "orders")]


def test_many_records_are_entered_a_bounded_number_at_a_time(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a keeper holds at once does not grow with how long none ran."""
    monkeypatch.setattr(module, "RECORDS_PER_COMMIT_MAX", 2)
    for number in range(1, 5):
        lake.cycle(number, "orders")
    ledger = lake.ledger()
    found = [ledger.advance() for _ in range(4)]
    assert found == [Progress(2, 3, 2), Progress(4, 1, 2), Progress(5, 0, 1), Progress(5, 0, 0)]
    assert [record for record, _ in lake.entered()] == [1, 2, 3, 4]


def test_rows_of_two_days_lie_in_two_files(lake: Lake) -> None:
    """The day of the decision is the partition."""
    lake.cycle(1, "orders")
    lake.cycle(2, "orders", written_at="2026-02-01T00:00:00.000Z")
    lake.ledger().advance()
    dates = [path.partition("/")[0] for path in lake.tables.states[LEDGER].paths]
    assert dates == ["_ingestion_date=2026-01-31", "_ingestion_date=2026-02-01"]


def test_the_table_is_opened_only_where_the_newest_commit_is_not_ours(lake: Lake) -> None:
    """Opening takes memory that nobody wants to lend each minute."""
    lake.cycle(1, "orders")
    lake.ledger().advance()
    lake.tables.faults.seen.clear()
    lake.cycle(2, "orders")
    lake.ledger().advance()
    assert ("open table", LEDGER) not in lake.tables.faults.seen
    lake.tables.states[LEDGER].append({"somebody": 1})
    lake.cycle(3, "orders")
    assert lake.ledger().advance() == Progress(4, 0, 1)
    assert ("open table", LEDGER) in lake.tables.faults.seen
    assert lake.entered() == [(1, "orders"), (2, "orders"), (3, "orders")]


def test_a_ledger_that_vanished_is_not_begun_anew(lake: Lake) -> None:
    """Its history would be gone without a word."""
    lake.cycle(1, "orders")
    lake.ledger().advance()
    del lake.tables.states[LEDGER]
    with pytest.raises(TableVanished):
        lake.ledger().advance()


def test_a_record_that_was_listed_and_is_gone_is_tried_again(lake: Lake) -> None:
    """Another instance trims while we read."""
    lake.cycle(1, "orders")
    lake.store.faults.once_before(
        "get", record_path(0), lambda: lake.store.objects.pop(record_path(0)))
    ledger = lake.ledger()
    with pytest.raises(StorageUnavailable):
        ledger.advance()
    assert ledger.advance() == Progress(2, 0, 1)
