"""The one place where a cycle becomes a fact: once, in order, under any lost answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.errors import (
    Fenced, LogDamaged, LogOvertaken, StorageUnavailable, UnsupportedRecord,
)
from shared.naming import record_path
from shared.record_log import RecordLog
from shared.records import CycleRecord, Manifest, Range, Record, StartRecord, decode, encode
from supervisor.decider import CLAIMED_MEANWHILE_MAX, Decider, Decision, Proposal
from tests.fakes.clock import FakeClock
from tests.fakes.faults import FOREVER, When
from tests.fakes.store import MemoryStore


def manifest(topic: str, start: int, end: int, partition: int = 0) -> Manifest:
    """A manifest of one range."""
    return Manifest(topic, "id", 1, (), (Range(partition, start, end, end - start),))


def proposal(cycle_id: int, *manifests: Manifest, **done: int) -> Proposal:
    """A cycle to decide; `done` are the topics' done records."""
    return Proposal(cycle_id, {m.topic: m for m in manifests}, {"away": "isolated"},
                    {"bronze_a": 4}, done)


class Lake:
    """A store with a log, and deciders on it."""

    def __init__(self) -> None:
        self.store, self.clock = MemoryStore(), FakeClock()
        self.log = RecordLog(self.store)

    def decider(self, instance: str = "0", uuid: str = "u1", claims: bool = True) -> Decider:
        """A service's decider; each one's clock stands a second later."""
        self.clock.advance(1.0)
        made = Decider(self.log, instance, uuid, self.clock.unix_ms)
        if claims:
            made.claim_start()
        return made

    def records(self) -> dict[int, Record]:
        """What the log holds."""
        return {n: decode(self.log.read_bytes(n) or b"", n) for n in self.log.numbers()}

    def kinds(self) -> str:
        """One letter per record: s or c."""
        return "".join("s" if isinstance(r, StartRecord) else "c" for r in self.records().values())

    def put(self, record: Record) -> int:
        """Write as another instance would."""
        number = self.log.tail().next_number
        assert self.log.put(number, encode(record))
        return number


def others(cycle_id: int, *manifests: Manifest, complete_through: int = -1) -> CycleRecord:
    """A record of another instance."""
    return CycleRecord("1", "other", cycle_id, "t", manifests, {}, complete_through, {})


@pytest.fixture
def lake() -> Lake:
    """Give an empty lake."""
    return Lake()


def test_a_start_takes_the_next_number_and_names_undone_topics(lake: Lake) -> None:
    """A topic named by an undone record is rolled forward, configured or not."""
    first = lake.decider()
    assert lake.kinds() == "s"
    first.decide(proposal(1, manifest("a", 0, 5), manifest("b", 0, 5)))
    second = lake.decider(uuid="u2", claims=False)
    assert second.claim_start() == {"a", "b"}
    assert lake.kinds() == "scs"
    record = lake.records()[2]
    assert isinstance(record, StartRecord)
    assert (record.instance, record.uuid, record.cycle_id) == ("0", "u2", 1)
    assert second.cycle_id == 1


def test_a_start_retries_upward_past_records_that_came_meanwhile(lake: Lake) -> None:
    """A dead predecessor's late put lands before ours, where we see it."""
    late = encode(CycleRecord("0", "dead", 9, "t", (manifest("a", 0, 3),), {}, -1, {}))
    lake.store.faults.once_before("put", "", lambda: lake.log.put(0, late) and None)
    decider = lake.decider(claims=False)
    assert decider.claim_start() == {"a"}
    assert lake.kinds() == "cs"
    assert decider.cycle_id == 9


@pytest.mark.parametrize("operation", ["list", "put", "get", "head"])
@pytest.mark.parametrize("when", list(When))
@pytest.mark.parametrize("skip", [0, 1])
def test_a_start_may_be_claimed_again_after_any_lost_answer(
    lake: Lake, operation: str, when: When, skip: int
) -> None:
    """It ends with a start record of ours as the newest one and the undone topics known."""
    lake.decider(uuid="u0").decide(proposal(1, manifest("a", 0, 5)))
    decider = lake.decider(uuid="u2", claims=False)
    fault = lake.store.faults.order(operation, when=when, skip=skip)
    topics = None
    for _ in range(3):
        try:
            topics = decider.claim_start()
            break
        except StorageUnavailable:
            continue
    assert fault.fired == (0 if skip and operation in ("put", "head") else 1)
    fault.heal()
    assert topics == {"a"}
    newest = lake.records()[lake.log.numbers()[-1]]
    assert isinstance(newest, StartRecord)
    assert newest.uuid == "u2"
    assert decider.decide(proposal(2, manifest("b", 0, 1))).included == ("b",)


