"""Watches the memory of a family of processes while something else goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from bench.processes import Family, Memory

INTERVAL_S = 0.1
STOP_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Watched:
    """What was seen; bytes. `at_peak` holds the processes of the moment with the highest sum."""

    samples: int = 0
    peak: int = 0
    mean: float = 0.0
    last: int = 0
    at_peak: list[Memory] = field(default_factory=list)
    watching_cpu_s: float = 0.0
    """What watching itself cost; it is not the service's."""

    def add(self, processes: list[Memory]) -> None:
        """Take one sample: all processes at about one moment."""
        total = sum(process.pss for process in processes)
        self.samples += 1
        self.mean += (total - self.mean) / self.samples
        self.last = total
        if total > self.peak:
            self.peak, self.at_peak = total, processes


class Sampler:
    """Samples a family from entry to exit of a `with` block; `seen` is complete after it."""

    def __init__(self, root: int, interval_s: float = INTERVAL_S) -> None:
        self.seen = Watched()
        self._family, self._interval_s = Family(root), interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self.seen.add(self._family.memory())
            self.seen.watching_cpu_s = time.thread_time()
            due = max(due + self._interval_s, time.monotonic())
            self._stop.wait(due - time.monotonic())
