"""A Delta table as this service uses it: the only place that imports deltalake.

A handle is a snapshot.  `txn_version` and `commit` speak of the same snapshot: a commit that finds
the table moved on is refused, whoever moved it, so what was read before it still holds when it
lands.  After any error the handle must be refreshed and read again, for every error of a commit
can mean that it took effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from shared.errors import (
    CommitConflict, StorageUnavailable, TableMismatch, TableUnavailable, TableVanished,
)
from shared.object_store import brief
from shared.records import DataFile
from workers.schemas import PARTITION_COLUMN

CHECKPOINT_INTERVAL = 20
"""Commits between two checkpoints of the log; a start reads at most that many log entries."""
REOPEN_COMMITS = 20
"""A handle gets slower with each commit; opening it anew costs about what ten commits gain."""

_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


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

    def check(self, folder: str, table: Table, schema: pa.Schema) -> None:
        """Raise `TableMismatch` unless our rows fit the table."""


class DeltaStore:
    """`TableStore` on deltalake."""

    def __init__(self, lake_uri: str, storage_options: Mapping[str, str]) -> None:
        self._lake_uri = lake_uri
        self._options = dict(storage_options)

    def _uri(self, folder: str) -> str:
        return f"{self._lake_uri}/{folder}"

    def open(self, folder: str) -> DeltaSnapshot | None:
        """See `TableStore`."""
        try:
            return DeltaSnapshot(self._uri(folder), self._options)
        except TableVanished:
            return None

    def create(self, folder: str, schema: pa.Schema) -> DeltaSnapshot:
        """See `TableStore`."""
        try:
            DeltaTable.create(
                self._uri(folder), schema, mode="ignore", partition_by=[PARTITION_COLUMN],
                storage_options=self._options,
                configuration={
                    "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
                    "delta.dataSkippingStatsColumns":
                        "_kafka_partition,_kafka_offset,_kafka_timestamp,_ingested_at",
                })
        except CommitFailedError:
            pass
        except (DeltaError, OSError) as error:
            raise StorageUnavailable("create table", folder, brief(error)) from error
        return DeltaSnapshot(self._uri(folder), self._options)

    def check(self, folder: str, table: DeltaSnapshot, schema: pa.Schema) -> None:
        """See `TableStore`; columns somebody added are let be when they may be null."""
        wanted = _fields(DeltaSchema.from_arrow(schema))
        found_fields, partition_columns = table.describe()
        faults = [
            f"{name} is {json.dumps(found_fields[name][0]) if name in found_fields else 'missing'}"
            f", not {json.dumps(kind)}"
            for name, (kind, _) in wanted.items()
            if name not in found_fields or found_fields[name][0] != kind]
        faults += [f"{name} is not ours and may not be null"
                   for name, (_, nullable) in found_fields.items()
                   if name not in wanted and not nullable]
        if partition_columns != [PARTITION_COLUMN]:
            faults.append(f"it is partitioned by {partition_columns}, not {PARTITION_COLUMN}")
        if faults:
            raise TableMismatch(f"table {folder}: {'; '.join(faults)}")


class DeltaSnapshot:
    """`Table` on a deltalake handle that is opened anew every `REOPEN_COMMITS` commits."""

    def __init__(self, uri: str, options: dict[str, str]) -> None:
        self._uri, self._options = uri, options
        self._table = self._open()
        self._is_broken = False
        self._txns: dict[str, int | None] = {}
        self._commits = 0

    def _open(self) -> DeltaTable:
        try:
            return DeltaTable(self._uri, storage_options=self._options)
        except TableNotFoundError as error:
            raise TableVanished(f"there is no table at {self._uri}") from error
        except OSError as error:
            raise StorageUnavailable("open table", self._uri, brief(error)) from error
        except DeltaError as error:
            raise TableUnavailable(f"table {self._uri} cannot be opened: {brief(error)}") from error

    def describe(self) -> tuple[dict[str, tuple[Any, bool]], list[str]]:
        """Name -> (type, nullable) of the columns, and the partition columns."""
        return _fields(self._table.schema()), list(self._table.metadata().partition_columns)

    @property
    def version(self) -> int:
        """See `Table`."""
        return int(self._table.version())

    def txn_version(self, app_id: str) -> int | None:
        """See `Table`; read from the log once per app id and snapshot."""
        if self._is_broken:
            self.refresh()
        if app_id not in self._txns:
            try:
                self._txns[app_id] = self._table.transaction_version(app_id)
            except OSError as error:
                raise StorageUnavailable("read positions", self._uri, brief(error)) from error
            except DeltaError as error:
                # Files of this snapshot's log may be gone for good: the next look opens it anew.
                self._is_broken = True
                raise TableUnavailable(
                    f"positions of {self._uri} cannot be read: {brief(error)}") from error
        return self._txns[app_id]

    def commit(
        self, files: Sequence[DataFile], txns: Mapping[str, int], facts: Mapping[str, Any]
    ) -> None:
        """See `Table`."""
        target = self.version + 1
        properties = CommitProperties(
            custom_metadata={"bronze": dict(facts)}, max_commit_retries=0,
            app_transactions=[Transaction(app_id, value) for app_id, value in txns.items()])
        try:
            self._table.create_write_transaction(
                [_add_action(file) for file in files], "append", self._table.schema(),
                commit_properties=properties, post_commithook_properties=_HOOKS)
        except CommitFailedError as error:
            raise CommitConflict(f"table {self._uri} version {target}: {brief(error)}") from error
        except (DeltaError, OSError) as error:
            raise StorageUnavailable("commit", self._uri, brief(error)) from error
        self._follow(target, txns)

    def _follow(self, target: int, txns: Mapping[str, int]) -> None:
        """Move the snapshot to exactly our own commit, or to the newest one when that fails."""
        self._commits += 1
        if self._commits % REOPEN_COMMITS == 0:
            self.refresh()
            return
        try:
            self._table.load_as_version(target)
        except (DeltaError, OSError) as error:
            raise StorageUnavailable("load", self._uri, brief(error)) from error
        self._txns.update(txns)

    def refresh(self) -> None:
        """See `Table`."""
        self._txns = {}
        self._table = self._open()
        self._is_broken = False


def _add_action(file: DataFile) -> AddAction:
    return AddAction(
        path=file.path, size=file.size, partition_values={PARTITION_COLUMN: file.date},
        modification_time=file.written_at_ms, data_change=True, stats=file.stats)


def _fields(schema: DeltaSchema) -> dict[str, tuple[Any, bool]]:
    fields = json.loads(schema.to_json())["fields"]
    return {field["name"]: (_type(field["type"]), field["nullable"]) for field in fields}


def _type(kind: Any) -> Any:
    """A Delta type without the nullability inside it, which engines write differently."""
    if isinstance(kind, dict):
        return {key: _type(value) for key, value in kind.items()
                if key not in ("containsNull", "nullable", "metadata")}
    return [_type(item) for item in kind] if isinstance(kind, list) else kind
