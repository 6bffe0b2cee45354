"""Reads of a lake what `verify` judges: the ledger, the records behind it, tables and files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from shared.config import Config
from shared.naming import (
    CERTIFICATES, LEDGER, LEDGER_APP_ID, REPLAYS, bronze_table, dlq_table, position_app_id,
    replay_app_id, rewind_folders,
)
from shared.object_store import Store, open_store
from shared.record_log import RecordLog
from shared.records import BRONZE, DLQ, CycleRecord, DataFile, Lost, Manifest, Range
from shared.replay_log import ReplayLog
from shared.replay_plan import Place, Plan
from tools.replays import NO_REPLAYS, Replayed, Replays
from tools.rewind_log import RewindLog
from tools.tiling import ActiveFile, Claim, Holding, NamedFile, Run, TableState
from workers.schemas import TIMESTAMP

READERS = 4
"""Data files read at once by `--deep`; each is held whole for a moment."""
LETTERS_AT_ONCE = 64
"""Dead letters turned into values at once: each may have a megabyte."""
_LEDGER_COLUMNS = ["record", "topic", "table_version", "ranges", "files"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A topic's tables as they were at one moment, the bronze table first."""

    bronze: DeltaTable | None
    dlq: DeltaTable | None


class LakeProbe:
    """One lake.  What the store or the library raises passes through."""

    def __init__(self, config: Config) -> None:
        self._uri, self._options = config.lake.uri, config.lake.storage_options()
        self._store: Store = open_store(config.lake)

    def snapshot(self, topic: str, prefix: str = "") -> Snapshot:
        """The bronze table first: what it has, the dead letter table has, too.  prefix: of the
        names of a rewind's tables."""
        bronze = self._open(prefix + bronze_table(topic))
        return Snapshot(bronze, self._open(prefix + dlq_table(topic)))

    def _open(self, folder: str) -> DeltaTable | None:
        try:
            return DeltaTable(f"{self._uri.rstrip('/')}/{folder}", storage_options=self._options)
        except TableNotFoundError:
            return None

    def claims(self) -> tuple[dict[str, list[Claim]], int]:
        """Topic -> what is recorded of it, by record; and how many records are not in the ledger
        yet.  To be read after the snapshots: whatever they show is recorded by then."""
        found: dict[str, list[Claim]] = {}
        ledger = self._open(LEDGER)
        position = 0
        if ledger is not None:
            position = ledger.transaction_version(LEDGER_APP_ID) or 0
            for row in _ledger_rows(ledger):
                found.setdefault(row["topic"], []).append(_claim_of_row(row))
        behind = 0
        log = RecordLog(self._store)
        for number in log.numbers(position - 1):
            record = log.read(number)
            behind += 1
            for manifest in record.manifests if isinstance(record, CycleRecord) else ():
                found.setdefault(manifest.topic, []).append(_claim_of(number, manifest))
        for claims in found.values():
            claims.sort(key=lambda claim: claim.record)
        return found, behind

    def dead_letters(
        self, topic: str, columns: Sequence[str], place: Place | None = None
    ) -> Iterator[dict[str, Any]] | None:
        """The dead letters of a topic as its table has them now, a few at a time; only the one at
        `place` where it is given.  None where there is no such table."""
        table = self._open(dlq_table(topic))
        if table is None:
            return None
        wanted = None if place is None else (
            (pc.field("_kafka_partition") == place[0]) & (pc.field("_kafka_offset") == place[1]))
        batches = table.to_pyarrow_dataset().to_batches(
            columns=list(columns), filter=wanted, batch_size=LETTERS_AT_ONCE, batch_readahead=1,
            fragment_readahead=1)
        return (row for batch in batches for row in batch.to_pylist())

    def plans(self, topic: str) -> list[Plan]:
        """The decided replays of a topic."""
        return ReplayLog(self._store, topic).read()

    def replays(self, topic: str, snapshot: Snapshot, table: DeltaTable | None) -> Replays:
        """A topic's replays; table: that of replays, opened before."""
        app_id = replay_app_id(topic)
        plans = tuple(Replayed(plan.number, plan.letters, file.path, file.rows, file.size)
                      for plan in self.plans(topic) for file in plan.files_of(BRONZE))
        if not plans and table is None:
            return NO_REPLAYS
        reached, through = _last(snapshot.bronze, app_id), _last(table, app_id)
        recorded = None
        with contextlib.suppress(OSError, DeltaError, pa.ArrowInvalid):
            recorded = _recorded_letters(table, topic, plans[0].number) if table and plans else {}
        return Replays(plans, reached, through, recorded)

    def table_of_replays(self) -> DeltaTable | None:
        """As it is now; None where nothing was ever replayed."""
        return self._open(REPLAYS)

    def topics_with_dead_letters(self) -> list[str]:
        """Topics, configured or not, whose dead letter table was made once."""
        made = (path.rsplit("/", 1)[-1].removesuffix(".json")
                for path in self._store.list_after(CERTIFICATES))
        prefix = dlq_table("")
        return sorted(name.removeprefix(prefix) for name in made if name.startswith(prefix))

    def holding(
        self, topic: str, snapshot: Snapshot, partitions: Iterable[int], *,
        deep: bool, on_file: Callable[[], None] = lambda: None, prefix: str = "",
        replayed: Set[Place] = frozenset(),
    ) -> Holding:
        """What the snapshot holds of a topic; on_file is called for each file read; prefix: as
        the snapshot was taken with; replayed: the dead letters that may be rows, too."""
        folders = {BRONZE: prefix + bronze_table(topic), DLQ: prefix + dlq_table(topic)}
        positions = {}
        for partition in partitions if snapshot.bronze is not None else ():
            found = snapshot.bronze.transaction_version(position_app_id(topic, partition))
            if found is not None:
                positions[partition] = int(found)
        tables = {name: self._state(folders[name], table)
                  for name, table in ((BRONZE, snapshot.bronze), (DLQ, snapshot.dlq))
                  if table is not None}
        if not deep:
            return Holding(positions, tables)
        runs, rows = self._runs(folders, tables, replayed, on_file)
        return Holding(positions, tables, runs, rows)

    def rewinds(self, name: str) -> dict[str, list[Claim]]:
        """Topic -> what a rewind of that name has recorded of it, by record."""
        found = {}
        for path in self._store.list_after(rewind_folders(name)):
            topic = path.removeprefix(rewind_folders(name)).partition("/")[0]
            if topic not in found:
                log = RewindLog(self._store, name, topic)
                found[topic] = [_claim_of(*record) for record in log.manifests()]
        return found

    def first_at(self, topic: str, partition: int, time_ms: int, below: int) -> int | None:
        """The lowest offset below `below` that either table has of a message whose timestamp is
        not before `time_ms`.  Reads files that may have such, one batch at a time."""
        snapshot = self.snapshot(topic)
        moment = pa.scalar(time_ms * 1000, TIMESTAMP)
        wanted = ((pc.field("_kafka_partition") == partition) & (pc.field("_kafka_offset") < below)
                  & (pc.field("_kafka_timestamp") >= moment))
        lowest = None
        for table in (snapshot.bronze, snapshot.dlq):
            batches = () if table is None else table.to_pyarrow_dataset().to_batches(
                columns=["_kafka_offset"], filter=wanted, batch_readahead=1, fragment_readahead=1)
            for batch in batches:
                found = pc.min(batch.column(0)).as_py()
                if found is not None and (lowest is None or found < lowest):
                    lowest = found
        return lowest

    def _state(self, folder: str, table: DeltaTable) -> TableState:
        prefix = f"{folder}/"
        sizes = self._store.sizes(prefix)
        return TableState(
            dict(_active(table)),
            {path.removeprefix(prefix): size for path, size in sizes.items()})

    def _runs(
        self, folders: Mapping[str, str], tables: Mapping[str, TableState],
        replayed: Set[Place], on_file: Callable[[], None],
    ) -> tuple[dict[int, list[Run]], list[Place]]:
        paths = [(f"{folders[name]}/{path}", replayed if name == BRONZE else frozenset())
                 for name, state in tables.items()
                 for path in state.files if path in state.objects]
        runs: dict[int, list[Run]] = {}
        rows: list[Place] = []
        with ThreadPoolExecutor(READERS) as pool:
            for found, again in pool.map(self._runs_of, paths):
                on_file()
                rows += again
                for partition, run in found:
                    runs.setdefault(partition, []).append(run)
        return runs, rows

    def _runs_of(
        self, file: tuple[str, Set[Place]]
    ) -> tuple[list[tuple[int, Run]], list[Place]]:
        """The runs of a file's offsets without the replayed rows, and those."""
        path, replayed = file
        data = self._store.get(path)
        if data is None:
            return [], []
        table = pq.read_table(io.BytesIO(data), columns=["_kafka_partition", "_kafka_offset"])
        table, again = without(table, replayed)
        return list(runs_of(table)), again


