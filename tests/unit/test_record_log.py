"""The log of records as it is read: from the newest claim on, with no hole unnoticed."""

from __future__ import annotations

import pytest

from shared.errors import LogDamaged, LogOvertaken, StorageUnavailable, UnsupportedRecord
from shared.naming import LOG_PREFIX, record_number, record_path
from shared.record_log import RecordLog, Tail
from shared.records import CycleRecord, Record, StartRecord, encode
from tests.fakes.faults import When
from tests.fakes.store import MemoryStore


def start(complete_through: int = -1, cycle_id: int = 0) -> StartRecord:
    """A start record."""
    return StartRecord("0", "u", "1", cycle_id, "t", complete_through)


def cycle(complete_through: int, cycle_id: int = 1) -> CycleRecord:
    """A cycle record without manifests."""
    return CycleRecord("0", "u", cycle_id, "t", (), {}, complete_through, {})


def log_of(records: dict[int, Record]) -> tuple[RecordLog, MemoryStore]:
    """A log holding `records`."""
    store = MemoryStore()
    for number, record in records.items():
        store.objects[record_path(number)] = encode(record)
    return RecordLog(store), store


def test_an_empty_log_begins_at_zero() -> None:
    """The first service of a lake finds nothing."""
    log, _ = log_of({})
    tail = log.tail()
    assert tail == Tail(-1, {})
    assert (tail.next_number, tail.cycle_id, tail.cycles) == (0, 0, {})


def test_tail_holds_what_may_still_have_to_be_committed() -> None:
    """Everything behind the newest record's claim, in order."""
    log, _ = log_of({0: start(), 1: cycle(0, 1), 2: cycle(1, 2), 3: start(1, 2), 4: cycle(1, 3)})
    tail = log.tail()
    assert tail.complete_through == 1
    assert sorted(tail.records) == [2, 3, 4]
    assert list(tail.cycles) == [2, 4]
    assert (tail.next_number, tail.cycle_id) == (5, 3)


def test_a_claim_in_between_may_be_higher_than_the_newest_one() -> None:
    """Instances know different things; every claim is true for ever."""
    log, _ = log_of({0: start(), 1: cycle(0), 2: cycle(1), 3: start(0)})
    tail = log.tail()
    assert tail.complete_through == 1
    assert sorted(tail.records) == [2, 3]


def test_a_trimmed_log_is_whole() -> None:
    """What was claimed complete may be gone."""
    log, _ = log_of({7: cycle(6, 40), 8: cycle(7, 41)})
    assert sorted(log.tail().records) == [8]


def test_tail_reads_no_more_than_it_needs() -> None:
    """A start must not read a thousand records."""
    log, store = log_of({n: cycle(n - 1, n) for n in range(50)})
    log.tail()
    assert [path for operation, path in store.faults.seen if operation == "get"] == [record_path(49)]


def test_a_hole_in_what_may_be_undone_halts_the_service() -> None:
    """The missing record may be a decision: going on would lose its rows."""
    log, _ = log_of({0: start(), 1: cycle(0), 3: cycle(0)})
    with pytest.raises(LogDamaged, match="record 2 is missing, 3 is there"):
        log.tail()


def test_a_listed_record_that_cannot_be_read_halts_the_service() -> None:
    """Deleted between listing and reading, by somebody who may not."""
    log, store = log_of({0: start(), 1: cycle(-1)})
    store.faults.once_before("get", record_path(0), lambda: store.delete(record_path(0)))
    with pytest.raises(LogDamaged, match="record 0 (is missing|was listed)"):
        log.tail()


def test_a_log_trimmed_while_it_is_read_is_read_anew() -> None:
    """A start that was frozen between listing and reading must not ask a person to restore it."""
    log, store = log_of({0: start(), 1: cycle(-1), 2: cycle(1), 3: cycle(1)})

    def others_go_on() -> None:
        store.objects[record_path(4)] = encode(cycle(3))
        for number in range(4):
            store.objects.pop(record_path(number), None)

    store.faults.once_before("get", record_path(3), others_go_on)
    tail = log.tail()
    assert (tail.complete_through, list(tail.records)) == (3, [4])


