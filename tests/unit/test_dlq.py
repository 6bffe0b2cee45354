"""Dead letters: fingerprints, what is shown of them, and the steps of a replay on fake stores."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import (
    CommitConflict, MissingFile, StorageUnavailable, TableUnavailable, TableVanished,
)
from shared.naming import (
    REPLAYS, position_app_id, replay_app_id, replay_path, replays_prefix,
)
from tests.fakes.faults import When
from tests.fakes.store import MemoryStore
from tests.fakes.tables import MemoryTables
from tests.rig.made_lake import FIT, UNFIT
from tools import dead_letters
from tools.absorption import (
    HEADER, REPLAYS_FILE, Letter, absorption_rows, bronze_rows, letter_of, refusal,
)
from tools.dead_letters import Groups, Seen, fingerprint, normalised
from tools.dlq_command import main
from tools.dlq_replay import Order, Tally, _batches, _fit
from tools.dlq_text import as_shown, groups_text, letter_fact, letter_text, marked
from tools.replay import BYTES_MAX, LETTERS_MAX, Replay
from shared.replay_log import PUT_ATTEMPTS_MAX, ReplayLog
from shared.replay_plan import Plan, ReplayDamaged, decode, encode
from workers.schemas import BRONZE_FILE, table_schema

TOPIC, BRONZE = "orders", "bronze_orders"
NOW_MS = 1_790_000_000_000


@pytest.mark.parametrize(("one", "other"), [
    ("bad byte (byte 17)", "bad byte (byte 4711)"),
    ("expected 'a', got 'b'", "expected 'xyz', got ''"),
    ('key "ünïcode" at 0xff', 'key "" at 0x0'),
    ("took 1.5 s", "took  22.75  s"),
])
def test_what_differs_from_message_to_message_is_not_in_the_fingerprint(
    one: str, other: str
) -> None:
    """Numbers, quoted text, and the width of a blank."""
    assert normalised(one) == normalised(other)
    assert fingerprint("json", one) == fingerprint("json", other)
    assert fingerprint("json", one) != fingerprint("encoding", one)


def test_the_name_of_an_encoding_is_no_number() -> None:
    """People read the normalised text."""
    assert normalised("not UTF-8 or UTF-16 at 12, -5") == "not UTF-8 or UTF-16 at N, -N"


def test_different_errors_have_different_fingerprints() -> None:
    """Two words apart is two sorts of errors."""
    assert fingerprint("json", "trailing characters") != fingerprint("json", "truncated")


@given(st.text(max_size=300))
def test_any_message_has_a_fingerprint(message: str) -> None:
    """Other writers may have left anything, lone surrogates of a broken reader among it."""
    word = fingerprint("json", message)
    assert len(word) == 12 and set(word) <= set("0123456789abcdef")


def seen(offset: int, error: str = "bad", at: int = 0) -> Seen:
    """A dead letter read `at` seconds after the epoch."""
    return Seen(TOPIC, 0, offset, datetime.fromtimestamp(at, UTC), "json", error)


def test_a_group_knows_its_first_and_last_by_the_time_they_were_read() -> None:
    """Files come in any order."""
    groups = Groups()
    for one, is_open in ((seen(5, at=50), True), (seen(9, at=10), False), (seen(7, at=90), True)):
        groups.add(one, one.fingerprint, is_open=is_open)
    ((topic, _, group),) = groups.largest_first()
    assert (topic, group.count, group.open) == (TOPIC, 3, 2)
    assert (group.first.offset, group.last.offset) == (9, 7)


def test_groups_are_bounded_and_nothing_is_uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that differ in words would else take memory without a limit."""
    monkeypatch.setattr(dead_letters, "GROUPS_MAX", 3)
    groups = Groups()
    for number, word in enumerate("abcdefg"):
        groups.add(seen(number), word, is_open=True)
    assert {word: group.count for _, word, group in groups.largest_first()} == {
        "a": 1, "b": 1, "c": 1, dead_letters.OTHER: 4}


@given(st.binary(max_size=60), st.integers(-5, 80))
def test_nothing_a_terminal_obeys_is_shown_of_a_payload(value: bytes, position: int) -> None:
    """Escapes, line ends, right-to-left marks; wherever the wrong place is."""
    for text in (as_shown(value), marked(value, position)):
        assert text.isprintable()


def test_the_wrong_byte_stands_between_marks() -> None:
    """With what is around it, and dots where more is."""
    assert marked(b"ab\xffcd", 2) == r"ab >>>\xff<<< cd"
    assert marked(b"ab", 2) == "ab >>>end<<< "
    assert marked(b"x" * 100, 50) == f"…{'x' * 30} >>>x<<< {'x' * 30}…"


