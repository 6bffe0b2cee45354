"""A worker on twins: what it votes, what it keeps, what it drops, and that nothing is ever lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from shared.config import GapPolicy, OffsetReset, OnMalformed
from shared.errors import (
    CommitConflict, Fenced, KafkaUnavailable, ManifestTooLarge, StorageUnavailable, TopicRecreated,
)
from shared.exit_codes import WorkerExit
from shared.layout import Order, Paused, Report, Retention
from shared.memory import FLOOR_BYTES, MESSAGE_BYTES_UNKNOWN, RECYCLE_AGE_S, need
from shared.naming import position_app_id
from shared.protocol import Phase, Vote
from shared.records import BRONZE, DLQ, Lost
from tests.fakes.faults import FOREVER, When
from tests.fakes.source import Entry
from tests.fakes.worker_rig import FOLDERS, TOPIC, WorkerRig
from workers.kafka_source import AssignmentFailed, Kept, Polled
from workers.ranges import OffsetRegression
from workers.worker import BUDGET_PATIENCE_S, FLUSH_WAIT_S, OFFSETS_LAST_TELLS_MAX


@pytest.fixture
def rig(tmp_path: Path) -> WorkerRig:
    """Give a worker that has not begun."""
    return WorkerRig(tmp_path)


def values(count: int) -> list[bytes | None]:
    """Well-formed messages."""
    return [b'{"n": %d}' % number for number in range(count)]


def error_name(rig: WorkerRig) -> str:
    """The name of the error that /health shows."""
    return json.loads(rig.slot.error.read() or b'{"name": ""}')["name"]


# --- the usual way


def test_messages_become_visible_with_the_decision_and_not_before(rig: WorkerRig) -> None:
    """The whole point: reading, uploading and voting show nothing."""
    rig.topic.add(0, *values(5))
    rig.start()
    assert rig.flush() is Vote.PREPARED
    assert rig.landed() == []
    number = rig.record()
    rig.turn()
    assert rig.landed() == []
    rig.tell(number)
    rig.turn()
    assert rig.offsets() == [0, 1, 2, 3, 4]
    assert rig.slot.report(Report.DONE_RECORD) == number
    assert rig.topic.group_offsets == {0: 5}
    rig.check()


def test_an_idle_cycle_is_voted_empty_and_writes_nothing(rig: WorkerRig) -> None:
    """Idle costs nothing: no file, no commit, no record."""
    rig.start()
    version, objects = rig.state().version, set(rig.store.objects)
    assert [rig.flush() for _ in range(3)] == [Vote.EMPTY] * 3
    assert rig.state().version == version
    assert set(rig.store.objects) == objects


def test_the_manifest_says_what_the_files_hold(rig: WorkerRig) -> None:
    """It is all that recovery will have."""
    rig.topic.add(0, b"{}", b"poison", None, b"")
    rig.start()
    assert rig.flush() is Vote.PREPARED
    manifest = rig.manifest
    assert (manifest.topic, manifest.topic_id, manifest.incarnation) == (TOPIC, "id-1", 1)
    (part,) = manifest.ranges
    assert (part.start, part.end, part.rows, part.dead_letters, part.absent) == (0, 4, 2, 2, 0)
    assert (manifest.flaws, manifest.value_bytes) == ({"json": 1, "empty": 1}, 8)
    for file in manifest.files:
        assert rig.store.size(f"{FOLDERS[file.table]}/{file.path}") == file.size


def test_the_manifest_says_up_to_when_the_topic_was_read(rig: WorkerRig) -> None:
    """Up to now where all was read, else up to the last message of the slowest partition."""
    rig.topic.append(0, Entry(timestamp_ms=500), Entry(timestamp_ms=700))
    rig.start()
    before = rig.clock.unix_ms()
    rig.flush()
    assert before <= rig.manifest.valid_through_ms <= rig.clock.unix_ms()
    rig.decide()
    rig.topic.append(0, Entry(timestamp_ms=900))
    rig.consume()
    rig.topic.append(0, Entry(timestamp_ms=950))
    rig.flush()
    assert rig.manifest.valid_through_ms == 900


def test_ends_that_no_broker_tells_now_are_not_taken_for_reached(rig: WorkerRig) -> None:
    """What the client remembers may be old."""
    rig.topic.append(0, Entry(timestamp_ms=500))
    rig.start()
    rig.source.faults.order("latest", times=FOREVER)
    rig.flush()
    assert rig.manifest.valid_through_ms == 500


def test_counters_follow_what_is_committed(rig: WorkerRig) -> None:
    """A message that was read again after an error must not be counted twice."""
    rig.topic.add(0, b"{}", b"poison", None, b"", b"\xff")
    rig.start()
    rig.flush()
    assert rig.slot.report(Report.ROWS) == 0
    rig.decide()
    report = rig.slot.report
    assert (report(Report.ROWS), report(Report.VALUE_BYTES), report(Report.COMMITS)) == (2, 9, 1)
    assert [report(word) for word in (
        Report.DEAD_LETTERS_JSON, Report.DEAD_LETTERS_EMPTY, Report.DEAD_LETTERS_ENCODING,
        Report.DEAD_LETTERS_HEADERS)] == [1, 1, 1, 0]
    assert rig.offsets(DLQ) == [1, 3, 4]
    assert report(Report.TABLE_VERSION) == rig.state().version
    assert report(Report.DLQ_TABLE_VERSION) == rig.state(DLQ).version


def test_reading_goes_on_between_vote_and_decision(rig: WorkerRig) -> None:
    """The barrier is short because nobody waits for it."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.topic.add(0, *values(2))
    rig.turn()
    rig.decide()
    assert rig.offsets() == [0, 1, 2]
    rig.consume()
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2, 3, 4]


def test_a_cycle_is_voted_on_once(rig: WorkerRig) -> None:
    """A second vote would replace the manifest of the first."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    manifest = rig.manifest
    rig.topic.add(0, *values(3))
    rig.turn(5)
    assert rig.manifest == manifest


def test_dense_offsets_are_not_needed(rig: WorkerRig) -> None:
    """Control records and aborted messages leave holes, also at the end."""
    control = Entry(control=True)
    rig.topic.append(0, control, Entry(), control, control, Entry(), control)
    rig.start()
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [1, 4]
    assert rig.position() == 6
    assert rig.slot.report(Report.OFFSETS_ABSENT) == 4


# --- votes


def test_worker_votes_failed_until_it_has_joined(rig: WorkerRig) -> None:
    """A topic that does not read yet must not look well."""
    rig.source.assigns_all = False
    rig.turn(2)
    assert rig.slot.report(Report.STARTED) == 0
    assert rig.flush() is Vote.FAILED
    rig.source.assign()
    rig.consume()
    assert rig.slot.report(Report.STARTED) == 1
    assert rig.flush() is Vote.EMPTY


def test_worker_votes_failed_while_it_owes_a_record(rig: WorkerRig) -> None:
    """At most one record may be undone per topic."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    fault = rig.twins.faults.order("commit", FOLDERS[BRONZE], times=FOREVER)
    rig.decide()
    assert rig.slot.report(Report.COMMIT_FAILURES) == 1
    rig.topic.add(0, *values(3))
    rig.consume()
    assert rig.flush() is Vote.FAILED
    assert error_name(rig) == "StorageUnavailable"
    fault.heal()
    rig.rest()
    rig.turn()
    assert rig.offsets() == [0, 1, 2]
    assert rig.slot.report(Report.ERROR_ACTIVE) == 0
    assert rig.cycle() is Vote.PREPARED
    rig.check()