def test_a_log_that_is_trimmed_again_and_again_while_it_is_read_ends_the_reading() -> None:
    """A restart reads it from the beginning; to go on for ever would look like a start."""
    log, store = log_of({0: start(), 1: cycle(-1)})

    def others_go_on(number: int) -> None:
        store.objects.pop(record_path(number), None)
        store.objects[record_path(number + 1)] = encode(cycle(number))

    for number in range(1, 10):
        store.faults.once_before(
            "get", record_path(number), lambda number=number: others_go_on(number))
    store.objects.pop(record_path(0))
    with pytest.raises(LogOvertaken):
        log.tail()


@pytest.mark.parametrize("content", [
    b'{"record_version": 2, "kind": "cycle"}', b'{"record_version": 1, "kind": "merge"}',
    b"{", b"", b"\xff", b'{"record_version": 1, "kind": "start"}'])
def test_a_record_of_another_release_halts_the_service(content: bytes) -> None:
    """What it demands is unknown, so nothing may be written behind it."""
    log, store = log_of({0: start()})
    store.objects[record_path(1)] = content
    with pytest.raises(UnsupportedRecord, match="record 1 "):
        log.tail()


def test_strangers_files_in_the_logs_folder_are_passed_over() -> None:
    """A person may have left a note there."""
    log, store = log_of({0: start(), 1: cycle(0)})
    for name in ("README.md", "1.json", f"{2:020d}.json.tmp", f"{3:021d}.json", "x" * 20 + ".json"):
        store.objects[LOG_PREFIX + name] = b"?"
    assert log.numbers() == [0, 1]
    assert record_number(record_path(12)) == 12


def test_numbers_are_given_behind_one() -> None:
    """Watching reads only what is new."""
    log, _ = log_of({n: start() for n in (3, 4, 5)})
    assert log.numbers(after=3) == [4, 5]
    assert log.numbers(after=5) == []
    assert (log.exists(4), log.exists(6)) == (True, False)


def test_a_number_is_taken_once() -> None:
    """The store decides who was first."""
    log, store = log_of({})
    assert log.put(0, b"a")
    assert not log.put(0, b"b")
    assert log.read_bytes(0) == b"a"
    store.faults.order("put", when=When.AFTER)
    with pytest.raises(StorageUnavailable):
        log.put(1, b"c")
    assert log.read_bytes(1) == b"c"


def test_trimming_removes_the_oldest_complete_records_one_by_one(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oldest first: a writer that sees its predecessor knows its own number is new."""
    monkeypatch.setattr("shared.record_log.RECORDS_KEPT_MIN", 3)
    monkeypatch.setattr("shared.record_log.TRIM_MAX", 4)
    log, store = log_of({n: cycle(n - 1, n) for n in range(12)})
    assert log.trim(20) == 4
    assert [path for operation, path in store.faults.seen if operation == "delete"] == [
        record_path(n) for n in range(4)]
    assert log.trim(5) == 2
    assert log.numbers() == [6, 7, 8, 9, 10, 11]
    assert log.trim(20) == 3
    assert log.trim(20) == 0
    assert log.numbers() == [9, 10, 11]


def test_trimming_keeps_what_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic that is behind for days needs its record."""
    monkeypatch.setattr("shared.record_log.RECORDS_KEPT_MIN", 1)
    log, _ = log_of({n: cycle(-1, n) for n in range(6)})
    assert log.trim(-1) == 0
    assert log.trim(1) == 2
    assert log.numbers() == [2, 3, 4, 5]


def test_the_newest_records_are_kept_even_when_complete() -> None:
    """The newest one names the cut that readers use, and people look at the last hours."""
    log, _ = log_of({n: cycle(n - 1, n) for n in range(20)})
    assert log.trim(19) == 0