def row(**more: Any) -> dict[str, Any]:
    """A row of a dead letter table."""
    at = datetime(2026, 1, 31, 12, 0, 0, 123_000, UTC)
    return {"key": b"\x1b[2J", "value": b"\x1b{", "headers": [{"key": "a\x07", "value": None}],
            "_kafka_partition": 1, "_kafka_offset": 7, "_kafka_timestamp": at, "_ingested_at": at,
            "error_class": "json", "error_message": "bad (byte 1)", "error_position": 1,
            "service_version": "1", **more}


def test_a_dead_letter_is_shown_whole_and_safely() -> None:
    """Every part of it, in text and in JSON, with the replay that absorbed it."""
    text = letter_text("orders", row(), 3)
    assert all(char.isprintable() or char == "\n" for char in text)
    for part in (r"\x1b[2J", r"\x1b{", r"header a\x07", "bad (byte 1)", "by replay 3",
                 r"\x1b >>>{<<< "):
        assert part in text
    fact = letter_fact("orders", row(key=None, headers=None, error_position=None), None)
    assert json.loads(json.dumps(fact))["value_base64"] == "G3s="


def test_names_and_messages_in_tables_are_shown_safely() -> None:
    """They are other people's, too."""
    groups = Groups()
    groups.add(seen(1, "\x1b[2J" + "x" * 200), "w", is_open=True)
    text = groups_text(groups.largest_first())
    assert all(char.isprintable() or char == "\n" for char in text) and len(text) < 500


def letter(offset: int, value: bytes | None = FIT, **more: Any) -> Letter:
    """A dead letter of partition 0."""
    return letter_of(row(_kafka_partition=0, _kafka_offset=offset, value=value, **more))


def test_a_replayed_row_is_the_message_and_says_where_it_comes_from() -> None:
    """The mark is the last header, also behind one that somebody forged."""
    forged = [{"key": HEADER, "value": b"99"}]
    (found,) = bronze_rows([letter(7, headers=forged)], 4, TOPIC, NOW_MS).to_pylist()
    assert found["value"] == FIT.decode() and found["key"] == b"\x1b[2J"
    assert [part["value"] for part in found["headers"]] == [b"99", b"4"]
    assert found["_kafka_timestamp"] == row()["_kafka_timestamp"]
    assert found["_ingested_at"] == datetime.fromtimestamp(NOW_MS / 1000, UTC)
    (record,) = absorption_rows([letter(7).repaired(b"1")], 4, TOPIC, NOW_MS).to_pylist()
    assert (record["_kafka_offset"], record["replay"]) == (7, 4)
    assert record["stored_sha256"] != record["replayed_sha256"]
    assert record.keys() == set(REPLAYS_FILE.names)


def test_what_is_malformed_still_is_never_a_row() -> None:
    """Whoever calls must have looked; the last line of defence does, too."""
    assert refusal(letter(1), without_headers=False) is None
    assert refusal(letter(1, UNFIT), without_headers=False) is not None
    assert refusal(letter(1, b""), without_headers=False) is not None
    for letters in ([letter(1, UNFIT)], [letter(1), letter(2, UNFIT)]):
        with pytest.raises(ValueError, match="flaw"):
            bronze_rows(letters, 1, TOPIC, NOW_MS)


def test_lost_headers_are_no_row_unless_somebody_says_so() -> None:
    """The value may be well formed; what stood in the headers is gone for good."""
    lost = letter(1, error_class="headers", headers=None)
    assert refusal(lost, without_headers=False) == ("headers", "bad (byte 1)")
    assert refusal(lost, without_headers=True) is None
    assert refusal(letter(1, UNFIT, error_class="headers"), without_headers=True) is not None


