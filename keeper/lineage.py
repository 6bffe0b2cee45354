"""Lineage: each cycle that the ledger holds is told of, once or more, in order, none left out.

Events are made from the ledger's own commits, so what is told is what the ledger says.  How far
they were taken is one small object in the lake, written after they were: who is killed in between
sends some again, with the same runId.  Nothing waits for it: it is the last step of a turn.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import unquote

import msgspec
import pyarrow.parquet as pq

from keeper.lineage_event import Origin, encode, event
from keeper.lineage_sink import Sink
from shared.errors import LineageGap
from shared.naming import LEDGER, LEDGER_APP_ID, LINEAGE_POSITION
from shared.object_store import ObjectStore
from workers.damage import named
from workers.delta_table import TableStore
from workers.log_entry import actions_of, entry_path

EVENTS_MAX = 500
"""In one turn; the rest is the next one's."""
ROWS_AT_ONCE = 64
"""Rows of the ledger that are Python objects at one time, per file."""


class Position(msgspec.Struct, frozen=True):
    """version: of the ledger, all of which has been sent; next_record: the first one to be sent."""

    version: int
    next_record: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """What one commit of the ledger added: paths of files, and the first record behind them."""

    paths: list[str]
    next_record: int


class Lineage:
    """See the module.  Methods raise `RecoverableError`s and may be called again.

    events_sent and next_record tell how far it got, also after an error.
    """

    def __init__(
        self, store: ObjectStore, tables: TableStore, sink: Sink, origin: Origin
    ) -> None:
        self._store, self._tables, self._sink, self._origin = store, tables, sink, origin
        self._position: Position | None = None
        self.events_sent = 0

    @property
    def next_record(self) -> int:
        """The first record that no event was sent of."""
        return 0 if self._position is None else self._position.next_record

    def begin(self) -> None:
        """Find the position, before the ledger is added to.

        Where there is none, lineage was just turned on: it begins behind what the ledger holds.
        """
        found = self._store.get(LINEAGE_POSITION)
        if found is not None:
            self._position = _decode(found)
            return
        newest = self._tables.newest(LEDGER)
        version = -1 if newest is None else newest.version
        self._keep(Position(version, 0 if newest is None else newest.txns.get(LEDGER_APP_ID, 0)))

    def send(self, has_time: Callable[[], bool]) -> None:
        """Send what the ledger has behind the position, EVENTS_MAX events at most."""
        start = self._position
        newest = self._tables.newest(LEDGER)
        if start is None or newest is None:
            return
        if newest.version < start.version:
            # The ledger was begun anew, by hand; its records go on.
            self._position = Position(-1, start.next_record)
        try:
            self._send_through(newest.version, has_time)
        finally:
            if self._position != start:
                self._keep(self._position)

    def _send_through(self, newest: int, has_time: Callable[[], bool]) -> None:
        position = self._position
        assert position is not None
        for version in range(position.version + 1, newest + 1):
            entry = self._entry(version)
            for record, line in self._events(entry):
                if self.events_sent >= EVENTS_MAX or not has_time():
                    return
                self._sink.send(line)
                self.events_sent += 1
                self._position = Position(version - 1, record + 1)
            self._position = Position(version, max(self.next_record, entry.next_record))

    def _events(self, entry: _Entry) -> Iterator[tuple[int, bytes]]:
        """(record, event) of each record that is due, in order: each day has a file of its own,
        and clocks of several instances may differ around midnight."""
        def number(row: dict[str, Any]) -> int:
            return int(row["record"])
        with named(f"table {LEDGER}: a row of record {self.next_record} or behind"):
            rows = heapq.merge(*map(self._rows, entry.paths), key=number)
            for record, group in groupby(rows, key=number):
                if record >= self.next_record:
                    yield record, encode(event(list(group), self._origin))

    def _rows(self, path: str) -> Iterator[dict[str, Any]]:
        content = self._store.get(f"{LEDGER}/{path}")
        if content is None:
            raise LineageGap(f"events from record {self.next_record} on: the ledger's file {path} "
                             "is gone")
        with named(f"table {LEDGER}: file {path}"):
            for batch in pq.ParquetFile(io.BytesIO(content)).iter_batches(ROWS_AT_ONCE):
                yield from batch.to_pylist()

    def _entry(self, version: int) -> _Entry:
        content = self._store.get(entry_path(LEDGER, version))
        if content is None:
            raise LineageGap(f"events from record {self.next_record} on: version {version} is no "
                             "longer in the ledger's log")
        with named(f"table {LEDGER}: entry {version}"):
            return _read_entry(content)

    def _keep(self, position: Position | None) -> None:
        self._store.put(LINEAGE_POSITION, msgspec.json.encode(position))
        self._position = position


def _read_entry(content: bytes) -> _Entry:
    paths, next_record = [], 0
    for kind, action in actions_of(content):
        # What compaction adds holds no new row.
        if kind == "add" and action.get("dataChange", True):
            paths.append(unquote(str(action["path"])))
        elif kind == "txn" and action.get("appId") == LEDGER_APP_ID:
            next_record = int(action["version"])
    return _Entry(paths, next_record)


def _decode(found: bytes) -> Position:
    try:
        return msgspec.json.decode(found, type=Position)
    except msgspec.DecodeError as error:
        raise LineageGap(f"{LINEAGE_POSITION} cannot be read: {error}") from error
