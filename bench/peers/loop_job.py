"""The simple way to do the same, for comparison: one process, lists, an append every interval.

It checks nothing and promises nothing: no dead letters, no flush of all topics together, rows
twice when it dies at the wrong moment. Run by `python -m bench.peers` on an installation
of the service's requirements; the store's keys come from the environment.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from datetime import UTC, datetime

import pyarrow as pa
from confluent_kafka import Consumer
from deltalake import write_deltalake

from bench.peers import job

POLL_MESSAGES = 10_000
POLL_S = 0.5
SCHEMA = pa.schema([
    ("key", pa.binary()), ("value", pa.binary()), ("_kafka_partition", pa.int32()),
    ("_kafka_offset", pa.int64()), ("_kafka_timestamp", pa.timestamp("us", "UTC")),
    ("_ingested_at", pa.timestamp("us", "UTC")), ("_ingestion_date", pa.date32())])

Row = tuple[bytes | None, bytes | None, int | None, int | None, int]


def main() -> None:
    """Copy until `--messages` are written, or until killed."""
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--group", "--lake", "--topics"):
        parser.add_argument(name, required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--interval", type=float, required=True)
    given = parser.parse_args()
    job.end_with_starter()
    consumer = Consumer({
        "bootstrap.servers": given.bootstrap, "group.id": given.group,
        "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe(given.topics.split(","))
    written = 0
    while written < given.messages:
        buffers = collect(consumer, time.monotonic() + given.interval)
        for topic, rows in buffers.items():
            write(f"{given.lake}/bronze_{topic}", rows)
            written += len(rows)
        if buffers:
            consumer.commit(asynchronous=False)
    job.done(time.time())


def collect(consumer: Consumer, until: float) -> dict[str, list[Row]]:
    """Everything that comes until a moment, by topic."""
    buffers: dict[str, list[Row]] = defaultdict(list)
    while (left := until - time.monotonic()) > 0:
        for message in consumer.consume(POLL_MESSAGES, min(POLL_S, left)):
            if message.error() is None:
                buffers[str(message.topic())].append((
                    message.key(), message.value(), message.partition(), message.offset(),
                    message.timestamp()[1] * 1000))
    return buffers


def write(uri: str, rows: list[Row]) -> None:
    """Append rows to one table."""
    now = datetime.now(UTC)
    columns = [*zip(*rows, strict=True), [now] * len(rows), [now.date()] * len(rows)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    write_deltalake(
        uri, pa.table(arrays, schema=SCHEMA), mode="append", partition_by=["_ingestion_date"],
        storage_options={name.lower(): value for name, value in os.environ.items()
                         if name.startswith("AWS_")})


if __name__ == "__main__":
    main()
