"""A worker whose position moves although nothing becomes a row: the position is decided, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.config import GapPolicy
from shared.protocol import Vote
from tests.fakes.source import Entry
from tests.fakes.worker_rig import WorkerRig


@pytest.fixture
def rig(tmp_path: Path) -> WorkerRig:
    """Give a worker that has started and read two rows that are in the table."""
    made = WorkerRig(tmp_path)
    made.topic.add(0, b"{}", b"{}")
    made.start()
    assert made.cycle() is Vote.PREPARED
    assert (made.position(), made.landed()) == (2, [(0, 0), (0, 1)])
    return made


def test_control_records_alone_move_the_position(rig: WorkerRig) -> None:
    """Else an idle topic of transactions would look as if it lagged for ever."""
    rig.topic.append(0, *[Entry(control=True)] * 3)
    rig.turn()
    assert rig.cycle() is Vote.PREPARED
    assert rig.position() == 5
    assert rig.manifest.files == ()
    (part,) = rig.manifest.ranges
    assert (part.start, part.end, part.rows, part.absent) == (2, 5, 0, 3)
    assert rig.cycle() is Vote.EMPTY


def test_a_loss_is_named_although_no_message_has_come_since(tmp_path: Path) -> None:
    """Who waits for the next row to say so is silent as long as none comes."""
    rig = WorkerRig(tmp_path, gap_policy=GapPolicy.CONTINUE)
    rig.topic.add(0, *[b"{}"] * 2)
    rig.start()
    assert rig.cycle() is Vote.PREPARED
    rig.topic.add(0, *[b"{}"] * 3)
    rig.topic.firsts[0] = 5
    rig.turn(2)
    rig.rest()
    rig.turn()
    assert rig.cycle() is Vote.PREPARED
    (part,) = rig.manifest.ranges
    assert [(gap.start, gap.end) for gap in part.lost] == [(2, 5)]
    assert rig.position() == 5
