"""What is read since the last file: one file per table and day, ranges that match what is in it."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from shared.errors import StorageUnavailable
from shared.records import BRONZE, DLQ
from tests.fakes.store import MemoryStore
from workers.batch import Batch
from workers.decoder import decode
from workers.draft import Draft, FileLimits, Prepared

LIMITS = FileLimits(row_group_bytes=1 << 20, upload_bytes=1 << 30)
SMALL = FileLimits(row_group_bytes=1, upload_bytes=5_000)
EVENING_MS = int(datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC).timestamp() * 1000)
NIGHT_MS = EVENING_MS + 1000


def make(
    store: MemoryStore, *, dlq_enabled: bool = True, limits: FileLimits = LIMITS
) -> Draft:
    """Begin a draft of partitions 0 (from 10) and 1 (from 0)."""
    return Draft(store, "orders", limits, {0: 10, 1: 0}, dlq_enabled=dlq_enabled)


def take(draft: Draft, first: int, values: list[bytes | None], now_ms: int = EVENING_MS) -> None:
    """Read `values` of partition 0 from offset `first` on."""
    count = len(values)
    batch = Batch([0] * count, [*range(first, first + count)], [None] * count, [None] * count,
                  values, [None] * count)
    draft.take(batch, decode(batch, now_ms, "orders", "1"), now_ms)


def stored(store: MemoryStore, prepared: Prepared, table: str) -> list[tuple[str, list[int]]]:
    """(date, offsets) of each file of a table."""
    folder = {"bronze": "bronze_orders", "dlq": "dlq_bronze_orders"}[table]
    return [(file.date, pq.read_table(io.BytesIO(store.objects[f"{folder}/{file.path}"]))[
        "_kafka_offset"].to_pylist()) for file in prepared.files if file.table == table]


def test_open_files_are_sent_early_until_little_is_left() -> None:
    """The largest first; what it held is free, and the ranges know nothing of it."""
    store = MemoryStore()
    draft = make(store, limits=FileLimits(row_group_bytes=1, upload_bytes=1 << 30))
    take(draft, 10, [b'"%d"' % number for number in range(500)])
    take(draft, 510, [b"poison"])
    large, small = draft.open_files
    assert large > small
    assert not draft.send_early(large + small + 1, EVENING_MS)
    assert draft.send_early(large + small, EVENING_MS)
    assert (draft.open_files, draft.sent) == ((small,), 1)
    take(draft, 511, [b"{}"])
    assert draft.send_early(1, EVENING_MS)
    assert (draft.open_files, draft.sent) == ((), 3)
    prepared = draft.close(EVENING_MS)
    assert stored(store, prepared, BRONZE) == [
        ("2026-01-31", [*range(10, 510)]), ("2026-01-31", [511])]
    (found,) = prepared.ranges
    assert (found.start, found.end, found.rows, found.dead_letters) == (10, 512, 501, 1)


def test_a_full_draft_sends_its_largest_file() -> None:
    """A few rows beside many dead letters are no reason for a small file of rows."""
    store = MemoryStore()
    draft = make(store, limits=FileLimits(row_group_bytes=1, upload_bytes=5_000))
    noise, first = random.Random(1), 10
    while not draft.sent:
        value = noise.randbytes(300).hex().encode()
        is_dead = sum(draft.open_files) < 4_000
        take(draft, first, [value if is_dead else b'"%s"' % value])
        first += 1
    prepared = draft.close(EVENING_MS)
    assert [file.table for file in prepared.files] == [DLQ, BRONZE]


def test_rows_and_dead_letters_go_to_their_own_files() -> None:
    """Both are in the store before the vote; the range counts both."""
    store = MemoryStore()
    draft = make(store)
    take(draft, 10, [b"{}", b"poison", None])
    take(draft, 13, [b"[1]"])
    assert (draft.rows, draft.bytes) == (4, 11)
    prepared = draft.close(EVENING_MS)
    assert stored(store, prepared, BRONZE) == [("2026-01-31", [10, 12, 13])]
    assert stored(store, prepared, DLQ) == [("2026-01-31", [11])]
    (found,) = prepared.ranges
    assert (found.partition, found.start, found.end) == (0, 10, 14)
    assert (found.rows, found.dead_letters, found.skipped) == (3, 1, 0)
    assert (prepared.flaws, prepared.value_bytes) == ({"json": 1}, 11)
    assert prepared.bytes == sum(len(data) for data in store.objects.values())


def test_a_new_day_begins_a_new_file_of_each_table() -> None:
    """A file has one partition value, so rows of two days must not share one."""
    store = MemoryStore()
    draft = make(store)
    take(draft, 10, [b"{}", b"x"])
    take(draft, 12, [b"{}", b"x"], NIGHT_MS)
    prepared = draft.close(NIGHT_MS)
    assert stored(store, prepared, BRONZE) == [("2026-01-31", [10]), ("2026-02-01", [12])]
    assert stored(store, prepared, DLQ) == [("2026-01-31", [11]), ("2026-02-01", [13])]
    assert [(part.start, part.end) for part in prepared.ranges] == [(10, 14)]
    assert all(file.path.startswith(f"_ingestion_date={file.date}/") for file in prepared.files)


def test_a_table_that_gets_nothing_on_the_new_day_keeps_its_old_file() -> None:
    """Yesterday's dead letters must not be forgotten because today has none."""
    store = MemoryStore()
    draft = make(store)
    take(draft, 10, [b"x"])
    take(draft, 11, [b"{}"], NIGHT_MS)
    prepared = draft.close(NIGHT_MS)
    assert stored(store, prepared, DLQ) == [("2026-01-31", [10])]
    assert stored(store, prepared, BRONZE) == [("2026-02-01", [11])]


