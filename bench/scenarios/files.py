"""The same stream into empty tables and into tables with 10,000 files of 100 days each.

The files are entries of the tables' logs, with sizes and statistics as the service writes them;
no object lies behind them, for the service reads no data file that is committed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deltalake import DeltaTable
from deltalake.transaction import AddAction

from bench.contract import Verdict, memory, no_growth
from bench.stream import Stream, stream
from bench.surroundings import Ground, Surroundings

FILES, QUICK_FILES = 10_000, 1_000
DAYS = 100
COMMITS = 10
ROWS_PER_FILE = 25_000
BYTES_PER_FILE = 2_500_000
INTERVAL_S = 1.0
PER_SECOND = 20_000


@dataclass(frozen=True, slots=True)
class Files:
    """Two streams into the same tables, before and after `files` files came into each."""

    files: int
    days: int
    empty: Stream
    full: Stream

    def growth(self, name: str) -> float:
        """By which share a measure is higher with the files: cores, commit_s."""
        return getattr(self.full, name) / getattr(self.empty, name) - 1

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        tables = f"on tables with {self.files:,} files"
        return [
            memory(tables, self.full.memory.peak, limit_mb),
            no_growth(f"CPU per message {tables}", self.growth("cores")),
            no_growth(f"commit time {tables}", self.growth("commit_s")),
            no_growth(f"memory {tables}", self.full.memory.mean / self.empty.memory.mean - 1)]


def run(around: Surroundings) -> Files:
    """Stream, put the files in, stream again, count what the service wrote."""
    files, seconds = int(around.size(FILES, QUICK_FILES)), around.size(60, 10)
    with around.ground() as ground:
        today = datetime.now(UTC).date()
        empty = stream(ground, "stream, empty tables", PER_SECOND, INTERVAL_S, seconds)
        with around.step("put files into the tables", len(ground.topics)) as tick:
            for number, topic in enumerate(ground.topics):
                _put_files(ground, topic, files)
                tick(number + 1)
        full = stream(ground, "stream, full tables", PER_SECOND, INTERVAL_S, seconds)
        ground.count(since=today)
        return Files(files, DAYS, empty, full)


def _put_files(ground: Ground, topic: str, files: int) -> None:
    table = DeltaTable(f"{ground.minio.lake_uri(ground.name)}/bronze_{topic}",
                       storage_options=ground.minio.storage_options())
    now = datetime.now(UTC)
    for commit in range(COMMITS):
        table.create_write_transaction(
            [_file(number, now - timedelta(days=1 + number * DAYS // files))
             for number in range(commit * files // COMMITS, (commit + 1) * files // COMMITS)],
            "append", table.schema())
        table.update_incremental()
    table.create_checkpoint()


def _file(number: int, at: datetime) -> AddAction:
    """An entry like the service's own, of an earlier day."""
    bounds = {"_kafka_partition": number % 4, "_kafka_timestamp": at.isoformat(),
              "_ingested_at": at.isoformat()}
    first = number * ROWS_PER_FILE
    stats = {
        "numRecords": ROWS_PER_FILE,
        "minValues": {**bounds, "_kafka_offset": first},
        "maxValues": {**bounds, "_kafka_offset": first + ROWS_PER_FILE - 1},
        "nullCount": dict.fromkeys((*bounds, "_kafka_offset"), 0)}
    day = at.date().isoformat()
    return AddAction(
        path=f"_ingestion_date={day}/earlier-{number:06d}.zstd.parquet", size=BYTES_PER_FILE,
        partition_values={"_ingestion_date": day}, modification_time=int(at.timestamp() * 1000),
        data_change=True, stats=json.dumps(stats))