def test_a_vote_is_cast_whatever_happens(rig: WorkerRig) -> None:
    """Silence would cost everybody the cycle deadline."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.source.faults.order("topic_id")
    assert rig.flush() is Vote.FAILED
    rig.topic.topic_id = "id-2"
    with pytest.raises(TopicRecreated):
        rig.flush()
    assert rig.slot.ballot().vote is Vote.FAILED
    assert rig.landed() == []


def test_a_manifest_that_does_not_fit_stops_the_topic(
    rig: WorkerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vote without a readable manifest would be a decision that nobody can commit."""
    rig.topic.add(0, *values(3))
    rig.start()
    monkeypatch.setattr(rig.slot.manifest, "capacity", 100)
    with pytest.raises(ManifestTooLarge, match="1 files"):
        rig.flush()
    assert rig.slot.ballot().vote is Vote.FAILED


# --- carry-over, reset


def test_an_aborted_cycle_is_carried_over_and_nothing_is_read_twice(rig: WorkerRig) -> None:
    """Another topic's failure must not cost this one a second upload."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    files = rig.manifest.files
    rig.abort()
    rig.topic.add(0, *values(2))
    rig.turn()
    assert rig.slot.report(Report.CARRIED_FILES) == 1
    assert rig.flush() is Vote.PREPARED
    assert rig.manifest.files[:1] == files
    assert [(part.start, part.end) for part in rig.manifest.ranges] == [(0, 5)]
    rig.decide()
    assert rig.offsets() == [0, 1, 2, 3, 4]
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 5


def test_what_was_carried_over_is_voted_even_when_nothing_new_came(rig: WorkerRig) -> None:
    """Else its rows would wait for the next message."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.abort()
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2]


def test_many_aborts_keep_the_order_of_files(rig: WorkerRig) -> None:
    """Ranges must join without a hole."""
    rig.start()
    for _ in range(4):
        rig.topic.add(0, *values(2))
        rig.turn()
        assert rig.flush() is Vote.PREPARED
        rig.abort()
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [*range(8)]
    rig.check()


def test_a_range_that_did_not_fit_is_read_again_from_the_table(rig: WorkerRig) -> None:
    """Another instance decided the range first: its record is rolled forward, then read on."""
    rig.topic.add(0, *values(5))
    rig.start()
    rig.flush()
    rig.state().append({position_app_id(TOPIC, 0): 3})
    rig.abort(reset=True)
    rig.turn(2)
    assert rig.cycle() is Vote.PREPARED
    assert [(part.start, part.end) for part in rig.manifest.ranges] == [(3, 5)]
    assert rig.offsets() == [3, 4]


def test_a_reset_waits_until_the_lake_can_be_asked(rig: WorkerRig) -> None:
    """To go on with what is held would decide rows of another owner again."""
    rig.topic.add(0, *values(5))
    rig.start()
    rig.flush()
    rig.state().append({position_app_id(TOPIC, 0): 3})
    fault = rig.twins.faults.order("refresh", times=FOREVER)
    rig.abort(reset=True)
    for _ in range(3):
        rig.rest()
        assert rig.flush() is Vote.FAILED
    fault.heal()
    rig.rest()
    rig.turn(2)
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [3, 4]


# --- errors while reading


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("table", [BRONZE, DLQ])
def test_after_a_failed_upload_everything_undecided_is_read_again(
    rig: WorkerRig, table: str, when: When
) -> None:
    """A file that may not be there must not be named; its messages come again."""
    rig.topic.add(0, *values(3), b"poison")
    rig.start()
    fault = rig.store.faults.order("send", FOLDERS[table], when=when)
    rig.topic.add(0, *values(2))
    rig.turn()
    assert rig.flush() is Vote.FAILED
    assert fault.fired == rig.slot.report(Report.UPLOAD_FAILURES) == 1
    rig.rest()
    rig.turn(3)
    assert rig.flush() is Vote.PREPARED
    rig.decide()
    assert rig.offsets() == [0, 1, 2, 4, 5]
    assert rig.offsets(DLQ) == [3]
    rig.check()


def test_a_failed_upload_does_not_cost_what_is_already_prepared(rig: WorkerRig) -> None:
    """Carried files are whole; only the open one is read again."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.abort()
    rig.store.faults.order("send", FOLDERS[BRONZE])
    rig.topic.add(0, *values(2))
    rig.turn()
    assert rig.flush() is Vote.FAILED
    rig.rest()
    rig.turn(3)
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2, 3, 4]
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 7


def test_nothing_is_read_between_a_vote_and_the_end_of_a_flush_that_goes_well(
    tmp_path: Path
) -> None:
    """All tables shall become visible together, and who reads takes the processor from them."""
    rig = WorkerRig(tmp_path)
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.topic.add(0, *values(2))
    rig.turn(3)
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 3
    rig.decide()
    rig.turn(3)
    assert rig.offsets() == [0, 1, 2]
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 3
    rig.consume()
    rig.turn()
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 5


def test_nobody_reads_before_all_topics_have_opened_their_tables(tmp_path: Path) -> None:
    """Opening takes as much memory as reading, and who read early would have both at once."""
    rig = WorkerRig(tmp_path)
    rig.topic.add(0, *values(3))
    for _ in range(5):
        rig.turn()
    assert rig.slot.report(Report.STARTED) == rig.slot.order(Order.INCARNATION)
    assert rig.slot.report(Report.PAUSED) == Paused.STARTING
    assert (rig.source.paused, rig.slot.report(Report.PAUSES)) == (True, 0)
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 0
    rig.start()
    assert rig.slot.report(Report.PAUSED) == Paused.NO
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 3


def test_reading_goes_on_while_a_flush_is_held_up(tmp_path: Path) -> None:
    """A store that is away for minutes must not let Kafka's retention come nearer."""
    rig = WorkerRig(tmp_path)
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.topic.add(0, *values(2))
    rig.clock.advance(FLUSH_WAIT_S)
    rig.turn()
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 5


def test_a_failed_upload_while_a_vote_is_out_does_not_touch_the_vote(tmp_path: Path) -> None:
    """A prepared worker may not withdraw."""
    rig = WorkerRig(tmp_path, upload_bytes=1, row_group_bytes=1)
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    number = rig.record()
    rig.store.faults.order("send", FOLDERS[BRONZE])
    rig.topic.add(0, *values(2))
    rig.clock.advance(FLUSH_WAIT_S)
    rig.turn()
    assert rig.slot.report(Report.UPLOAD_FAILURES) == 1
    rig.rest()
    rig.turn(3)
    rig.tell(number)
    rig.turn()
    rig.consume()
    assert rig.offsets() == [0, 1, 2]
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2, 3, 4]
    rig.check()


