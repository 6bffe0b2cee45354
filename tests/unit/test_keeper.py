"""The keeper's turns: begun between cycles with borrowed memory, bounded, and never in the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keeper import turn as turn_module
from keeper.ledger import Progress
from keeper.table_files import Compacted, Vacuumed
from keeper.table_log import Kept
from keeper.turn import CONFLICTS_MAX, TURN_S, Turn
from shared.block import Block
from shared.errors import (
    CommitConflict, LineageUnavailable, StorageUnavailable, TableUnavailable,
)
from shared.layout import Header, Report
from shared.layout import Keeper as Word
from shared.memory import KEEPER_BYTES
from supervisor import keeper as keeper_module
from supervisor.keeper import ANYWAY_S, TURN_MAX_S, Keeper
from tests.fakes.clock import FakeClock
from tests.fakes.config import make_config
from workers.loan import Loan, Terms
from workers.loan_words import of_worker

INTERVAL_S = 60.0


class FakeChild:
    """A keeper's process: runs until `code` is set, or until it is made certain of."""

    born: list[FakeChild] = []

    def __init__(self, process: Any, pidfd: int | None, born_at: float) -> None:
        self.pidfd, self.born_at = pidfd, born_at
        self.code: int | None = None
        FakeChild.born.append(self)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.code is not None

    def make_certain(self) -> int:
        """Kill it if need be."""
        return -9 if self.code is None else self.code


class Rig:
    """A keeper over a block, with a clock that moves when told to."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, interval_s: str = "60") -> None:
        FakeChild.born = []
        monkeypatch.setattr(keeper_module, "Child", FakeChild)
        monkeypatch.setattr(keeper_module, "start", self.start)
        self.clock = FakeClock()
        self.refusal: Exception | None = None
        self.config = make_config(("a", "b"), {"KEEPER_INTERVAL_SECONDS": interval_s})
        self.block = Block.create(folder / "block", 2, b"{}")
        self.keeper = Keeper(self.config, self.block, self.clock)

    def start(self, process: Any) -> int:
        """Start it, or be refused."""
        if self.refusal is not None:
            raise self.refusal
        return 99

    def turn(self, seconds: float = 0.0, *, is_between_cycles: bool = True) -> None:
        """Let time pass and the main loop turn."""
        self.clock.advance(seconds)
        self.keeper.tend(self.clock.monotonic(), is_between_cycles=is_between_cycles)

    @property
    def running(self) -> int:
        """How many processes were born."""
        return len(FakeChild.born)

    def borrow(self, share: float) -> Loan:
        """Let a worker borrow a share of the common budget."""
        limits = self.config.limits
        loan = Loan(of_worker(self.block, self.block.slot(0)), 0,
                    Terms(0, limits.loan_budget_bytes))
        assert loan.ask(int(limits.loan_budget_bytes * share), 0, 1)
        return loan


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Give a keeper whose service has decided record 5."""
    made = Rig(tmp_path, monkeypatch)
    made.block.set(Header.LAST_RECORD, 5)
    return made


def test_a_turn_is_taken_after_each_interval(rig: Rig) -> None:
    """The first one a whole interval after the start, which has enough to do."""
    rig.turn(INTERVAL_S - 1)
    assert rig.running == 0
    rig.turn(1)
    assert rig.running == 1
    FakeChild.born[0].code = 0
    rig.turn(1)
    rig.turn(INTERVAL_S - 2)
    assert rig.running == 1
    rig.turn(2)
    assert rig.running == 2
    assert rig.block.get(Header.KEEPER_TURNS) == 2
    assert rig.block.get(Header.KEEPER_FAILURES) == 0


def test_there_is_one_turn_at_a_time(rig: Rig) -> None:
    """A long one delays the next."""
    rig.turn(INTERVAL_S)
    rig.turn(INTERVAL_S)
    assert rig.running == 1


def test_a_turn_begins_between_two_cycles_only(rig: Rig) -> None:
    """A flush has the store and the processor for itself."""
    rig.turn(INTERVAL_S, is_between_cycles=False)
    assert rig.running == 0
    assert rig.block.get(Header.KEEPER_LOAN_WAITED_NS) == 0
    rig.turn()
    assert rig.running == 1


