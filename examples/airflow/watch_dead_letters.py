"""An Airflow DAG that fails when a topic has more dead letters than it may.

Every ten minutes it asks the lake's ledger what the cycles of the last hour brought.  A topic over
the limit fails its task, with a message for whoever is called: how many, of which kinds, the
newest errors, and what to do.  Put the file into the DAGs folder, install `bronze_reader` beside
Airflow, set LAKE_URI (and a store's AWS_ variables) for the workers.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from bronze_reader import Cut, Lake

NEWEST_SHOWN = 3
TO_DO = """\
To do: ask the topic's producers what changed; the table has the original bytes.
Messages that were good after all: `python -m supervisor dlq --help` shows how to replay them."""


@dag(
    schedule="*/10 * * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False,
    max_active_runs=1, tags=["bronze"],
    params={
        "lake": Param(os.environ.get("LAKE_URI"), type=["null", "string"],
                      description="A folder, or s3://bucket/prefix"),
        "limit": Param(10, type="integer", minimum=0, description="Dead letters a topic may have"),
        "minutes": Param(60, type="integer", minimum=1, description="… in so many minutes"),
    })
def watch_dead_letters() -> None:
    """One task per topic, so that each is red or green by itself."""

    @task(retries=2, retry_delay=timedelta(minutes=1))
    def topics(params: Any = None) -> list[str]:
        """Every topic that has ever brought something."""
        return list(_lake(params).cut().topics)

    @task(retries=2, retry_delay=timedelta(minutes=1))
    def look(topic: str, params: Any = None) -> None:
        """Fail where the topic is over its limit; that is no reason to try again."""
        since = datetime.now(UTC) - timedelta(minutes=params["minutes"])
        said = alarm(_lake(params), topic, params["limit"], since)
        if said:
            raise AirflowFailException(said)

    look.expand(topic=topics())


def alarm(lake: Lake, topic: str, limit: int, since: datetime) -> str | None:
    """What to tell of the topic; None while it is within its limit."""
    after, until = _before(lake, since), lake.cut()
    classes: Counter[str] = Counter()
    for arrival in lake.between(after, until):
        if arrival.topic == topic:
            classes.update(arrival.error_classes)
    if classes.total() <= limit:
        return None
    kinds = ", ".join(f"{kind} {count}" for kind, count in classes.most_common())
    behind = "in all" if after is None else f"since cycle {after.cycle_id}"
    return (f"topic {topic}: {classes.total()} dead letters {behind}, the limit is {limit}: {kinds}"
            f"\nNewest in {until.uri(topic, dlq=True)}, version {until.version(topic, dlq=True)}:"
            f"\n{_newest(lake, topic, after, until)}\n{TO_DO}")


def _lake(params: Any) -> Lake:
    # Inside the tasks: Airflow parses this file every few seconds, and needs neither library there.
    from bronze_reader import Lake

    if not params["lake"]:
        raise AirflowFailException("no lake is named: set LAKE_URI, or the parameter `lake`")
    return Lake(params["lake"])


def _before(lake: Lake, moment: datetime) -> Cut | None:
    """The last cycle that was complete then; None where the lake is younger."""
    from bronze_reader import CycleNotFound

    try:
        return lake.cut(at=moment)
    except CycleNotFound:
        return None


def _newest(lake: Lake, topic: str, after: Cut | None, until: Cut) -> str:
    """The newest errors, a line each; not the messages, which may hold anything."""
    rows = lake.rows_between(topic, after, until, dlq=True).read_all().select(
        ["_ingested_at", "_kafka_partition", "_kafka_offset", "error_class", "error_message"])
    newest = rows.sort_by([("_ingested_at", "descending"), ("_kafka_offset", "descending")])
    return "\n".join(
        f"  partition {row['_kafka_partition']} offset {row['_kafka_offset']}:"
        f" {row['error_class']}: {row['error_message']}"
        for row in newest.slice(0, NEWEST_SHOWN).to_pylist())


watch_dead_letters()
