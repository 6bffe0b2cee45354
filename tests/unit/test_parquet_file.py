"""One Parquet file: readable, true statistics, row groups of a useful size."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from shared.records import BRONZE, DLQ
from workers.batch import Batch
from workers.decoder import decode
from workers.parquet_file import Encoded, ParquetFile
from workers.schemas import BRONZE_FILE, DLQ_FILE

NOW_MS = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)
ROW_GROUP_BYTES = 10_000


def rows(first: int, count: int, timestamps: list[int | None] | None = None) -> pa.RecordBatch:
    """Decode `count` messages of partition 2 from offset `first` on."""
    found = decode(
        Batch([2] * count, [*range(first, first + count)], timestamps or [NOW_MS - 5] * count,
              [b"k"] * count, [b'{"n": %d}' % n for n in range(count)], [None] * count),
        NOW_MS, "orders", "1").rows
    assert found is not None
    return found


def open_file() -> ParquetFile:
    """Begin a bronze file."""
    return ParquetFile(BRONZE, BRONZE_FILE, "2026-01-31", ROW_GROUP_BYTES)


def read(made: Encoded) -> pq.ParquetFile:
    """Open what was made."""
    return pq.ParquetFile(io.BytesIO(made.content))


def test_file_holds_all_rows_in_order_and_says_its_size() -> None:
    """The manifest's size is what a commit checks the stored file against."""
    file = open_file()
    file.append(rows(10, 3), 20)
    file.append(rows(13, 4), 20)
    made = file.close(NOW_MS)
    data, stored = made.file, read(made)
    assert stored.read()["_kafka_offset"].to_pylist() == [*range(10, 17)]
    assert stored.schema_arrow.equals(BRONZE_FILE)
    assert (data.table, data.rows, data.date, data.written_at_ms) == (
        BRONZE, 7, "2026-01-31", NOW_MS)
    assert data.size == len(made.content)
    assert data.path.startswith("_ingestion_date=2026-01-31/part-")
    assert data.path.endswith(".zstd.parquet")


def test_encoded_bytes_grow_by_row_groups_and_end_at_the_size() -> None:
    """By them the draft decides when a file is large enough; what is not encoded is little."""
    file = open_file()
    before = file.encoded_bytes
    file.append(rows(0, 10), 20)
    assert file.encoded_bytes == before
    file.append(rows(10, 500), 20_000)
    grown = file.encoded_bytes
    assert grown > before
    assert file.close(NOW_MS).file.size > grown


def test_statistics_are_the_true_bounds_in_deltas_form() -> None:
    """Readers skip files by these: a wrong bound hides rows."""
    file = open_file()
    file.append(rows(10, 2, [NOW_MS + 1, None]), 20)
    file.append(rows(12, 2, [-1, NOW_MS]), 20)
    stats = json.loads(file.close(NOW_MS).file.stats)
    assert stats["numRecords"] == 4
    assert stats["minValues"] == {
        "_kafka_partition": 2, "_kafka_offset": 10,
        "_kafka_timestamp": "1969-12-31T23:59:59.999Z", "_ingested_at": "2026-01-31T12:00:00.000Z"}
    assert stats["maxValues"] == {
        "_kafka_partition": 2, "_kafka_offset": 13,
        "_kafka_timestamp": "2026-01-31T12:00:00.001Z",
        "_ingested_at": "2026-01-31T12:00:00.000Z"}
    assert stats["nullCount"] == {
        "_kafka_partition": 0, "_kafka_offset": 0, "_kafka_timestamp": 1, "_ingested_at": 0}


def test_a_column_of_nulls_has_a_null_count_and_no_bounds() -> None:
    """A made-up bound would let readers skip the file."""
    file = open_file()
    file.append(rows(10, 2, [None, None]), 20)
    stats = json.loads(file.close(NOW_MS).file.stats)
    assert "_kafka_timestamp" not in stats["minValues"] | stats["maxValues"]
    assert stats["nullCount"]["_kafka_timestamp"] == 2


def test_small_batches_are_gathered_into_row_groups_of_the_configured_size() -> None:
    """Row groups of a few rows compress badly and read slowly; huge ones cost memory."""
    file = open_file()
    for turn in range(40):
        file.append(rows(10 * turn, 10), 360)
    stored = read(file.close(NOW_MS)).metadata
    # A batch of 10 rows counts 360 + 10 * 64 bytes, so 10 of them fill a row group.
    assert [stored.row_group(i).num_rows for i in range(stored.num_row_groups)] == [100] * 4


def test_small_batches_do_not_wait_side_by_side() -> None:
    """A dead letter of every batch, each in blocks of its own between the large blocks of what was
    read with it, keeps the heap from ever being joined again: 60 MB were lost to it in a worker."""
    file = open_file()
    for turn in range(100):
        file.append(rows(10 * turn, 1), 1)
    assert len(file._pending) == 1
    assert read(file.close(NOW_MS)).read()["_kafka_offset"].to_pylist() == [*range(0, 1000, 10)]


def test_a_dead_letter_file_keeps_its_own_columns() -> None:
    """Its `value` is bytes, whatever they are."""
    found = decode(Batch([0], [7], [None], [None], [b"\xff"], [None]), NOW_MS, "orders", "1").dead
    assert found is not None
    file = ParquetFile(DLQ, DLQ_FILE, "2026-01-31", ROW_GROUP_BYTES)
    file.append(found, found.nbytes)
    table = read(file.close(NOW_MS)).read()
    assert table.schema.equals(DLQ_FILE)
    assert table["value"].to_pylist() == [b"\xff"]


def test_two_files_never_share_a_path() -> None:
    """Files are never overwritten, so a path is used once."""
    paths = set()
    for _ in range(3):
        file = open_file()
        file.append(rows(0, 1), 1)
        paths.add(file.close(NOW_MS).file.path)
    assert len(paths) == 3