def without(table: pa.Table, replayed: Set[Place]) -> tuple[pa.Table, list[Place]]:
    """The rows that are not among these places, and the places of those that are."""
    offsets = pa.array({offset for _, offset in replayed}, pa.int64())
    suspects = pc.indices_nonzero(pc.is_in(table["_kafka_offset"], offsets)).to_pylist()
    places = {index: (table["_kafka_partition"][index].as_py(),
                      table["_kafka_offset"][index].as_py()) for index in suspects}
    again = {index: place for index, place in places.items() if place in replayed}
    if not again:
        return table, []
    kept = pc.invert(pc.is_in(pa.array(range(table.num_rows), pa.int64()),
                              pa.array(again, pa.int64())))
    return table.filter(kept), list(again.values())


def runs_of(table: pa.Table) -> Iterator[tuple[int, Run]]:
    """(partition, offsets [start, end)) of a file's rows; an offset that is there twice begins a
    run anew, so that the judge sees it."""
    for partition in pc.unique(table["_kafka_partition"]).to_pylist():
        rows = table.filter(pc.equal(table["_kafka_partition"], partition))
        offsets = pc.take(rows["_kafka_offset"], pc.sort_indices(rows["_kafka_offset"]))
        offsets = pa.array(offsets.combine_chunks(), pa.int64())
        breaks = pc.indices_nonzero(
            pc.fill_null(pc.not_equal(pc.pairwise_diff(offsets), 1), True)).to_pylist()
        for first, behind in zip(breaks, [*breaks[1:], len(offsets)], strict=True):
            yield partition, (offsets[first].as_py(), offsets[behind - 1].as_py() + 1)


