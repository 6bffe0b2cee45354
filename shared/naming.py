"""Names in the lake: tables, positions, records.  Each of them is read by other tools: fixed.

    <lake>/bronze_{topic}/          one row per message
    <lake>/dlq_bronze_{topic}/      malformed messages, original bytes
    <lake>/bronze_cycles/           the ledger: one row per cycle and topic
    <lake>/dlq_replays/             one row per dead letter that was replayed
    <lake>/_bronze/log/{number:020d}.json   start and cycle records
    <lake>/_bronze/tables/{table}.json      this table was made once
    <lake>/_bronze/replays/{topic}/{number:020d}.json   decided replays of dead letters
    <lake>/rewind_{name}_bronze_{topic}/    what a rewind has read again, and its dead letters
    <lake>/rewind_{name}_dlq_bronze_{topic}/
    <lake>/_bronze/rewinds/{name}/{topic}/  its plan and its records
    <lake>/_bronze/lineage.json             which cycles have been told of as lineage

Kafka's legal topic names (letters, digits, `.`, `_`, `-`) are safe as one path segment, so a
table's name holds its topic's verbatim.  Kafka allows 249 characters; file systems and MinIO allow
255 in one name, so ten fewer are left beside what we put around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LOG_PREFIX = "_bronze/log/"
CERTIFICATES = "_bronze/tables/"
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


REPLAYS = "dlq_replays"
"""The table of replayed dead letters.  No topic has one of this name: a topic's begin with
`bronze_` or `dlq_bronze_`."""


def replay_app_id(topic: str) -> str:
    """The `txn` app id whose version is the last replay that is in a table."""
    return f"bronze/{topic}/replay"


def replays_prefix(topic: str) -> str:
    """Where a topic's replays lie under the lake."""
    return f"_bronze/replays/{topic}/"


def replay_path(topic: str, number: int) -> str:
    """Where replay `number` of a topic lies under the lake; the first one is 1."""
    return f"{replays_prefix(topic)}{number:020d}.json"


REWINDS_PREFIX = "_bronze/rewinds/"
_REWIND_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
"""Without `_`, so that a table's name says which part of it is the rewind's."""


def is_rewind_name(name: str) -> bool:
    """Whether a rewind may be called so."""
    return _REWIND_NAME.fullmatch(name) is not None


def rewind_prefix(name: str) -> str:
    """What stands before the usual names of a topic's tables in those of a rewind's."""
    return f"rewind_{name}_"


def rewind_name_characters_max(topic: str) -> int:
    """Of a rewind's name, so that the longest name made of it fits beside the topic's."""
    return NAME_CHARACTERS_MAX - len(rewind_prefix("")) - len(topic)


def rewind_folders(name: str) -> str:
    """Where the folders of all topics' rewinds of that name lie under the lake."""
    return f"{REWINDS_PREFIX}{name}/"


def rewind_folder(name: str, topic: str) -> str:
    """Where a topic's plan and records lie there."""
    return f"{rewind_folders(name)}{topic}/"


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
    """The number in a record's or a replay's path, or None for a stranger's file in our folder."""
    stem = path.rsplit("/", 1)[-1].removesuffix(".json")
    return int(stem) if len(stem) == 20 and stem.isdigit() else None


def record_numbers(paths: Iterable[str]) -> list[int]:
    """The numbers in the paths of a listing, ascending, strangers' files left out."""
    found = map(record_number, paths)
    return sorted(number for number in found if number is not None)


def birth_certificate(table: str) -> str:
    """The object that says a table was made once, so that a vanished one is not made anew."""
    return f"{CERTIFICATES}{table}.json"
