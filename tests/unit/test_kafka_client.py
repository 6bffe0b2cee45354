"""What the Kafka client is told: the service owns the offsets, and nothing jumps by itself."""

from __future__ import annotations

import pytest

from tests.fakes.config import make_config
from workers.kafka_source import _consumer_properties

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