def test_an_error_beside_messages_does_not_cost_the_messages(rig: WorkerRig) -> None:
    """They were delivered and will not come again."""
    rig.start()
    rig.topic.add(0, *values(3))
    rig.source.beside.append(KafkaUnavailable("consume", "a broker is away"))
    rig.turn()
    assert error_name(rig) == "KafkaUnavailable"
    rig.topic.add(0, *values(2))
    rig.rest()
    rig.turn()
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2, 3, 4]
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 5


@pytest.mark.parametrize("when", list(When))
def test_a_poll_of_unknown_outcome_is_rewound(rig: WorkerRig, when: When) -> None:
    """Messages may have been taken out of the client's queue and lost with the error."""
    rig.start()
    rig.topic.add(0, *values(3))
    rig.source.faults.order("poll", when=when)
    rig.turn()
    rig.rest()
    rig.turn(2)
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2]
    rig.check()


def test_a_rewind_that_fails_is_repeated_before_anything_is_taken(rig: WorkerRig) -> None:
    """To go on from the wrong place would leave a hole that looks like aborted messages."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.store.faults.order("send", FOLDERS[BRONZE])
    fault = rig.source.faults.order("rewind", times=3)
    assert rig.flush() is Vote.FAILED
    for _ in range(6):
        rig.rest()
        rig.turn()
    assert fault.fired == 3
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2]
    assert rig.slot.report(Report.OFFSETS_ABSENT) == 0


def test_an_offset_delivered_again_is_a_defect_and_never_a_row(
    rig: WorkerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends rather than write a row twice; the next one begins at the table."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.source._next[0] = 1
    with pytest.raises(OffsetRegression):
        rig.turn()
    rig.hire()
    rig.start()
    rig.cycle()
    assert rig.offsets() == [0, 1, 2]


def test_a_store_that_is_away_for_long_is_no_reason_to_end(rig: WorkerRig) -> None:
    """Exits would only reset buffers; /health says what is wrong, and it heals by itself."""
    rig.topic.add(0, *values(3))
    rig.start()
    faults = [rig.store.faults.order(op, times=FOREVER)
              for op in ("put", "get", "head", "list", "send")]
    faults += [rig.twins.faults.order(op, times=FOREVER)
               for op in ("commit", "refresh", "open table")]
    for _ in range(20):
        assert rig.flush() is Vote.FAILED
        rig.abort()
        rig.rest()
        rig.turn(2)
    assert rig.slot.report(Report.ERROR_ACTIVE) == 1
    for fault in faults:
        fault.heal()
    rig.rest()
    rig.turn(3)
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2]
    assert rig.slot.report(Report.ERROR_ACTIVE) == 0


def test_retries_are_spaced(rig: WorkerRig) -> None:
    """A store that refuses must not be hammered by every turn."""
    rig.twins.faults.order("open table", times=FOREVER)
    rig.turn(100)
    opened = sum(operation == "open table" for operation, _ in rig.twins.faults.seen)
    assert 2 <= opened <= 12


# --- commits


@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("error", [StorageUnavailable("commit", "t", "reset"),
                                   CommitConflict("moved on")], ids=["io", "conflict"])
@pytest.mark.parametrize("operation", ["commit", "refresh"])
def test_a_commit_of_unknown_outcome_lands_once(
    rig: WorkerRig, when: When, error: Exception, operation: str
) -> None:
    """Read back, then decide; whatever fails on the way is tried again."""
    rig.topic.add(0, *values(3), b"poison")
    rig.start()
    rig.flush()
    rig.twins.faults.order("commit", FOLDERS[BRONZE], when=When.AFTER, skip=1)
    fault = rig.twins.faults.order(operation, FOLDERS[BRONZE], when=when, error=error)
    rig.decide()
    for _ in range(3):
        rig.rest()
        rig.turn()
    assert fault.fired == 1
    assert rig.slot.report(Report.DONE_RECORD) == 0 and rig.records == 1
    assert rig.offsets() == [0, 1, 2]
    assert rig.offsets(DLQ) == [3]
    assert rig.slot.report(Report.COMMITS) == 1
    assert (rig.slot.report(Report.COMMITS_AMBIGUOUS)
            + rig.slot.report(Report.COMMIT_CONFLICTS)) >= 1
    rig.check()


def test_offsets_are_told_after_the_table_and_again_after_a_refusal(rig: WorkerRig) -> None:
    """They may lag, they never run ahead, and they never hold a cycle."""
    rig.topic.add(0, *values(3))
    rig.start()
    assert all(told == {0: 0} for told in rig.source.committed_calls)
    rig.flush()
    rig.turn(3)
    assert rig.topic.group_offsets.get(0, 0) == 0
    rig.source.faults.order("commit")
    rig.decide()
    assert rig.slot.report(Report.DONE_RECORD) == 0
    assert rig.slot.report(Report.OFFSET_COMMIT_FAILURES) == 1
    assert rig.topic.group_offsets.get(0, 0) == 0
    rig.rest()
    rig.consume()
    assert rig.topic.group_offsets == {0: 3}


@pytest.mark.parametrize("refusals", [0, 1, OFFSETS_LAST_TELLS_MAX])
def test_a_stop_tells_the_offsets_once_more_and_waits(rig: WorkerRig, refusals: int) -> None:
    """The answer to what was told after the last commit may come when nobody listens any more."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.cycle()
    rig.topic.group_offsets.clear()
    if refusals:
        rig.source.faults.order("commit", times=refusals)
    rig.block.set_phase(rig.cycle_id, Phase.STOPPING)
    assert rig.worker.run() is WorkerExit.STOPPED_CLEANLY
    gave_up = refusals == OFFSETS_LAST_TELLS_MAX
    assert rig.topic.group_offsets == ({} if gave_up else {0: 3})
    assert rig.slot.report(Report.OFFSET_COMMIT_FAILURES) == refusals


def test_a_superseded_worker_leaves_the_offsets_to_its_successor(rig: WorkerRig) -> None:
    """What it knows is old by now, and would take the group back."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.cycle()
    rig.topic.group_offsets.update({0: 9})
    rig.block.set_phase(rig.cycle_id, Phase.FENCED)
    assert rig.worker.run() is WorkerExit.STOPPED_CLEANLY
    assert rig.topic.group_offsets == {0: 9}


def test_offsets_are_not_told_again_while_nothing_moves(rig: WorkerRig) -> None:
    """Idle costs nothing on the broker either."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.cycle()
    calls = len(rig.source.committed_calls)
    for _ in range(5):
        rig.rest()
        rig.turn()
    assert len(rig.source.committed_calls) == calls


