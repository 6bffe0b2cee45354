"""The judge: a good history passes, and every anomaly made by hand is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from shared.records import (
    BRONZE, DLQ, CycleRecord, DataFile, Lost, Manifest, Range, StartRecord, encode,
)
from tests.fakes.source import Entry, MemoryTopic
from tests.fakes.tables import Version
from tests.simulation.judge import Judge, Violation

GOOD, BAD, CONTROL = Entry(b"1", b"k"), Entry(b"{", None), Entry(control=True)


def columns(*rows: tuple[int, Entry]) -> dict[str, list[Any]]:
    """A file's columns, out of offsets and entries; a row may be altered by its test."""
    return {
        "_kafka_partition": [0] * len(rows), "_kafka_offset": [offset for offset, _ in rows],
        "value": [entry.value for _, entry in rows], "key": [entry.key for _, entry in rows],
        "headers": [None] * len(rows), "_kafka_timestamp": [Moment(entry) for _, entry in rows]}


@dataclass
class Moment:
    """Stands for a datetime."""

    entry: Entry

    def timestamp(self) -> float:
        """See `datetime`."""
        return self.entry.timestamp_ms / 1000


@dataclass
class History:
    """Topic a holds a message, a control record and a malformed one; `tell` what happened."""

    topic: MemoryTopic = field(default_factory=MemoryTopic)
    objects: dict[str, bytes] = field(default_factory=dict)
    number: int = 0
    cycle_id: int = 0

    def __post_init__(self) -> None:
        self.topic.append(0, GOOD, CONTROL, BAD)
        self.judge = Judge({"a": self.topic}, self.objects)

    def start(self, uuid: str = "u", claim: int = -1) -> History:
        """A service has started."""
        self.write(StartRecord("0", uuid, "1", self.cycle_id, "t", claim))
        return self

    def begin(self, offset: int = 0) -> History:
        """The partition has a first position."""
        self.judge.committed("bronze_a", Version((), {"bronze/a/0": offset, "bronze/a/id/i": 1}))
        return self

    def write(self, record: StartRecord | CycleRecord) -> None:
        """A record has appeared."""
        self.judge.record_written(self.number, encode(record))
        self.number += 1

    def file(self, table: str, rows: dict[str, list[Any]], name: str = "f") -> DataFile:
        """A file has been uploaded."""
        data = pickle.dumps(rows)
        folder = "bronze_a" if table == BRONZE else "dlq_bronze_a"
        self.objects[f"{folder}/{name}"] = data
        return DataFile(table, name, len(data), len(rows["value"]), "2026-02-02", "{}", 0)

    def decide(
        self, *files: DataFile, part: Range | None = None, uuid: str = "u", claim: int = -1,
        cycle_id: int | None = None,
    ) -> Manifest:
        """A cycle is decided."""
        self.cycle_id += 1
        manifest = Manifest("a", "i", 1, files, (part or Range(0, 0, 3, 1, 1),))
        self.write(CycleRecord("0", uuid, cycle_id or self.cycle_id, "t", (manifest,), {}, claim,
                               {}))
        return manifest

    def usual(self, **changes: dict[str, list[Any]]) -> Manifest:
        """The cycle all is well in; `rows` and `dead` may be other columns."""
        return self.start().begin().decide(
            self.file(BRONZE, changes.get("rows", columns((0, GOOD)))),
            self.file(DLQ, changes.get("dead", columns((2, BAD)))))

    def commit(self, manifest: Manifest, *tables: str) -> None:
        """The manifest is committed to these tables, or both."""
        for table in tables or (DLQ, BRONZE):
            folder = "bronze_a" if table == BRONZE else "dlq_bronze_a"
            self.judge.committed(folder, Version(manifest.files_of(table), {"bronze/a/0": 3}))


def test_a_good_history_passes() -> None:
    """Otherwise it would find anomalies everywhere."""
    history = History()
    history.commit(history.usual())
    history.topic.group_offsets[0] = 3
    history.judge.offsets_told("a")
    history.judge.record_deleted(1)
    assert history.judge.finish() == 2


