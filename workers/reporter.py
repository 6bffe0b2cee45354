"""What a worker says of itself: heartbeat, errors, counters, table versions.

Everything goes into the topic's slot of the shared block, for the supervisor and the health page;
errors also go into the log, at a bounded rate.
"""

from __future__ import annotations

import logging

from shared.block import Slot
from shared.clock import SystemClock
from shared.errors import CommitConflict, IngestError, RecoverableError
from shared.layout import DEAD_LETTERS, Report
from shared.logs import RateLimit, log_event
from shared.records import Manifest
from shared.trouble import encode, trouble_of

logger = logging.getLogger("worker")


class Reporter:
    """One incarnation's reports on its topic."""

    def __init__(self, slot: Slot, clock: SystemClock, topic: str) -> None:
        self._slot, self._clock, self._topic = slot, clock, topic
        self._log_limit = RateLimit()
        self._refused = False

    def beat(self) -> None:
        """Show progress: once per turn, and between the steps of what takes many requests."""
        self._slot.set_report(Report.HEARTBEAT_NS, self._clock.monotonic_ns())

    def error(self, error: IngestError) -> None:
        """Show an error in /health and, at a bounded rate, in the log."""
        self._slot.error.write(encode(trouble_of(error, self._clock.unix_ms())))
        self._slot.set_report(Report.ERROR_ACTIVE, 1)
        held_back = self._log_limit.admit(error.name, self._clock.monotonic())
        if held_back is not None:
            level = logging.WARNING if isinstance(error, RecoverableError) else logging.ERROR
            log_event(logger, level, "worker_error", topic=self._topic, error=error.name,
                      message=error, what_to_do=error.what_to_do, suppressed=held_back)

    def clear_error(self) -> None:
        """What the last error told of has worked since; it stays readable."""
        self._slot.set_report(Report.ERROR_ACTIVE, 0)

    def committed(self, manifest: Manifest) -> None:
        """Count what a commit has made visible."""
        slot, ranges = self._slot, manifest.ranges
        slot.count(Report.ROWS, sum(part.rows for part in ranges))
        slot.count(Report.VALUE_BYTES, manifest.value_bytes)
        slot.count(Report.SKIPPED, sum(part.skipped for part in ranges))
        slot.count(Report.OFFSETS_ABSENT, sum(part.absent for part in ranges))
        slot.count(Report.OFFSETS_LOST,
                   sum(gap.end - gap.start for part in ranges for gap in part.lost))
        if manifest.dead_letter_spans:
            for kind, count in manifest.flaws.items():
                slot.count(DEAD_LETTERS[kind], count)
        slot.count(Report.COMMITS)
        slot.set_report(Report.LAST_COMMIT_AT_MS, self._clock.unix_ms())
        slot.set_report(Report.LAST_COMMIT_NS, self._clock.monotonic_ns())

    def doubt(self, error: RecoverableError) -> None:
        """A commit was answered by an error and is now read back."""
        conflict = isinstance(error, CommitConflict)
        self._slot.count(Report.COMMIT_CONFLICTS if conflict else Report.COMMITS_AMBIGUOUS)

    def offsets_refused(self, cause: str) -> None:
        """The group did not take offsets; `take_refusal` says so once, and they are told again."""
        self._refused = True
        self._slot.count(Report.OFFSET_COMMIT_FAILURES)
        held_back = self._log_limit.admit("offsets_refused", self._clock.monotonic())
        if held_back is not None:
            log_event(logger, logging.WARNING, "kafka_offsets_not_committed",
                      topic=self._topic, cause=cause, suppressed=held_back)

    def take_refusal(self) -> bool:
        """Whether offsets were refused since the last call."""
        refused, self._refused = self._refused, False
        return refused
