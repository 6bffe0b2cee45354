"""A topic's two tables: made, checked, rolled forward, and asked where reading begins.

There is one way to commit a decided manifest, `roll_forward`, for the usual case and for recovery
alike.  It never trusts the answer to a commit: the loop looks at the table again and judges anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from shared.errors import (
    CommitConflict, MissingFile, RecoverableError, StorageUnavailable, TableUnavailable,
    TableVanished, TornRecord,
)
from shared.naming import (
    birth_certificate, bronze_table, dlq_table, position_app_id, topic_id_app_id,
)
from shared.object_store import ObjectStore
from shared.protocol import Span, Tiling, judge_dead_letters, judge_tiling
from shared.records import BRONZE, DLQ, DataFile, Manifest
from workers.delta_table import Table, TableStore
from workers.schemas import BRONZE_FILE, DLQ_FILE, table_schema

COMMIT_ATTEMPTS_MAX = 10
"""Commits refused in a row before we give up for now: ten other writers won in between."""


@dataclass(frozen=True, slots=True)
class _Role:
    """What tells the bronze table and the dead letter table apart when a manifest is committed."""

    schema: pa.Schema
    judge: Callable[[Iterable[Span], Mapping[int, int | None]], Tiling]


_ROLES = {BRONZE: _Role(table_schema(BRONZE_FILE), judge_tiling),
          DLQ: _Role(table_schema(DLQ_FILE), judge_dead_letters)}


@dataclass(frozen=True, slots=True)
class Versions:
    """Table versions after a roll forward; the DLQ's is None where it was not touched."""

    bronze: int
    dlq: int | None


def look(
    store: ObjectStore, tables: TableStore, topic: str, *, dlq_enabled: bool
) -> dict[str, Callable[[], int | None]]:
    """Table's folder -> a look at what `ensure` would find there, which makes nothing.

    It gives the table's version, None where one would be made, and raises what `ensure` raises.
    """
    wanted = {bronze_table(topic): _ROLES[BRONZE].schema}
    if dlq_enabled:
        wanted[dlq_table(topic)] = _ROLES[DLQ].schema
    return {folder: partial(_look_at, store, tables, folder, schema)
            for folder, schema in wanted.items()}


def _look_at(
    store: ObjectStore, tables: TableStore, folder: str, schema: pa.Schema
) -> int | None:
    table = tables.open(folder)
    if table is not None:
        tables.check(folder, table, schema)
        return table.version
    certificate = birth_certificate(folder)
    if store.size(certificate) is not None:
        raise _vanished(folder, certificate)
    return None


def _vanished(folder: str, certificate: str) -> TableVanished:
    return TableVanished(f"table {folder} was made once ({certificate} says so) and is gone")


def ensure_table(
    store: ObjectStore, tables: TableStore, folder: str, schema: pa.Schema
) -> Table:
    """A table, made where it never was, and checked.

    Raises `TableMismatch`, `TableVanished` (it was there once) or `StorageUnavailable`.
    """
    table = tables.open(folder)
    certificate = birth_certificate(folder)
    if table is None:
        table = _make(store, tables, folder, certificate, schema)
    tables.check(folder, table, schema)
    certify(store, folder)
    return table


def certify(store: ObjectStore, folder: str) -> None:
    """Leave word that the table was made once, so that it is not made anew should it vanish."""
    store.put_if_absent(birth_certificate(folder), json.dumps({"table": folder}).encode())


def _make(
    store: ObjectStore, tables: TableStore, folder: str, certificate: str, schema: pa.Schema
) -> Table:
    """Make a table that never was; another instance may be making it at this moment."""
    if store.size(certificate) is None:
        return tables.create(folder, schema)
    table = tables.open(folder)
    if table is None:
        raise _vanished(folder, certificate)
    return table


