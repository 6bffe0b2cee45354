"""What the Kafka client is told: the service owns the offsets, and nothing jumps by itself."""

from __future__ import annotations

import pytest

from shared.layout import Retention
from tests.fakes.config import make_config
from workers.kafka_source import Kept, _consumer_properties, _kept

EXPECTED = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "allow.auto.create.topics": False,
    "check.crcs": True,
}
"""Each of these with its opposite would lose or double rows at a moment no test may meet."""


@pytest.mark.parametrize("name", EXPECTED)
def test_client_leaves_offsets_and_visibility_to_the_service(name: str) -> None:
    """The client's own defaults commit, jump to the end and read what was aborted."""
    assert _consumer_properties(make_config().limits)[name] == EXPECTED[name]


@pytest.mark.parametrize(("milliseconds", "size", "policy", "expected"), [
    ("604800000", "-1", "delete", Kept(Retention.TIME, 604_800_000)),
    ("604800000", "1000", "delete", Kept(Retention.TIME_OR_SIZE, 604_800_000)),
    ("604800000", "-1", "compact,delete", Kept(Retention.TIME, 604_800_000)),
    ("-1", "1000", "delete", Kept(Retention.SIZE)),
    ("-1", "-1", "delete", Kept(Retention.FOREVER)),
    ("604800000", "1000", "compact", Kept(Retention.FOREVER)),
    ("soon", "-1", "delete", Kept()), ("1", "-1", None, Kept()),
])
def test_settings_of_a_topic_say_when_its_messages_go(
    milliseconds: str, size: str, policy: str | None, expected: Kept
) -> None:
    """What cannot be read is not known, and no number."""
    settings = {"retention.ms": milliseconds, "retention.bytes": size}
    if policy is not None:
        settings["cleanup.policy"] = policy
    assert _kept(settings) == expected
