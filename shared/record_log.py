"""The log of records in the lake: dense numbers, each object made with put-if-absent.

One log per lake.  Supervisors append (see supervisor/decider.py) and trim; workers read it when
they start or are given partitions, to roll their topic forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import LogDamaged, LogOvertaken
from shared.naming import LOG_PREFIX, record_numbers, record_path
from shared.object_store import ObjectStore
from shared.protocol import complete_through
from shared.records import CycleRecord, Record, decode

RECORDS_KEPT_MIN = 1000
"""Newest records never trimmed; one listing request's worth, hours of history for people."""
TAIL_ATTEMPTS_MAX = 3
TRIM_MAX = 200
"""Most records deleted in one call."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of the log: `records` holds every record after `complete_through`, by number."""

    complete_through: int
    records: dict[int, Record]

    @property
    def next_number(self) -> int:
        """The number behind the last record."""
        return max(self.records, default=self.complete_through) + 1

    @property
    def cycle_id(self) -> int:
        """The highest cycle_id in it."""
        return max((record.cycle_id for record in self.records.values()), default=0)

    @property
    def cycles(self) -> dict[int, CycleRecord]:
        """The cycle records among them, oldest first."""
        return {number: record for number, record in sorted(self.records.items())
                if isinstance(record, CycleRecord)}


class _Trimmed(Exception):
    """A record that was listed is gone, and all before it are."""


class RecordLog:
    """Reads and writes records by number.  Every method raises `StorageUnavailable`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def numbers(self, after: int = -1) -> list[int]:
        """Numbers of the records behind `after`, ascending."""
        start = record_path(after) if after >= 0 else ""
        return record_numbers(self._store.list_after(LOG_PREFIX, start))

    def read_bytes(self, number: int) -> bytes | None:
        """A record as it was written."""
        return self._store.get(record_path(number))

    def read(self, number: int) -> Record | None:
        """A record; raises `UnsupportedRecord`."""
        data = self.read_bytes(number)
        return None if data is None else decode(data, number)

    def put(self, number: int, data: bytes) -> bool:
        """Write a record; False when the number is taken.  After an error it may be written."""
        return self._store.put_if_absent(record_path(number), data)

    def exists(self, number: int) -> bool:
        """Whether there is a record of that number."""
        return self._store.size(record_path(number)) is not None

    def tail(self) -> Tail:
        """Everything that may still have to be committed; raises `LogDamaged` at a hole.

        Others may trim while we read, after a freeze even what we have listed; then it is read
        anew, and `LogOvertaken` is raised when that happens again and again.
        """
        for _ in range(TAIL_ATTEMPTS_MAX):
            try:
                return self._tail()
            except _Trimmed:
                continue
        raise LogOvertaken("the log was trimmed while we read it, again and again")

    def _tail(self) -> Tail:
        """The newest record's claim says what is done; records in between may claim more."""
        numbers = self.numbers()
        if not numbers:
            return Tail(-1, {})
        present = set(numbers)
        newest = self._must_read(numbers[-1])
        records = {numbers[-1]: newest}
        claim = newest.complete_through
        for number in range(numbers[-1] - 1, claim, -1):
            if number <= claim:
                break
            if number not in present:
                raise LogDamaged(f"record {number} is missing, {numbers[-1]} is there")
            records[number] = self._must_read(number)
            claim = max(claim, records[number].complete_through)
        done = complete_through([claim], ())
        return Tail(done, {n: record for n, record in records.items() if n > done})

    def _must_read(self, number: int) -> Record:
        record = self.read(number)
        if record is None:
            if min(self.numbers(), default=number) > number:
                raise _Trimmed
            raise LogDamaged(f"record {number} was listed and cannot be read")
        return record

    def trim(self, complete: int) -> int:
        """Delete the oldest records up to `complete`, one after the other; how many were deleted.

        Oldest first and one at a time: a writer that finds the record before its own still there
        knows that its number was never used before.
        """
        numbers = self.numbers()
        doomed = [number for number in numbers[:-RECORDS_KEPT_MIN] if number <= complete]
        for number in doomed[:TRIM_MAX]:
            self._store.delete(record_path(number))
        return len(doomed[:TRIM_MAX])
