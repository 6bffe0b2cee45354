"""A host that refuses processes or descriptors costs a wait, never the supervisor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shared.block import Block
from shared.exit_codes import WorkerExit
from shared.layout import Order, Report
from supervisor.fleet import SPAWN_RETRY_S, Fleet
from supervisor.sidecar import Sidecar
from tests.fakes.clock import FakeClock
from tests.fakes.config import make_config

REFUSALS = [OSError(11, "Resource temporarily unavailable"), EOFError()]


class RefusedProcess:
    """A process that the host does not give."""

    pid = None
    refusal: Exception = EOFError()

    def __init__(self, **facts: Any) -> None:
        """Take whatever a process takes."""

    def start(self) -> None:
        """Be refused."""
        raise self.refusal


class BornProcess(RefusedProcess):
    """A process that runs, as far as its parent can tell."""

    killed = 0

    def start(self) -> None:
        """Run."""
        self.pid = os.getpid()  # type: ignore[assignment]

    def kill(self) -> None:
        """Be killed."""
        type(self).killed += 1


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Give a fleet of one topic."""
    block = Block.create(tmp_path / "block", 1, b"{}")
    return Fleet(make_config(), str(tmp_path / "block"), {"orders": block.slot(0)}, FakeClock())


def use(monkeypatch: pytest.MonkeyPatch, fleet: Fleet, process: type[RefusedProcess]) -> None:
    """Let the fleet make such processes."""
    monkeypatch.setattr(fleet._context, "Process", process)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_worker_is_tried_again_later(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    """The forkserver that may not fork ends, and its parent reads the end of a file."""
    use(monkeypatch, fleet, RefusedProcess)
    monkeypatch.setattr(RefusedProcess, "refusal", refusal)
    assert fleet.spawn_due(0.0, lambda topic: True) == []
    assert fleet.alive == 0
    use(monkeypatch, fleet, BornProcess)
    assert fleet.spawn_due(SPAWN_RETRY_S / 2, lambda topic: True) == []
    assert fleet.spawn_due(SPAWN_RETRY_S * 2, lambda topic: True) == ["orders"]
    assert fleet.alive == 1


def test_a_worker_without_a_descriptor_to_watch_it_is_killed_and_tried_again(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would notice its end."""
    def refuse(pid: int) -> int:
        raise OSError(24, "Too many open files")

    use(monkeypatch, fleet, BornProcess)
    monkeypatch.setattr(os, "pidfd_open", refuse)
    before = BornProcess.killed
    assert fleet.spawn_due(0.0, lambda topic: True) == []
    assert (fleet.alive, BornProcess.killed) == (0, before + 1)


class DeadChild:
    """A worker that has ended, told by `make_certain`."""

    is_over = True
    commits_at_birth = 0

    def __init__(self, exit_code: int) -> None:
        self._exit_code = exit_code

    def make_certain(self) -> int:
        """Its exit code."""
        return self._exit_code


@pytest.mark.parametrize(("exit_code", "recycled"), [
    (WorkerExit.FAILED, 0), (-9, 0), (WorkerExit.RECYCLED, 1)])
def test_what_a_dead_worker_had_borrowed_is_given_back(
    fleet: Fleet, exit_code: int, recycled: int
) -> None:
    """The others wait for it, and nobody else would tell them."""
    (berth,) = fleet._berths.values()
    berth.slot.set_report(Report.BORROWED, 7)
    berth.slot.set_report(Report.LOAN_WAITED_NS, 8)
    berth.child = DeadChild(exit_code)  # type: ignore[assignment]
    (death,) = fleet.reap(5.0)
    assert (death.exit_code, death.returns, berth.respawn_at) == (exit_code, True, 5.0)
    assert berth.slot.report(Report.BORROWED) == berth.slot.report(Report.LOAN_WAITED_NS) == 0
    assert berth.slot.order(Order.RECYCLED) == recycled


def test_being_recycled_is_neither_a_restart_nor_an_error(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alerts on either would fire for a service that is well."""
    (berth,) = fleet._berths.values()
    use(monkeypatch, fleet, BornProcess)
    for exit_code in (WorkerExit.RECYCLED, WorkerExit.FAILED, WorkerExit.RECYCLED):
        berth.respawn_at = 0.0
        fleet.spawn_due(0.0, lambda topic: True)
        berth.slot.verdict.clear()
        berth.child = DeadChild(exit_code)  # type: ignore[assignment]
        (death,) = fleet.reap(0.0)
        fleet.tell_death(death)
        assert (berth.slot.verdict.read() is None) == (exit_code == WorkerExit.RECYCLED)
    fleet.spawn_due(0.0, lambda topic: True)
    assert berth.slot.order(Order.INCARNATION) == 4
    assert (berth.slot.order(Order.RESTARTS), berth.slot.order(Order.RECYCLED)) == (1, 2)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_recovery_is_tried_again_later(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    """A topic that is configured no more must not end the others."""
    use(monkeypatch, fleet, RefusedProcess)
    monkeypatch.setattr(RefusedProcess, "refusal", refusal)
    fleet.start_recoveries(frozenset({"gone"}), 0.0)
    assert fleet.alive == 0
    use(monkeypatch, fleet, BornProcess)
    fleet.start_recoveries(frozenset({"gone"}), SPAWN_RETRY_S / 2)
    assert fleet.alive == 0
    fleet.start_recoveries(frozenset({"gone"}), SPAWN_RETRY_S)
    assert fleet.alive == 1


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refused_sidecar_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    """Ingestion never depends on the page."""
    tries = []

    class Refused(RefusedProcess):
        def start(self) -> None:
            tries.append(self)
            raise refusal

    sidecar = Sidecar(make_config(), "/nowhere", 0)
    monkeypatch.setattr(sidecar._context, "Process", Refused)
    for turn in range(100):
        sidecar.tend(turn * 0.001)
    assert len(tries) == 2, "the first death costs no wait, the second does"
    sidecar.tend(1000.0)
    assert len(tries) == 3
    assert (sidecar.waitables(), sidecar.restarts) == ([], -1)


def test_the_sidecar_is_told_no_more_than_where_to_look_and_to_listen(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers strangers, so nothing of the configuration may travel to it."""
    told: list[Any] = []

    class Told(RefusedProcess):
        def __init__(self, **facts: Any) -> None:
            told.append(facts["args"])

    sidecar = Sidecar(make_config(), "/run/block", 8081)
    monkeypatch.setattr(sidecar._context, "Process", Told)
    sidecar.tend(0.0)
    assert told == [([
        "--block", "/run/block", "--host", "127.0.0.1", "--port", "8081",
        "--log-level", "INFO", "--log-format", "json"],)]
