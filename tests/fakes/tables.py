"""Delta tables in memory: versions, files, positions, and the compare-and-set of a commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from shared.errors import CommitConflict, TableMismatch, TableVanished
from shared.records import DataFile
from tests.fakes.faults import Faults
from tests.fakes.store import refused
from workers.log_entry import Commit


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a table; record, is_compaction: see `Commit`."""

    files: tuple[DataFile, ...]
    txns: Mapping[str, int]
    record: int | None = None
    is_compaction: bool = False


@dataclass
class TableState:
    """What everybody sees of one table; its version is that of the last commit."""

    schema: pa.Schema
    commits: list[Version] = field(default_factory=lambda: [Version((), {})])

    @property
    def version(self) -> int:
        """The newest version."""
        return len(self.commits) - 1

    @property
    def paths(self) -> list[str]:
        """Paths of all added files, one per add: a file added twice is there twice."""
        return [file.path for commit in self.commits for file in commit.files]

    def txns(self, version: int | None = None) -> dict[str, int]:
        """Positions as of `version`, the newest when not given."""
        found: dict[str, int] = {}
        for commit in self.commits[:self.version + 1 if version is None else version + 1]:
            found |= commit.txns
        return found

    def append(self, txns: Mapping[str, int], files: Sequence[DataFile] = ()) -> None:
        """Commit as somebody else would."""
        self.commits.append(Version(tuple(files), dict(txns)))

    def compact(self) -> None:
        """Commit as the keeper's compaction would."""
        self.commits.append(Version((), {}, is_compaction=True))

    def is_compacted_only(self, since: int) -> bool:
        """Whether every version behind `since` is a compaction."""
        return all(commit.is_compaction for commit in self.commits[since + 1:])


class MemoryTables:
    """`TableStore`; `states` holds the tables by folder."""

    def __init__(self) -> None:
        self.states: dict[str, TableState] = {}
        self.faults = Faults(refused)

    def open(self, folder: str) -> MemoryTable | None:
        """See `TableStore`."""
        with self.faults.around("open table", folder):
            return MemoryTable(self, folder) if folder in self.states else None

    def create(self, folder: str, schema: pa.Schema) -> MemoryTable:
        """See `TableStore`."""
        self.make(folder, schema)
        return MemoryTable(self, folder)

    def make(self, folder: str, schema: pa.Schema) -> bool:
        """See `TableStore`."""
        with self.faults.around("create table", folder):
            is_new = folder not in self.states
            self.states.setdefault(folder, TableState(schema))
            return is_new

    def check(self, folder: str, table: MemoryTable, schema: pa.Schema) -> None:
        """See `TableStore`."""
        found = self.states[folder].schema
        for wanted in schema:
            index = found.get_field_index(wanted.name)
            if index < 0 or found.field(index).type != wanted.type:
                raise TableMismatch(f"table {folder}: {wanted.name} is not {wanted.type}")

    def newest(self, folder: str) -> Commit | None:
        """See `TableStore`."""
        with self.faults.around("read commits", folder):
            if folder not in self.states:
                return None
            state = self.states[folder]
            newest = next(
                commit for commit in reversed(state.commits) if not commit.is_compaction)
            return Commit(state.version, newest.record, None, dict(newest.txns))

    def append(
        self, folder: str, after: int, files: Sequence[DataFile], txns: Mapping[str, int],
        facts: Mapping[str, Any],
    ) -> None:
        """See `TableStore`."""
        with self.faults.around("commit", folder):
            state = self.states[folder]
            if state.version != after:
                raise CommitConflict(f"table {folder} is at version {state.version}")
            state.commits.append(Version(tuple(files), dict(txns), facts.get("record")))

    def checkpoint(self, folder: str) -> int:
        """See `TableStore`; there is nothing to read faster here."""
        return self.states[folder].version

    def commits(self, folder: str, since_record: int) -> list[Commit]:
        """See `TableStore`; no commit has a time."""
        with self.faults.around("read commits", folder):
            found = []
            versions = self.states[folder].commits if folder in self.states else []
            for number, version in reversed(list(enumerate(versions))):
                found.append(Commit(number, version.record, None, dict(version.txns),
                                    version.is_compaction))
                if version.record is not None and version.record < since_record:
                    break
            return found


class MemoryTable:
    """`Table`: a snapshot that a commit of anybody else makes stale."""

    def __init__(self, tables: MemoryTables, folder: str) -> None:
        self._tables, self._folder = tables, folder
        self._version = tables.states[folder].version

    @property
    def version(self) -> int:
        """See `Table`."""
        return self._version

    def txn_version(self, app_id: str) -> int | None:
        """See `Table`."""
        return self._tables.states[self._folder].txns(self._version).get(app_id)

    def commit(
        self, files: Sequence[DataFile], txns: Mapping[str, int], facts: Mapping[str, Any]
    ) -> None:
        """See `Table`."""
        with self._tables.faults.around("commit", self._folder):
            state = self._state()
            if not state.is_compacted_only(self._version):
                raise CommitConflict(f"table {self._folder} is at version {state.version}")
            state.commits.append(Version(tuple(files), dict(txns), facts.get("record")))
            version = state.version
        self._version = version

    def refresh(self) -> None:
        """See `Table`."""
        with self._tables.faults.around("refresh", self._folder):
            self._version = self._state().version

    def _state(self) -> TableState:
        state = self._tables.states.get(self._folder)
        if state is None:
            raise TableVanished(f"there is no table at {self._folder}")
        return state
