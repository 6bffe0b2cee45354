"""Statistics of a file of several row groups: the bounds are those of all of them together."""

from __future__ import annotations

import json
from itertools import permutations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.records import BRONZE
from workers.batch import Batch
from workers.decoder import decode
from workers.parquet_file import ParquetFile
from workers.schemas import BRONZE_FILE

NOW_MS = 1_769_860_800_000
EACH_BATCH = 1
"""Raw bytes after which a row group is cut."""
GROUPS = {
    "low": ([5, 6], [1_000, 2_000]),
    "high": ([90, 91], [8_000, 9_000]),
    "without times": ([40], [None]),
}
"""Offsets and timestamps of a row group each."""


def batch(offsets: list[int], timestamps: list[int | None]) -> pa.RecordBatch:
    """The rows of one row group."""
    count = len(offsets)
    found = decode(
        Batch([0] * count, offsets, timestamps, [None] * count, [b"{}"] * count, [None] * count),
        NOW_MS, "orders", "1").rows
    assert found is not None
    return found


@pytest.mark.parametrize("order", list(permutations(GROUPS)), ids=" ".join)
def test_bounds_span_all_row_groups_whatever_their_order(order: tuple[str, ...]) -> None:
    """A reader skips a file by them: a bound of one group alone would hide the others' rows."""
    file = ParquetFile(BRONZE, BRONZE_FILE, "2026-01-31", EACH_BATCH)
    for name in order:
        file.append(batch(*GROUPS[name]), 10)
    made = file.close(NOW_MS)
    content = pq.ParquetFile(pa.BufferReader(bytes(made.content)))
    assert content.num_row_groups == len(GROUPS)
    stats = json.loads(made.file.stats)
    assert (stats["minValues"]["_kafka_offset"], stats["maxValues"]["_kafka_offset"]) == (5, 91)
    assert stats["minValues"]["_kafka_timestamp"] == "1970-01-01T00:00:01.000Z"
    assert stats["maxValues"]["_kafka_timestamp"] == "1970-01-01T00:00:09.000Z"
    assert stats["nullCount"]["_kafka_timestamp"] == 1
    assert stats["numRecords"] == 5
