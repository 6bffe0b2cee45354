"""When rows became visible: a table's log entries, by the clock of the store.

A version of a Delta table is visible from the moment its log entry exists. That moment is the
entry's LastModified, which MinIO gives in milliseconds: one clock for all tables, whoever wrote.
MinIO takes the time when it has received the entry and makes it readable right after.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from minio import Minio
from pyarrow import fs

FOLLOW_S = 5.0
STOP_TIMEOUT_S = 60.0
ENTRY = re.compile(r"/_delta_log/(\d{20})\.json$")
TIMESTAMP = "_kafka_timestamp"


class LogGap(Exception):
    """A log entry was removed before it was seen, so its moment is not known."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit of the service.

    record: the number of the decision record it belongs to; visible_at: Unix time, to the ms.
    files: the data files it added, by path below the table.
    """

    version: int
    record: int
    visible_at: float
    files: tuple[str, ...]


def parse_entry(version: int, visible_at: float, content: bytes) -> Entry | None:
    """A log entry, or None for one that no decision record stands behind."""
    actions = [json.loads(line) for line in content.splitlines() if line.strip()]
    facts = [action["commitInfo"].get("bronze", {}) for action in actions
             if "commitInfo" in action]
    records = [fact["record"] for fact in facts if "record" in fact]
    if not records:
        return None
    files = tuple(action["add"]["path"] for action in actions if "add" in action)
    return Entry(version, records[0], visible_at, files)


@dataclass(slots=True)
class TableLog:
    """Follows one table's log; `entries` are those of the service, in order."""

    client: Minio
    bucket: str
    folder: str
    entries: list[Entry] = field(default_factory=list)
    version: int = -1

    def skip(self) -> None:
        """Pass over what is there already, however much of it was cleaned up."""
        self.version = max(self._listed(), default=self.version)

    def follow(self) -> None:
        """Read what is new.

        Raises:
            LogGap: an entry is missing between what was seen and what is there.
        """
        for version, modified in sorted(self._listed().items()):
            if version != self.version + 1:
                raise LogGap(f"{self.folder}: version {self.version + 1} is gone, the log was "
                             f"cleaned up to version {version}")
            entry = parse_entry(version, modified.timestamp(), self._read(version))
            if entry is not None:
                self.entries.append(entry)
            self.version = version

    def _listed(self) -> dict[int, datetime]:
        """Version -> when it became visible, of those behind the last one seen."""
        log = f"{self.folder}/_delta_log/"
        seen = f"{log}{self.version:020d}.json" if self.version >= 0 else None
        found: dict[int, datetime] = {}
        for item in self.client.list_objects(self.bucket, prefix=log, start_after=seen):
            match = ENTRY.search(str(item.object_name))
            if match and item.last_modified is not None:
                found[int(match[1])] = item.last_modified
        return found

    def _read(self, version: int) -> bytes:
        answer = self.client.get_object(
            self.bucket, f"{self.folder}/_delta_log/{version:020d}.json")
        try:
            return answer.data
        finally:
            answer.close()
            answer.release_conn()


class Follower:
    """Follows the logs of several tables while a `with` block runs, complete after it.

    What is there when the block is entered is not among the entries. Raises on exit what following
    met.
    """

    def __init__(self, client: Minio, bucket: str, folders: Mapping[str, str]) -> None:
        """folders: topic -> the table's folder in the bucket."""
        self.logs = {topic: TableLog(client, bucket, folder) for topic, folder in folders.items()}
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def __enter__(self) -> Follower:
        for log in self.logs.values():
            log.skip()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(STOP_TIMEOUT_S)
        if kind is None:
            if self._error is not None:
                raise self._error
            if self._thread.is_alive():
                raise LogGap(f"a look at the logs was not over within {STOP_TIMEOUT_S:g} s")
            self._follow()

    def _run(self) -> None:
        try:
            while not self._stop.wait(FOLLOW_S):
                self._follow()
        except Exception as error:  # Handed to the thread that waits for the answer.
            self._error = error

    def _follow(self) -> None:
        for log in self.logs.values():
            log.follow()


def windows(logs: Mapping[str, Sequence[Entry]]) -> list[float]:
    """Per decision record, seconds from the first table's becoming visible to the last one's.

    Only records that have a commit in every one of the tables count.
    """
    moments: dict[int, list[float]] = {}
    for entries in logs.values():
        for entry in entries:
            moments.setdefault(entry.record, []).append(entry.visible_at)
    return [max(seen) - min(seen) for _, seen in sorted(moments.items())
            if len(seen) == len(logs)]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


class Ages:
    """How old rows were when they became visible, counted in whole milliseconds."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, filesystem: fs.FileSystem, folder: str, entry: Entry) -> None:
        """Read the timestamps of one commit's rows; rows without one do not count."""
        paths = [f"{folder}/{path}" for path in entry.files]
        if not paths:
            return
        table = ds.dataset(paths, format="parquet", filesystem=filesystem).to_table(
            columns=[TIMESTAMP])
        stamps = table[TIMESTAMP].cast(pa.timestamp("ms", "UTC"), safe=False).cast(pa.int64())
        visible_ms = round(entry.visible_at * 1000)
        for pair in pc.value_counts(pc.drop_null(stamps)):
            age = visible_ms - pair["values"].as_py()
            self._counts[age] = self._counts.get(age, 0) + pair["counts"].as_py()

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(self._counts.values())

    def quantiles_s(self, shares: Sequence[float]) -> list[float]:
        """The ages, in seconds, that these shares of the rows do not exceed; rising shares."""
        rows, found, passed, age = self.rows, [], 0, 0
        steps = iter(sorted(self._counts.items()))
        for share in shares:
            while passed < max(1, share * rows):
                age, count = next(steps)
                passed += count
            found.append(age / 1000)
        return found
