"""A small process that cleans up after a test session that can no longer do so itself.

A session may end by SIGKILL, by a time-out that calls ``os._exit`` or by a crash. No ``atexit``
function runs then, and the broker it started would live on. So the first service that starts
also starts this reaper. It is told of each process group, container and temporary folder over a
pipe. When the pipe ends, or when its parent is another process than at the start, it kills and
removes whatever it was told of and not told to forget.

A parent-death signal would do half of this on Linux only, and is sent when the *thread* that
started the child ends, which kills a broker that was restarted from a test's thread.

Two roles in one file: ``Reaper`` is the session's end of the pipe; run as a script, the file is
the other end, which needs nothing but the standard library unless it has containers to remove.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PARENT_CHECK_INTERVAL_S = 1.0
"""A forked child of the session can hold the pipe open, so the parent is looked at as well."""

KINDS = ("process_group", "container", "folder")
"""In this order they are removed: the writer first, then what it wrote."""


class Reaper:
    """Tells the reaper process what to remove if this process ends without doing so."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, kind: str, name: str | int) -> None:
        """Have the thing removed when this process ends; ``kind`` is one of ``KINDS``."""
        self._tell("watch", kind, name)

    def forget(self, kind: str, name: str | int) -> None:
        """Leave the thing alone from now on: it was removed already."""
        self._tell("forget", kind, name)

    def close(self) -> None:
        """End the reaper process; it removes first what it still watches."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process = None

    def _tell(self, verb: str, kind: str, name: str | int) -> None:
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}, not one of {', '.join(KINDS)}")
        if self._process is None:
            # Its own session, so that Ctrl-C at the terminal does not reach it.
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(os.getpid())],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        line = json.dumps([verb, kind, str(name)]) + "\n"
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()


def _main(parent_pid: int) -> None:
    watched: dict[str, list[str]] = {kind: [] for kind in KINDS}
    pending = b""
    while os.getppid() == parent_pid:
        readable, _, _ = select.select([0], [], [], PARENT_CHECK_INTERVAL_S)
        if not readable:
            continue
        chunk = os.read(0, 65_536)
        if not chunk:
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            verb, kind, name = json.loads(line)
            if verb == "watch":
                watched[kind].append(name)
            elif name in watched[kind]:
                watched[kind].remove(name)
    for kind, remove in zip(KINDS, (_kill_group, _remove_container, _remove_folder), strict=True):
        for name in watched[kind]:
            remove(name)


def _kill_group(process_group: str) -> None:
    try:
        os.killpg(int(process_group), signal.SIGKILL)
    except ProcessLookupError:
        pass


def _remove_container(container_id: str) -> None:
    import docker  # Only here: the reaper of local processes starts without it.

    try:
        docker.from_env().containers.get(container_id).remove(force=True, v=True)
    except docker.errors.DockerException as error:
        print(f"reaper: container {container_id} was not removed: {error}", file=sys.stderr)


def _remove_folder(folder: str) -> None:
    shutil.rmtree(Path(folder), ignore_errors=True)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