def _last(table: DeltaTable | None, app_id: str) -> int:
    """The last replay in a table, 0 where there is none."""
    return 0 if table is None else table.transaction_version(app_id) or 0


def _recorded_letters(table: DeltaTable, topic: str, first: int) -> dict[Place, int]:
    """Place -> replay, of every row of a topic's replays from `first` on; a place that is there
    twice is of replay 0."""
    found: dict[Place, int] = {}
    for batch in table.to_pyarrow_dataset().to_batches(
            columns=["_kafka_partition", "_kafka_offset", "replay"],
            filter=(pc.field("_kafka_topic") == topic) & (pc.field("replay") >= first)):
        for row in batch.to_pylist():
            place = row["_kafka_partition"], row["_kafka_offset"]
            found[place] = 0 if place in found else row["replay"]
    return found


def _named(file: DataFile) -> NamedFile:
    return NamedFile(file.table, file.path, file.rows, file.size)


def _active(table: DeltaTable) -> Iterator[tuple[str, ActiveFile]]:
    found = pa.table(table.get_add_actions(flatten=True))
    names = set(found.column_names)
    last = "max._kafka_offset"
    columns = ["path", "size_bytes", *(name for name in ("num_records", last) if name in names)]
    for row in found.select(columns).to_pylist():
        yield unquote(row["path"]), ActiveFile(
            row["size_bytes"], row.get("num_records"), row.get(last))


def _ledger_rows(ledger: DeltaTable) -> Iterator[dict]:
    dataset = ledger.to_pyarrow_dataset()
    batches = dataset.to_batches(
        columns=_LEDGER_COLUMNS, filter=pc.field("status") == "committed")
    for batch in batches:
        yield from batch.to_pylist()


def _claim_of_row(row: Mapping) -> Claim:
    return Claim(
        row["record"],
        tuple(Range(part["partition"], part["start"], part["end"], part["rows"],
                    part["dead_letters"], part["skipped"],
                    tuple(Lost(gap["start"], gap["end"], gap["cause"]) for gap in part["lost"]))
              for part in row["ranges"]),
        tuple(NamedFile(file["table"], file["path"], file["rows"], file["bytes"])
              for file in row["files"]),
        row["table_version"])


def _claim_of(number: int, manifest: Manifest) -> Claim:
    return Claim(number, manifest.ranges, tuple(map(_named, manifest.files)))