def test_a_torn_table_stops_the_topic(rig: WorkerRig) -> None:
    """No retry can help, so the worker ends with a code that says so."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.state().append({position_app_id(TOPIC, 0): 2})
    number = rig.record()
    rig.tell(number)
    assert rig.worker.run() is WorkerExit.TOPIC_STOPPED
    assert error_name(rig) == "TornRecord"
    assert rig.landed() == []
    assert rig.source.left, "who joins the group later would wait for it"


# --- a dead worker


@pytest.mark.parametrize("point", ["read", "voted", "recorded", "told"])
def test_a_worker_may_die_at_any_point_of_the_cycle(rig: WorkerRig, point: str) -> None:
    """Undecided rows are read again; a decided manifest is committed as it was."""
    rig.topic.add(0, *values(3), b"poison")
    rig.start()
    if point != "read":
        rig.flush()
    if point in ("recorded", "told"):
        files = {file.path for file in rig.manifest.files}
        number = rig.record()
        if point == "told":
            rig.tell(number)
    rig.hire()
    rig.block.set_phase(rig.cycle_id, Phase.CONSUMING)
    rig.start()
    if point in ("recorded", "told"):
        assert set(rig.state().paths + rig.state(DLQ).paths) == files
        assert rig.slot.report(Report.DONE_RECORD) == number
        assert rig.cycle() is Vote.EMPTY
    else:
        assert rig.landed() == []
        assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2]
    assert rig.offsets(DLQ) == [3]
    rig.check()


def test_a_new_worker_does_not_start_before_it_has_rolled_forward(rig: WorkerRig) -> None:
    """Reading before that would read decided rows again."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.record()
    rig.hire()
    fault = rig.twins.faults.order("commit", FOLDERS[BRONZE], times=FOREVER)
    for _ in range(3):
        rig.rest()
        rig.turn()
    assert rig.source.polls == 0
    assert rig.slot.report(Report.STARTED) == 1
    fault.heal()
    rig.rest()
    rig.start()
    assert rig.cycle() is Vote.EMPTY
    assert rig.offsets() == [0, 1, 2]


# --- where reading begins


@pytest.mark.parametrize(("committed", "reset", "begins"), [
    (None, OffsetReset.EARLIEST, 2), (None, OffsetReset.LATEST, 5), (4, OffsetReset.EARLIEST, 4),
    (4, OffsetReset.LATEST, 4)])
def test_a_new_table_begins_at_the_groups_offset_or_the_configured_end(
    tmp_path: Path, committed: int | None, reset: OffsetReset, begins: int
) -> None:
    """A service that takes over from another job must not read everything again."""
    rig = WorkerRig(tmp_path)
    rig.topic.add(0, *values(5))
    rig.topic.firsts[0] = 2
    if committed is not None:
        rig.topic.group_offsets[0] = committed
    object.__setattr__(rig.config.kafka, "auto_offset_reset", reset)
    rig.start()
    assert rig.position() == begins
    rig.cycle()
    assert rig.offsets() == [*range(begins, 5)]


def test_the_table_overrules_the_groups_offset(rig: WorkerRig) -> None:
    """Somebody may have moved the group by hand, or it expired."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.cycle()
    for offset in (0, 99):
        rig.topic.group_offsets[0] = offset
        rig.topic.add(0, *values(1))
        rig.hire()
        rig.start()
        assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [0, 1, 2, 3, 4]


def test_a_partition_that_appears_later_begins_at_its_beginning(rig: WorkerRig) -> None:
    """Messages written before we noticed it must not be lost, whatever the reset says."""
    object.__setattr__(rig.config.kafka, "auto_offset_reset", OffsetReset.LATEST)
    rig.start()
    rig.topic.partition_count = 2
    rig.topic.add(1, *values(3))
    rig.topic.group_offsets[1] = 2
    rig.source.assign(1)
    rig.turn(2)
    rig.cycle()
    assert rig.offsets(partition=1) == [0, 1, 2]


def test_a_topic_made_anew_stops_before_a_row_is_written(rig: WorkerRig) -> None:
    """The same offsets mean other messages now."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.cycle()
    rig.topic.topic_id = "id-2"
    rig.hire()
    assert rig.worker.run() is WorkerExit.TOPIC_STOPPED
    assert error_name(rig) == "TopicRecreated"
    assert rig.offsets() == [0, 1, 2]


def test_a_topic_that_is_not_there_is_waited_for(rig: WorkerRig) -> None:
    """It may be created after us."""
    rig.topic.topic_id = None
    rig.turn(3)
    assert error_name(rig) == "TopicMissing"
    rig.topic.topic_id = "id-1"
    rig.rest()
    rig.start()
    assert rig.slot.report(Report.ERROR_ACTIVE) == 0


def test_a_vanished_table_stops_the_topic(rig: WorkerRig) -> None:
    """It is never made anew."""
    rig.start()
    del rig.twins.states[FOLDERS[BRONZE]]
    rig.hire()
    assert rig.worker.run() is WorkerExit.TOPIC_STOPPED
    assert error_name(rig) == "TableVanished"


# --- rebalances


def two_partitions(folder: Path) -> WorkerRig:
    """A worker that has read three messages of each of two partitions."""
    rig = WorkerRig(folder, partitions=2)
    for partition in (0, 1):
        rig.topic.add(partition, *values(3))
    rig.start()
    return rig


def test_on_revoke_everything_undecided_is_dropped_and_kept_partitions_rewind(
    tmp_path: Path
) -> None:
    """A file mixes partitions; the next owner reads the revoked one from the table."""
    rig = two_partitions(tmp_path)
    rig.flush()
    rig.abort()
    rig.source.revoke(1)
    rig.turn(3)
    assert rig.slot.report(Report.CARRIED_FILES) == 0
    assert rig.cycle() is Vote.PREPARED
    assert [(part.partition, part.start, part.end) for part in rig.manifest.ranges] == [(0, 0, 3)]
    rig.source.assign(1)
    rig.turn(2)
    rig.cycle()
    assert rig.landed() == [(p, o) for p in (0, 1) for o in range(3)]
    rig.check()


@pytest.mark.parametrize("held_up", [True, False])
@pytest.mark.parametrize("decided", [True, False])
def test_a_vote_that_is_out_when_a_partition_goes_is_left_to_the_record(
    tmp_path: Path, decided: bool, held_up: bool
) -> None:
    """Decided it is committed, by whoever comes first; undecided it is dropped.

    Only in a flush that is held up does the worker learn of it while the vote is out.
    """
    rig = two_partitions(tmp_path)
    rig.flush()
    rig.block.set_phase(rig.cycle_id, Phase.DECIDING)
    if held_up:
        rig.clock.advance(FLUSH_WAIT_S)
    rig.source.revoke(1)
    rig.turn(3)
    assert (1 not in rig.source.assigned) is held_up
    if decided:
        rig.decide()
        rig.consume()
        assert rig.landed() == [(p, o) for p in (0, 1) for o in range(3)]
    else:
        rig.abort()
        rig.turn(3)
        assert rig.landed() == []
        assert rig.cycle() is Vote.PREPARED
        assert [part.partition for part in rig.manifest.ranges] == [0]
    rig.source.assign(1)
    rig.turn(2)
    rig.cycle()
    assert rig.landed() == [(p, o) for p in (0, 1) for o in range(3)]
    rig.check()


