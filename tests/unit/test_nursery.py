"""The forkserver that is a fork of the supervisor: it waits, serves, outlives refusals, and ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from supervisor.process_environment import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60

GAPS_BYTES_MAX = 320_000
FIRST_CAST_BYTES_MAX = 450_000

CHILD = """
import json, sys
from pathlib import Path
import pyarrow as pa
from workers.pages import fill_gaps

def own_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

gaps = fill_gaps()
own_bytes()
before = own_bytes()
pa.array([b""], pa.binary()).cast(pa.string())
Path(__file__).with_suffix(".json").write_text(json.dumps({
    "gaps_bytes": sum(map(sys.getsizeof, gaps)),
    "first_cast_bytes": own_bytes() - before}))
"""

PRELUDE = """
import json, os, runpy, signal, sys, time
from pathlib import Path
import multiprocess, psutil
refusing = Path(sys.argv[1])
real_fork = os.fork
def fork():
    if refusing.exists():
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real_fork()
os.fork = fork
from supervisor import fleet
from supervisor.nursery import Nursery
fleet._do_without_tracker()
inherited = os.open("/dev/zero", os.O_RDONLY)
nursery = Nursery.fork()
(server,) = psutil.Process().children()
context = multiprocess.get_context("forkserver")
begun = []
def begin():
    process = context.Process(target=time.sleep, args=(600,), daemon=True)
    process.start()
    begun.append(process)
    return process
def kill_server():
    server.kill()
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)  # multiprocess reaps it
def count_descriptors():
    before, now = -1, server.num_fds()
    while now != before:  # it closes what it was sent a moment after the asker has its answer
        time.sleep(0.3)
        before, now = now, server.num_fds()
    return now
def tell(**facts):
    print(json.dumps(facts), flush=True)
    for process in begun:
        os.kill(process.pid, signal.SIGKILL)  # process.kill() spares one whose forkserver is gone
    os._exit(0)
"""


def run(script: str, tmp_path: Path, **environ: str) -> dict[str, Any]:
    """Run a supervisor of a few lines in a process of its own; what it tells."""
    found = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, str(tmp_path / "refusing")], cwd=ROOT,
        env={**os.environ, **environ}, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False)
    assert found.returncode == 0, found.stderr
    told: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return told


def gone(pid: int) -> None:
    """Wait for a process' end."""
    try:
        psutil.Process(pid).wait(TIMEOUT_S)
    except psutil.NoSuchProcess:
        pass


def test_a_forkserver_that_is_never_opened_imports_nothing_and_ends_with_its_parent(
    tmp_path: Path,
) -> None:
    """A start that ends over its configuration leaves nobody behind."""
    told = run("tell(server=server.pid, maps='pyarrow' in str(server.memory_maps()))", tmp_path)
    assert told["maps"] is False
    gone(told["server"])


def test_processes_come_from_it_and_it_leaves_with_the_last_of_them(tmp_path: Path) -> None:
    """They find the workers' libraries there, and it shows itself as what it is."""
    told = run("""
def target(path):
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""  # Closed while we looked.

nursery.open()
process = begin()
tell(server=server.pid, command=" ".join(server.cmdline()), environ=server.environ(),
     parent=psutil.Process(process.pid).ppid(),
     descriptors=[target(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()],
     maps='pyarrow' in str(psutil.Process(process.pid).memory_maps()))
""", tmp_path, CANARY="canary-of-the-environment")
    assert told["parent"] == told["server"]
    assert "multiprocess.forkserver" in told["command"]
    assert told["environ"] == {}
    assert told["maps"] is True
    assert told["descriptors"] and "/dev/zero" not in told["descriptors"]
    gone(told["server"])


def test_no_library_starts_a_thread_in_it(tmp_path: Path) -> None:
    """A thread does not live on in a fork, but a lock that it holds stays locked there."""
    told = run("""
nursery.open()
begin()
tell(threads=[Path(f"/proc/{server.pid}/task/{thread.id}/comm").read_text().strip()
              for thread in server.threads()])
""", tmp_path, **SETTINGS)
    assert len(told["threads"]) == 1, told["threads"]


def test_what_a_worker_writes_to_lies_together(tmp_path: Path) -> None:
    """Gaps in the forkserver's pools (460 kB, not 200) would strew a worker's objects over pages to
    copy, and Arrow's tables would be made in each, at the first cast (600 kB, not 310)."""
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    told = run(f"""
nursery.open()
process = context.Process(target=runpy.run_path, args=({str(child)!r},))
process.start()
process.join()
tell(**json.loads(Path({str(child.with_suffix(".json"))!r}).read_text()))
""", tmp_path, **SETTINGS)
    assert told["gaps_bytes"] <= GAPS_BYTES_MAX, told
    assert told["first_cast_bytes"] <= FIRST_CAST_BYTES_MAX


def test_a_killed_forkserver_is_replaced_by_the_next_request(tmp_path: Path) -> None:
    """The supervisor has threads by then and cannot fork another one; a program can be started."""
    told = run("""
nursery.open()
begin()
kill_server()
process = begin()
tell(killed=server.pid, parent=psutil.Process(process.pid).ppid(), lives=process.is_alive())
""", tmp_path)
    assert told["lives"] is True
    assert told["parent"] != told["killed"]


def test_one_killed_before_it_was_opened_is_replaced_as_well(tmp_path: Path) -> None:
    """Nothing of the start may hang on it."""
    told = run("""
kill_server()
nursery.open()
tell(lives=begin().is_alive())
""", tmp_path)
    assert told["lives"] is True


def test_a_refused_process_costs_the_others_nothing(tmp_path: Path) -> None:
    """The topics that run go on, and the one that is asked for again later comes."""
    told = run("""
nursery.open()
first = begin()
refusing.touch()
errors = []
descriptors = count_descriptors()
for _ in range(3):
    try:
        begin()
    except (OSError, EOFError) as error:
        errors.append(type(error).__name__)
left = count_descriptors() - descriptors
refusing.unlink()
second = begin()
tell(errors=errors, left=left, lives=[first.is_alive(), second.is_alive()],
     parents=[psutil.Process(process.pid).ppid() for process in (first, second)],
     server=server.pid)
""", tmp_path)
    assert len(told["errors"]) == 3
    assert told["left"] == 0
    assert told["lives"] == [True, True]
    assert told["parents"] == [told["server"]] * 2
