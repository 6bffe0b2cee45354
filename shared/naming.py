"""Names in the lake: tables, positions, records.  Each of them is read by other tools: fixed.

    <lake>/bronze_{topic}/          one row per message
    <lake>/dlq_bronze_{topic}/      malformed messages, original bytes
    <lake>/bronze_cycles/           the ledger: one row per cycle and topic
    <lake>/_bronze/log/{number:020d}.json   start and cycle records
    <lake>/_bronze/tables/{table}.json      this table was made once
    <lake>/_bronze/lineage.json             which cycles have been told of as lineage

Kafka's legal topic names (letters, digits, `.`, `_`, `-`) are safe as one path segment, so a
table's name holds its topic's verbatim.  Kafka allows 249 characters; file systems and MinIO allow
255 in one name, so ten fewer are left beside what we put around it.
"""

from __future__ import annotations

LOG_PREFIX = "_bronze/log/"
LINEAGE_POSITION = "_bronze/lineage.json"
NAME_CHARACTERS_MAX = 255 - len("dlq_bronze_") - len(".json")
"""Of a topic, so that the longest name made of it, its dead letter table's certificate, fits."""


def bronze_table(topic: str) -> str:
    """The bronze table's folder under the lake."""
    return f"bronze_{topic}"


def dlq_table(topic: str) -> str:
    """The dead letter table's folder under the lake."""
    return f"dlq_bronze_{topic}"


LEDGER_TOPIC = "cycles"
"""No topic may be called so: its table would be the ledger."""
LEDGER = bronze_table(LEDGER_TOPIC)
LEDGER_APP_ID = "bronze/cycles"
"""The `txn` app id whose version is the next record that belongs into the ledger."""


def position_app_id(topic: str, partition: int) -> str:
    """The `txn` app id whose version is a partition's next_offset.

    Without group or instance: the table belongs to the topic, whoever writes it, so a zombie of
    any kind meets the same compare-and-set.
    """
    return f"bronze/{topic}/{partition}"


def topic_id_app_id(topic: str, topic_id: str) -> str:
    """The `txn` app id that marks a table as begun for this very creation of the topic."""
    return f"bronze/{topic}/id/{topic_id}"


def record_path(number: int) -> str:
    """Where record `number` lies under the lake."""
    return f"{LOG_PREFIX}{number:020d}.json"


def record_number(path: str) -> int | None:
    """The number in a record's path, or None for a stranger's file in our folder."""
    stem = path.rsplit("/", 1)[-1].removesuffix(".json")
    return int(stem) if len(stem) == 20 and stem.isdigit() else None


def birth_certificate(table: str) -> str:
    """The object that says a table was made once, so that a vanished one is not made anew."""
    return f"_bronze/tables/{table}.json"