def test_a_partition_given_to_us_is_rolled_forward_first(rig: WorkerRig) -> None:
    """Its last owner may have died between the record and its commit."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.flush()
    rig.record()
    rig.hire(assigns_all=False)
    rig.slot.set_report(Report.STARTED, 0)
    rig.turn(2)
    rig.source.assign(0)
    rig.block.set_phase(rig.cycle_id, Phase.CONSUMING)
    rig.turn(2)
    assert rig.offsets() == [0, 1, 2]
    assert rig.cycle() is Vote.EMPTY


def test_an_assignment_that_cannot_be_answered_ends_the_process(rig: WorkerRig) -> None:
    """To read from anywhere else would be worse; the next incarnation asks again."""
    rig.source.assigns_all = False
    rig.turn(2)
    rig.twins.faults.order("refresh")
    rig.source.assign(0)
    with pytest.raises(AssignmentFailed):
        rig.turn()


def test_worker_told_by_kafka_that_it_is_fenced_ends_with_its_own_code(rig: WorkerRig) -> None:
    """The supervisor then looks whether a newer service runs."""
    rig.topic.add(0, *values(2))
    rig.start()
    rig.source.beside.append(Fenced("given away"))
    assert rig.worker.run() is WorkerExit.FENCED
    assert error_name(rig) == "Fenced"


# --- gaps


def test_offsets_lost_by_retention_stop_the_topic_by_default(rig: WorkerRig) -> None:
    """Nobody may find out by chance, months later."""
    rig.topic.add(0, *values(6))
    rig.start()
    rig.cycle()
    rig.topic.add(0, *values(6))
    rig.topic.firsts[0] = 9
    rig.hire()
    rig.block.set_phase(rig.cycle_id, Phase.CONSUMING)
    assert rig.worker.run() is WorkerExit.TOPIC_STOPPED
    assert error_name(rig) == "OffsetGap"
    assert "offset 6 is wanted, Kafka holds [9, 12)" in str(rig.slot.error.read())


def test_offsets_lost_by_retention_are_named_when_policy_goes_on(tmp_path: Path) -> None:
    """The range holds the gap with its cause; rows go on behind it."""
    rig = WorkerRig(tmp_path, gap_policy=GapPolicy.CONTINUE)
    rig.topic.add(0, *values(6))
    rig.start()
    rig.cycle()
    rig.topic.add(0, *values(6))
    rig.topic.firsts[0] = 9
    rig.hire()
    rig.start()
    rig.turn(3)
    assert rig.cycle() is Vote.PREPARED
    (part,) = rig.manifest.ranges
    assert (part.start, part.end, part.rows, part.lost) == (6, 12, 3, (Lost(6, 9, "retention"),))
    assert rig.offsets() == [0, 1, 2, 3, 4, 5, 9, 10, 11]
    assert rig.slot.report(Report.OFFSETS_LOST) == 3
    assert rig.position() == 12


def test_a_gap_is_not_voted_over_before_it_is_understood(tmp_path: Path) -> None:
    """While the brokers do not say what they hold, the position stays."""
    rig = WorkerRig(tmp_path, gap_policy=GapPolicy.CONTINUE)
    rig.topic.add(0, *values(6))
    rig.start()
    rig.cycle()
    rig.topic.add(0, *values(6))
    rig.topic.firsts[0] = 9
    rig.hire()
    fault = rig.source.faults.order("watermarks", times=FOREVER)
    rig.start()
    for _ in range(3):
        rig.rest()
        rig.turn()
        assert rig.flush() is Vote.FAILED
    fault.heal()
    rig.rest()
    rig.turn(3)
    assert rig.cycle() is Vote.PREPARED
    assert rig.position() == 12


def test_a_rewind_that_fails_at_a_gap_does_not_count_the_loss_twice(tmp_path: Path) -> None:
    """The loss is named once reading really goes on behind it."""
    rig = WorkerRig(tmp_path, gap_policy=GapPolicy.CONTINUE)
    rig.topic.add(0, *values(6))
    rig.topic.group_offsets[0] = 0
    rig.start()
    rig.cycle()
    rig.topic.add(0, *values(6))
    rig.topic.firsts[0] = 9
    rig.hire()
    rig.source.faults.order("rewind", times=2)
    rig.start()
    for _ in range(5):
        rig.rest()
        rig.turn()
    rig.cycle()
    assert rig.slot.report(Report.OFFSETS_LOST) == 3
    assert rig.offsets() == [0, 1, 2, 3, 4, 5, 9, 10, 11]


def test_a_position_beyond_kafkas_end_stops_the_topic_whatever_the_policy(
    tmp_path: Path
) -> None:
    """The log was truncated or another topic stands there: nothing to continue with."""
    rig = WorkerRig(tmp_path, gap_policy=GapPolicy.CONTINUE)
    rig.topic.add(0, *values(6))
    rig.start()
    rig.cycle()
    rig.topic.entries[0] = rig.topic.entries[0][:2]
    rig.hire()
    rig.block.set_phase(rig.cycle_id, Phase.CONSUMING)
    assert rig.worker.run() is WorkerExit.TOPIC_STOPPED
    assert error_name(rig) == "OffsetGap"


# --- limits


def test_worker_pauses_when_its_file_is_full_and_says_so(tmp_path: Path) -> None:
    """Memory and file size are bounded by configuration, not by load; nothing is dropped."""
    rig = WorkerRig(tmp_path, cycle_bytes_max=40, consume_batch_messages=2)
    rig.topic.add(0, *[b'"12345678"'] * 20)
    rig.start()
    rig.turn(10)
    assert rig.slot.report(Report.FLUSH_WANTED) == 1
    assert rig.slot.report(Report.PAUSED) == Paused.CYCLE_FULL
    assert rig.source.paused
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 4
    assert rig.slot.report(Report.PAUSES) == 1
    rig.cycle()
    for _ in range(6):
        rig.turn(3)
        rig.cycle()
    assert rig.offsets() == [*range(20)]


def test_worker_pauses_when_it_carries_too_much(tmp_path: Path) -> None:
    """Other topics may fail for hours."""
    rig = WorkerRig(tmp_path, carry_over_files_max=2)
    rig.start()
    for _ in range(5):
        rig.topic.add(0, *values(2))
        rig.turn()
        rig.flush()
        rig.abort()
    assert rig.slot.report(Report.PAUSED) == Paused.CARRY_OVER_FULL
    assert rig.slot.report(Report.CARRIED_FILES) == 2
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 4
    rig.cycle()
    rig.turn(2)
    assert rig.slot.report(Report.PAUSED) == Paused.NO
    rig.cycle()
    assert rig.offsets() == [*range(10)]


def test_worker_pauses_when_its_draft_has_sent_as_many_files_as_it_may(tmp_path: Path) -> None:
    """Each is a line of the manifest, which has a limit, too; the next flush clears it."""
    rig = WorkerRig(tmp_path, carry_over_files_max=2, upload_bytes=1, row_group_bytes=1,
                    consume_batch_messages=1)
    rig.topic.add(0, *values(5))
    rig.start()
    rig.turn(5)
    assert rig.slot.report(Report.PAUSED) == Paused.CARRY_OVER_FULL
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 2
    assert rig.cycle() is Vote.PREPARED
    rig.turn(2)
    assert rig.slot.report(Report.PAUSED) == Paused.CARRY_OVER_FULL
    assert rig.cycle() is Vote.PREPARED
    rig.turn(2)
    assert rig.cycle() is Vote.PREPARED
    assert rig.offsets() == [*range(5)]
    rig.check()


def test_worker_pauses_at_the_bytes_it_may_carry(tmp_path: Path) -> None:
    """A few large files count as much as many small ones."""
    rig = WorkerRig(tmp_path, carry_over_bytes_max=1)
    rig.topic.add(0, *values(2))
    rig.start()
    rig.flush()
    rig.abort()
    rig.turn()
    assert rig.slot.report(Report.PAUSED) == Paused.CARRY_OVER_FULL


def test_worker_reads_nothing_while_it_backs_off(rig: WorkerRig) -> None:
    """And it says why."""
    rig.start()
    rig.source.beside.append(KafkaUnavailable("consume", "away"))
    rig.turn(2)
    assert rig.slot.report(Report.PAUSED) == Paused.BACKING_OFF
    rig.rest()
    rig.turn(2)
    assert rig.slot.report(Report.PAUSED) == Paused.NO


TIGHT = {"loan_floor_bytes": 200, "loan_budget_bytes": 10_000_000, "row_group_bytes": 100}
"""A floor for a small open file, and a budget for everything else."""


def test_worker_borrows_for_a_batch_and_gives_back_what_it_does_not_hold(tmp_path: Path) -> None:
    """Nobody knows how large the next message is until it has been read."""
    rig = WorkerRig(tmp_path, slots=2, expected_bytes=MESSAGE_BYTES_UNKNOWN, **TIGHT)
    rig.start()
    asked: list[int] = []
    poll = rig.source.poll

    def spy(messages_max: int, timeout_s: float) -> Polled:
        asked.append(rig.slot.report(Report.BORROWED))
        return poll(messages_max, timeout_s)

    rig.source.poll = spy  # type: ignore[method-assign]
    rig.turn()
    rig.topic.add(0, *values(40))
    rig.turn(3)
    unknown = need((0,), MESSAGE_BYTES_UNKNOWN, 100) - 200
    assert asked[:2] == [unknown, unknown]
    assert asked[3] < unknown
    assert rig.slot.report(Report.BORROWED) == max(0, need(rig.worker._draft.open_files, 0, 100)
                                                   - 200)


def test_worker_pauses_while_others_have_borrowed_everything(tmp_path: Path) -> None:
    """And goes on by itself when they give it back; nothing is dropped."""
    rig = WorkerRig(tmp_path, slots=2, expected_bytes=MESSAGE_BYTES_UNKNOWN, **TIGHT)
    rig.start()
    rig.block.slot(1).set_report(Report.BORROWED, 10_000_000)
    rig.topic.add(0, *values(3))
    rig.turn(3)
    assert rig.slot.report(Report.PAUSED) == Paused.BUDGET
    assert rig.slot.report(Report.LOAN_WAITED_NS) > 0
    assert rig.slot.report(Report.MESSAGES_CONSUMED) == 0
    assert not rig.source.paused, "what the client holds ready is kept for a short while"
    rig.clock.advance(BUDGET_PATIENCE_S)
    rig.turn()
    assert rig.source.paused
    assert rig.flush() is Vote.EMPTY
    rig.consume()
    rig.block.slot(1).set_report(Report.BORROWED, 0)
    rig.turn(4)
    assert rig.slot.report(Report.PAUSED) == Paused.NO
    assert rig.slot.report(Report.LOAN_WAITED_NS) == 0
    assert not rig.source.paused
    rig.cycle()
    assert rig.offsets() == [0, 1, 2]


def test_at_the_end_of_the_budget_an_open_file_worth_sending_goes_early(tmp_path: Path) -> None:
    """That gives its memory back, and the worker reads on from its floor."""
    rig = WorkerRig(tmp_path, slots=2, loan_floor_bytes=FLOOR_BYTES, loan_budget_bytes=1_000_000,
                    row_group_bytes=1000)
    rig.start()
    noise = random.Random(1)
    large = [b'"%s"' % noise.randbytes(200_000).hex().encode() for _ in range(4)]
    for value in large:
        rig.topic.add(0, value)
        rig.turn()
    assert rig.worker._draft.sent == 0
    assert rig.slot.report(Report.BORROWED) == 0
    rig.block.slot(1).set_report(Report.BORROWED, 1_000_000)
    rig.worker._appetite.saw(1, 900_000)
    rig.turn()
    assert rig.worker._draft.sent == 1
    assert rig.slot.report(Report.PAUSED) == Paused.NO
    rig.topic.add(0, *values(1))
    rig.turn()
    rig.cycle()
    assert rig.offsets() == [0, 1, 2, 3, 4]


def test_an_early_file_that_cannot_be_sent_is_read_again(tmp_path: Path) -> None:
    """It is an upload like any other."""
    rig = WorkerRig(tmp_path, slots=2, loan_floor_bytes=0, loan_budget_bytes=10_000_000,
                    row_group_bytes=100)
    rig.start()
    noise = random.Random(1)
    rig.topic.add(0, *[b'"%s"' % noise.randbytes(300_000).hex().encode() for _ in range(3)])
    rig.turn(3)
    rig.block.slot(1).set_report(Report.BORROWED, 10_000_000)
    rig.store.faults.order("send", FOLDERS[BRONZE])
    rig.turn()
    assert rig.slot.report(Report.UPLOAD_FAILURES) == 1
    assert rig.slot.report(Report.PAUSED) == Paused.NO
    rig.block.slot(1).set_report(Report.BORROWED, 0)
    rig.rest()
    rig.turn(6)
    rig.cycle()
    assert rig.offsets() == [0, 1, 2]


def test_a_worker_that_reads_nothing_for_another_reason_does_not_wait_for_memory(
    tmp_path: Path
) -> None:
    """Whoever waits keeps others from borrowing."""
    rig = WorkerRig(tmp_path, slots=2, expected_bytes=MESSAGE_BYTES_UNKNOWN, **TIGHT)
    rig.start()
    rig.block.slot(1).set_report(Report.BORROWED, 10_000_000)
    rig.turn()
    assert rig.slot.report(Report.LOAN_WAITED_NS) > 0
    rig.source.beside.append(KafkaUnavailable("consume", "away"))
    rig.clock.advance(BUDGET_PATIENCE_S)
    rig.turn(2)
    assert rig.slot.report(Report.PAUSED) == Paused.BACKING_OFF
    assert rig.slot.report(Report.LOAN_WAITED_NS) == 0


# --- recycling


def grown(rig: WorkerRig, age_s: float = RECYCLE_AGE_S) -> WorkerRig:
    """A worker of that age that has outgrown its share by a byte, in the middle of a cycle."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.clock.advance(age_s)
    rig.tidier.private_bytes = rig.config.limits.worker_share_bytes + 1
    rig.flush()
    rig.decide()
    return rig


