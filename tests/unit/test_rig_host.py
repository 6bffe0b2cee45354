"""The host that misbehaves on command does so to its own service alone, and recovery is measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.rig.host_shim import NAME, HostShim, Switch, compiler
from tests.rig.recovery import quantile
from tests.rig.service import Service
from tests.waiting import wait_until

TIMEOUT_S = 20
HOUR_S = 3600

ATTEMPTS = {
    Switch.CLOCK_OFFSET_NS: "import time; assert abs(time.time() - {now}) < 60",
    Switch.NO_NAMES: f"import socket; socket.getaddrinfo('{NAME}', 80)",
    Switch.NO_PROCESSES: "import subprocess; subprocess.run(['true'], check=True)",
    Switch.NO_THREADS: "import threading; threading.Thread(target=print).start()",
    Switch.NO_SPACE: "import os; os.posix_fallocate(os.memfd_create('test'), 0, 4096)",
}
"""What works on a host that is well, for each switch."""

SLEEPER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(600)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostShim]:
    """Give a host that misbehaves on command; skipped without a C compiler."""
    if compiler() is None:
        pytest.skip("no C compiler")
    with HostShim(tmp_path) as made:
        yield made


def attempt(host: HostShim, switch: Switch) -> bool:
    """Whether what a switch takes away works, in a process that the host may mislead."""
    code = ATTEMPTS[switch].format(now=time.time())
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **host.environment},
                          capture_output=True, timeout=TIMEOUT_S, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("switch", Switch)
def test_each_switch_takes_one_thing_away_counts_and_gives_it_back(
    host: HostShim, switch: Switch
) -> None:
    """A fault that was not counted may never have struck, and one that stays is no fault."""
    assert attempt(host, switch)
    assert host.struck(switch) == 0
    host.set(switch, HOUR_S * 10**9)
    assert not attempt(host, switch)
    struck = host.struck(switch)
    assert struck > 0
    assert all(attempt(host, other) for other in Switch if other is not switch)
    host.clear()
    assert attempt(host, switch)
    assert host.struck(switch) >= struck


def test_frozen_service_stands_still_as_a_whole_and_goes_on(tmp_path: Path) -> None:
    """Every process, children of children included, and nobody of others."""
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    with Service({}, module="sleeper", folder=tmp_path) as service:
        wait_until(lambda: len(service.all_pids()) == 2, TIMEOUT_S, "both run")
        frozen = service.freeze()
        assert sorted(frozen) == sorted(service.all_pids())
        assert {psutil.Process(pid).status() for pid in frozen} == {psutil.STATUS_STOPPED}
        service.thaw()
        assert psutil.STATUS_STOPPED not in {psutil.Process(pid).status() for pid in frozen}
        service.freeze()
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() == psutil.STATUS_STOPPED
                   for pid in frozen)


def test_output_goes_where_the_test_wants_it(tmp_path: Path) -> None:
    """A test of what happens behind a pipe holds its other end."""
    (tmp_path / "speaker.py").write_text("print('spoken')")
    reader, writer = os.pipe()
    try:
        with Service({}, module="speaker", folder=tmp_path, stderr=writer) as service:
            assert service.wait(TIMEOUT_S) == 0
            assert os.read(reader, 100) == b"spoken\n"
            assert service.log_tail() == ""
    finally:
        os.close(reader)
        os.close(writer)


def test_quantile_is_a_value_that_was_measured() -> None:
    """Of twenty the nineteenth; of few the largest, so that few can not look better than many."""
    assert quantile(range(1, 21)) == 19
    assert quantile([3.0, 1.0, 2.0]) == 3.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
