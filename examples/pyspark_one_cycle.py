"""All tables of a bronze lake as views in Spark, at one completed cycle.

    python -m examples.pyspark_one_cycle .demo/lake                       # the newest cycle
    python -m examples.pyspark_one_cycle s3://lake/bronze --cycle 4711 --since 4700

It tells per topic what the tables hold, and of what arrived how evenly it is spread over Kafka's
partitions: a skew there is a skew in every job that reads the topic.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import reduce
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from bronze_reader import Cut, Lake, sql_condition
from examples import arguments

S3A = "spark.hadoop.fs.s3a"
ON_ONE_MACHINE = {
    # 50 and 200 where nobody sets them: made for a cluster, minutes instead of seconds here.
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}
"""Leave these to your cluster's own settings."""


def session(jars: Path | None) -> SparkSession:
    """A Spark with Delta Lake; `jars` where it does not bring it along, as a platform's does."""
    builder = SparkSession.builder.appName("one-cycle")
    settings = {
        **ON_ONE_MACHINE,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC"}
    if jars is not None:
        settings |= {"spark.driver.extraClassPath": f"{jars}/*",
                     "spark.executor.extraClassPath": f"{jars}/*"}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        # Keys are not set here: S3A takes them from the same variables as everybody.
        settings |= {f"{S3A}.endpoint": endpoint, f"{S3A}.path.style.access": "true",
                     f"{S3A}.endpoint.region": os.environ.get("AWS_REGION", "us-east-1")}
    for name, value in settings.items():
        builder = builder.config(name, value)
    return builder.getOrCreate()


def tables(spark: SparkSession, cut: Cut, *, dlq: bool = False) -> dict[str, DataFrame]:
    """Topic -> its table at the cut; no row is read yet."""
    return {
        topic: spark.read.format("delta").option("versionAsOf", cut.version(topic, dlq=dlq))
        .load(cut.uri(topic, dlq=dlq).replace("s3://", "s3a://", 1))
        .withColumn("topic", F.lit(topic))
        for topic in cut.topics}


def contents(rows: dict[str, DataFrame], dead: dict[str, DataFrame]) -> DataFrame:
    """One line per topic: what its tables hold at the cut."""
    dead_letters = union(dead.values()).groupBy("topic").agg(F.count("*").alias("dead_letters"))
    return (
        union(rows.values()).groupBy("topic").agg(
            F.count("*").alias("rows"), F.count_distinct("key").alias("keys"),
            F.max("_kafka_timestamp").alias("newest_message"))
        .join(dead_letters, "topic", "left").fillna(0, ["dead_letters"]).orderBy("topic"))


def arrived(rows: dict[str, DataFrame], lake: Lake, after: Cut | None, cut: Cut) -> DataFrame:
    """The rows of all topics that came behind `after`, found by their offsets."""
    return union(table.where(sql_condition(lake.spans_between(topic, after, cut)))
                 for topic, table in rows.items())


def skew(rows: DataFrame) -> DataFrame:
    """Per topic how many rows, and how much fuller the fullest partition is than the mean."""
    return (rows.groupBy("topic", "_kafka_partition").count()
            .groupBy("topic").agg(
                F.sum("count").alias("new_rows"), F.count("*").alias("partitions"),
                F.round(F.max("count") / F.avg("count"), 2).alias("fullest_to_mean"))
            .orderBy("topic"))


def union(parts: Iterable[DataFrame]) -> DataFrame:
    """All of them below each other."""
    return reduce(DataFrame.unionByName, parts)


def main() -> None:
    """Show the cut, and how what arrived since is spread."""
    parser = arguments.parser("examples.pyspark_one_cycle",
                              "Open all tables of a bronze lake in Spark at one completed cycle.")
    parser.add_argument("--jars", type=Path, metavar="FOLDER",
                        help="jars of Delta Lake (and of S3A), for a Spark without them")
    given = parser.parse_args()
    lake, cut, after = arguments.opened(given)
    spark = session(given.jars)
    spark.sparkContext.setLogLevel("ERROR")
    rows = tables(spark, cut)
    contents(rows, tables(spark, cut, dlq=True)).show(len(cut.topics), truncate=False)
    skew(arrived(rows, lake, after, cut)).show(len(cut.topics), truncate=False)
    spark.stop()


if __name__ == "__main__":
    main()