def altered(**values: Any) -> dict[str, list[Any]]:
    """The good row with other values."""
    return columns((0, GOOD)) | {name: [value] for name, value in values.items()}


def land(**changes: dict[str, list[Any]]) -> Callable[[History], None]:
    """Commit a cycle with such files."""
    return lambda history: history.commit(history.usual(**changes))


def record_skipped(history: History) -> None:
    history.number = 1
    history.start()


def claims_too_much(history: History) -> None:
    history.usual()
    history.start("v", claim=1)


def fenced_decides(history: History) -> None:
    history.start().start("v").begin().decide(uuid="u")


def decided_twice(history: History) -> None:
    history.start().begin().decide(part=Range(0, 0, 2, 1), *(history.file(
        BRONZE, columns((0, GOOD))),))
    history.decide(part=Range(0, 2, 3), cycle_id=1)


def range_leaves_a_hole(history: History) -> None:
    history.start().begin().decide(part=Range(0, 1, 3))


def fates_do_not_add_up(history: History) -> None:
    history.start().begin().decide(history.file(BRONZE, columns((0, GOOD))),
                                   part=Range(0, 0, 3, 1))


def file_lacks_rows(history: History) -> None:
    history.start().begin().decide(part=Range(0, 0, 3, 1, 1))


def dead_letters_lack(history: History) -> None:
    history.start().begin().decide(history.file(BRONZE, columns((0, GOOD))))


def lost_is_held(history: History) -> None:
    history.start().begin().decide(part=Range(0, 0, 3, 0, 0, 0, (Lost(0, 3, "retention"),)))


def undecided_commit(history: History) -> None:
    file = history.file(BRONZE, columns((0, GOOD)))
    history.start().begin().judge.committed("bronze_a", Version((file,), {"bronze/a/0": 1}))


def commit_twice(history: History) -> None:
    manifest = history.usual()
    history.commit(manifest)
    history.commit(manifest)


def other_file(history: History) -> None:
    manifest = history.usual()
    file = msgspec.structs.replace(manifest.files[1], path="g")
    history.judge.committed("dlq_bronze_a", Version((file,), {"bronze/a/0": 3}))


def other_position(history: History) -> None:
    manifest = history.usual()
    history.judge.committed(
        "dlq_bronze_a", Version(manifest.files_of(DLQ), {"bronze/a/0": 2}))


def newer_first(history: History) -> None:
    history.topic.append(0, GOOD)
    history.usual()
    newer = history.decide(history.file(BRONZE, columns((3, GOOD)), "g"), part=Range(0, 3, 4, 1))
    history.judge.committed("bronze_a", Version(newer.files, {"bronze/a/0": 4}))


def file_vanished(history: History) -> None:
    manifest = history.usual()
    history.objects.pop("dlq_bronze_a/f")
    history.commit(manifest)


def file_cut(history: History) -> None:
    manifest = history.usual()
    history.objects["dlq_bronze_a/f"] = history.objects["dlq_bronze_a/f"][:-1]
    history.commit(manifest)


def row_twice(history: History) -> None:
    history.topic.append(0, GOOD)
    history.usual()
    twice = history.file(BRONZE, columns((0, GOOD), (0, GOOD)), "g")
    manifest = history.decide(twice, part=Range(0, 3, 4, 1))
    history.commit(manifest)


def same_row_in_two_records(history: History) -> None:
    history.topic.append(0, GOOD)
    history.commit(history.usual())
    again = history.decide(history.file(BRONZE, columns((0, GOOD)), "g"), part=Range(0, 3, 4, 1))
    history.judge.committed("bronze_a", Version(again.files, {"bronze/a/0": 4}))


def outside_of_ranges(history: History) -> None:
    history.topic.append(0, GOOD)
    land(rows=columns((3, GOOD)))(history)


def malformed_row(history: History) -> None:
    file = history.file(BRONZE, columns((0, GOOD), (2, BAD)))
    history.commit(history.start().begin().decide(file, part=Range(0, 0, 3, 2)), BRONZE)


