"""The judge of rows: a good lake passes, and every single fault is seen by both readers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tests.rig.checker import Report, check
from tests.rig.ledger import Kind
from tests.rig.toy_lake import BRONZE_SCHEMA, DLQ_SCHEMA, Row, Rows, ToyLake
from tests.services import MinioService

READERS = ("deltalake", "duckdb")
BRONZE, DLQ = "bronze_a", "dlq_bronze_a"


def judge(lake: ToyLake, reader: str, **arguments: Any) -> Report:
    return check(lake.ledger, str(lake.folder), topics=lake.topics, readers=[reader], **arguments)


def json_dead_letter(rows: Rows) -> Row:
    """A dead letter whose value is text, so that it can stand in the bronze table."""
    return next(row for row in rows[DLQ] if row["error_class"] == "json")


def lose(rows: Rows) -> None:
    rows[BRONZE].pop()


def lose_dead_letter(rows: Rows) -> None:
    rows[DLQ].pop()


def double(rows: Rows) -> None:
    rows[BRONZE].append(rows[BRONZE][0])


def double_dead_letter(rows: Rows) -> None:
    rows[DLQ].append(rows[DLQ][0])


def swap_values(rows: Rows) -> None:
    first, second = rows[BRONZE][:2]
    first["value"], second["value"] = second["value"], first["value"]


def null_to_empty_key(rows: Rows) -> None:
    row = next(row for row in rows[BRONZE] if row["key"] is None)
    row["key"] = b""


def drop_header(rows: Rows) -> None:
    row = next(row for row in rows[BRONZE] if row["headers"])
    row["headers"] = row["headers"][1:]


def blur_timestamp(rows: Rows) -> None:
    rows[BRONZE][0]["_kafka_timestamp"] += 1


def shift_timestamp(rows: Rows) -> None:
    rows[BRONZE][0]["_kafka_timestamp"] += 1000


def alter_dead_letter(rows: Rows) -> None:
    rows[DLQ][0]["value"] += b" "


def invent_offset(rows: Rows) -> None:
    rows[BRONZE].append({**rows[BRONZE][0], "_kafka_offset": 10_000})


def invent_partition(rows: Rows) -> None:
    rows[BRONZE].append({**rows[BRONZE][0], "_kafka_partition": 7})


def keep_in_both(rows: Rows) -> None:
    rows[BRONZE].append(json_dead_letter(rows))


def move_to_dlq(rows: Rows) -> None:
    row = next(row for row in rows[BRONZE] if row["value"])
    rows[BRONZE].remove(row)
    letter = {**rows[DLQ][0], **row, "value": row["value"]}
    rows[DLQ].append(letter)


def move_to_bronze(rows: Rows) -> None:
    row = json_dead_letter(rows)
    rows[DLQ].remove(row)
    rows[BRONZE].append(row)


def mistake_class(rows: Rows) -> None:
    json_dead_letter(rows)["error_class"] = "encoding"


def mistake_day(rows: Rows) -> None:
    rows[BRONZE][0]["_ingested_at"] += 86_400_000_000


def forget_ingestion_time(rows: Rows) -> None:
    rows[BRONZE][0]["_ingested_at"] = None


def mistake_topic(rows: Rows) -> None:
    rows[DLQ][0]["_kafka_topic"] = "b"


def leave_message_empty(rows: Rows) -> None:
    rows[DLQ][0]["error_message"] = ""


def point_outside(rows: Rows) -> None:
    rows[DLQ][0]["error_position"] = 5_000


def forget_version(rows: Rows) -> None:
    rows[DLQ][0]["service_version"] = None


FAULTS: list[tuple[Callable[[Rows], None], str]] = [
    (lose, "lost"),
    (lose_dead_letter, "lost"),
    (double, "doubled"),
    (double_dead_letter, "doubled"),
    (swap_values, "altered"),
    (null_to_empty_key, "altered"),
    (drop_header, "altered"),
    (blur_timestamp, "altered"),
    (shift_timestamp, "altered"),
    (alter_dead_letter, "altered"),
    (invent_offset, "phantom"),
    (invent_partition, "phantom"),
    (keep_in_both, "both_tables"),
    (move_to_dlq, "wrong_table"),
    (move_to_bronze, "wrong_table"),
    (mistake_class, "wrong_error_class"),
    (mistake_day, "wrong_metadata"),
    (forget_ingestion_time, "wrong_metadata"),
    (mistake_topic, "wrong_metadata"),
    (leave_message_empty, "wrong_metadata"),
    (point_outside, "wrong_metadata"),
    (forget_version, "wrong_metadata"),
]


def change_first_topic(change: Callable[[Rows], None]) -> Callable[[Rows], None]:
    """Apply a change to the rows of topic `a` and leave the other topic alone."""

    def apply(rows: Rows) -> None:
        if BRONZE in rows:
            change(rows)

    return apply


@pytest.mark.parametrize("reader", READERS)
def test_checker_passes_a_good_lake(tmp_path: Path, reader: str) -> None:
    """A judge that finds fault with everything would be as useless as a blind one."""
    lake = ToyLake(tmp_path)
    lake.cycle(30)
    lake.cycle(30)
    report = judge(lake, reader)
    report.assert_ok()
    assert report.checked[f"rows by {reader}"] == lake.ledger.rows() == 240
    assert lake.ledger.count(Kind.INVALID_UTF8) > 0


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_checker_sees_one_wrong_row(
    tmp_path: Path, reader: str, fault: Callable[[Rows], None], kind: str
) -> None:
    """One fault in a thousand rows is found, is called by its name, and is the only one."""
    lake = ToyLake(tmp_path)
    lake.cycle(60, change_rows=change_first_topic(fault))
    assert judge(lake, reader).kinds() == {kind}


@pytest.mark.parametrize("reader", READERS)
def test_checker_sees_aborted_messages(tmp_path: Path, reader: str) -> None:
    """A row of an aborted transaction is named as what it is."""
    lake = ToyLake(tmp_path)
    lake.cycle(10)
    lake.ledger.partition("a", 0).kinds[3] = Kind.ABORTED
    report = judge(lake, reader)
    assert report.counts == {"aborted_landed": 1}


@pytest.mark.parametrize("reader", READERS)
def test_checker_forgives_what_the_test_removed(tmp_path: Path, reader: str) -> None:
    """Offsets that retention took may be missing, and those that landed before may stay."""
    lake = ToyLake(tmp_path)
    lake.cycle(10)
    lake.write_messages("a", 5)
    lake.ledger.partition("a", 0).forgive(8, 15)
    report = judge(lake, reader)
    assert report.counts == {"lost": 5}
    assert all("partition 1" in anomaly.detail for anomaly in report.anomalies)


@pytest.mark.parametrize("reader", READERS)
def test_checker_of_a_running_service_asks_up_to_the_position(
    tmp_path: Path, reader: str
) -> None:
    """What is not committed yet is not lost, what lies below the position is."""
    lake = ToyLake(tmp_path)
    lake.cycle(10)
    lake.write_messages("a", 5)
    assert judge(lake, reader).kinds() == {"lost"}
    judge(lake, reader, complete=False).assert_ok()
    lake.commit(BRONZE, [], {0: 13})
    assert judge(lake, reader, complete=False).counts == {"lost": 3}


@pytest.mark.parametrize("reader", READERS)
def test_checker_without_dlq_wants_malformed_messages_nowhere(
    tmp_path: Path, reader: str
) -> None:
    """With the queue off and `skip`, a malformed message in the bronze table is a fault."""

    def without_letters(rows: Rows) -> None:
        for table in rows:
            if table.startswith("dlq_"):
                rows[table].clear()

    good = ToyLake(tmp_path / "good")
    good.cycle(30, change_rows=without_letters)
    judge(good, reader, dlq=False).assert_ok()
    assert judge(good, reader).kinds() == {"lost"}

    bad = ToyLake(tmp_path / "bad")
    bad.cycle(30, change_rows=change_first_topic(move_to_bronze))
    assert judge(bad, reader, dlq=False).kinds() == {"wrong_table"}


def retyped(schema: pa.Schema, name: str, kind: pa.DataType) -> pa.Schema:
    return schema.set(schema.get_field_index(name), pa.field(name, kind))


WRONG_SCHEMAS = {
    "text key": (BRONZE, retyped(BRONZE_SCHEMA, "key", pa.string())),
    "binary value": (BRONZE, retyped(BRONZE_SCHEMA, "value", pa.binary())),
    "wide partition": (BRONZE, retyped(BRONZE_SCHEMA, "_kafka_partition", pa.int64())),
    "text headers": (
        BRONZE,
        retyped(
            BRONZE_SCHEMA,
            "headers",
            pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())])),
        ),
    ),
    "no ingestion time": (
        BRONZE,
        BRONZE_SCHEMA.remove(BRONZE_SCHEMA.get_field_index("_ingested_at")),
    ),
    "one more column": (BRONZE, BRONZE_SCHEMA.append(pa.field("extra", pa.string()))),
    "text dead letters": (DLQ, retyped(DLQ_SCHEMA, "value", pa.string())),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", WRONG_SCHEMAS)
def test_checker_sees_wrong_columns(tmp_path: Path, reader: str, name: str) -> None:
    """Columns and types are a contract with dbt models and other readers."""
    table, schema = WRONG_SCHEMAS[name]
    lake = ToyLake(tmp_path, topics=["a"], schemas={table: schema})
    assert "wrong_columns" in judge(lake, reader).kinds()


def test_checker_sees_columns_in_another_order(tmp_path: Path) -> None:
    """`insert into ... select *` goes by position."""
    names = ["value", "key", *BRONZE_SCHEMA.names[2:]]
    schema = pa.schema([BRONZE_SCHEMA.field(name) for name in names])
    lake = ToyLake(tmp_path, topics=["a"], schemas={BRONZE: schema})
    assert judge(lake, "deltalake").kinds() == {"wrong_columns"}


def test_checker_sees_a_protocol_that_few_readers_know(tmp_path: Path) -> None:
    """A timestamp without time zone silently makes the table unreadable for older readers."""
    naive = retyped(BRONZE_SCHEMA, "_ingested_at", pa.timestamp("us"))
    lake = ToyLake(tmp_path, topics=["a"], schemas={BRONZE: naive})
    assert judge(lake, "deltalake").kinds() == {"wrong_columns", "wrong_protocol"}


def test_checker_sees_wrong_partitioning(tmp_path: Path) -> None:
    """A table that is partitioned by another column, or by none, is not the agreed one."""
    lake = ToyLake(tmp_path, topics=["a"])
    shutil.rmtree(tmp_path / BRONZE)
    DeltaTable.create(str(tmp_path / BRONZE), BRONZE_SCHEMA)
    assert judge(lake, "deltalake").kinds() == {"wrong_partitioning"}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("table", [BRONZE, DLQ])
def test_checker_sees_a_missing_table(tmp_path: Path, reader: str, table: str) -> None:
    """Tables are created empty at start, the dead letters' too."""
    lake = ToyLake(tmp_path)
    shutil.rmtree(tmp_path / table)
    assert judge(lake, reader).kinds() == {"missing_table"}


