"""Reads of a lake what `verify` judges: the ledger, the records behind it, tables and files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from shared.config import Config
from shared.naming import (
    LEDGER, LEDGER_APP_ID, bronze_table, dlq_table, position_app_id, rewind_folders,
)
from shared.object_store import Store, open_store
from shared.record_log import RecordLog
from shared.records import BRONZE, DLQ, CycleRecord, Lost, Manifest, Range
from tools.rewind_log import RewindLog
from tools.tiling import ActiveFile, Claim, Holding, NamedFile, Run, TableState
from workers.schemas import TIMESTAMP

READERS = 4
"""Data files read at once by `--deep`; each is held whole for a moment."""
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

    def holding(
        self, topic: str, snapshot: Snapshot, partitions: Iterable[int], *,
        deep: bool, on_file: Callable[[], None] = lambda: None, prefix: str = "",
    ) -> Holding:
        """What the snapshot holds of a topic; on_file is called for each file read; prefix: as
        the snapshot was taken with."""
        folders = {BRONZE: prefix + bronze_table(topic), DLQ: prefix + dlq_table(topic)}
        positions = {}
        for partition in partitions if snapshot.bronze is not None else ():
            found = snapshot.bronze.transaction_version(position_app_id(topic, partition))
            if found is not None:
                positions[partition] = int(found)
        tables = {name: self._state(folders[name], table)
                  for name, table in ((BRONZE, snapshot.bronze), (DLQ, snapshot.dlq))
                  if table is not None}
        runs = self._runs(folders, tables, on_file) if deep else None
        return Holding(positions, tables, runs)

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
        on_file: Callable[[], None],
    ) -> dict[int, list[Run]]:
        paths = [f"{folders[name]}/{path}" for name, state in tables.items()
                 for path in state.files if path in state.objects]
        runs: dict[int, list[Run]] = {}
        with ThreadPoolExecutor(READERS) as pool:
            for found in pool.map(self._runs_of, paths):
                on_file()
                for partition, run in found:
                    runs.setdefault(partition, []).append(run)
        return runs

    def _runs_of(self, path: str) -> list[tuple[int, Run]]:
        data = self._store.get(path)
        if data is None:
            return []
        table = pq.read_table(io.BytesIO(data), columns=["_kafka_partition", "_kafka_offset"])
        return list(runs_of(table))


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
    return Claim(number, manifest.ranges, tuple(
        NamedFile(file.table, file.path, file.rows, file.size) for file in manifest.files))
