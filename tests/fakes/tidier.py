"""A tidier that leaves the memory of the tests alone."""

from __future__ import annotations

from tests.fakes.clock import FakeClock
from workers.pages import Tidier


class IdleTidier(Tidier):
    """Counts what it was asked for; tells the size that a test gives it."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.starts = self.uploads = self.commits = 0
        self.private_bytes: int | None = None

    def after_start(self) -> None:
        """See `Tidier`."""
        self.starts += 1

    def after_upload(self) -> None:
        """See `Tidier`."""
        self.uploads += 1

    def after_commit(self) -> int | None:
        """See `Tidier`."""
        self.commits += 1
        return self.private_bytes
