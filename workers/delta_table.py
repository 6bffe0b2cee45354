"""A Delta table as this service uses it.

A handle is a snapshot.  `txn_version` and `commit` speak of the same snapshot: a commit that finds
the table moved on is refused, so what was read before it still holds when it lands.  Only over the
keeper's compactions it steps: they change neither rows nor positions.  After any error the handle
must be refreshed and read again, for every error of a commit can mean that it took effect.

Its log is read and written here, without a library: a commit is one object, the next entry, put
where there is none (decisions 0016, 0022).  Checkpoints are the keeper's; deltalake, imported
nowhere else in workers and keeper, writes those of tables with features that only it knows.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pyarrow as pa

from shared.clock import SystemClock
from shared.errors import (
    CommitConflict, StorageUnavailable, TableMismatch, TableUnavailable, TableVanished,
)
from shared.object_store import ObjectStore, brief
from shared.records import DataFile
from workers.log_entry import (
    Commit, append_entry, commit_of, entry_path, first_entry, is_compaction,
)
from workers.log_listing import look_at_log
from workers.log_snapshot import read_snapshot
from workers.parquet_file import STATISTICS
from workers.schemas import MAY_BE_NULL, PARTITION_COLUMN, delta_schema

CHECKPOINT_INTERVAL = 20
"""Versions after which a checkpoint of the log is due; the keeper writes it at its next turn."""

COMMITS_MAX = 20_000
"""Commits looked at in one question: each is one small request."""
COMPACTIONS_MAX = 100
"""Compactions of ours in a row that are stepped over: the keeper makes a few between commits."""


class Table(Protocol):
    """One Delta table's snapshot; see the module."""

    @property
    def version(self) -> int:
        """The snapshot's table version."""

    def txn_version(self, app_id: str) -> int | None:
        """The position stored under `app_id` in this snapshot."""

    def commit(
        self, files: Sequence[DataFile], txns: Mapping[str, int], facts: Mapping[str, Any]
    ) -> None:
        """Add `files` and set `txns` in one commit, if the table is still at this snapshot.

        A compaction of ours is no reason to refuse: rows and positions are what they were.
        Raises `CommitConflict` (moved on: nothing of this attempt is in the table unless it is
        this very commit) or `StorageUnavailable` (unknown).  In both cases `refresh`, and look.
        """

    def refresh(self) -> None:
        """Take the newest snapshot.

        Raises `StorageUnavailable`, `TableUnavailable` or `TableVanished`.
        """


class TableStore(Protocol):
    """Opens and makes tables under the lake."""

    def open(self, folder: str) -> Table | None:
        """An existing table, or None.  Raises `StorageUnavailable`."""

    def create(self, folder: str, schema: pa.Schema) -> Table:
        """Make an empty table, or open the one somebody made meanwhile."""

    def make(self, folder: str, schema: pa.Schema) -> bool:
        """Make an empty table, and leave it unopened; False where somebody was faster."""

    def check(self, folder: str, table: Table, schema: pa.Schema) -> None:
        """Raise `TableMismatch` unless our rows fit the table."""

    def commits(self, folder: str, since_record: int) -> list[Commit]:
        """A table's newest commits, newest first, down to the first one of an older record.

        They end earlier where the log was cleaned up, and after COMMITS_MAX of them.  Raises
        `StorageUnavailable` and `TableUnavailable`.
        """

    def newest(self, folder: str) -> Commit | None:
        """A table's newest commit, without opening the table; None where there is no log.

        Of compactions that came behind it, it has only the last one's version.  Raises
        `StorageUnavailable` and `TableUnavailable`.
        """

    def append(
        self, folder: str, after: int, files: Sequence[DataFile], txns: Mapping[str, int],
        facts: Mapping[str, Any],
    ) -> None:
        """Commit `files` and `txns` as the version behind `after`, which must be the newest one.

        Raises as `Table.commit` does.
        """

    def checkpoint(self, folder: str) -> int:
        """Have the library write a checkpoint, for tables with features that only it knows; the
        version it is of.

        Raises `StorageUnavailable`, `TableUnavailable` and `TableVanished`.
        """


