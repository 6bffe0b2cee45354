"""A rewind's own log in the lake: its plan, and one record before each commit.

    _bronze/rewinds/{name}/{topic}/plan.json
    _bronze/rewinds/{name}/{topic}/{number:020d}.json

Every object is made with put-if-absent.  A record is a manifest, as a cycle's: files that are in
the store and invisible, and the ranges they cover.  Once it exists it will be committed, by
whoever goes on; a number is never given twice, so of two runs at once one begins anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from shared.errors import CommitConflict, StorageUnavailable, UnsupportedRecord
from shared.naming import record_numbers, rewind_folder
from shared.object_store import ObjectStore
from shared.records import Manifest, decode_manifest, encode
from tools.rewind_plan import Plan, decode_plan, encode_plan

PLAN = "plan.json"


class RewindLog:
    """Every method raises `StorageUnavailable`; see the module."""

    def __init__(self, store: ObjectStore, name: str, topic: str) -> None:
        self._store, self._folder = store, rewind_folder(name, topic)

    def plan(self) -> Plan | None:
        """The plan, None where none was made.  Raises `Refused`."""
        data = self._store.get(self._folder + PLAN)
        return None if data is None else decode_plan(data)

    def begin(self, plan: Plan) -> Plan:
        """Make the plan, and read back what stands there: somebody may have been faster, and an
        error tells nothing.  Raises `Refused`."""
        failed: StorageUnavailable | None = None
        try:
            self._store.put_if_absent(self._folder + PLAN, encode_plan(plan))
        except StorageUnavailable as error:
            failed = error
        found = self.plan()
        if found is None:
            raise failed or CommitConflict(f"{self._folder}{PLAN} was there and is gone")
        return found

    def numbers(self) -> list[int]:
        """Numbers of the records, ascending."""
        return record_numbers(self._store.list_after(self._folder))

    def read(self, number: int) -> Manifest:
        """One record; raises `UnsupportedRecord`."""
        data = self._store.get(self._path(number))
        try:
            return decode_manifest(data or b"")
        except msgspec.DecodeError as error:
            raise UnsupportedRecord(f"{self._path(number)} cannot be read: {error}") from error

    def manifests(self) -> Iterator[tuple[int, Manifest]]:
        """All records in order."""
        for number in self.numbers():
            yield number, self.read(number)

    def put(self, number: int, manifest: Manifest) -> None:
        """Decide; raises `CommitConflict` where the number is taken.  After any error it may have
        been written: look at `numbers` before anything else."""
        if not self._store.put_if_absent(self._path(number), encode(manifest)):
            raise CommitConflict(f"{self._path(number)} is taken")

    def _path(self, number: int) -> str:
        return f"{self._folder}{number:020d}.json"