def group_ahead(history: History) -> None:
    history.start().begin()
    history.topic.group_offsets[0] = 1
    history.judge.offsets_told("a")


def owed_at_the_end(history: History) -> None:
    manifest = history.usual()
    history.commit(manifest, DLQ)
    history.judge.positions["a", 0] = 3
    history.judge.landed["a", 0, 0] = "bronze_a"
    history.judge.finish()


def not_all_read(history: History) -> None:
    history.commit(history.usual())
    history.topic.append(0, GOOD)
    history.judge.finish()


def a_row_lacks(history: History) -> None:
    history.commit(history.usual())
    del history.judge.landed["a", 0, 0]
    history.judge.finish()


def a_row_too_many(history: History) -> None:
    history.commit(history.usual())
    history.judge.landed["a", 0, 7] = "bronze_a"
    history.judge.finish()


def owed_is_trimmed(history: History) -> None:
    history.usual()
    history.judge.record_deleted(1)


def begins_too_late(history: History) -> None:
    history.start().begin(2)


ANOMALIES: dict[str, tuple[Callable[[History], Any], str]] = {
    "a number is left out": (record_skipped, "record 1 follows -1"),
    "a claim of what is owed": (claims_too_much, "claims everything through 1"),
    "a replaced service decides": (fenced_decides, "a newer one has taken"),
    "a cycle is decided twice": (decided_twice, "was decided before"),
    "a hole between ranges": (range_leaves_a_hole, "begins at 1, decided is 0"),
    "fates do not add up": (fates_do_not_add_up, "do not add up"),
    "a file with fewer rows than its range": (file_lacks_rows, "hold 0 rows"),
    "the same of dead letters": (dead_letters_lack, "hold 0 dead"),
    "lost is what Kafka holds": (lost_is_held, "calls lost"),
    "a commit without a record": (undecided_commit, "without a decided record"),
    "a commit twice": (commit_twice, "without a decided record"),
    "a commit of another file": (other_file, "is not record 1"),
    "a commit to another position": (other_position, "is not record 1"),
    "a newer record first": (newer_first, "is not record 1"),
    "rows before dead letters": (
        lambda history: history.commit(history.usual(), BRONZE), "before its dead letters"),
    "a file that is gone": (file_vanished, "is not there with"),
    "a file cut short": (file_cut, "is not there with"),
    "the same row in two records": (same_row_in_two_records, "landed twice"),
    "a row in both tables": (land(rows=columns((2, BAD))), "landed twice"),
    "a well formed dead letter": (land(dead=columns((0, GOOD))), "wrong table"),
    "a malformed row": (malformed_row, "wrong table"),
    "a row outside of the ranges": (outside_of_ranges, "outside of its record's ranges"),
    "a control record as a row": (land(rows=columns((1, GOOD))), "is no message"),
    "another value": (land(rows=altered(value="2")), "was altered"),
    "another key": (land(rows=altered(key=None)), "was altered"),
    "a header too many": (land(rows=altered(headers=[{"key": "h", "value": b""}])), "altered"),
    "another timestamp": (land(rows=altered(_kafka_timestamp=None)), "was altered"),
    "the group ahead of the table": (group_ahead, "the group is at 1"),
    "a record owed at the end": (owed_at_the_end, "never committed"),
    "messages not read": (not_all_read, "ended at 3 of 4"),
    "a row that lacks": (a_row_lacks, "is in no table"),
    "a row too many": (a_row_too_many, "3 rows landed, 2 were wanted"),
    "a record trimmed while owed": (owed_is_trimmed, "was deleted"),
    "a beginning behind messages": (begins_too_late, "begins at 2"),
}


@pytest.mark.parametrize("name", ANOMALIES)
def test_an_anomaly_is_named(name: str) -> None:
    """Each as small as it can be."""
    make, words = ANOMALIES[name]
    with pytest.raises(Violation, match=words.replace("[", r"\[")):
        make(History())


def test_more_rows_in_a_file_than_its_record_says() -> None:
    """A file is held against its record before its rows are."""
    history = History()
    with pytest.raises(Violation, match="hold 2 rows"):
        row_twice(history)