def test_with_the_dlq_off_malformed_messages_are_recorded_as_skipped() -> None:
    """What policy lets go is still counted in the range, under its own name."""
    store = MemoryStore()
    draft = make(store, dlq_enabled=False)
    take(draft, 10, [b"{}", b"x", b"\xff"])
    prepared = draft.close(EVENING_MS)
    assert [file.table for file in prepared.files] == [BRONZE]
    (found,) = prepared.ranges
    assert (found.rows, found.dead_letters, found.skipped, found.absent) == (1, 0, 2, 0)
    assert prepared.flaws == {"json": 1, "encoding": 1}


def test_a_draft_of_skipped_messages_only_moves_the_position_without_a_file() -> None:
    """Else the same messages would be read for ever."""
    store = MemoryStore()
    draft = make(store, dlq_enabled=False)
    take(draft, 10, [b"x"])
    prepared = draft.close(EVENING_MS)
    assert prepared.files == ()
    assert [(part.start, part.end, part.skipped) for part in prepared.ranges] == [(10, 11, 1)]


def test_nothing_is_uploaded_for_a_draft_that_read_nothing() -> None:
    """Idle topics cost nothing."""
    store = MemoryStore()
    draft = make(store)
    assert not draft.book.moved
    assert draft.close(EVENING_MS) == Prepared((), ())
    assert store.faults.seen == []


def test_a_file_that_may_not_grow_is_sent_and_the_next_one_begun() -> None:
    """Memory holds one file of bounded size, whatever is read between two votes."""
    store = MemoryStore()
    draft = make(store, limits=SMALL)
    held = []
    for turn in range(40):
        take(draft, 10 + 5 * turn, [b"{}", b"x", b"[2]", b"3", b"4"])
        held.append(sum(file.encoded_bytes for file in draft._open.values()))
    assert draft.sent == len(store.objects) > 4
    assert max(held) < 5_000
    prepared = draft.close(EVENING_MS)
    rows = [offset for _, part in stored(store, prepared, BRONZE) for offset in part]
    dead = [offset for _, part in stored(store, prepared, DLQ) for offset in part]
    assert sorted(rows + dead) == [*range(10, 210)]
    assert (rows, dead) == (sorted(rows), [*range(11, 210, 5)])
    assert [(part.start, part.end) for part in prepared.ranges] == [(10, 210)]


@pytest.mark.parametrize("part", [
    "dlq_bronze_orders/", "bronze_orders/_ingestion_date=2026-01-31",
    "bronze_orders/_ingestion_date=2026-02-01",
])
def test_an_error_on_the_way_is_raised_and_never_swallowed(part: str) -> None:
    """The caller drops the draft and reads again."""
    store = MemoryStore()
    fault = store.faults.order("send", part)
    draft = make(store)
    with pytest.raises(StorageUnavailable):
        take(draft, 10, [b"{}", b"x"])
        take(draft, 12, [b"{}", b"x"], NIGHT_MS)
        draft.close(NIGHT_MS)
    assert fault.fired == 1