def test_a_decision_names_exactly_what_was_proposed(lake: Lake) -> None:
    """The record is all that recovery has."""
    decider = lake.decider()
    cycle = proposal(7, manifest("a", 0, 5), manifest("b", 2, 3))
    assert decider.decide(cycle) == Decision(1, ("a", "b"), ())
    record = lake.records()[1]
    assert isinstance(record, CycleRecord)
    assert record.manifests == tuple(cycle.manifests.values())
    assert (record.cycle_id, record.excluded, record.table_versions) == (
        7, {"away": "isolated"}, {"bronze_a": 4})


@pytest.mark.parametrize("operation", ["put", "head"])
@pytest.mark.parametrize("when", list(When))
def test_the_same_bytes_are_sent_again_to_the_same_number(
    lake: Lake, operation: str, when: When
) -> None:
    """A lost answer and a lost request look alike; time passes, the record must not change."""
    decider = lake.decider()
    cycle = proposal(1, manifest("a", 0, 5))
    sent: list[bytes] = []
    put = lake.log.put
    lake.log.put = lambda n, data: (sent.append(data), put(n, data))[1]  # type: ignore[method-assign]
    fault = lake.store.faults.order(operation, when=when, times=2)
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            decider.decide(cycle)
        lake.clock.advance(60.0)
    assert decider.decide(cycle) == Decision(1, ("a",), ())
    assert fault.fired == 2
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert lake.kinds() == "sc"


def test_a_lost_answer_and_a_failed_read_back_end_alike(lake: Lake) -> None:
    """Every step of the read-back may fail on its own."""
    decider = lake.decider()
    cycle = proposal(1, manifest("a", 0, 5))
    lake.store.faults.order("put", when=When.AFTER)
    lake.store.faults.order("get")
    for _ in range(2):
        with pytest.raises(StorageUnavailable):
            decider.decide(cycle)
    assert decider.decide(cycle) == Decision(1, ("a",), ())
    assert lake.kinds() == "sc"


def test_a_proposal_that_came_after_a_lost_one_is_decided_once_each(lake: Lake) -> None:
    """The number moves on after each decision."""
    decider = lake.decider()
    assert decider.decide(proposal(1, manifest("a", 0, 5))).number == 1
    assert decider.decide(proposal(2, manifest("a", 5, 6))).number == 2


def test_another_instances_record_is_noted_and_passed(lake: Lake) -> None:
    """Instances share the log and take turns."""
    decider = lake.decider()
    lake.put(others(4, manifest("a", 0, 5, partition=1)))
    assert decider.decide(proposal(1, manifest("a", 0, 5))) == Decision(2, ("a",), (), foreign_record=1)


def test_a_range_another_instance_decided_is_dropped(lake: Lake) -> None:
    """A record that cannot be committed must never be written."""
    decider = lake.decider()
    lake.put(others(4, manifest("a", 0, 9)))
    decision = decider.decide(proposal(1, manifest("a", 0, 5), manifest("b", 0, 2)))
    assert decision == Decision(2, ("b",), ("a",), foreign_record=1)
    record = lake.records()[2]
    assert isinstance(record, CycleRecord)
    assert [m.topic for m in record.manifests] == ["b"]
    assert record.excluded["a"] == "its range does not follow the last decided one"


def test_nothing_is_written_when_nothing_is_left(lake: Lake) -> None:
    """An empty record would make readers wait for nothing."""
    decider = lake.decider()
    lake.put(others(4, manifest("a", 0, 9)))
    assert decider.decide(proposal(1, manifest("a", 0, 5))) == Decision(None, (), ("a",))
    assert lake.kinds() == "sc"