class World:
    """A topic's tables and plans in memory, with offsets below 100 landed."""

    def __init__(self) -> None:
        self.store, self.tables = MemoryStore(), MemoryTables()
        self.tables.make(BRONZE, table_schema(BRONZE_FILE))
        self.tables.states[BRONZE].append({position_app_id(TOPIC, 0): 100})

    def replay(self) -> Replay:
        """Somebody who replays; not opened yet."""
        return Replay(self.store, self.tables, TOPIC, lambda: NOW_MS)

    def run(self, *offsets: int) -> Replay:
        """One run of the tool."""
        replay = self.replay()
        replay.open(changing=True)
        replay.replay([letter(offset) for offset in offsets])
        return replay

    def plans(self) -> list[Plan]:
        """What is decided."""
        return ReplayLog(self.store, TOPIC).read()

    def assert_once(self, *offsets: int) -> None:
        """Every one is in one plan, and each plan's files are in both tables once."""
        plans = self.plans()
        assert Counter(place for plan in plans for place in plan.letters) == Counter(
            (0, offset) for offset in offsets)
        assert [plan.number for plan in plans] == list(range(1, len(plans) + 1))
        for folder, label in ((BRONZE, "bronze"), (REPLAYS, "replays")):
            state = self.tables.states[folder]
            assert state.paths == [file.path for plan in plans for file in plan.files_of(label)]
            assert state.txns()[replay_app_id(TOPIC)] == len(plans)
        assert self.tables.states[BRONZE].txns()[position_app_id(TOPIC, 0)] == 100


def test_each_dead_letter_is_replayed_once_however_often_it_is_asked_for() -> None:
    """The plans say which are absorbed; a run that has nothing to do decides nothing."""
    world = World()
    assert world.run(1, 2).done.made == {1: 2}
    assert world.run(1, 2).done.made == {}
    assert world.run(1, 2, 3).done.made == {2: 1}
    world.assert_once(1, 2, 3)


def test_looking_changes_nothing() -> None:
    """A dry run makes no table, and leaves what is unfinished to a real one."""
    world = World()
    before = dict(world.store.objects)
    replay = world.replay()
    replay.open(changing=False)
    assert (replay.undone(), replay.position(0), replay.position(9)) == ([], 100, 0)
    assert world.store.objects == before and REPLAYS not in world.tables.states


STEPS = [("send", f"{REPLAYS}/"), ("send", f"{BRONZE}/"), ("put", replays_prefix(TOPIC)),
         ("commit", REPLAYS), ("commit", BRONZE)]
"""What a replay does to the store, in its order."""


@pytest.mark.parametrize("times", [1, PUT_ATTEMPTS_MAX])
@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize(("operation", "path"), STEPS)
def test_a_run_that_fails_at_any_step_is_brought_to_its_end_by_the_next(
    operation: str, path: str, when: When, times: int
) -> None:
    """With and without effect, and until it gives up."""
    world = World()
    faults = (world.tables if operation == "commit" else world.store).faults
    fault = faults.order(operation, path, when=when, times=times)
    for _ in range(times):
        with contextlib.suppress(StorageUnavailable):
            world.run(1, 2)
    assert fault.fired
    fault.heal()
    world.run(1, 2)
    world.assert_once(1, 2)


@pytest.mark.parametrize(("operation", "path"), STEPS)
def test_a_replay_that_another_one_overtakes_at_any_step_doubles_nothing(
    operation: str, path: str
) -> None:
    """The other one runs to its end in between, and finishes what the first had decided."""
    world = World()
    faults = (world.tables if operation == "commit" else world.store).faults
    others: list[Replay] = []
    faults.once_before(operation, path, lambda: others.append(world.run(2, 3)))
    world.run(1, 2)
    assert len(others) == 1
    world.assert_once(1, 2, 3)
    named = {file.path for plan in world.plans() for file in plan.files}
    there = {path.split("/", 1)[1] for path in world.store.objects if path.endswith(".parquet")}
    assert there == named, "who was second left its files"


def test_who_may_not_delete_data_files_replays_all_the_same() -> None:
    """The service's own key may not; the files stay, and nobody ever sees them."""
    world = World()
    fault = world.store.faults.order("delete", "", times=10)
    world.store.faults.once_before("put", replays_prefix(TOPIC), lambda: world.run(1) and None)
    world.run(1, 2)
    assert fault.fired == 2
    world.assert_once(1, 2)


def test_the_services_own_commits_in_between_are_no_reason_to_give_up() -> None:
    """The table has moved on, the replay is not in it: look again, commit behind it."""
    world = World()
    state = world.tables.states[BRONZE]
    for number in range(3):
        world.tables.faults.once_before(
            "commit", BRONZE, lambda number=number: state.append({"service": number}))
    world.run(1, 2)
    world.assert_once(1, 2)


