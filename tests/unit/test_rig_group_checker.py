"""The judge of group offsets, on a real broker and tables made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.conftest import TopicNames
from tests.rig.checker import Report, group_offsets_equal_txn, group_offsets_not_ahead
from tests.rig.toy_lake import ToyLake
from tests.services import KafkaService


def judge(kafka: KafkaService, lake: ToyLake) -> tuple[set[str], set[str]]:
    """What the strict and the lenient comparison find."""
    (topic,) = lake.topics

    def compare(how: object) -> Report:
        assert callable(how)
        report: Report = how(
            kafka.bootstrap, lambda name: f"{name}-group", str(lake.folder), None, {topic: 2}
        )
        assert report.checked == {"group offsets": 2}
        return report

    return compare(group_offsets_equal_txn).kinds(), compare(group_offsets_not_ahead).kinds()


@pytest.mark.parametrize(
    ("position", "committed", "equal", "ahead"),
    [
        (3, 3, set(), set()),
        (3, 2, {"group_offset_differs"}, set()),
        (3, 4, {"group_offset_differs"}, {"group_offset_ahead"}),
        (3, None, {"no_group_offset"}, set()),
        (0, None, set(), set()),
        (None, 4, {"no_position"}, {"group_offset_ahead"}),
    ],
)
def test_group_checker_compares_with_the_position(
    kafka: KafkaService,
    topic_names: TopicNames,
    tmp_path: Path,
    position: int | None,
    committed: int | None,
    equal: set[str],
    ahead: set[str],
) -> None:
    """The group may lag behind the table, and must never lead."""
    (topic,) = topic_names()
    kafka.create_topic(topic, 2)
    lake = ToyLake(tmp_path, topics=[topic], partitions=1 if position is None else 2)
    where = 1
    if position:
        lake.commit(f"bronze_{topic}", [], {where: position})
    if committed is not None:
        consumer = Consumer(
            {"bootstrap.servers": kafka.bootstrap, "group.id": f"{topic}-group"}
        )
        consumer.commit(offsets=[TopicPartition(topic, where, committed)], asynchronous=False)
        consumer.close()
    assert judge(kafka, lake) == (equal, ahead)
