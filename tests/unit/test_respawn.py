"""When a dead worker comes back: waits grow with deaths, and being recycled is none."""

from __future__ import annotations

import pytest

from shared.exit_codes import WorkerExit
from supervisor.respawn import RESPAWN_FIRST_S, RESPAWN_MAX_S, History, Respawn, after_death


def test_deaths_without_progress_wait_longer_and_longer() -> None:
    """The first one costs no wait, and there is a longest."""
    history, waits = History(), []
    for _ in range(10):
        fate = after_death(history, WorkerExit.FAILED, made_progress=False, jitter=0.5)
        history = fate.history
        waits.append(fate.delay_s)
    assert waits[:3] == [0.0, RESPAWN_FIRST_S, 2 * RESPAWN_FIRST_S]
    assert waits[-1] == RESPAWN_MAX_S


@pytest.mark.parametrize("history", [History(), History(3)])
@pytest.mark.parametrize("made_progress", [True, False])
def test_a_recycled_worker_comes_back_at_once_and_nothing_is_counted(
    history: History, made_progress: bool
) -> None:
    """It asked for it itself; what failed before is not forgiven by it either."""
    fate = after_death(history, WorkerExit.RECYCLED, made_progress=made_progress)
    assert fate == Respawn(0.0, history)


def test_a_stopped_topic_does_not_come_back() -> None:
    """A named error that no retry helps."""
    assert after_death(History(1), WorkerExit.TOPIC_STOPPED, made_progress=True) == Respawn(
        None, History(1))