def test_a_range_that_does_not_follow_our_own_last_one_is_dropped(lake: Lake) -> None:
    """Neither an overlap nor a hole may be decided."""
    decider = lake.decider()
    decider.decide(proposal(1, manifest("a", 0, 5)))
    for start in (0, 4, 6):
        assert decider.decide(proposal(2, manifest("a", start, 9))).dropped == ("a",)
    assert decider.decide(proposal(3, manifest("a", 5, 9))).included == ("a",)


def test_a_newer_start_of_our_identity_fences_us(lake: Lake) -> None:
    """The store refuses the older one, never timing."""
    old = lake.decider(uuid="old")
    new = lake.decider(uuid="new")
    with pytest.raises(Fenced, match="record 1 is the start of a newer service of instance 0"):
        old.decide(proposal(1, manifest("a", 0, 5)))
    assert lake.kinds() == "ss"
    assert new.decide(proposal(1, manifest("a", 0, 5))).number == 2


def test_a_start_of_another_identity_fences_nobody(lake: Lake) -> None:
    """Several instances are meant to run side by side."""
    mine = lake.decider("0", "mine")
    lake.decider("1", "theirs")
    assert mine.decide(proposal(1, manifest("a", 0, 5))).number == 2


def test_watching_finds_the_fence_without_anything_to_decide(lake: Lake) -> None:
    """An idle service must not go on for ever beside its successor."""
    old = lake.decider(uuid="old")
    old.watch()
    lake.decider(uuid="new")
    with pytest.raises(Fenced):
        old.watch()


def test_watching_learns_what_others_decided(lake: Lake) -> None:
    """Then the next decision drops overlaps at once, without a refused put."""
    decider = lake.decider()
    lake.put(others(4, manifest("a", 0, 9)))
    decider.watch()
    before = lake.store.faults.seen.count(("put", record_path(1)))
    assert decider.decide(proposal(1, manifest("a", 9, 12))).number == 2
    assert lake.store.faults.seen.count(("put", record_path(1))) == before


def test_a_number_that_trimming_made_free_is_noticed(lake: Lake) -> None:
    """We were frozen; records were written and trimmed past us, so our put lands in the past."""
    decider = lake.decider()
    for number in range(1, 6):
        lake.log.put(number, encode(others(number, complete_through=number - 1)))
    for number in range(4):
        lake.store.delete(record_path(number))
    with pytest.raises(LogOvertaken, match="record 0 is gone, so number 1 was used before"):
        decider.decide(proposal(1, manifest("a", 0, 5)))


def test_watching_notices_that_it_was_overtaken(lake: Lake) -> None:
    """The same for a service that had nothing to write."""
    decider = lake.decider()
    for number in range(1, 6):
        lake.log.put(number, encode(others(number, complete_through=number - 1)))
    for number in range(4):
        lake.store.delete(record_path(number))
    with pytest.raises(LogOvertaken, match="record 1 is gone, 4 is there"):
        decider.watch()


def test_a_record_of_an_unknown_version_ends_the_service(lake: Lake) -> None:
    """A newer release wrote it; nothing may be written behind it."""
    decider = lake.decider()
    lake.log.put(1, b'{"record_version": 99}')
    with pytest.raises(UnsupportedRecord):
        decider.decide(proposal(1, manifest("a", 0, 5)))
    assert lake.log.numbers() == [0, 1]


def test_a_start_on_a_damaged_log_writes_nothing(lake: Lake) -> None:
    """First a person must restore the hole."""
    lake.log.put(0, encode(others(1)))
    lake.log.put(2, encode(others(2)))
    with pytest.raises(LogDamaged):
        lake.decider()
    assert lake.log.numbers() == [0, 2]


def claim_after(
    lake: Lake, decider: Decider, cycle_id: int, start: int, **done: int
) -> int:
    """Decide one more range of topic b and give the claim in its record."""
    number = decider.decide(proposal(cycle_id, manifest("b", start, start + 1), **done)).number
    assert number is not None
    return lake.records()[number].complete_through


