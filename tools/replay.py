"""Replays dead letters of one topic: each becomes a row of the bronze table exactly once.

A replay is decided by one object, its plan (shared/replay_plan.py), as a cycle is by its record.
Before it exists, nothing shows; once it exists, it is rolled forward: the table of replays first,
the bronze table second, each by one commit that sets the table's `txn` from the number before to
this one, and is made only if it still is the number before.  So it may be killed at any moment and
run again, by several at once, and beside the service, whose own commits it meets as any two
writers meet: the one that was second looks again.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from shared.clock import rfc3339
from shared.errors import (
    CommitConflict, MissingFile, StorageUnavailable, TableUnavailable, TableVanished,
)
from shared.naming import REPLAYS, bronze_table, position_app_id, replay_app_id
from shared.object_store import ObjectStore
from shared.records import BRONZE, DataFile
from shared.version import SERVICE_VERSION
from tools.absorption import (
    REPLAYS_FILE, REPLAYS_TABLE, Letter, absorption_rows, bronze_rows,
)
from shared.replay_log import ReplayLog
from shared.replay_plan import REPLAYED, Place, Plan, ReplayDamaged, absorbed
from workers.delta_table import Table, TableStore
from workers.parquet_file import ParquetFile
from workers.schemas import BRONZE_FILE, table_schema
from workers.tables import ensure_table

LETTERS_MAX = 5_000
"""Of one replay: its plan then takes about 100 kB."""
BYTES_MAX = 32 * 1024 * 1024
"""Of one replay's letters, which are held at once; a single larger one goes alone."""
COMMIT_ATTEMPTS_MAX = 20
"""Commits refused in a row: so many times others were first at one table."""
DECISION_ATTEMPTS_MAX = 20
"""Numbers that other replays of the topic took in a row."""
ROW_GROUP_BYTES = 1024 * 1024

_BRONZE_TABLE = table_schema(BRONZE_FILE)
_SCHEMAS = {REPLAYS: REPLAYS_TABLE}
"""Of the tables that are no topic's."""


@dataclass(slots=True)
class Done:
    """What a run did: replays of others, or of a killed run, that it finished; its own, with the
    number of letters in each."""

    finished: list[int] = field(default_factory=list)
    made: dict[int, int] = field(default_factory=dict)