def test_others_that_are_always_first_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loop has an end; what is decided is for the next run."""
    world = World()
    conflict = CommitConflict("taken")
    fault = world.tables.faults.order("commit", BRONZE, times=1000, error=conflict)
    with pytest.raises(TableUnavailable, match="in a row"):
        world.run(1)
    fault.heal()
    world.run()
    world.assert_once(1)


def test_what_another_one_decided_and_left_is_finished_also_by_who_has_nothing_to_do() -> None:
    """It took our number, has all our letters, and died."""
    world = World()

    def decide_and_die() -> None:
        world.tables.faults.order("commit", REPLAYS)
        with pytest.raises(StorageUnavailable):
            world.run(1, 2)

    world.store.faults.once_before("put", replays_prefix(TOPIC), decide_and_die)
    assert world.run(1, 2).done.finished == [1]
    world.assert_once(1, 2)


def test_what_the_bronze_table_shows_the_table_of_replays_has() -> None:
    """Readers who find a replay in a version of the one look into the other for its letters."""
    world = World()
    world.tables.faults.order("commit", BRONZE)
    with pytest.raises(StorageUnavailable):
        world.run(1)
    assert replay_app_id(TOPIC) not in world.tables.states[BRONZE].txns()
    assert world.tables.states[REPLAYS].txns() == {replay_app_id(TOPIC): 1}


def test_plans_that_are_missing_stop_everything() -> None:
    """Else a number, and with it a dead letter, might be used twice."""
    world = World()
    world.run(1)
    world.run(2)
    world.run(3)
    plans = {number: world.store.objects.pop(replay_path(TOPIC, number)) for number in (1, 2, 3)}
    for left, said in (((1, 3), r"\[2\] are missing"), ((2, 3), r"\[1\] are missing"),
                       ((1, 2), "orders has replay 3"), ((), "orders has replay 3")):
        world.store.objects |= {replay_path(TOPIC, number): plans[number] for number in left}
        with pytest.raises(ReplayDamaged, match=said):
            world.replay().open(changing=True)
        for number in left:
            del world.store.objects[replay_path(TOPIC, number)]


def test_a_topic_that_was_created_again_begins_behind_its_old_numbers() -> None:
    """Its tables and plans were moved away; the table of replays, which all topics share, stays."""
    world = World()
    world.run(1)
    world.run(2)
    for number in (1, 2):
        world.store.delete(replay_path(TOPIC, number))
    del world.tables.states[BRONZE]
    world.tables.make(BRONZE, table_schema(BRONZE_FILE))
    world.tables.states[BRONZE].append({position_app_id(TOPIC, 0): 100})
    world.tables.faults.order("commit", REPLAYS)
    with pytest.raises(StorageUnavailable):
        world.run(1, 2)
    assert world.run(1, 2, 3).done.made == {4: 1}
    assert [(plan.first, plan.number) for plan in world.plans()] == [(3, 3), (3, 4)]
    for folder in (BRONZE, REPLAYS):
        assert world.tables.states[folder].txns()[replay_app_id(TOPIC)] == 4
    assert len(world.tables.states[BRONZE].paths) == 2
    assert len(world.tables.states[REPLAYS].paths) == 4


def test_a_file_that_is_gone_is_never_named_by_a_table() -> None:
    """A vacuum without retention between decision and commit."""
    world = World()
    world.tables.faults.order("commit", BRONZE)
    with pytest.raises(StorageUnavailable):
        world.run(1)
    (file,) = world.plans()[0].files_of("bronze")
    world.store.delete(f"{BRONZE}/{file.path}")
    with pytest.raises(MissingFile, match="replay 1"):
        world.run(1)
    assert world.tables.states[BRONZE].paths == []


def test_a_table_that_goes_back_meanwhile_is_named() -> None:
    """Somebody sets our `txn`: no replay may be left out in between."""
    world = World()
    world.run(1)
    state = world.tables.states[BRONZE]
    world.tables.faults.once_before(
        "commit", BRONZE, lambda: state.append({replay_app_id(TOPIC): 0}))
    with pytest.raises(ReplayDamaged, match="lacks the ones between"):
        world.run(2)


@pytest.mark.parametrize("folder", [BRONZE, REPLAYS])
def test_a_table_that_is_ahead_of_the_plans_is_named(folder: str) -> None:
    """The numbers behind the last plan would be taken for done."""
    world = World()
    world.run(1)
    world.tables.states[folder].append({replay_app_id(TOPIC): 2})
    with pytest.raises(ReplayDamaged, match=f"table {folder} has replay 2"):
        world.run(2)


def test_a_topic_without_a_bronze_table_has_nothing_to_replay_to() -> None:
    """It is never made by a tool."""
    with pytest.raises(TableVanished):
        Replay(MemoryStore(), MemoryTables(), TOPIC, lambda: NOW_MS).open(changing=True)


@pytest.mark.parametrize("content", [
    b"", b"{}", b'{"plan_version": 2}', b"[1]",
    encode(Plan("payments", 1, 1, "u", "1", "t", (), ())), encode(Plan(TOPIC, 1, 2, "u", "1", "t", (), ())),
])
def test_a_plan_that_is_not_this_one_is_refused(content: bytes) -> None:
    """Copied from another topic, of a later release, or damaged."""
    with pytest.raises(ReplayDamaged):
        decode(content, TOPIC, 1)


def test_a_plan_is_read_as_it_was_written() -> None:
    """And lies where its topic's are."""
    plan = Plan(TOPIC, 1, 1, "u", "1", "t", ((0, 1), (2, 3)), ())
    assert decode(encode(plan), TOPIC, 1) == plan
    assert replay_path(TOPIC, 1).startswith(replays_prefix(TOPIC))


