"""A bare Debian tree with systemd as its first process, and a root shell in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil

from tests.waiting import wait_until

TREE_S, BOOT_S, COMMAND_S, STOP_S = 900, 60, 600, 30
RELEASE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
ADDED = "systemd,systemd-sysv,dbus"
"""What every Debian that boots has, and a tree for containers has not."""
NEEDED = ("debootstrap", "systemd-nspawn", "nsenter")


def missing_tools() -> list[str]:
    """What this host lacks."""
    return [tool for tool in NEEDED if shutil.which(tool, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def make_tree(folder: Path, mirror: str = MIRROR) -> None:
    """Install a minimal Debian into `folder`; raises CalledProcessError."""
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={ADDED}", RELEASE, str(folder), mirror],
        check=True, timeout=TREE_S, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": _path()})


class Machine:
    """The tree, booted; it shares the host's network, so it reaches the test's services."""

    def __init__(self, tree: Path, environ: Mapping[str, str]) -> None:
        """environ: of every command, for example what pip needs at this place."""
        self._tree, self._environ = tree, dict(environ)
        self._boot: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        """Boot it."""
        self._boot = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot",
             "--console=pipe", f"--directory={self._tree}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True)
        try:
            wait_until(self._has_booted, BOOT_S, "systemd is up in the tree")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Switch it off."""
        self._stop()

    def run(self, commands: str, stdin: str = "") -> str:
        """Type commands into a root shell; what they print.  The first that fails ends it.

        Raises AssertionError.
        """
        done = self._nsenter(["bash", "-euo", "pipefail", "-c", commands], stdin)
        assert done.returncode == 0, (
            f"exit {done.returncode} of:\n{commands}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def _nsenter(self, command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                   "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
                   **self._environ}
        return subprocess.run(
            ["nsenter", f"--target={self._leader()}", "--mount", "--uts", "--ipc", "--pid",
             "--cgroup", "env", "--chdir=/root", *command],
            input=stdin, env=environ, capture_output=True, text=True, timeout=COMMAND_S,
            check=False)

    def _leader(self) -> int:
        """The pid of the tree's first process, as this host sees it."""
        assert self._boot is not None
        (child,) = psutil.Process(self._boot.pid).children()
        return int(child.pid)

    def _has_booted(self) -> bool:
        assert self._boot is not None and self._boot.poll() is None, "it ended while booting"
        try:
            done = self._nsenter(["systemctl", "is-system-running"])
        except ValueError:
            return False
        return done.stdout.strip() in ("running", "degraded")

    def _stop(self) -> None:
        """As by a power cut: what the tests look at has been looked at."""
        if self._boot is None:
            return
        processes = psutil.Process(self._boot.pid).children() if self._boot.poll() is None else []
        for process in processes:
            process.kill()
        try:
            self._boot.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._boot.kill()
            self._boot.wait(STOP_S)