def test_a_worker_that_has_outgrown_its_share_ends_between_two_cycles(rig: WorkerRig) -> None:
    """Nothing is owed then and no vote is out; what it read meanwhile is read again."""
    grown(rig).topic.add(0, *values(2))
    assert not rig.worker.may_be_recycled(), "others may still commit"
    rig.block.set_phase(rig.cycle_id, Phase.CONSUMING)
    assert rig.worker.run() is WorkerExit.RECYCLED
    assert rig.source.closed
    assert rig.topic.group_offsets == {0: 3}
    rig.hire()
    rig.tidier.private_bytes = None
    rig.start()
    rig.cycle()
    assert rig.offsets() == [0, 1, 2, 3, 4]
    rig.check()


@pytest.mark.parametrize("age_s", [0.0, RECYCLE_AGE_S - 10])
def test_a_young_worker_is_not_recycled(rig: WorkerRig, age_s: float) -> None:
    """Its successor would be as large; to begin anew without end would be worse."""
    grown(rig, age_s).consume()
    assert not rig.worker.may_be_recycled()


@pytest.mark.parametrize("size", [None, 0, 1])
def test_a_worker_within_its_share_and_its_loans_is_not_recycled(
    tmp_path: Path, size: int | None
) -> None:
    """What it has borrowed is no growth; where the kernel does not tell, nothing is known."""
    rig = WorkerRig(tmp_path, **TIGHT)
    rig.topic.add(0, *values(3))
    rig.start()
    rig.clock.advance(RECYCLE_AGE_S)
    rig.flush()
    rig.worker._loan.hold(need((500,), 0, 100))
    if size is not None:
        size = rig.config.limits.worker_share_bytes + size * rig.worker._loan.claim
    rig.tidier.private_bytes = size
    rig.decide()
    rig.consume()
    assert not rig.worker.may_be_recycled()


