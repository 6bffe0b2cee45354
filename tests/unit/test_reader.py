"""The reader's helper: one cut over several tables, and what arrived between two."""

from __future__ import annotations

import ast
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

import bronze_reader as br
import bronze_reader.datasets
from keeper.ledger import encode
from keeper.ledger_schema import LEDGER_TABLE

FOLDER = Path(br.__file__).parent
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DATE = pa.array([NOON.date()])


def at(seconds: int) -> int:
    """Unix milliseconds so long after noon."""
    return int((NOON + timedelta(seconds=seconds)).timestamp() * 1000)


class ToyLake:
    """A lake in a folder whose cycles are written one by one, as the service leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends: dict[str, int] = {}
        self.lake = br.Lake(str(folder))

    def rows(self, table: str, topic: str, offsets: range) -> int:
        """Append rows; the table's new version."""
        count = len(offsets)
        write_deltalake(self.folder / table, pa.table({
            "_kafka_partition": pa.array([0] * count, pa.int32()),
            "_kafka_offset": pa.array(offsets, pa.int64())}), mode="append")
        return DeltaTable(self.folder / table).version()

    def cycle(
        self, record: int, *topics: str, cycle_id: int | None = None, dead: int = 0,
        instance: str = "0", completed_s: int | None = None, known: bool = True,
    ) -> None:
        """Ten offsets of each topic, of which the last `dead` are dead letters."""
        entries: list[dict[str, Any]] = []
        for topic in topics:
            start = self.ends.get(topic, 0)
            end = self.ends[topic] = start + 10
            version = self.rows(f"bronze_{topic}", topic, range(start, end - dead))
            dlq = (self.rows(f"dlq_bronze_{topic}", topic, range(end - dead, end))
                   if dead else None)
            entries.append({
                "record": record, "cycle_id": cycle_id or record, "instance": instance,
                "topic": topic, "status": "committed", "decided_at": at(10 * record),
                "completed_at": at(10 * record + 1 if completed_s is None else completed_s),
                "valid_through": at(10 * record - 1),
                "table_version": version if known else None, "dlq_table_version": dlq,
                "rows": 10 - dead, "dead_letters": dead,
                "error_classes": [{"error_class": "json", "count": dead}] if dead else [],
                "ranges": [{"partition": 0, "start": start, "end": end, "rows": 10 - dead,
                            "dead_letters": dead, "skipped": 0, "absent": 0, "lost": []}]})
        self.enter(entries)

    def enter(self, entries: list[dict[str, Any]]) -> None:
        """Write rows of the ledger."""
        batch = encode(entries)
        table = pa.Table.from_batches([batch]).append_column(
            "_ingestion_date", pa.array([NOON.date()] * batch.num_rows))
        write_deltalake(self.folder / "bronze_cycles", table.cast(LEDGER_TABLE), mode="append")


@pytest.fixture
def toy(tmp_path: Path) -> ToyLake:
    """Give a lake with three cycles: both topics, one of them, both with dead letters."""
    made = ToyLake(tmp_path)
    made.cycle(1, "orders", "payments")
    made.cycle(2, "orders")
    made.cycle(3, "orders", "payments", dead=2)
    return made


def offsets(table: DeltaTable) -> list[int]:
    """The offsets in a table."""
    return sorted(table.to_pyarrow_table()["_kafka_offset"].to_pylist())


def test_the_newest_cut_has_every_table_at_the_newest_complete_cycle(toy: ToyLake) -> None:
    """What is committed behind it and not in the ledger yet is not seen."""
    toy.rows("bronze_orders", "orders", range(30, 40))
    cut = toy.lake.cut()
    assert (cut.record, cut.topics) == (3, ("orders", "payments"))
    assert offsets(cut.open("orders")) == list(range(28))
    assert offsets(cut.open("orders", dlq=True)) == [28, 29]
    assert offsets(cut.open("payments", dlq=True)) == [18, 19]


def test_a_topic_that_was_not_part_of_a_cycle_is_where_it_was(toy: ToyLake) -> None:
    """Its last commit at or before the cut counts."""
    cut = toy.lake.cut(record=2)
    assert offsets(cut.open("orders")) == list(range(20))
    assert offsets(cut.open("payments")) == list(range(10))


def test_a_dead_letter_table_without_dead_letters_is_empty_in_the_cut(toy: ToyLake) -> None:
    """At version 0, which the service makes at its first start."""
    assert toy.lake.cut(record=2).version("orders", dlq=True) == 0


def test_a_cut_may_be_named_by_cycle_record_or_time(toy: ToyLake) -> None:
    """The same instant, three ways."""
    wanted = toy.lake.cut(record=2)
    assert toy.lake.cut(cycle_id=2) == wanted
    assert toy.lake.cut(at=NOON + timedelta(seconds=25)) == wanted
    assert toy.lake.cut(at=wanted.completed_at) == wanted


