"""Columns of the bronze and the dead letter tables.

The types are those Spark gives the same source, and keep the Delta protocol at (1, 2), so that
every reader can read the tables.  The partition column `_ingestion_date` is part of the table and
not of its Parquet files.
"""

from __future__ import annotations

import pyarrow as pa

PARTITION_COLUMN = "_ingestion_date"

HEADERS = pa.list_(pa.struct([pa.field("key", pa.string()), pa.field("value", pa.binary())]))
TIMESTAMP = pa.timestamp("us", tz="UTC")

BRONZE_FILE = pa.schema([
    pa.field("key", pa.binary()),
    pa.field("value", pa.string()),
    pa.field("headers", HEADERS),
    pa.field("_kafka_partition", pa.int32()),
    pa.field("_kafka_offset", pa.int64()),
    pa.field("_kafka_timestamp", TIMESTAMP),
    pa.field("_ingested_at", TIMESTAMP),
])

DLQ_FILE = pa.schema([
    pa.field("key", pa.binary()),
    pa.field("value", pa.binary()),
    pa.field("headers", HEADERS),
    pa.field("_kafka_topic", pa.string()),
    pa.field("_kafka_partition", pa.int32()),
    pa.field("_kafka_offset", pa.int64()),
    pa.field("_kafka_timestamp", TIMESTAMP),
    pa.field("error_class", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("error_position", pa.int64()),
    pa.field("_ingested_at", TIMESTAMP),
    pa.field("service_version", pa.string()),
])


def table_schema(file_schema: pa.Schema) -> pa.Schema:
    """A table's columns: its files' with the partition column behind `_ingested_at`."""
    behind = file_schema.get_field_index("_ingested_at") + 1
    return file_schema.insert(behind, pa.field(PARTITION_COLUMN, pa.date32()))