class DeltaStore:
    """`TableStore` on the lake's object store."""

    def __init__(
        self, lake_uri: str, storage_options: Mapping[str, str], store: ObjectStore,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """store: of the same lake; URI and options are for the library.  beat: called again and
        again while a table is read, however long its log is."""
        self._lake_uri = lake_uri
        self._options = dict(storage_options)
        self._store, self._clock, self._beat = store, SystemClock(), beat

    def _snapshot(self, folder: str) -> DeltaSnapshot:
        return DeltaSnapshot(self._store, folder, self._clock, self._beat)

    def open(self, folder: str) -> DeltaSnapshot | None:
        """See `TableStore`."""
        try:
            return self._snapshot(folder)
        except TableVanished:
            return None

    def create(self, folder: str, schema: pa.Schema) -> DeltaSnapshot:
        """See `TableStore`."""
        self.make(folder, schema)
        return self._snapshot(folder)

    def make(self, folder: str, schema: pa.Schema) -> bool:
        """See `TableStore`."""
        entry = first_entry(
            delta_schema(schema), _configuration(schema), str(uuid.uuid4()),
            self._clock.unix_ms())
        return self._store.put_if_absent(entry_path(folder, 0), entry)

    def check(self, folder: str, table: DeltaSnapshot, schema: pa.Schema) -> None:
        """See `TableStore`; columns somebody added are let be when they may be null."""
        wanted = _columns(delta_schema(schema)["fields"])
        found_fields, partition_columns = _columns(table.head.fields), table.head.partition_columns
        faults = [
            f"{name} is {json.dumps(found_fields[name][0]) if name in found_fields else 'missing'}"
            f", not {json.dumps(kind)}"
            for name, (kind, _) in wanted.items()
            if name not in found_fields or found_fields[name][0] != kind]
        faults += [f"{name} is not ours and may not be null"
                   for name, (_, nullable) in found_fields.items()
                   if name not in wanted and not nullable]
        faults += [f"{path} may not be null, which it is where a message has none"
                   for path in _never_null(table.head.fields) if path in MAY_BE_NULL]
        if partition_columns != [PARTITION_COLUMN]:
            faults.append(f"it is partitioned by {partition_columns}, not {PARTITION_COLUMN}")
        if faults:
            raise TableMismatch(f"table {folder}: {'; '.join(faults)}")

    def commits(self, folder: str, since_record: int) -> list[Commit]:
        """See `TableStore`."""
        found: list[Commit] = []
        newest = look_at_log(self._store, folder).newest
        for version in range(newest, max(-1, newest - COMMITS_MAX), -1):
            entry = self._store.get(entry_path(folder, version))
            if entry is None:
                break
            found.append(_commit(folder, entry, version))
            record = found[-1].record
            if record is not None and record < since_record:
                break
        return found

    def newest(self, folder: str) -> Commit | None:
        """See `TableStore`."""
        newest = look_at_log(self._store, folder).newest
        for version in range(newest, max(-1, newest - COMPACTIONS_MAX), -1):
            entry = self._store.get(entry_path(folder, version))
            if entry is None:
                return None
            commit = _commit(folder, entry, version)
            if not commit.is_compaction:
                return replace(commit, version=newest)
        return None

    def append(
        self, folder: str, after: int, files: Sequence[DataFile], txns: Mapping[str, int],
        facts: Mapping[str, Any],
    ) -> None:
        """See `TableStore`."""
        if self._store.size(entry_path(folder, after)) is None:
            raise CommitConflict(f"table {folder}: version {after} is gone")
        entry = append_entry(files, txns, facts, self._clock.unix_ms())
        if not self._store.put_if_absent(entry_path(folder, after + 1), entry):
            raise CommitConflict(f"table {folder} version {after + 1} is taken")

    def checkpoint(self, folder: str) -> int:
        """See `TableStore`."""
        # Seldom needed, and 20 MB: no process has it that does not come here.
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        uri = f"{self._lake_uri}/{folder}"
        try:
            table = DeltaTable(uri, storage_options=self._options)
            table.create_checkpoint()
            return int(table.version())
        except TableNotFoundError as error:
            raise TableVanished(f"there is no table at {uri}") from error
        except OSError as error:
            raise StorageUnavailable("write checkpoint", uri, brief(error)) from error
        except DeltaError as error:
            raise TableUnavailable(f"checkpoint of {uri}: {brief(error)}") from error


def _configuration(schema: pa.Schema) -> dict[str, str]:
    """The properties of a new table."""
    return {
        "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
        "delta.dataSkippingStatsColumns":
            ",".join(name for name in STATISTICS if name in schema.names),
    }


def _commit(folder: str, entry: bytes, version: int) -> Commit:
    try:
        return commit_of(entry, version)
    except ValueError as error:
        raise TableUnavailable(f"table {folder}: entry {version} cannot be read") from error


class DeltaSnapshot:
    """`Table` that moves on with its own commits without reading."""

    def __init__(
        self, store: ObjectStore, folder: str, clock: SystemClock, beat: Callable[[], None]
    ) -> None:
        self._store, self._folder, self._clock, self._beat = store, folder, clock, beat
        self.refresh()

    def refresh(self) -> None:
        """See `Table`."""
        version, head = read_snapshot(self._store, self._folder, self._beat)
        unknown = head.unknown_features()
        if unknown:
            # Before anything has moved: a table we may not write to is not at a new version.
            raise TableUnavailable(f"table {self._folder} asks of its writers what this service "
                                   f"does not know: {', '.join(unknown)}")
        self._version, self.head = version, head
        self._txns: dict[str, int] = {}

    @property
    def version(self) -> int:
        """See `Table`."""
        return self._version

    def txn_version(self, app_id: str) -> int | None:
        """See `Table`."""
        return self._txns.get(app_id, self.head.position(app_id))

    def commit(
        self, files: Sequence[DataFile], txns: Mapping[str, int], facts: Mapping[str, Any]
    ) -> None:
        """See `Table`."""
        self._check_newest_is_there()
        entry = append_entry(files, txns, facts, self._clock.unix_ms())
        for target in range(self._version + 1, self._version + 2 + COMPACTIONS_MAX):
            if self._store.put_if_absent(entry_path(self._folder, target), entry):
                self._version = target
                self._txns.update(txns)
                return
            taken = self._store.get(entry_path(self._folder, target))
            if taken is None or not is_compaction(taken):
                break
        raise CommitConflict(f"table {self._folder} version {target} is taken")

    def _check_newest_is_there(self) -> None:
        """Without the entry before it, ours would be that of a table that is gone."""
        before = self._version
        if self._store.size(entry_path(self._folder, before)) is not None:
            return
        self.refresh()
        if self._version != before:
            raise CommitConflict(f"table {self._folder}: version {before} is gone, the newest is "
                                 f"{self._version}")


def _columns(fields: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, bool]]:
    """Name -> (type, nullable)."""
    return {field["name"]: (_type(field["type"]), field["nullable"]) for field in fields}


def _never_null(fields: Sequence[Mapping[str, Any]], above: str = "") -> Iterator[str]:
    """Columns and fields inside them that may not be null, in dotted form."""
    for field in fields:
        path = f"{above}{field['name']}"
        if not field["nullable"]:
            yield path
        kind = field["type"]
        if isinstance(kind, dict):
            inside = kind.get("elementType", kind)
            if isinstance(inside, dict):
                yield from _never_null(inside.get("fields", ()), f"{path}.")


def _type(kind: Any) -> Any:
    """A Delta type without the nullability inside it, which engines write differently."""
    if isinstance(kind, dict):
        return {key: _type(value) for key, value in kind.items()
                if key not in ("containsNull", "nullable", "metadata")}
    return [_type(item) for item in kind] if isinstance(kind, list) else kind