def test_checker_refuses_to_judge_nothing(tmp_path: Path) -> None:
    """A verdict over no topics would be good, and mean nothing."""
    lake = ToyLake(tmp_path)
    with pytest.raises(ValueError, match="no topics"):
        check(lake.ledger, str(tmp_path))


def test_checker_reads_s3_with_both_readers(
    tmp_path: Path, minio: MinioService, lake_prefix: str
) -> None:
    """The tests that matter have their lake in MinIO; the judge must see faults there, too."""
    lake = ToyLake(tmp_path)
    lake.cycle(30, change_rows=change_first_topic(lose))
    client = minio.client()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            name = f"{lake_prefix}/{path.relative_to(tmp_path)}"
            client.fput_object(minio.bucket, name, str(path))
    report = check(lake.ledger, minio.lake_uri(lake_prefix), minio.storage_options())
    assert report.counts == {"lost": 2}
    assert {anomaly.where for anomaly in report.anomalies} == {"a by deltalake", "a by duckdb"}
    assert report.checked["rows by duckdb"] == lake.ledger.rows() - 1


@pytest.mark.slow
def test_checker_judges_many_rows_in_time(tmp_path: Path) -> None:
    """200,000 rows with both readers in well under 30 s, so that every test can afford it."""
    lake = ToyLake(tmp_path, partitions=4)
    lake.cycle(25_000)
    started_s = time.monotonic()
    report = check(lake.ledger, str(tmp_path))
    elapsed_s = time.monotonic() - started_s
    report.assert_ok()
    assert report.checked["rows by duckdb"] == 200_000
    assert elapsed_s < 30
