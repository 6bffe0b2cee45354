"""Compacts the tables of a lake without a pause, with a clock of the day after tomorrow.

    LAKE_URI=… KAFKA_TOPICS=… python -m tests.rig.compactor

So the files of this day count as those of a day that is over, and the keeper's work can be tried
beside a service that writes the very same partition.  Prints a line of JSON for each compaction,
until it is killed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

from keeper.ledger_schema import LEDGER_FILE
from keeper.table_files import TableFiles
from keeper.table_log import DAY_MS, TableLog
from shared.clock import SystemClock
from shared.config import load
from shared.errors import RecoverableError
from shared.naming import LEDGER, bronze_table, dlq_table
from shared.object_store import open_store
from shared.record_log import RecordLog
from workers.assembly import table_store
from workers.schemas import BRONZE_FILE, DLQ_FILE

TARGET_BYTES = 4_000_000
BETWEEN_S = 0.2
BATCH_S = 30.0


class LaterClock(SystemClock):
    """Two days ahead, for what asks for the date."""

    def unix_ms(self) -> int:
        """Wall clock, and two days."""
        return super().unix_ms() + 2 * DAY_MS


def main() -> None:
    """Look after each table in turn, for ever."""
    config, clock = load(os.environ), LaterClock()
    store = open_store(config.lake)
    tables = table_store(config, store)
    schemas = {LEDGER: LEDGER_FILE}
    for topic in config.topics:
        schemas |= {bronze_table(topic): BRONZE_FILE, dlq_table(topic): DLQ_FILE}
    kept = {folder: TableFiles(store, TableLog(store, tables, folder, SystemClock().unix_ms),
                               RecordLog(store), folder, schema, clock, None)
            for folder, schema in schemas.items()}
    for folder, files in _for_ever(kept):
        try:
            done = files.compact(TARGET_BYTES, clock.monotonic() + BATCH_S)
        except RecoverableError as error:
            print(json.dumps({"folder": folder, "error": str(error)}), flush=True)
        else:
            if done.old:
                print(json.dumps({"folder": folder, "old": done.old, "new": done.new}), flush=True)
        clock.sleep(BETWEEN_S)


def _for_ever(kept: dict[str, TableFiles]) -> Iterator[tuple[str, TableFiles]]:
    while True:
        yield from kept.items()


if __name__ == "__main__":
    sys.exit(main())