def test_its_memory_is_borrowed_before_it_is_born_and_given_back(rig: Rig) -> None:
    """All processes together stay within the limit."""
    loan = rig.borrow(1.0)
    rig.turn(INTERVAL_S)
    assert rig.running == 0
    assert rig.block.get(Header.KEEPER_LOAN_WAITED_NS) > 0
    loan.rest(0)
    rig.turn(1)
    assert rig.running == 1
    assert rig.block.get(Header.KEEPER_BORROWED) == KEEPER_BYTES
    FakeChild.born[0].code = 0
    rig.turn(1)
    assert rig.block.get(Header.KEEPER_BORROWED) == 0


def test_who_waits_for_memory_through_a_long_flush_gives_its_place_up(rig: Rig) -> None:
    """Else nobody could borrow while the store is away, and nobody would read."""
    rig.borrow(1.0)
    rig.turn(INTERVAL_S)
    assert rig.block.get(Header.KEEPER_LOAN_WAITED_NS) > 0
    rig.turn(1, is_between_cycles=False)
    assert rig.block.get(Header.KEEPER_LOAN_WAITED_NS) == 0


def test_an_idle_service_takes_no_turn(rig: Rig) -> None:
    """Everything decided is in the ledger; now and then it looks whether others wrote."""
    rig.block.set_keeper(Word.NEXT_RECORD, 6)
    rig.turn(INTERVAL_S)
    rig.turn(INTERVAL_S)
    assert rig.running == 0
    rig.turn(ANYWAY_S)
    assert rig.running == 1


@pytest.mark.parametrize("word", ["decided", "behind", "lineage"])
def test_a_turn_is_taken_for_whatever_is_not_in_the_ledger(rig: Rig, word: str) -> None:
    """A record of ours, or what the last turn left."""
    rig.block.set_keeper(Word.NEXT_RECORD, 6)
    if word == "decided":
        rig.block.set(Header.LAST_RECORD, 6)
    else:
        rig.block.set_keeper(Word.BEHIND if word == "behind" else Word.LINEAGE_BEHIND, 1)
    rig.turn(INTERVAL_S)
    assert rig.running == 1


def test_a_turn_that_does_not_end_is_killed(rig: Rig) -> None:
    """A store may hold a request for ever; any moment is safe."""
    rig.turn(INTERVAL_S)
    rig.turn(TURN_MAX_S - 1)
    assert rig.block.get(Header.KEEPER_FAILURES) == 0
    rig.turn(1)
    assert rig.block.get(Header.KEEPER_FAILURES) == 1
    assert rig.block.get(Header.KEEPER_BORROWED) == 0


@pytest.mark.parametrize(("code", "how"), [
    (1, "failed"), (-11, "killed by signal 11"), (None, "it took longer than 120 seconds")])
def test_a_turn_that_dies_without_a_word_is_told_in_its_place(
    rig: Rig, code: int | None, how: str
) -> None:
    """Whatever it said at an earlier turn: else /health would show nothing, or something old."""
    rig.block.keeper_error.write(b'{"at": "", "name": "Old", "message": "", "what_to_do": ""}')
    rig.turn(INTERVAL_S)
    FakeChild.born[0].code = code
    rig.turn(TURN_MAX_S)
    found = json.loads(rig.block.keeper_error.read() or b"")
    assert found["name"] == "KeeperDied"
    assert how in found["message"]
    assert rig.block.keeper(Word.ERROR_ACTIVE) == 1


@pytest.mark.parametrize("code", [0, 1])
def test_what_a_turn_said_itself_stays(rig: Rig, code: int) -> None:
    """It knows more than its exit code tells; a good one leaves nothing behind."""
    rig.turn(INTERVAL_S)
    if code:
        rig.block.keeper_error.write(b'{"name": "TableUnavailable"}')
    FakeChild.born[0].code = code
    rig.turn(1)
    said = rig.block.keeper_error.read()
    assert said == (b'{"name": "TableUnavailable"}' if code else None)
    assert rig.block.keeper(Word.ERROR_ACTIVE) == 0


@pytest.mark.parametrize("refusal", [OSError(11, "no process"), EOFError()])
def test_a_refused_process_is_tried_again_and_holds_nothing(rig: Rig, refusal: Exception) -> None:
    """The host is short of processes: ingestion needs them more."""
    rig.refusal = refusal
    rig.turn(INTERVAL_S)
    assert rig.block.get(Header.KEEPER_FAILURES) == 1
    assert rig.block.get(Header.KEEPER_BORROWED) == 0
    rig.refusal = None
    rig.turn(1)
    assert rig.running == 0
    rig.turn(INTERVAL_S)
    assert rig.running == 1