class Replay:
    """Replays of one topic.  Every method may raise a `RecoverableError`, after which all may be
    run again; `ReplayDamaged`, `MissingFile`, `TableVanished` and `TableMismatch` need a person."""

    def __init__(
        self, store: ObjectStore, tables: TableStore, topic: str, unix_ms: Callable[[], int]
    ) -> None:
        self._store, self._tables, self._topic, self._unix_ms = store, tables, topic, unix_ms
        self._log = ReplayLog(store, topic)
        self._app_id = replay_app_id(topic)
        self._plans: list[Plan] = []
        self._used = 0
        self._opened: dict[str, Table] = {}
        self.done = Done()

    @property
    def absorbed(self) -> frozenset[Place]:
        """The dead letters that are in a plan."""
        return absorbed(self._plans)

    def open(self, *, changing: bool) -> None:
        """Open the bronze table and read the plans; `changing`: and bring those to their end that
        were left, for which the table of replays is made where it never was."""
        folder = bronze_table(self._topic)
        table = self._tables.open(folder)
        if table is None:
            raise TableVanished(f"there is no table {folder}")
        self._tables.check(folder, table, _BRONZE_TABLE)
        self._opened[folder] = table
        self._plans = self._log.read()
        self._check_number(folder, table)
        if changing and self._plans:
            self._open_replays()
        if changing:
            self._roll_forward()

    @property
    def _last(self) -> int:
        """The last number that is known to be used; 0 where none is."""
        return self._plans[-1].number if self._plans else self._used

    def _read_on(self) -> None:
        """Read the plans that others have decided since."""
        self._plans += self._log.read(after=self._plans[-1].number if self._plans else 0)

    def _check_number(self, folder: str, table: Table) -> None:
        """Whether the plans that are in a table are there: else numbers would be used twice."""
        reached = table.txn_version(self._app_id) or 0
        if reached > self._last:
            self._read_on()
        if reached and reached not in {plan.number for plan in self._plans}:
            raise ReplayDamaged(f"table {folder} has replay {reached} of {self._topic}, which is "
                                "not in the lake's log of replays")

    def _check_replays(self, table: Table) -> None:
        """The same of the table of replays, where numbers of a topic that was created again may be
        left: new ones begin behind them."""
        reached = table.txn_version(self._app_id) or 0
        if reached > self._last:
            self._read_on()
        if self._plans and reached > self._last:
            self._check_number(REPLAYS, table)
        self._used = reached

    def _open_replays(self) -> Table:
        if REPLAYS not in self._opened:
            table = ensure_table(self._store, self._tables, REPLAYS, REPLAYS_TABLE)
            self._check_replays(table)
            self._opened[REPLAYS] = table
        return self._opened[REPLAYS]

    @property
    def is_open(self) -> bool:
        """Whether `open` has found the bronze table."""
        return bronze_table(self._topic) in self._opened

    def undone(self) -> list[int]:
        """Numbers of the plans that are not in the bronze table yet; none before `open`."""
        if not self.is_open:
            return []
        reached = self._opened[bronze_table(self._topic)].txn_version(self._app_id) or 0
        return [plan.number for plan in self._plans if plan.number > reached]

    def position(self, partition: int) -> int:
        """The partition's next offset as the opened bronze table has it: what lies below has all
        landed."""
        table = self._opened[bronze_table(self._topic)]
        return table.txn_version(position_app_id(self._topic, partition)) or 0

    def replay(self, letters: Sequence[Letter]) -> None:
        """Make rows of letters that have no flaw; those that are in a plan already are let be."""
        self._open_replays()
        for _ in range(DECISION_ATTEMPTS_MAX):
            known = self.absorbed
            letters = [letter for letter in letters if letter.place not in known]
            if not letters:
                return
            plan = self._prepare(letters)
            if self._log.put(plan):
                self._plans.append(plan)
                self.done.made[plan.number] = len(plan.letters)
                self._roll_forward()
                return
            self._drop_files(plan)
            self._read_on()
            self._roll_forward()
        raise TableUnavailable(f"topic {self._topic}: {DECISION_ATTEMPTS_MAX} times another replay "
                               "was decided first")

    def _drop_files(self, plan: Plan) -> None:
        """Its number is another's for good, so no plan will ever name these files.  Whoever may
        not delete data files leaves them, invisible, to the keeper's vacuum."""
        for folder, file in self._places(plan):
            with contextlib.suppress(StorageUnavailable):
                self._store.delete(f"{folder}/{file.path}")

    def _prepare(self, letters: Sequence[Letter]) -> Plan:
        """Upload what the next plan names, still invisible."""
        number, now_ms = self._last + 1, self._unix_ms()
        first = self._plans[0].first if self._plans else number
        files = (
            self._send(REPLAYED, REPLAYS, REPLAYS_FILE,
                       absorption_rows(letters, number, self._topic, now_ms), now_ms),
            self._send(BRONZE, bronze_table(self._topic), BRONZE_FILE,
                       bronze_rows(letters, number, self._topic, now_ms), now_ms))
        return Plan(self._topic, first, number, str(uuid.uuid4()), SERVICE_VERSION, rfc3339(now_ms),
                    tuple(letter.place for letter in letters), files)

    def _send(
        self, label: str, folder: str, schema: pa.Schema, rows: pa.RecordBatch, now_ms: int
    ) -> DataFile:
        file = ParquetFile(label, schema, rfc3339(now_ms)[:len("2026-01-31")], ROW_GROUP_BYTES)
        file.append(rows, rows.nbytes)
        encoded = file.close(now_ms)
        self._store.put(f"{folder}/{encoded.file.path}", encoded.content)
        return encoded.file

    def _places(self, plan: Plan) -> Iterable[tuple[str, DataFile]]:
        """Each of a plan's files with the folder of its table, in the order of the commits."""
        for label, folder in ((REPLAYED, REPLAYS), (BRONZE, bronze_table(self._topic))):
            for file in plan.files_of(label):
                yield folder, file

    def _roll_forward(self) -> None:
        """Bring every plan into the two tables, in order, where it is not yet."""
        for plan in self._plans:
            was_undone = False
            for folder, file in self._places(plan):
                was_undone |= self._commit(folder, file, plan)
            if was_undone and plan.number not in self.done.made:
                self.done.finished.append(plan.number)

    def _commit(self, folder: str, file: DataFile, plan: Plan) -> bool:
        """Bring one file of a plan into its table, if it is not there; whether it was we who did.

        The answer to a commit is never trusted: after an error the table is looked at anew.
        """
        table, number = self._opened[folder], plan.number
        failed: StorageUnavailable | None = None
        fresh = tried = False
        for _ in range(COMMIT_ATTEMPTS_MAX):
            reached = table.txn_version(self._app_id) or 0
            if reached >= number:
                return tried
            is_next = reached == number - 1 or number == plan.first
            if not is_next and fresh:
                raise ReplayDamaged(f"table {folder} has replay {reached} of {self._topic} and "
                                    f"lacks the ones between it and {number}")
            if failed is not None:
                raise failed
            if is_next:
                self._check_file(folder, file, number)
                tried = True
                try:
                    table.commit((file,), {self._app_id: number}, {"replay": number})
                except CommitConflict:
                    pass
                except StorageUnavailable as error:
                    failed = error
                else:
                    return True
            table.refresh()
            # What another writer committed may be columns that our rows do not fit.
            self._tables.check(folder, table, _SCHEMAS.get(folder, _BRONZE_TABLE))
            fresh = True
        raise TableUnavailable(
            f"table {folder}: others were first {COMMIT_ATTEMPTS_MAX} times in a row")

    def _check_file(self, folder: str, file: DataFile, number: int) -> None:
        size = self._store.size(f"{folder}/{file.path}")
        if size != file.size:
            raise MissingFile(f"replay {number} of {self._topic} names {folder}/{file.path} with "
                              f"{file.size} bytes, the store has {size}")
