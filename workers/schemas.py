"""Columns of the bronze and the dead letter tables.

The types are those Spark gives the same source, and keep the Delta protocol at (1, 2), so that
every reader can read the tables.  The partition column `_ingestion_date` is part of the table and
not of its Parquet files.
"""

from __future__ import annotations

from typing import Any

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

MAY_BE_NULL = frozenset({"key", "value", "headers", "headers.value", "_kafka_timestamp",
                         "error_position"})
"""What a message need not have; every table must take null there."""


def table_schema(file_schema: pa.Schema) -> pa.Schema:
    """A table's columns: its files' with the partition column behind `_ingested_at`."""
    behind = file_schema.get_field_index("_ingested_at") + 1
    return file_schema.insert(behind, pa.field(PARTITION_COLUMN, pa.date32()))


_DELTA_TYPES = {
    pa.binary(): "binary", pa.string(): "string", pa.bool_(): "boolean", pa.int32(): "integer",
    pa.int64(): "long", pa.float64(): "double", pa.date32(): "date", TIMESTAMP: "timestamp"}


def delta_schema(schema: pa.Schema) -> dict[str, Any]:
    """The schema as Delta's log has it.  Raises KeyError for a type that no table here has."""
    return {"type": "struct", "fields": [_delta_field(field) for field in schema]}


def _delta_field(field: pa.Field) -> dict[str, Any]:
    return {"name": field.name, "type": _delta_type(field.type), "nullable": field.nullable,
            "metadata": {}}


def _delta_type(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return {"type": "array", "elementType": _delta_type(kind.value_type),
                "containsNull": kind.value_field.nullable}
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": [_delta_field(field) for field in kind]}
    return _DELTA_TYPES[kind]