def test_a_worker_that_owes_a_record_is_not_recycled(rig: WorkerRig) -> None:
    """Its successor would have to roll it forward, and the cycle would wait for that."""
    grown(rig).topic.add(0, *values(1))
    rig.consume()
    rig.flush()
    rig.twins.faults.order("commit", FOLDERS[BRONZE], times=FOREVER)
    rig.decide()
    rig.block.set_phase(rig.cycle_id, Phase.CONSUMING)
    assert not rig.worker.may_be_recycled()


def test_memory_is_given_back_after_each_flush_and_each_commit(rig: WorkerRig) -> None:
    """What a cycle took is of no use until the next one."""
    rig.topic.add(0, *values(3))
    rig.start()
    assert (rig.tidier.starts, rig.tidier.uploads, rig.tidier.commits) == (1, 0, 0)
    rig.cycle()
    assert (rig.tidier.starts, rig.tidier.uploads, rig.tidier.commits) == (1, 1, 1)


def test_partitions_given_twice_are_refused(rig: WorkerRig) -> None:
    """Their messages would come again into the file that holds them already."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.source.assign(0)
    with pytest.raises(AssignmentFailed, match=r"\[0\] were given twice"):
        rig.turn()


# --- malformed messages without a DLQ


def test_without_a_dlq_a_malformed_message_stops_the_topic_by_default(tmp_path: Path) -> None:
    """Data is not dropped by default."""
    rig = WorkerRig(tmp_path, dlq_enabled=False)
    rig.topic.add(0, b"{}", b"poison")
    rig.block.set_phase(0, Phase.CONSUMING)
    assert rig.worker.run() is WorkerExit.TOPIC_STOPPED
    assert error_name(rig) == "MalformedMessage"
    assert b"poison" not in (rig.slot.error.read() or b"")


def test_without_a_dlq_a_malformed_message_may_be_skipped_and_is_counted(tmp_path: Path) -> None:
    """By choice, and visibly: the range records it."""
    rig = WorkerRig(tmp_path, dlq_enabled=False, on_malformed=OnMalformed.SKIP)
    rig.topic.add(0, b"{}", b"poison", b"{}")
    rig.start()
    rig.cycle()
    assert rig.offsets() == [0, 2]
    assert rig.slot.report(Report.SKIPPED) == 1
    assert rig.slot.report(Report.DEAD_LETTERS_JSON) == 0
    assert FOLDERS[DLQ] not in rig.twins.states


# --- what it tells


def test_heartbeat_and_lag_are_written_by_the_loop_itself(rig: WorkerRig) -> None:
    """Health tells of progress, not of existence."""
    rig.start()
    beat = rig.slot.report(Report.HEARTBEAT_NS)
    rig.source.pause()
    rig.topic.add(0, *values(7))
    rig.worker._paused = Paused.CYCLE_FULL
    rig.clock.advance(2.0)
    rig.source.faults.order("poll", times=1)
    rig.worker.run_once()
    assert rig.slot.report(Report.HEARTBEAT_NS) > beat
    assert (rig.slot.report(Report.LAG), rig.slot.report(Report.LAG_KNOWN)) == (7, 1)


def committed_through(rig: WorkerRig) -> int:
    """Up to when the tables have everything, as the worker tells it."""
    return rig.slot.report(Report.COMMITTED_THROUGH_MS)


def test_what_is_read_and_not_committed_counts_as_not_in_the_tables(rig: WorkerRig) -> None:
    """Kafka may delete it, and a worker that dies would miss it."""
    rig.start()
    assert committed_through(rig) == 0, "nobody knows before the first vote"
    rig.flush()
    rig.abort()
    before = committed_through(rig)
    assert before == pytest.approx(rig.clock.unix_ms(), abs=1000), "nothing waits"
    rig.clock.advance(60.0)
    rig.topic.add(0, *values(3))
    rig.turn(3)
    assert rig.slot.report(Report.LAG) == 0 and committed_through(rig) == before
    rig.cycle()
    assert committed_through(rig) == pytest.approx(rig.clock.unix_ms(), abs=2000)


def test_a_topic_whose_cycles_fail_stays_where_its_tables_are(rig: WorkerRig) -> None:
    """Reading on is not being safe."""
    rig.start()
    rig.topic.add(0, *values(3))
    rig.turn(2)
    rig.cycle()
    before = committed_through(rig)
    assert before > 0
    rig.topic.add(0, *values(3))
    rig.turn(2)
    for _ in range(3):
        rig.clock.advance(60.0)
        rig.flush()
        rig.abort()
    assert committed_through(rig) == before


def test_a_successor_goes_on_from_what_was_told_of_the_same_partitions(rig: WorkerRig) -> None:
    """It dies while the store is away, and its successor cannot commit: the time still runs."""
    rig.start()
    rig.topic.add(0, *values(3))
    rig.turn(2)
    rig.cycle()
    before = committed_through(rig)
    rig.hire()
    rig.start()
    assert committed_through(rig) == before > 0


def test_of_other_partitions_nothing_is_known(tmp_path: Path) -> None:
    """They may have waited at another instance for days."""
    rig = WorkerRig(tmp_path, partitions=2)
    rig.hire(assigns_all=False)
    rig.source.assign(0)
    rig.start()
    rig.topic.add(0, *values(3))
    rig.turn(2)
    rig.cycle()
    assert committed_through(rig) > 0
    rig.source.assign(1)
    rig.turn(2)
    assert committed_through(rig) == 0
    rig.flush()
    rig.abort()
    known = committed_through(rig)
    assert known > 0
    rig.source.revoke(1)
    rig.turn(3)
    rig.hire(assigns_all=False)
    rig.source.assign(0)
    rig.start()
    assert committed_through(rig) == known, "what is true of both is true of one"


def test_a_vote_from_before_a_new_partition_tells_nothing_of_it(tmp_path: Path) -> None:
    """Its manifest speaks of the partitions that its worker had then."""
    rig = WorkerRig(tmp_path, partitions=2)
    rig.hire(assigns_all=False)
    rig.source.assign(0)
    rig.start()
    rig.topic.add(0, *values(3))
    rig.turn(2)
    assert rig.flush() is Vote.PREPARED
    rig.clock.advance(FLUSH_WAIT_S)
    rig.topic.add(1, *values(3))
    rig.source.assign(1)
    rig.turn()
    rig.decide()
    rig.turn()
    assert rig.position() == 3, "it has committed"
    assert committed_through(rig) == 0


def test_how_long_kafka_keeps_the_topic_is_told(rig: WorkerRig) -> None:
    """As the source knows it by then."""
    rig.start()
    assert rig.slot.report(Report.RETENTION) == Retention.UNKNOWN
    rig.topic.kept = Kept(Retention.TIME, 3_600_000)
    rig.clock.advance(2.0)
    rig.turn()
    assert rig.slot.report(Report.RETENTION) == Retention.TIME
    assert rig.slot.report(Report.RETENTION_MS) == 3_600_000


def test_worker_stops_when_told_and_leaves_the_group_quietly(rig: WorkerRig) -> None:
    """The group's offsets are brought up to date on the way."""
    rig.topic.add(0, *values(3))
    rig.start()
    rig.cycle()
    rig.block.set_phase(rig.cycle_id, Phase.STOPPING)
    assert rig.worker.run() is WorkerExit.STOPPED_CLEANLY
    assert rig.source.closed
    assert rig.topic.group_offsets == {0: 3}