def test_a_cut_at_a_time_leaves_out_what_was_not_complete_then(tmp_path: Path) -> None:
    """Two instances: the later record was complete first, and the earlier one not yet."""
    toy = ToyLake(tmp_path)
    toy.cycle(1, "orders")
    toy.cycle(2, "orders", completed_s=100)
    toy.cycle(3, "payments", completed_s=31)
    assert toy.lake.cut(at=NOON + timedelta(seconds=40)).record == 1
    assert toy.lake.cut(at=NOON + timedelta(seconds=100)).record == 3


def test_two_instances_may_have_the_same_cycle_id(tmp_path: Path) -> None:
    """Then the instance, or the record, tells them apart."""
    toy = ToyLake(tmp_path)
    toy.cycle(1, "orders", cycle_id=7)
    toy.cycle(2, "orders", cycle_id=7, instance="1")
    with pytest.raises(br.CycleAmbiguous, match="records \\[1, 2\\]"):
        toy.lake.cut(cycle_id=7)
    assert toy.lake.cut(cycle_id=7, instance="1").record == 2


def test_what_does_not_exist_is_named(toy: ToyLake, tmp_path: Path) -> None:
    """Never an empty answer in place of an error."""
    with pytest.raises(br.CycleNotFound):
        toy.lake.cut(record=99)
    with pytest.raises(br.CycleNotFound):
        toy.lake.cut(at=NOON)
    with pytest.raises(br.TopicNotInCut, match="orders, payments"):
        toy.lake.cut().open("customers")
    with pytest.raises(br.LedgerMissing, match="base URI"):
        br.Lake(str(tmp_path / "elsewhere")).cut()
    with pytest.raises(ValueError, match="one of"):
        toy.lake.cut(record=1, cycle_id=1)


def test_a_version_nobody_knows_any_more_is_an_error_not_a_guess(tmp_path: Path) -> None:
    """Its table's log was cleaned up before the cycle was entered."""
    toy = ToyLake(tmp_path)
    toy.cycle(1, "orders", known=False)
    with pytest.raises(br.VersionUnknown):
        toy.lake.cut().open("orders")


def test_what_arrived_between_two_cuts_is_listed_in_order(toy: ToyLake) -> None:
    """Behind the first, up to and with the second."""
    found = toy.lake.between(1, toy.lake.cut())
    assert [(one.record, one.topic, one.rows, one.dead_letters) for one in found] == [
        (2, "orders", 10, 0), (3, "orders", 8, 2), (3, "payments", 8, 2)]
    assert found[0].spans == (br.Span(0, 10, 20),)
    assert len(toy.lake.between(None)) == 5
    assert toy.lake.between(toy.lake.cut()) == []


def test_arrivals_tell_dead_letters_by_class(toy: ToyLake) -> None:
    """Whoever watches them need not open the dead letter tables."""
    assert [one.error_classes for one in toy.lake.between(1)] == [{}, {"json": 2}, {"json": 2}]


def test_spans_between_two_cuts_are_one_a_partition(toy: ToyLake) -> None:
    """For engines that filter by themselves; their condition is true for exactly these rows."""
    assert toy.lake.spans_between("orders", 1) == (br.Span(0, 10, 30),)
    assert toy.lake.spans_between("payments", 1, 2) == ()
    assert br.sql_condition(()) == "false"
    found = br.sql_condition([br.Span(0, 10, 20), br.Span(1, 0, 5)])
    assert found == ("((_kafka_partition = 0 and _kafka_offset >= 10 and _kafka_offset < 20)"
                     " or (_kafka_partition = 1 and _kafka_offset >= 0 and _kafka_offset < 5))")


def test_the_ledger_as_of_a_cut_ends_there(toy: ToyLake) -> None:
    """A later cycle in it would promise rows that the cut's tables do not have."""
    toy.enter([{"record": 2, "cycle_id": 2, "instance": "0", "topic": "payments",
                "status": "excluded", "reason": "behind", "decided_at": at(20), "ranges": []}])
    cycles = toy.lake.cycles(toy.lake.cut(record=2))
    assert sorted(cycles.to_table()["record"].to_pylist()) == [1, 1, 2]
    only_one = cycles.to_table(columns=["topic"], filter=ds.field("record") == 2)
    assert only_one.to_pylist() == [{"topic": "orders"}]


def test_a_time_without_a_zone_is_refused(toy: ToyLake) -> None:
    """It would mean another moment on each machine."""
    with pytest.raises(ValueError, match="time zone"):
        toy.lake.cut(at=NOON.replace(tzinfo=None))