def test_trimming_waits_for_the_first_turn(rig: Rig) -> None:
    """Before it nobody knows what is in the ledger."""
    assert rig.keeper.entered_through == -1
    rig.block.set_keeper(Word.NEXT_RECORD, 4)
    assert rig.keeper.entered_through == 3


def test_a_stop_ends_a_turn_where_it_is(rig: Rig) -> None:
    """The next service enters what it had not committed."""
    rig.turn(INTERVAL_S)
    rig.keeper.stop()
    assert rig.block.get(Header.KEEPER_BORROWED) == 0
    assert rig.keeper.waitables() == []


# -- one turn -----------------------------------------------------------------------------------


class FakeLedger:
    """Gives what it was told to, one answer or error for each call."""

    def __init__(self, *answers: Progress | Exception) -> None:
        self.answers = list(answers)

    def advance(self) -> Progress:
        """The next answer."""
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def taken(tmp_path: Path, *answers: Progress | Exception) -> tuple[bool, Block, FakeLedger]:
    """Take a turn: whether it went well, the block, what is left of the ledger's answers."""
    block, ledger = Block.create(tmp_path / "block", 1, b"{}"), FakeLedger(*answers)
    return turn_of(ledger, block).run(), block, ledger


def turn_of(
    ledger: FakeLedger, block: Block, logs: Sequence[FakeTableLog] = (),
    files: Sequence[FakeTableFiles] = (), *, has_room: bool = True, **settings: str,
) -> Turn:
    """A turn over twins; settings: of the keeper."""
    config = make_config(environ=settings).keeper
    return Turn(ledger, logs, files, config, block, FakeClock(), lambda: None,  # type: ignore[arg-type]
                lambda: has_room)


def test_a_turn_goes_on_until_everything_is_entered(tmp_path: Path) -> None:
    """Records that came while no keeper ran take several commits."""
    went_well, block, ledger = taken(tmp_path, Progress(100, 50, 100), Progress(150, 0, 50))
    assert went_well
    assert ledger.answers == []
    assert (block.keeper(Word.NEXT_RECORD), block.keeper(Word.BEHIND)) == (150, 0)
    assert block.keeper(Word.LAST_TURN_AT_MS) > 0


def test_a_turn_ends_where_a_cycle_is_not_complete(tmp_path: Path) -> None:
    """The next turn may find it complete."""
    went_well, block, ledger = taken(tmp_path, Progress(3, 2, 3), Progress(3, 2, 0))
    assert went_well and ledger.answers == []
    assert block.keeper(Word.BEHIND) == 2


def test_a_turn_is_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is the next one's."""
    monkeypatch.setattr(turn_module, "TURN_S", -1.0)
    assert TURN_S > 0
    _, block, ledger = taken(tmp_path, Progress(100, 50, 100), Progress(150, 0, 50))
    assert len(ledger.answers) == 1
    assert block.keeper(Word.NEXT_RECORD) == 100


def test_a_failed_turn_says_why_and_keeps_what_was_entered(tmp_path: Path) -> None:
    """In /health and in the log."""
    went_well, block, _ = taken(
        tmp_path, Progress(100, 50, 100), StorageUnavailable("put", "x", "503"))
    assert not went_well
    assert block.keeper(Word.NEXT_RECORD) == 100
    assert block.keeper(Word.ERROR_ACTIVE) == 1
    found = json.loads(block.keeper_error.read() or b"")
    assert found["name"] == "StorageUnavailable"
    assert found["what_to_do"]


def test_a_good_turn_clears_the_error(tmp_path: Path) -> None:
    """What stands there concerns the present."""
    block = Block.create(tmp_path / "block", 1, b"{}")
    for answer in (StorageUnavailable("put", "x", "503"), Progress(1, 0, 0)):
        turn_of(FakeLedger(answer), block).run()
    assert block.keeper(Word.ERROR_ACTIVE) == 0


def test_another_keeper_that_was_first_is_no_error(tmp_path: Path) -> None:
    """Two instances share a lake; but for ever it must not win."""
    went_well, _, _ = taken(tmp_path, CommitConflict("taken"), Progress(1, 0, 0))
    assert went_well


def test_conflicts_without_end_are_an_error(tmp_path: Path) -> None:
    """Somebody commits to the ledger without a pause."""
    went_well, block, ledger = taken(
        tmp_path, *[CommitConflict("taken")] * (CONFLICTS_MAX + 2))
    assert not went_well
    assert len(ledger.answers) == 1
    assert block.keeper(Word.ERROR_ACTIVE) == 1


