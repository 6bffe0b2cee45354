"""One blocking call at a time, in a thread, so that the main loop keeps turning."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Jobs:
    """Runs one job; the caller polls for its end."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decider")
        self._wake = wake
        self._job: Future[Any] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job was started whose result has not been taken."""
        return self._job is not None

    def start(self, action: Callable[[], Any]) -> None:
        """Begin a job; there must be none."""
        if self._job is not None:
            raise RuntimeError("a job is still running")
        self._job = self._executor.submit(action)
        self._job.add_done_callback(lambda _: self._wake())

    @property
    def finished(self) -> bool:
        """Whether `take` would answer at once."""
        return self._job is not None and self._job.done()

    def take(self) -> Any:
        """The job's result; raises what it raised."""
        if self._job is None:
            raise RuntimeError("there is no job")
        job, self._job = self._job, None
        return job.result()
