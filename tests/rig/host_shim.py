"""A host that misbehaves on command, for one service alone: clocks, names, processes, space.

    with HostShim(tmp_path) as host:
        service = Service({**environ, **host.environment}, workers=2)
        host.set(Switch.NO_PROCESSES)
        ...
        assert host.struck(Switch.NO_PROCESSES)
        host.clear()

A small library, built with the C compiler and preloaded into the service, stands between it and
the C library. It is the service's unchanged binary that runs, no root is needed, and nobody else
on the machine notices. What children do that were started with another environment is not touched.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from enum import IntEnum
from pathlib import Path
from types import TracebackType

SOURCE = Path(__file__).with_name("host_shim.c")
BUILD_TIMEOUT_S = 60
WORD_BYTES = 8
NAME = "store.test"
"""A host name that means this machine, except where `Switch.NO_NAMES` is on."""


class Switch(IntEnum):
    """What goes wrong; the order is that of host_shim.c."""

    CLOCK_OFFSET_NS = 0
    """The wall clock is off by so much; monotonic clocks go on as they are."""
    NO_NAMES = 1
    """Names do not resolve (EAI_AGAIN); numeric addresses do."""
    NO_PROCESSES = 2
    """fork gives EAGAIN."""
    NO_THREADS = 3
    """pthread_create gives EAGAIN."""
    NO_SPACE = 4
    """Space cannot be reserved, nor a folder made in /dev/shm: ENOSPC."""


def compiler() -> str | None:
    """The C compiler's path, None without one."""
    return shutil.which("cc") or shutil.which("gcc")


class HostShim:
    """One set of switches, for every process that is started with `environment`.

    Args:
        folder: where the library and the file of switches are put.
    """

    def __init__(self, folder: Path) -> None:
        library, self._file = folder / "host_shim.so", folder / "host_shim.switches"
        subprocess.run(
            [str(compiler()), "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE),
             "-ldl"], check=True, timeout=BUILD_TIMEOUT_S)
        self._file.write_bytes(bytes(2 * len(Switch) * WORD_BYTES))
        with self._file.open("r+b") as opened:
            self._words = mmap.mmap(opened.fileno(), 0)
        self.environment = {"LD_PRELOAD": str(library), "HOST_SHIM_FILE": str(self._file)}

    def __enter__(self) -> HostShim:
        """Give itself, every switch off."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Everything off; a service that still runs sees a host that is well."""
        self.clear()
        self._words.close()

    def set(self, switch: Switch, value: int = 1) -> None:
        """Turn a switch on, or to a value."""
        struct.pack_into("q", self._words, switch * WORD_BYTES, value)

    def clear(self) -> None:
        """Turn everything off."""
        for switch in Switch:
            self.set(switch, 0)

    def struck(self, switch: Switch) -> int:
        """How often a switch that was on has made a difference."""
        (count,) = struct.unpack_from("q", self._words, (len(Switch) + switch) * WORD_BYTES)
        return int(count)