def test_a_plan_whose_answer_was_lost_is_recognised_as_ours() -> None:
    """The client library sends again by itself, and is told that the place is taken."""
    store = MemoryStore()
    plan = Plan(TOPIC, 1, 1, "u", "1", "t", ((0, 1),), ())
    store.put_if_absent(replay_path(TOPIC, 1), encode(plan))
    assert ReplayLog(store, TOPIC).put(plan)
    assert not ReplayLog(store, TOPIC).put(Plan(TOPIC, 1, 1, "other", "1", "t", ((0, 1),), ()))


def test_batches_are_bounded_by_number_and_by_bytes() -> None:
    """One that is too large goes alone."""
    assert [len(batch) for batch in _batches(letter(n) for n in range(LETTERS_MAX + 1))] == [
        LETTERS_MAX, 1]
    large = letter(0, b'"' + b"x" * BYTES_MAX + b'"')
    assert [len(batch) for batch in _batches([letter(1), large, letter(2)])] == [1, 1, 1]


def test_an_order_names_its_letters() -> None:
    """By fingerprint, by place, or all."""
    one = letter(7)
    assert Order(TOPIC).names(one)
    assert Order(TOPIC, fingerprint=one.fingerprint).names(one)
    assert not Order(TOPIC, fingerprint="0" * 12).names(one)
    assert Order(TOPIC, place=(0, 7)).names(one) and not Order(TOPIC, place=(1, 7)).names(one)


def test_each_letter_that_is_asked_for_is_replayed_or_counted() -> None:
    """Whose cycle is not in the bronze table yet waits: its rows would come before its cycle."""
    world, tally, looked = World(), Tally(), []
    world.run(1)
    replay = world.replay()
    replay.open(changing=True)
    letters = [letter(1), letter(2), letter(3, UNFIT), letter(4, b""), letter(5, UNFIT),
               letter(99), letter(100), letter(6, error_message="another")]
    order = Order(TOPIC, fingerprint=letters[0].fingerprint)
    fit = list(_fit(letters, replay, order, tally, lambda: looked.append(1)))
    assert [one.offset for one in fit] == [2, 99]
    assert (tally.asked, tally.known, tally.not_landed, len(looked)) == (7, 1, 1, 8)
    assert sorted((one.error_class, one.place[1], one.count) for one in tally.refused.values()) == [
        ("empty", 4, 1), ("json", 3, 2)]
    repaired = Order(TOPIC, place=(0, 3), value=FIT)
    (one,) = _fit(letters, replay, repaired, Tally(), lambda: None)
    assert (one.value, one.stored) == (FIT, UNFIT)


@pytest.mark.parametrize("argv", [
    ["lsit"], ["list", "--x=hunter2"], ["show", "orders"], ["show", "orders", "a", "1"],
    ["show", "orders", "1", "-1"], ["replay", "orders"],
    ["replay", "orders", "--all", "--offset", "1"], ["replay", "orders", "--offset", "1"],
    ["replay", "orders", "--all", "--partition", "1"],
    ["replay", "orders", "--fingerprint", "hunter2"],
    ["replay", "orders", "--all", "--value-file", "hunter2"],
])
def test_bad_arguments_are_refused_in_one_line(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 78, and no value repeated."""
    with pytest.raises(SystemExit) as left:
        main(argv)
    told = capsys.readouterr()
    assert left.value.code == 78
    assert told.out == "" and told.err.count("\n") == 1 and "hunter2" not in told.err


@pytest.mark.parametrize("action", ["list", "show", "stats", "replay"])
def test_every_action_has_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And the command itself names them all."""
    with pytest.raises(SystemExit) as left:
        main([action, "--help"])
    assert left.value.code == 0 and f"dlq {action}" in capsys.readouterr().out
    assert main([]) == 0
    assert f"  {action} " in capsys.readouterr().out
