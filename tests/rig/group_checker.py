"""Holds the consumer group's committed offsets against the positions in the bronze tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from tests.rig.lake import bronze_table, table_uri
from tests.rig.readers import DeltalakeReader, TableMissing
from tests.rig.report import Report

REQUEST_TIMEOUT_S = 30
POSITION_PREFIX = "bronze"

GroupOf = str | Callable[[str], str]
"""The group's id, or a function that gives it for a topic."""


def group_offsets_equal_txn(
    kafka_bootstrap: str,
    group: GroupOf,
    lake_uri: str,
    storage_options: Mapping[str, str] | None,
    topics: Mapping[str, int] | Iterable[str],
) -> Report:
    """Hold every committed offset against the table: they must be equal (service at rest).

    A partition from which nothing was ever read needs no committed offset.

    Args:
        topics: names, or names with their number of partitions. Without numbers the partitions
            are those that the group or the table knows.

    Kinds: no_group_offset, group_offset_differs, no_position.
    """
    return _compare(kafka_bootstrap, group, lake_uri, storage_options, topics, must_equal=True)


def group_offsets_not_ahead(
    kafka_bootstrap: str,
    group: GroupOf,
    lake_uri: str,
    storage_options: Mapping[str, str] | None,
    topics: Mapping[str, int] | Iterable[str],
) -> Report:
    """Hold every committed offset against the table: it may lag and must never lead.

    May be asked at any moment: the group is read first, and positions only ever rise.

    Kinds: group_offset_ahead.
    """
    return _compare(kafka_bootstrap, group, lake_uri, storage_options, topics, must_equal=False)


def _compare(
    bootstrap: str,
    group: GroupOf,
    lake_uri: str,
    options: Mapping[str, str] | None,
    topics: Mapping[str, int] | Iterable[str],
    *,
    must_equal: bool,
) -> Report:
    report = Report()
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    partitions = topics if isinstance(topics, Mapping) else dict.fromkeys(topics, 0)
    names = {topic: group if isinstance(group, str) else group(topic) for topic in partitions}
    # All groups before any table: read the other way round, an honest service looks ahead.
    offsets = {name: _group_offsets(admin, name) for name in set(names.values())}
    for topic, count in partitions.items():
        committed = {
            number: offset
            for (name, number), offset in offsets[names[topic]].items()
            if name == topic
        }
        numbers = set(range(count)) | set(committed)
        positions = _positions(lake_uri, options, topic, numbers)
        for number in sorted(numbers):
            report.checked["group offsets"] += 1
            where = f"{topic}/{number} of group {names[topic]}"
            _judge(report, where, committed.get(number), positions.get(number), must_equal)
    return report


def _judge(
    report: Report, where: str, offset: int | None, position: int | None, must_equal: bool
) -> None:
    """Compare one partition's committed offset with its position."""
    if not must_equal:
        if offset is not None and offset > (position or 0):
            report.add("group_offset_ahead", where, f"committed {offset}, table {position}")
    elif position is None:
        report.add("no_position", where, f"committed {offset}, the table has no position")
    elif offset is None:
        if position > 0:
            report.add("no_group_offset", where, f"table {position}")
    elif offset != position:
        report.add("group_offset_differs", where, f"committed {offset}, table {position}")


def _group_offsets(admin: AdminClient, group: str) -> dict[tuple[str, int], int]:
    """Every offset that the group has committed."""
    request = ConsumerGroupTopicPartitions(group)
    answers = admin.list_consumer_group_offsets([request], request_timeout=REQUEST_TIMEOUT_S)
    found = answers[group].result(timeout=REQUEST_TIMEOUT_S).topic_partitions
    return {
        (where.topic, where.partition): where.offset for where in found if where.offset >= 0
    }


def _positions(
    lake_uri: str, options: Mapping[str, str] | None, topic: str, numbers: Iterable[int]
) -> dict[int, int]:
    """Per partition the position in the bronze table; none without the table."""
    try:
        table = DeltalakeReader(options).table(table_uri(lake_uri, bronze_table(topic)))
    except TableMissing:
        return {}
    found = {
        number: table.transaction_version(f"{POSITION_PREFIX}/{topic}/{number}")
        for number in numbers
    }
    return {number: version for number, version in found.items() if version is not None}