def test_the_claim_follows_what_every_topic_has_done(lake: Lake) -> None:
    """Trimming and every later start rely on it."""
    decider = lake.decider()
    decider.decide(proposal(1, manifest("a", 0, 5), manifest("b", 0, 1)))
    assert claim_after(lake, decider, 2, 1, a=1, b=0) == 0
    assert claim_after(lake, decider, 3, 2, a=1, b=1) == 1
    assert claim_after(lake, decider, 4, 3, a=1, b=3) == 3


def test_a_topic_that_is_behind_holds_the_claim_back(lake: Lake) -> None:
    """Its record must stay in the log until its table has it."""
    decider = lake.decider()
    decider.decide(proposal(1, manifest("a", 0, 5), manifest("b", 0, 1)))
    for cycle_id in range(2, 6):
        assert claim_after(lake, decider, cycle_id, cycle_id - 1, a=0, b=cycle_id - 1) == 0
    assert claim_after(lake, decider, 6, 5, a=5, b=5) == 5


def test_a_record_of_another_instance_holds_the_claim_until_that_one_says_so(lake: Lake) -> None:
    """Only its owner knows whether it is in the tables."""
    decider = lake.decider()
    lake.put(others(4, manifest("a", 0, 9, partition=1)))
    assert claim_after(lake, decider, 1, 0, a=99, b=99) == 0
    assert claim_after(lake, decider, 2, 1, a=99, b=99) == 0
    lake.put(others(5, manifest("a", 9, 10, partition=1), complete_through=3))
    decider.watch()
    assert decider.complete_through == 3


def test_undone_records_of_a_predecessor_are_claimed_once_all_topics_have_recovered(
    lake: Lake
) -> None:
    """A topic configured no more has no worker to report; the supervisor says it."""
    lake.decider(uuid="dead").decide(proposal(1, manifest("a", 0, 5), manifest("gone", 0, 5)))
    decider = lake.decider(uuid="u2", claims=False)
    assert decider.claim_start() == {"a", "gone"}
    assert claim_after(lake, decider, 2, 0, a=2, b=2) == 0
    decider.recovered("gone")
    assert claim_after(lake, decider, 3, 1, a=3, b=3) == 3