class FakeTableLog:
    """Has a checkpoint written, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.kept = error, 0

    def keep(self) -> Kept:
        """See `TableLog`."""
        self.kept += 1
        if self.error is not None:
            raise self.error
        return Kept(40, 3)


class FakeTableFiles:
    """Compacts and vacuums, or fails; `asked` are the calls."""

    def __init__(
        self, error: Exception | None = None, *, is_compacted: bool = True,
        is_vacuumed: bool = True,
    ) -> None:
        self.error = error
        self.is_compacted, self.is_vacuumed = is_compacted, is_vacuumed
        self.asked: list[tuple[str, int]] = []

    def compact(self, target_bytes: int, until: float) -> Compacted:
        """See `TableFiles`."""
        self.asked.append(("compact", target_bytes))
        if self.error is not None:
            raise self.error
        return Compacted(9, 2, self.is_compacted)

    def vacuum(self, days_min: int, started_at_ms: int, visit: int, until: float) -> Vacuumed:
        """See `TableFiles`."""
        self.asked.append(("vacuum", days_min))
        self.visit, self.started_at_ms = visit, started_at_ms
        return Vacuumed(4, 1000, self.is_vacuumed)


def kept_files(
    tmp_path: Path, turns: int, files: Sequence[FakeTableFiles], **settings: str
) -> Block:
    """So many turns over tables with these files; the block afterwards."""
    block = Block.create(tmp_path / "block", 1, b"{}")
    block.set(Header.STARTED_AT_MS, 77)
    for _ in range(turns):
        turn_of(FakeLedger(Progress(1, 0, 0)), block, [FakeTableLog() for _ in files], files,
                **settings).run()
    return block


def test_files_of_one_table_are_looked_after_in_a_turn(tmp_path: Path) -> None:
    """All have their turns, and what was done is counted."""
    files = [FakeTableFiles(), FakeTableFiles()]
    block = kept_files(tmp_path, 3, files)
    assert files[0].asked == [("compact", 64_000_000), ("vacuum", 7)] * 2
    assert files[1].asked == [("compact", 64_000_000), ("vacuum", 7)]
    assert files[0].visit == 1, "the second round: other dates"
    assert files[0].started_at_ms == 77
    counted = (Word.COMPACTED_FILES, Word.COMPACTION_FILES, Word.VACUUMED_FILES,
               Word.VACUUMED_BYTES, Word.VISITS, Word.UNFINISHED)
    assert [block.keeper(word) for word in counted] == [27, 6, 12, 3000, 3, 0]


def test_a_table_that_fails_does_not_keep_its_place(tmp_path: Path) -> None:
    """The next turn goes on with the next table, and the error is told."""
    files = [FakeTableFiles(TableUnavailable("a file is missing")), FakeTableFiles()]
    block = kept_files(tmp_path, 1, files)
    assert block.keeper(Word.ERROR_ACTIVE) == 1
    turn_of(FakeLedger(Progress(1, 0, 0)), block, [FakeTableLog(), FakeTableLog()], files).run()
    assert files[1].asked


@pytest.mark.parametrize(("setting", "left"), [
    ("COMPACT_TARGET_MB", "vacuum"), ("VACUUM_RETENTION_DAYS", "compact")])
def test_either_can_be_switched_off(tmp_path: Path, setting: str, left: str) -> None:
    """Somebody else does it, with other means."""
    files = [FakeTableFiles()]
    kept_files(tmp_path, 1, files, **{setting: "0"})
    assert [what for what, _ in files[0].asked] == [left]


def test_a_compaction_waits_for_memory(tmp_path: Path) -> None:
    """A backlog has it; the vacuum, which needs little, goes on."""
    block, files = Block.create(tmp_path / "block", 1, b"{}"), FakeTableFiles()
    turn_of(FakeLedger(Progress(1, 0, 0)), block, [FakeTableLog()], [files], has_room=False).run()
    assert [what for what, _ in files.asked] == ["vacuum"]
    assert block.keeper(Word.POSTPONED) == 1


@pytest.mark.parametrize("unfinished", ["is_compacted", "is_vacuumed"])
def test_what_is_left_for_want_of_time_is_told(tmp_path: Path, unfinished: str) -> None:
    """The supervisor then gives a turn although nothing is new."""
    block = kept_files(tmp_path, 1, [FakeTableFiles(**{unfinished: False})])
    assert block.keeper(Word.UNFINISHED) == 1


def test_an_unfinished_turn_is_followed_by_another(rig: Rig) -> None:
    """Also in a night without a message."""
    rig.block.set_keeper(Word.NEXT_RECORD, 6)
    rig.block.set_keeper(Word.UNFINISHED, 1)
    rig.turn(INTERVAL_S)
    assert rig.running == 1


def test_what_fails_with_one_table_keeps_no_other_from_being_looked_after(tmp_path: Path) -> None:
    """Nor does a ledger that fails: each is told, and the next turn tries again."""
    block = Block.create(tmp_path / "block", 1, b"{}")
    logs = [FakeTableLog(), FakeTableLog(TableUnavailable("broken")), FakeTableLog()]
    ledger = FakeLedger(StorageUnavailable("put", "x", "503"))
    assert not turn_of(ledger, block, logs, [FakeTableFiles() for _ in logs]).run()
    assert [log.kept for log in logs] == [1, 1, 1]
    assert block.keeper(Word.CHECKPOINTS) == 2
    assert block.keeper(Word.LOG_ENTRIES_DELETED) == 6
    assert json.loads(block.keeper_error.read() or b"")["name"] == "TableUnavailable"
    assert block.keeper(Word.LAST_TURN_AT_MS) == 0


class FakeLineage:
    """Sends two events, and fails where told to."""

    def __init__(self, begin: Exception | None = None, send: Exception | None = None) -> None:
        self.begin_error, self.send_error = begin, send
        self.events_sent, self.next_record = 0, 1
        self.steps: list[str] = []

    def begin(self) -> None:
        """See `Lineage`."""
        self.steps.append("begin")
        if self.begin_error is not None:
            raise self.begin_error

    def send(self, has_time: Callable[[], bool]) -> None:
        """See `Lineage`."""
        self.steps.append("send" if has_time() else "no time")
        self.events_sent, self.next_record = 2, 3
        if self.send_error is not None:
            raise self.send_error


def with_lineage(tmp_path: Path, lineage: FakeLineage) -> tuple[bool, Block, FakeTableLog]:
    """Take a turn with a ledger that enters records up to 5, and one table."""
    block, log = Block.create(tmp_path / "block", 1, b"{}"), FakeTableLog()
    turn = turn_of(FakeLedger(Progress(5, 0, 5)), block, [log], [FakeTableFiles()])
    turn._lineage = lineage  # type: ignore[assignment]
    return turn.run(), block, log


def test_lineage_begins_before_the_ledger_and_sends_last(tmp_path: Path) -> None:
    """So that the first cycle entered is told of, and nothing waits for who takes events."""
    lineage = FakeLineage()
    went_well, block, log = with_lineage(tmp_path, lineage)
    assert went_well and log.kept == 1
    assert lineage.steps == ["begin", "send"]
    assert (block.keeper(Word.LINEAGE_EVENTS), block.keeper(Word.LINEAGE_BEHIND)) == (2, 2)


def test_an_endpoint_that_takes_no_events_is_told_and_keeps_nothing_else(tmp_path: Path) -> None:
    """Ledger and checkpoints are done by then; what was sent is counted."""
    went_well, block, log = with_lineage(
        tmp_path, FakeLineage(send=LineageUnavailable("it answers 500")))
    assert not went_well and log.kept == 1
    assert block.keeper(Word.NEXT_RECORD) == 5
    assert (block.keeper(Word.LINEAGE_EVENTS), block.keeper(Word.LINEAGE_BEHIND)) == (2, 2)
    assert json.loads(block.keeper_error.read() or b"")["name"] == "LineageUnavailable"


def test_a_lineage_without_its_position_rests_and_the_ledger_goes_on(tmp_path: Path) -> None:
    """Sending from a guess would leave something out."""
    lineage = FakeLineage(begin=StorageUnavailable("get", "x", "503"))
    went_well, block, log = with_lineage(tmp_path, lineage)
    assert not went_well and log.kept == 1
    assert lineage.steps == ["begin"]
    assert block.keeper(Word.NEXT_RECORD) == 5
    assert block.keeper(Word.ERROR_ACTIVE) == 1


def test_keepers_words_are_its_own(tmp_path: Path) -> None:
    """They lie beside the topics' and the header's."""
    block = Block.create(tmp_path / "block", 1, b"about")
    for word in Word:
        block.set_keeper(word, 1000 + word)
    block.keeper_error.write(b"e" * 4096)
    assert [block.keeper(word) for word in Word] == [1000 + word for word in Word]
    assert block.about() == b"about"
    assert block.slot(0).report(Report.INCARNATION) == 0
    assert block.slot(0).error.read() is None