class TopicTables:
    """The bronze and the dead letter table of one topic."""

    def __init__(
        self, store: ObjectStore, tables: TableStore, topic: str, *, dlq_enabled: bool,
        on_doubt: Callable[[RecoverableError], None] = lambda error: None, prefix: str = "",
    ) -> None:
        """on_doubt is told of each commit whose answer was an error, before it is read back.
        prefix: before the tables' usual names, for those of a rewind."""
        self._store, self._tables, self._topic = store, tables, topic
        self._bronze_folder = prefix + bronze_table(topic)
        self._dlq_folder = prefix + dlq_table(topic)
        self._dlq_enabled = dlq_enabled
        self._on_doubt = on_doubt
        self._bronze: Table | None = None
        self._dlq: Table | None = None

    def ensure(self) -> None:
        """Make what is missing, check what is there.

        Raises `TableMismatch`, `TableVanished` (it was there once) or `StorageUnavailable`.
        """
        self._bronze = ensure_table(
            self._store, self._tables, self._bronze_folder, _ROLES[BRONZE].schema)
        if self._dlq_enabled:
            self._dlq = ensure_table(
                self._store, self._tables, self._dlq_folder, _ROLES[DLQ].schema)

    @property
    def bronze(self) -> Table:
        """The bronze table; `ensure` or `open_existing` must have been called."""
        if self._bronze is None:
            raise RuntimeError("the bronze table is not open")
        return self._bronze

    @property
    def dlq_version(self) -> int | None:
        """The DLQ table's version, None where there is no such table open."""
        return None if self._dlq is None else self._dlq.version

    def open_existing(self) -> None:
        """Open the bronze table of a topic that is no longer configured, to roll it forward."""
        self._bronze = self._must_open(self._bronze_folder, _ROLES[BRONZE])

    def _must_open(self, folder: str, role: _Role) -> Table:
        table = self._tables.open(folder)
        if table is None:
            raise TableVanished(f"table {folder} is named by a decided record and is gone")
        self._tables.check(folder, table, role.schema)
        return table

    def _refresh(self, table: Table, folder: str, role: _Role) -> None:
        """Take the newest snapshot; what others committed may be columns our rows do not fit."""
        table.refresh()
        self._tables.check(folder, table, role.schema)

    def roll_forward(self, number: int, manifest: Manifest) -> Versions:
        """Bring record `number`'s manifest into the tables, if it is not there yet.

        The DLQ first: once the bronze table holds a range, all of the range has landed.
        Raises `TornRecord`, `MissingFile`, `TableMismatch`, `TableVanished`, or a
        `RecoverableError` after which it may be called again.
        """
        dlq_version = None
        if manifest.dead_letter_spans:
            if self._dlq is None:
                self._dlq = self._must_open(self._dlq_folder, _ROLES[DLQ])
            self._commit(self._dlq, self._dlq_folder, _ROLES[DLQ],
                         manifest.dead_letter_spans, manifest.files_of(DLQ), number)
            dlq_version = self._dlq.version
        self._commit(self.bronze, self._bronze_folder, _ROLES[BRONZE],
                     manifest.spans, manifest.files_of(BRONZE), number)
        return Versions(self.bronze.version, dlq_version)

    def _commit(
        self, table: Table, folder: str, role: _Role, spans: tuple[Span, ...],
        files: tuple[DataFile, ...], number: int,
    ) -> None:
        failed: StorageUnavailable | None = None
        refused: CommitConflict | None = None
        fresh = False
        for _ in range(COMMIT_ATTEMPTS_MAX):
            found = {span.partition: table.txn_version(self._app_id(span.partition))
                     for span in spans}
            tiling = role.judge(spans, found)
            if tiling is Tiling.DONE:
                return
            if tiling is Tiling.TORN and not fresh:
                # Our snapshot may be older than records that others have done meanwhile.
                self._refresh(table, folder, role)
                fresh = True
                continue
            if tiling is Tiling.TORN:
                raise TornRecord(f"table {folder}, record {number}: positions are {found}, the "
                                 f"record has {[(s.partition, s.start, s.end) for s in spans]}")
            if failed is not None:
                # It did not take effect.  The caller has the patience; here it would be spent
                # without a heartbeat.
                raise failed
            if refused is None:
                self._check_files(folder, files, number)
            try:
                table.commit(files, {self._app_id(span.partition): span.end for span in spans},
                             {"record": number})
            except CommitConflict as error:
                self._on_doubt(error)
                refused = error
            except StorageUnavailable as error:
                self._on_doubt(error)
                failed = error
            else:
                return
            self._refresh(table, folder, role)
            fresh = True
        raise TableUnavailable(
            f"table {folder}: a commit was refused {COMMIT_ATTEMPTS_MAX} times: {refused}")

    def _check_files(self, folder: str, files: tuple[DataFile, ...], number: int) -> None:
        for file in files:
            size = self._store.size(f"{folder}/{file.path}")
            if size != file.size:
                raise MissingFile(f"record {number} names {folder}/{file.path} with {file.size} "
                                  f"bytes, the store has {size}")

    def _app_id(self, partition: int) -> str:
        return position_app_id(self._topic, partition)

    def positions(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """Partition -> next_offset as the bronze table's snapshot holds it."""
        return {partition: self.bronze.txn_version(self._app_id(partition))
                for partition in partitions}

    def positions_of_existing(self, partitions: Iterable[int]) -> dict[int, int | None]:
        """The same, of a table that may not have been made yet, and is not by this."""
        table = self._tables.open(self._bronze_folder)
        return {partition: None if table is None else table.txn_version(self._app_id(partition))
                for partition in partitions}

    def knows_topic_id(self, topic_id: str) -> bool:
        """Whether the table was begun for this very creation of the topic."""
        return self.bronze.txn_version(topic_id_app_id(self._topic, topic_id)) is not None

    def refresh(self) -> None:
        """Take the newest snapshots.  Raises as `ensure` does."""
        self._refresh(self.bronze, self._bronze_folder, _ROLES[BRONZE])
        if self._dlq is not None:
            self._refresh(self._dlq, self._dlq_folder, _ROLES[DLQ])

    def begin(self, starts: Mapping[int, int], topic_id: str) -> None:
        """Fix where partitions without a position begin, before their first message is read.

        Otherwise the start could be resolved differently later, and what lay between were lost.
        """
        last: RecoverableError | None = None
        for _ in range(COMMIT_ATTEMPTS_MAX):
            held = self.positions(starts)
            missing = {p: start for p, start in starts.items() if held[p] is None}
            if not missing and self.knows_topic_id(topic_id):
                return
            txns = {self._app_id(partition): start for partition, start in missing.items()}
            txns[topic_id_app_id(self._topic, topic_id)] = 1
            try:
                self.bronze.commit((), txns, {"begin": True})
            except (CommitConflict, StorageUnavailable) as error:
                last = error
                self._on_doubt(error)
                self._refresh(self.bronze, self._bronze_folder, _ROLES[BRONZE])
        if isinstance(last, StorageUnavailable):
            raise last
        raise TableUnavailable(f"table {self._bronze_folder}: a commit without rows was "
                               f"refused {COMMIT_ATTEMPTS_MAX} times: {last}")