def test_an_error_in_any_script_is_readable_json_within_its_bounds(rig: WorkerRig) -> None:
    """/health shows it; a cut in the middle of an escape would hide it."""
    rig.worker._p.reporter.error(StorageUnavailable("put", "x", "\U0001f600ä\"\\" * 5_000))
    shown = json.loads(rig.slot.error.read() or b"")
    assert shown["name"] == "StorageUnavailable"
    assert shown["what_to_do"]


# --- any order of events


FAULTS = [("store", "send"), ("store", "list"), ("store", "get"), ("store", "head"),
          ("tables", "commit"), ("tables", "refresh"),
          ("source", "poll"), ("source", "rewind"), ("source", "topic_id"), ("source", "commit")]


def play(rig: WorkerRig, rng: random.Random, steps: int) -> None:
    """Do anything that can happen, in any order."""
    for _ in range(steps):
        event = rng.randrange(9)
        if event == 0:
            entries = [Entry(rng.choice([b"{}", b"poison", None]), control=rng.random() < 0.1)
                       for _ in range(rng.randrange(4))]
            rig.topic.append(rng.randrange(2), *entries)
        elif event == 1:
            where, operation = rng.choice(FAULTS)
            faults = {"store": rig.store, "tables": rig.twins, "source": rig.source}[where].faults
            faults.order(operation, when=rng.choice(list(When)), skip=rng.randrange(3))
        elif event == 2 and rng.random() < 0.3:
            rig.hire()
        elif event == 3 and rng.random() < 0.5 and rig.source.has_settled:
            partition = rng.randrange(2)
            owned = rig.source.assigned
            (rig.source.revoke if partition in owned else rig.source.assign)(partition)
        elif event == 4:
            rig.rest()
        elif event == 5:
            play_cycle(rig, rng)
        turn(rig)
        rig.check()


def turn(rig: WorkerRig) -> None:
    """One turn; a worker that ends by its own will is followed by another."""
    try:
        rig.turn()
    except AssignmentFailed:
        rig.hire()


def play_cycle(rig: WorkerRig, rng: random.Random) -> None:
    """A cycle that is decided or aborted, with a death somewhere at times."""
    rig.cycle_id += 1
    rig.block.set_phase(rig.cycle_id, Phase.FLUSHING)
    turn(rig)
    ballot = rig.slot.ballot()
    is_ours = rig.manifest.incarnation == rig.slot.order(Order.INCARNATION) \
        if rig.slot.manifest.read() else False
    if ballot.cycle_id == rig.cycle_id and ballot.vote is Vote.PREPARED and is_ours \
            and rng.random() < 0.7:
        for fault in rig.store.faults._faults:
            fault.heal()
        number = rig.record()
        turn(rig)
        if rng.random() < 0.2:
            rig.hire()
        rig.tell(number)
        turn(rig)
        settle(rig, number)
    elif rng.random() < 0.2:
        rig.hire()
    rig.block.set_phase(rig.cycle_id, Phase.CONSUMING)


def settle(rig: WorkerRig, number: int) -> None:
    """Turn until the record is done: no cycle includes a topic that owes one."""
    for _ in range(50):
        if rig.slot.report(Report.DONE_RECORD) >= number and rig.records:
            return
        rig.rest()
        turn(rig)
    raise AssertionError(f"record {number} was never done")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_any_order_of_events_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """Random faults, deaths, rebalances, aborts and decisions; checked after every step."""
    landed = 0
    for seed in range(120):
        folder = tmp_path / str(seed)
        folder.mkdir()
        rig, rng = WorkerRig(folder, partitions=2, row_group_bytes=150), random.Random(seed)
        rig.start()
        # Record 0 is a start record's place, so that "done" can be told from "nothing yet".
        rig.store.objects["_bronze/log/00000000000000000000.json"] = (
            b'{"kind":"start","instance":"0","uuid":"u","service_version":"1","cycle_id":0,'
            b'"written_at":"t","complete_through":-1,"record_version":1}')
        rig.records = 1
        try:
            play(rig, rng, 60)
            finish(rig)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        landed += len(rig.landed()) + len(rig.landed(DLQ))
    assert landed > 1_000


def finish(rig: WorkerRig) -> None:
    """Heal everything, read to the end, and expect every message to have landed."""
    for faults in (rig.store.faults, rig.twins.faults, rig.source.faults):
        for fault in faults._faults:
            fault.heal()
    rig.hire()
    for _ in range(3):
        rig.rest()
        turn(rig)
    rig.start()
    rig.turn(4)
    rig.cycle()
    rig.check()
    wanted = [(p, o) for p in (0, 1) for o, entry in enumerate(rig.topic.entries.get(p, []))
              if not entry.control]
    assert sorted(rig.landed() + rig.landed(DLQ)) == wanted
