"""Columns of the ledger, `bronze_cycles`; docs/ledger.md says what each means.  An interface.

Types are those every reader of Delta tables knows: no maps, no nested partition column.
"""

from __future__ import annotations

import pyarrow as pa

from workers.schemas import PARTITION_COLUMN, TIMESTAMP

_LOST = pa.struct([
    pa.field("start", pa.int64()), pa.field("end", pa.int64()), pa.field("cause", pa.string())])
_RANGE = pa.struct([
    pa.field("partition", pa.int32()),
    pa.field("start", pa.int64()),
    pa.field("end", pa.int64()),
    pa.field("rows", pa.int64()),
    pa.field("dead_letters", pa.int64()),
    pa.field("skipped", pa.int64()),
    pa.field("absent", pa.int64()),
    pa.field("lost", pa.list_(_LOST)),
])
_FILE = pa.struct([
    pa.field("table", pa.string()), pa.field("path", pa.string()), pa.field("rows", pa.int64()),
    pa.field("bytes", pa.int64())])
_CLASS = pa.struct([pa.field("error_class", pa.string()), pa.field("count", pa.int64())])

LEDGER_FILE = pa.schema([
    pa.field("record", pa.int64()),
    pa.field("cycle_id", pa.int64()),
    pa.field("instance", pa.string()),
    pa.field("topic", pa.string()),
    pa.field("status", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("decided_at", TIMESTAMP),
    pa.field("committed_at", TIMESTAMP),
    pa.field("completed_at", TIMESTAMP),
    pa.field("valid_through", TIMESTAMP),
    pa.field("table_version_before", pa.int64()),
    pa.field("table_version", pa.int64()),
    pa.field("dlq_table_version_before", pa.int64()),
    pa.field("dlq_table_version", pa.int64()),
    pa.field("rows", pa.int64()),
    pa.field("dead_letters", pa.int64()),
    pa.field("value_bytes", pa.int64()),
    pa.field("file_bytes", pa.int64()),
    pa.field("error_classes", pa.list_(_CLASS)),
    pa.field("ranges", pa.list_(_RANGE)),
    pa.field("files", pa.list_(_FILE)),
])

LEDGER_TABLE = LEDGER_FILE.append(pa.field(PARTITION_COLUMN, pa.date32()))
"""The table's: the day of `decided_at` is the partition column."""