def test_rows_between_two_cuts_are_found_also_after_a_compaction(toy: ToyLake) -> None:
    """By their offsets: the files they came in may be gone."""
    last = toy.lake.cut()
    DeltaTable(toy.folder / "bronze_orders").optimize.compact()
    found = toy.lake.rows_between("orders", 1, last).read_all()["_kafka_offset"].to_pylist()
    assert sorted(found) == list(range(10, 28))
    assert toy.lake.rows_between("payments", 1, toy.lake.cut(record=2)).read_all().num_rows == 0
    dead = toy.lake.rows_between("orders", 2, last, dlq=True).read_all()
    assert sorted(dead["_kafka_offset"].to_pylist()) == [28, 29]


def replay(toy: ToyLake, number: int, offsets: list[int]) -> None:
    """Dead letters become rows, as `dlq replay` leaves them: recorded first, then visible."""
    count = len(offsets)
    places = {"_kafka_partition": pa.array([0] * count, pa.int32()),
              "_kafka_offset": pa.array(offsets, pa.int64())}
    done = CommitProperties(app_transactions=[Transaction("bronze/payments/replay", number)])
    write_deltalake(toy.folder / "dlq_replays", pa.table({
        "_kafka_topic": ["payments"] * count, **places,
        "replay": pa.array([number] * count, pa.int64())}), mode="append", commit_properties=done)
    write_deltalake(toy.folder / "bronze_payments", pa.table(places), mode="append",
                    commit_properties=done)


def offsets_between(
    toy: ToyLake, after: br.Cut | int | None, until: int, *, dlq: bool = False
) -> list[int]:
    """Offsets of the rows of payments that came in between."""
    found = toy.lake.rows_between("payments", after, toy.lake.cut(record=until), dlq=dlq)
    return sorted(found.read_all()["_kafka_offset"].to_pylist())


def test_rows_between_two_cuts_have_what_was_replayed_between_them(tmp_path: Path) -> None:
    """However old its offsets are; and none of it twice, whoever asks in steps or at once."""
    toy = ToyLake(tmp_path)
    toy.cycle(1, "payments", dead=2)
    toy.cycle(2, "payments", dead=1)
    replay(toy, 1, [8])
    toy.cycle(3, "payments")
    replay(toy, 2, [9, 19])
    toy.cycle(4, "orders")
    toy.cycle(5, "payments")
    assert offsets_between(toy, 2, 3) == [8, *range(20, 30)]
    assert offsets_between(toy, toy.lake.cut(record=3), 5) == [9, 19, *range(30, 40)]
    assert offsets_between(toy, 1, 2) == list(range(10, 19))
    assert offsets_between(toy, 1, 5) == sorted([8, 9, 19, *range(10, 19), *range(20, 40)])
    assert offsets_between(toy, None, 5) == list(range(40))
    assert offsets_between(toy, None, 5, dlq=True) == [8, 9, 19]
    assert offsets_between(toy, 0, 5) == list(range(40))


def test_replays_behind_a_version_nobody_knows_are_an_error_not_a_guess(tmp_path: Path) -> None:
    """Which of them the reader has seen already cannot be told any more."""
    toy = ToyLake(tmp_path)
    toy.cycle(1, "payments", dead=2, known=False)
    toy.cycle(2, "payments", dead=1)
    replay(toy, 1, [8])
    toy.cycle(3, "payments")
    with pytest.raises(br.VersionUnknown):
        offsets_between(toy, 1, 3)
    (toy.folder / "bronze_payments/_delta_log/00000000000000000001.json").unlink()
    with pytest.raises(br.VersionUnknown, match="cleaned up"):
        toy.lake._replay_at("payments", 2)


@pytest.mark.parametrize(("uri", "options", "kind"), [
    ("/lake/t", {}, "local"), ("file:///lake/t", {}, "local"),
    ("s3://b/lake/t", {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
                       "aws_endpoint_url": "http://127.0.0.1:9", "aws_allow_http": "true"}, "s3"),
    ("s3://b/lake/t", {"AWS_PROFILE": "p"}, None),
    ("s3://b/lake/t", {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
                       "aws_conditional_put": "etag"}, None),
    ("gs://b/t", {}, None)])
def test_datasets_read_by_arrow_itself_where_it_knows_all_options(
    uri: str, options: dict[str, str], kind: str | None
) -> None:
    """Else by what deltalake brings along, which knows them."""
    found = br.datasets._file_system(uri, options)
    assert (found.base_fs.type_name if found is not None else None) == kind
    if found is not None:
        assert found.base_path.rstrip("/") == uri.removeprefix("file://").removeprefix("s3://")


def test_the_helper_needs_nothing_of_the_service() -> None:
    """Whoever reads the lake installs it alone."""
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] in {
                    "__future__", "bronze_reader", "collections", "dataclasses", "datetime",
                    "typing", "urllib", "deltalake", "pyarrow"}, node.module
    found = subprocess.run(
        [sys.executable, "-c", "import bronze_reader; print(bronze_reader.Lake('x').uri_of('t'))"],
        cwd=FOLDER.parent, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "x/t"
