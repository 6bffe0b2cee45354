"""Watches the memory of a family of processes while something else goes on.

A look at PSS makes the kernel walk every page of every process: 2 ms of CPU for a worker, 20 ms
for eight of them. Ten such looks a second take a quarter of a core from a service that could use
it. So the resident sizes, which the kernel counts anyway and gives in microseconds, are read at
every step of `interval_s`; the PSS of all processes is read every `full_s`, and in each step in
which the resident sizes say that the sum has passed the highest one seen.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

from bench.processes import Family, Memory, Role

INTERVAL_S = 0.1
FULL_S = 0.5
STOP_TIMEOUT_S = 5.0
SERIES_MAX = 240
"""Moments kept for a curve."""

Moment = tuple[float, dict[Role, int]]
"""Unix time, and PSS in bytes by role."""


@dataclass(slots=True)
class Watched:
    """What was seen; bytes. `at_peak` holds the processes of the moment with the highest sum.

    samples: looks at PSS; steps: looks at resident sizes, those included.
    highest_estimate: the highest sum that a step without a look at PSS stood for: its resident
        sizes, less what sharing had taken off at the look before.
    """

    samples: int = 0
    peak: int = 0
    mean: float = 0.0
    last: int = 0
    at_peak: list[Memory] = field(default_factory=list)
    watching_cpu_s: float = 0.0
    """What watching itself cost; it is not the service's."""
    watching_s: float = 0.0
    steps: int = 0
    highest_estimate: int = 0
    series: list[Moment] = field(default_factory=list)
    regular: int = 0

    def add(self, processes: list[Memory], is_regular: bool = True) -> None:
        """Take one sample: all processes at about one moment.

        The mean is over regular samples: those taken because of a peak would lift it.
        """
        total = sum(process.pss for process in processes)
        self.samples += 1
        self.last = total
        by_role: dict[Role, int] = {}
        for process in processes:
            by_role[process.role] = by_role.get(process.role, 0) + process.pss
        self.series.append((round(time.time(), 2), by_role))
        if is_regular:
            self.regular += 1
            self.mean += (total - self.mean) / self.regular
        if total > self.peak:
            self.peak, self.at_peak = total, processes


def thinned(series: list[Moment], count: int) -> list[Moment]:
    """At most so many moments, evenly over the series: of each stretch the one with the most."""
    size = -(-len(series) // count) or 1
    stretches = (series[start:start + size] for start in range(0, len(series), size))
    return [max(stretch, key=lambda moment: sum(moment[1].values())) for stretch in stretches]


class Sampler:
    """Samples a family from entry to exit of a `with` block; `seen` is complete after it."""

    def __init__(
        self, root: int, interval_s: float = INTERVAL_S, full_s: float = FULL_S
    ) -> None:
        self.seen = Watched()
        self._family, self._interval_s, self._full_s = Family(root), interval_s, full_s
        self._discount = 0
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
        self.seen.series = thinned(self.seen.series, SERIES_MAX)

    def _run(self) -> None:
        began = due = time.monotonic()
        full_due = 0.0
        while not self._stop.is_set():
            now = time.monotonic()
            self.seen.steps += 1
            self._step(is_regular=now >= full_due)
            if now >= full_due:
                full_due = now + self._full_s
            self.seen.watching_cpu_s = time.thread_time()
            self.seen.watching_s = time.monotonic() - began
            due = max(due + self._interval_s, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def _step(self, *, is_regular: bool) -> None:
        seen, resident = self.seen, self._family.resident()
        estimate = resident - self._discount
        if is_regular or estimate > seen.peak:
            seen.add(self._family.memory(), is_regular)
            self._discount = resident - seen.last
        else:
            seen.highest_estimate = max(seen.highest_estimate, estimate)
