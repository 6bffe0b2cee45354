"""All tables of a bronze lake as views in DuckDB, at one completed cycle.

    python -m examples.duckdb_one_cycle .demo/lake                       # the newest cycle
    python -m examples.duckdb_one_cycle s3://lake/bronze --cycle 4711 --since 4700
    python -m examples.duckdb_one_cycle .demo/lake --at 2026-11-28T12:00:00 \\
        --sql "select count(*) from bronze_orders where value->>'status' = 'paid'"

A cycle is committed table by table, so two tables that are read one after the other may show two
instants.  These views all show the same one, however long the session lasts.
"""

from __future__ import annotations

import sys

import duckdb

from bronze_reader import Cut, Lake, sql_condition
from examples import arguments

WIDTH = 400
"""Of what is printed: the name of a topic has up to 249 characters."""


def connect(cut: Cut) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory with each topic's two tables at the cut; nothing is read yet."""
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    for topic in cut.topics:
        connection.register(f"bronze_{topic}", cut.dataset(topic))
        connection.register(f"dlq_bronze_{topic}", cut.dataset(topic, dlq=True))
    return connection


def contents(connection: duckdb.DuckDBPyConnection, cut: Cut) -> duckdb.DuckDBPyRelation:
    """One line per topic: what its tables hold at the cut."""
    return connection.sql(" union all ".join(
        f"""select '{topic}' as topic, count(*) as rows, count(distinct key) as keys,
                (select count(*) from "dlq_bronze_{topic}") as dead_letters,
                max(_kafka_timestamp) as newest_message
            from "bronze_{topic}\"""" for topic in cut.topics) + " order by topic")


def arrived(
    connection: duckdb.DuckDBPyConnection, lake: Lake, after: Cut | None, cut: Cut,
) -> duckdb.DuckDBPyRelation:
    """One line per topic: what came behind `after`; found by its offsets, not by its files."""
    new = {topic: sql_condition(lake.spans_between(topic, after, cut)) for topic in cut.topics}
    return connection.sql(" union all ".join(
        f"""select '{topic}' as topic, count(*) as new_rows, count(distinct key) as keys_touched,
                (select count(*) from "dlq_bronze_{topic}" where {new[topic]}) as new_dead_letters
            from "bronze_{topic}" where {new[topic]}""" for topic in cut.topics)
        + " order by topic")


def main() -> None:
    """Show the cut, what arrived since, and what the given query answers on it."""
    parser = arguments.parser("examples.duckdb_one_cycle",
                              "Open all tables of a bronze lake in DuckDB at one completed cycle.")
    parser.add_argument("--sql", help="a query on the views bronze_TOPIC and dlq_bronze_TOPIC")
    given = parser.parse_args()
    lake, cut, after = arguments.opened(given)
    connection = connect(cut)
    contents(connection, cut).show(max_width=WIDTH)
    arrived(connection, lake, after, cut).show(max_width=WIDTH)
    if given.sql:
        try:
            connection.sql(given.sql).show(max_width=WIDTH)
        except duckdb.Error as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
