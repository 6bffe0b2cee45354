"""The same with Spark Structured Streaming: a query per topic, rows and dead letters apart.

Run by `python -m bench.peers` with the Python of `.venv-peers`; the store's keys come from the
environment. Each query hands its batches to `foreachBatch`, which appends to two Delta tables
with `txnAppId` and `txnVersion`, so that a batch done again writes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.streaming import StreamingQuery

from bench.peers import job

POLL_S = 0.25
TEXT = "CAST(value AS STRING)"
FLAW = (
    "CASE WHEN value IS NULL THEN NULL"
    " WHEN octet_length(value) = 0 THEN 'empty'"
    f" WHEN NOT is_valid_utf8({TEXT}) THEN 'encoding'"
    f" WHEN try_parse_json({TEXT}) IS NULL THEN 'json' END")
"""Why a value is malformed; null where it is one JSON text, or a tombstone."""
ROW = ("key", f"{TEXT} AS value", "headers")
DEAD_LETTER = ("key", "value", "headers", "topic AS _kafka_topic")
METADATA = (
    "partition AS _kafka_partition", "offset AS _kafka_offset", "timestamp AS _kafka_timestamp",
    "current_timestamp() AS _ingested_at", "current_date() AS _ingestion_date")


class Copy:
    """One query per topic, and the time of their last commit."""

    def __init__(self, given: argparse.Namespace, spark: SparkSession) -> None:
        self._given, self._spark = given, spark
        self.last_commit_at = 0.0

    def start(self, topic: str) -> StreamingQuery:
        """Begin to copy a topic from its first offset."""
        messages = (
            self._spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", self._given.bootstrap)
            .option("subscribe", topic)
            .option("startingOffsets", "earliest")
            .option("includeHeaders", "true")
            .load())
        return (
            messages.writeStream.queryName(topic)
            .foreachBatch(self._writer(topic))
            .option("checkpointLocation", str(self._given.checkpoints / topic))
            .trigger(processingTime=f"{self._given.interval:g} seconds")
            .start())

    def _writer(self, topic: str) -> Callable[[DataFrame, int], None]:
        def write(batch: DataFrame, number: int) -> None:
            checked = batch.withColumn("error_class", F.expr(FLAW))
            if self._given.cached:
                checked = checked.persist()
            dead = checked.where("error_class IS NOT NULL")
            self._append(dead.selectExpr(*DEAD_LETTER, *METADATA, "error_class"),
                         f"dlq_bronze_{topic}", number)
            self._append(checked.where("error_class IS NULL").selectExpr(*ROW, *METADATA),
                         f"bronze_{topic}", number)
            self.last_commit_at = time.time()
            if self._given.cached:
                checked.unpersist()
        return write

    def _append(self, rows: DataFrame, table: str, number: int) -> None:
        (rows.write.format("delta").mode("append").partitionBy("_ingestion_date")
         .option("txnAppId", table).option("txnVersion", number)
         .save(f"{self._given.lake}/{table}"))


def wait(queries: Mapping[str, StreamingQuery], ends: Mapping[str, Mapping[str, int]]) -> None:
    """Return when every query has finished a batch that reaches its topic's end.

    Raises:
        pyspark's StreamingQueryException: a query failed.
    """
    behind = dict(queries)
    while behind:
        for topic, query in list(behind.items()):
            if query.exception() is not None:
                raise query.exception()
            progress = query.lastProgress
            if progress is None:
                continue
            reached = progress.sources[0].endOffset
            if reached and json.loads(reached)[topic] == ends[topic]:
                del behind[topic]
        time.sleep(POLL_S)


def session(given: argparse.Namespace, settings: Mapping[str, str]) -> SparkSession:
    """A local Spark with Delta and the given settings."""
    builder = SparkSession.builder.master(f"local[{given.threads}]").appName("bench-peers")
    for name, value in {
            "spark.driver.memory": given.heap,
            "spark.driver.extraClassPath": f"{given.jars}/*",
            "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog":
                "org.apache.spark.sql.delta.catalog.DeltaCatalog",
            **settings}.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("WARN")
    return spark


def main() -> None:
    """Copy every topic up to the given ends."""
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--lake", "--heap", "--settings", "--ends"):
        parser.add_argument(name, required=True)
    for name in ("--jars", "--checkpoints"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--interval", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cached", action="store_true")
    given = parser.parse_args()
    job.end_with_starter()
    spark = session(given, json.loads(given.settings))
    copy = Copy(given, spark)
    ends = json.loads(given.ends)
    wait({topic: copy.start(topic) for topic in ends}, ends)
    job.done(copy.last_commit_at)


if __name__ == "__main__":
    main()
