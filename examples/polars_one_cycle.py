"""All tables of a bronze lake as LazyFrames of Polars, at one completed cycle.

    python -m examples.polars_one_cycle .demo/lake                       # the newest cycle
    python -m examples.polars_one_cycle s3://lake/bronze --cycle 4711 --since 4700

It tells per topic what the tables hold, and of what arrived which keys came most often: what a
producer that runs wild looks like.
"""

from __future__ import annotations

import polars as pl

from bronze_reader import Cut, Lake, sql_condition
from examples import arguments

KEYS_SHOWN = 5
WIDTH = 400
"""Of what is printed: the name of a topic has up to 249 characters."""


def frames(cut: Cut, *, dlq: bool = False) -> dict[str, pl.LazyFrame]:
    """Topic -> its table at the cut; nothing is read before `collect`."""
    return {topic: pl.scan_delta(cut.uri(topic, dlq=dlq), version=cut.version(topic, dlq=dlq))
            for topic in cut.topics}


def contents(cut: Cut) -> pl.DataFrame:
    """One line per topic: what its tables hold at the cut."""
    rows, dead = frames(cut), frames(cut, dlq=True)
    return pl.concat(pl.collect_all(
        rows[topic].select(
            topic=pl.lit(topic), rows=pl.len(), keys=pl.col("key").drop_nulls().n_unique(),
            newest_message=pl.col("_kafka_timestamp").max(),
        ).join(dead[topic].select(dead_letters=pl.len()), how="cross")
        for topic in cut.topics))


def arrived(lake: Lake, after: Cut | None, cut: Cut) -> pl.LazyFrame:
    """The rows of all topics that came behind `after`, found by their offsets."""
    return pl.concat([
        frame.filter(pl.sql_expr(sql_condition(lake.spans_between(topic, after, cut))))
        .with_columns(topic=pl.lit(topic))
        for topic, frame in frames(cut).items()])


def busiest(rows: pl.LazyFrame) -> pl.DataFrame:
    """The keys that came most often, with the topic and their share of its rows."""
    return (
        rows.group_by("topic", "key").agg(rows=pl.len())
        .with_columns(share=pl.col("rows") / pl.col("rows").sum().over("topic"))
        .filter(pl.col("key").is_not_null())
        .with_columns(pl.col("key").map_elements(shown, return_dtype=pl.String))
        .sort("rows", "topic", "key", descending=[True, False, False])
        .head(KEYS_SHOWN).collect())


def shown(key: bytes) -> str:
    """A key as text; Kafka's are bytes, of any kind."""
    return key.decode(errors="backslashreplace")


def main() -> None:
    """Show the cut, and the keys of what arrived since."""
    given = arguments.parser(
        "examples.polars_one_cycle",
        "Open all tables of a bronze lake in Polars at one completed cycle.").parse_args()
    lake, cut, after = arguments.opened(given)
    new = arrived(lake, after, cut)
    with pl.Config(tbl_rows=-1, tbl_width_chars=WIDTH, fmt_str_lengths=WIDTH,
                   tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True):
        print(contents(cut))
        print(new.group_by("topic").agg(new_rows=pl.len()).sort("topic").collect())
        print(busiest(new))


if __name__ == "__main__":
    main()