def test_trimming_goes_by_what_a_record_claims_not_by_what_we_know(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start reads the claim in the log: what it does not cover must still be there."""
    monkeypatch.setattr("shared.record_log.RECORDS_KEPT_MIN", 1)
    decider = lake.decider()
    for cycle_id in range(1, 6):
        done = {"a": min(cycle_id - 1, 3)}
        decider.decide(proposal(cycle_id, manifest("a", cycle_id - 1, cycle_id), **done))
    assert decider.trim(99) == 4
    assert lake.log.numbers() == [4, 5]
    assert decider.decide(proposal(6, manifest("a", 5, 6), a=5)).number == 6
    assert decider.trim(99) == 2
    assert lake.log.numbers() == [6]
    assert lake.log.tail().complete_through == 5


def test_no_record_is_trimmed_before_it_is_in_the_ledger(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone nobody could enter any more."""
    monkeypatch.setattr("shared.record_log.RECORDS_KEPT_MIN", 1)
    decider = lake.decider()
    for cycle_id in range(1, 6):
        decider.decide(proposal(cycle_id, manifest("a", cycle_id - 1, cycle_id), a=cycle_id - 1))
    assert decider.trim(-1) == 0
    assert decider.trim(2) == 3
    assert lake.log.numbers() == [3, 4, 5]
    assert decider.trim(9) == 2


def test_no_table_versions_are_published_once_another_instance_writes(lake: Lake) -> None:
    """Our workers' snapshots may lack its commits, so our versions would be a torn cut."""
    decider = lake.decider()
    decider.decide(proposal(1, manifest("a", 0, 5)))
    lake.put(others(1, manifest("a", 0, 5, partition=1)))
    decider.decide(proposal(2, manifest("a", 5, 9)))
    published = [record.table_versions for record in lake.records().values()
                 if isinstance(record, CycleRecord) and record.instance == "0"]
    assert published == [{"bronze_a": 4}, {}]


class StartsMeanwhile(RecordLog):
    """Another service of our identity starts between our start record and our listing."""

    def __init__(self, lake: Lake) -> None:
        super().__init__(lake.store)
        self._lake = lake

    def put(self, number: int, data: bytes) -> bool:
        """Put, and let the other one start."""
        put = super().put(number, data)
        self._lake.decider(uuid="newer")
        return put


def test_a_newer_service_that_starts_while_we_do_fences_us(lake: Lake) -> None:
    """Passing over its start record, both would go on under one identity."""
    lake.decider(uuid="old")
    ours = Decider(StartsMeanwhile(lake), "0", "ours", lake.clock.unix_ms)
    with pytest.raises(Fenced, match="newer service"):
        ours.claim_start()


def test_a_start_goes_on_when_another_instance_has_read_its_record_already(lake: Lake) -> None:
    """It may claim our start record as done before we list the log: no reason to end."""
    class Quick(RecordLog):
        def put(self, number: int, data: bytes) -> bool:
            put = super().put(number, data)
            super().put(number + 1, encode(others(1, complete_through=number)))
            return put

    lake.decider(uuid="old")
    decider = Decider(Quick(lake.store), "0", "ours", lake.clock.unix_ms)
    assert decider.claim_start() == frozenset()
    assert lake.log.numbers() == [0, 1, 2]


def test_a_newer_start_is_found_though_its_record_is_claimed_as_done_already(lake: Lake) -> None:
    """A listing that leaves out what is done would leave out the one who replaced us."""
    class Frozen(RecordLog):
        def put(self, number: int, data: bytes) -> bool:
            put = super().put(number, data)
            newer = StartRecord("0", "newer", "1", 0, "t", number)
            super().put(number + 1, encode(newer))
            super().put(number + 2, encode(others(1, complete_through=number + 1)))
            return put

    with pytest.raises(Fenced, match="newer service"):
        Decider(Frozen(lake.store), "0", "ours", lake.clock.unix_ms).claim_start()


def test_a_start_frozen_for_long_is_overtaken(lake: Lake) -> None:
    """Its restart reads the log anew, instead of every record since."""
    class Frozen(RecordLog):
        def put(self, number: int, data: bytes) -> bool:
            put = super().put(number, data)
            for later in range(number + 1, number + CLAIMED_MEANWHILE_MAX + 3):
                super().put(later, encode(others(later, complete_through=later - 1)))
            return put

    with pytest.raises(LogOvertaken, match="were done while"):
        Decider(Frozen(lake.store), "0", "ours", lake.clock.unix_ms).claim_start()


def test_a_start_record_in_the_trimmed_part_of_the_log_starts_nothing(lake: Lake) -> None:
    """Number 0 has no predecessor whose absence would give it away."""
    class Frozen(RecordLog):
        def put(self, number: int, data: bytes) -> bool:
            for later in range(5, 8):
                super().put(later, encode(others(later, complete_through=later - 1)))
            return super().put(number, data)

    with pytest.raises(LogOvertaken):
        Decider(Frozen(lake.store), "0", "ours", lake.clock.unix_ms).claim_start()


@pytest.mark.parametrize("act", [lambda d: d.claim_start(),
                                 lambda d: d.decide(proposal(1, manifest("a", 0, 5)))])
def test_a_log_that_is_always_taken_is_given_up_for_now(
    lake: Lake, act: Callable[[Decider], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has a bound; the caller backs off and calls again."""
    monkeypatch.setattr("supervisor.decider.NUMBERS_PER_CALL_MAX", 5)
    decider = lake.decider()
    tried: list[int] = []

    def lose(number: int, data: bytes) -> bool:
        tried.append(number)
        lake.store.objects[record_path(number)] = encode(others(number))
        return False

    lake.log.put = lose  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailable, match="no free number"):
        act(decider)
    assert tried == [1, 2, 3, 4, 5]


def test_a_store_that_is_away_for_long_changes_nothing(lake: Lake) -> None:
    """However often it is asked."""
    decider = lake.decider()
    fault = lake.store.faults.order("put", times=FOREVER)
    cycle = proposal(1, manifest("a", 0, 5))
    for _ in range(50):
        with pytest.raises(StorageUnavailable):
            decider.decide(cycle)
    fault.heal()
    assert decider.decide(cycle) == Decision(1, ("a",), ())
