"""The flush-and-commit cycle as data and pure functions: phases, votes, and every decision.

A cycle is a two-phase commit whose decision is durable.  The supervisor owns the phase; each
worker votes once per cycle in a slot of its own.  Between "all have voted" and "anything is
visible" stands one object in the lake, the cycle record: before it exists no table shows a row of
the cycle, once it exists every topic in it commits exactly the files it names.

Nothing in here reads a clock, a file or the network.  The supervisor, the workers, recovery and
the model checker of the test suite all call these same functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum


class Phase(IntEnum):
    """Where the service is in its cycle; written by the supervisor only."""

    RECOVERING = 1
    CONSUMING = 2
    FLUSHING = 3
    DECIDING = 4
    COMMITTING = 5
    ABORTING = 6
    STOPPING = 7
    FENCED = 8
    HALTED = 9


TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.RECOVERING: frozenset({Phase.CONSUMING, Phase.STOPPING, Phase.FENCED, Phase.HALTED}),
    Phase.CONSUMING: frozenset({Phase.FLUSHING, Phase.STOPPING, Phase.FENCED, Phase.HALTED}),
    Phase.FLUSHING: frozenset(
        {Phase.DECIDING, Phase.CONSUMING, Phase.ABORTING, Phase.STOPPING, Phase.FENCED,
         Phase.HALTED}
    ),
    Phase.DECIDING: frozenset({Phase.COMMITTING, Phase.ABORTING, Phase.STOPPING, Phase.FENCED,
                               Phase.HALTED}),
    Phase.COMMITTING: frozenset({Phase.CONSUMING, Phase.STOPPING, Phase.FENCED, Phase.HALTED}),
    Phase.ABORTING: frozenset({Phase.CONSUMING, Phase.STOPPING, Phase.FENCED, Phase.HALTED}),
    Phase.STOPPING: frozenset(),
    Phase.FENCED: frozenset(),
    Phase.HALTED: frozenset(),
}

TERMINAL = frozenset(phase for phase, successors in TRANSITIONS.items() if not successors)


class Vote(IntEnum):
    """What a worker says of a cycle; PREPARED means its manifest is complete and readable."""

    NONE = 0
    PREPARED = 1
    EMPTY = 2
    FAILED = 3


class Standing(StrEnum):
    """How a topic takes part; derived, never stored on its own."""

    STARTING = "starting"
    ACTIVE = "active"
    BEHIND = "behind"
    ISOLATED = "isolated"
    STOPPED = "stopped"


class IllegalTransition(Exception):
    """The supervisor tried to leave a phase for one that may not follow it: a defect."""

    def __init__(self, old: Phase, new: Phase, cycle_id: int) -> None:
        super().__init__(f"{old.name} may not be followed by {new.name} (cycle {cycle_id})")


def check_transition(old: Phase, new: Phase, cycle_id: int) -> Phase:
    """Give `new` back, or raise `IllegalTransition`."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(old, new, cycle_id)
    return new


@dataclass(frozen=True, slots=True)
class Ballot:
    """One worker's vote, read from its slot in one piece."""

    cycle_id: int = 0
    vote: Vote = Vote.NONE


@dataclass(frozen=True, slots=True)
class Member:
    """A topic as the supervisor knows it.

    failures: cycles this topic has failed since it was last part of a decided one.
    isolated: it left the quorum for having failed too often; it rejoins with a good vote.
    stopped: a named error stopped it; it is out of the quorum until the service restarts.
    started: its worker has rolled its topic forward and reads (or could read) Kafka.
    undone_record: the decided record this topic still has to commit, 0 when there is none.
    """

    failures: int = 0
    isolated: bool = False
    stopped: bool = False
    started: bool = False
    undone_record: int = 0

    @property
    def in_quorum(self) -> bool:
        """Whether a cycle waits for this topic."""
        return not (self.isolated or self.stopped)

    @property
    def standing(self) -> Standing:
        """The one word for people."""
        if self.stopped:
            return Standing.STOPPED
        if self.isolated:
            return Standing.ISOLATED
        if self.undone_record:
            return Standing.BEHIND
        return Standing.ACTIVE if self.started else Standing.STARTING


Members = Mapping[str, Member]


class Verdict(IntEnum):
    """What becomes of a cycle in FLUSHING."""

    WAIT = 0
    DECIDE = 1
    NOTHING = 2
    ABORT = 3


@dataclass(frozen=True, slots=True)
class Flush:
    """The verdict on a cycle's votes.

    included: topics whose manifests the record will name (PREPARED).
    excluded: topics outside the quorum without a good vote, with the reason, never silent.
    culprits: topics the abort is due to, with the reason.
    """

    verdict: Verdict
    included: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    culprits: Mapping[str, str] = field(default_factory=dict)


def judge_flush(
    members: Members, ballots: Mapping[str, Ballot], died: Iterable[str],
    cycle_id: int, deadline_passed: bool,
) -> Flush:
    """Decide what FLUSHING leads to.

    `ballots` holds the votes of the present incarnations only.  `died` are topics whose worker
    died since the cycle began: their vote is void, whatever it was.
    """
    died = frozenset(died)
    votes = {
        topic: ballots[topic].vote
        if topic in ballots and ballots[topic].cycle_id == cycle_id and topic not in died
        else Vote.NONE
        for topic in members
    }
    culprits = {}
    waiting = False
    for topic, member in members.items():
        if not member.in_quorum:
            continue
        if topic in died:
            culprits[topic] = "its worker died"
        elif votes[topic] is Vote.FAILED:
            culprits[topic] = "it could not prepare"
        elif votes[topic] is Vote.NONE:
            if deadline_passed:
                culprits[topic] = "it did not answer in time"
            waiting = True
    if culprits:
        return Flush(Verdict.ABORT, culprits=culprits)
    if waiting:
        return Flush(Verdict.WAIT)
    if not deadline_passed and _isolated_may_still_vote(members, votes, died):
        return Flush(Verdict.WAIT)
    included = tuple(
        topic for topic, vote in votes.items()
        if vote is Vote.PREPARED and not members[topic].stopped
    )
    excluded = {
        topic: member.standing.value for topic, member in members.items()
        if not member.in_quorum and votes[topic] not in (Vote.PREPARED, Vote.EMPTY)
    }
    if not included:
        return Flush(Verdict.NOTHING, excluded=excluded)
    return Flush(Verdict.DECIDE, included=included, excluded=excluded)


def _isolated_may_still_vote(
    members: Members, votes: Mapping[str, Vote], died: frozenset[str]
) -> bool:
    """Whether nobody is left in the quorum, and some isolated topic has not answered yet.

    A cycle that waits for nobody is over before anyone can vote: after an outage that isolated
    all topics, none would ever get its chance to rejoin.
    """
    if any(member.in_quorum for member in members.values()):
        return False
    return any(votes[topic] is Vote.NONE and topic not in died and not member.stopped
               for topic, member in members.items())


def after_abort(
    members: Members, culprits: Iterable[str], isolate_after: int
) -> dict[str, Member]:
    """Count the failure of each culprit; the one that fails too often leaves the quorum.

    isolate_after: cycles; 0 means wait for ever.
    """
    culprits = frozenset(culprits)
    return {
        topic: _failed_once_more(member, isolate_after) if topic in culprits else member
        for topic, member in members.items()
    }


def _failed_once_more(member: Member, isolate_after: int) -> Member:
    failures = member.failures + 1
    isolated = member.isolated or (isolate_after > 0 and failures >= isolate_after)
    return replace(member, failures=failures, isolated=isolated)


def after_decision(
    members: Members, included: Iterable[str], record_number: int
) -> dict[str, Member]:
    """Owe the record `record_number` to every topic in it; they are in the quorum again."""
    included = frozenset(included)
    return {
        topic: replace(member, failures=0, isolated=False, undone_record=record_number)
        if topic in included else member
        for topic, member in members.items()
    }


def after_good_vote(
    members: Members, ballots: Mapping[str, Ballot], cycle_id: int
) -> dict[str, Member]:
    """Let isolated topics back in that voted PREPARED or EMPTY on `cycle_id`.

    An idle topic has nothing to prepare, so EMPTY must do as proof that it is well again.
    """
    return {
        topic: replace(member, failures=0, isolated=False)
        if member.isolated and _voted_well(ballots.get(topic), cycle_id) else member
        for topic, member in members.items()
    }


def _voted_well(ballot: Ballot | None, cycle_id: int) -> bool:
    return (ballot is not None and ballot.cycle_id == cycle_id
            and ballot.vote in (Vote.PREPARED, Vote.EMPTY))


def after_done(members: Members, done_records: Mapping[str, int]) -> dict[str, Member]:
    """Clear the debt of each topic whose worker reports its record as done."""
    return {
        topic: replace(member, undone_record=0)
        if member.undone_record and done_records.get(topic, 0) >= member.undone_record else member
        for topic, member in members.items()
    }


def undone(members: Members) -> tuple[str, ...]:
    """Topics that still owe a decided record."""
    return tuple(topic for topic, member in members.items() if member.undone_record)


class Outcome(IntEnum):
    """What a worker does with the manifest it voted PREPARED for."""

    WAIT = 0
    COMMIT = 1
    CARRY_OVER = 2


def outcome(
    voted_cycle: int, phase: Phase, cycle_id: int, included_cycle: int
) -> Outcome:
    """Tell a worker what became of its vote on `voted_cycle`.

    `phase` and `cycle_id` come from one word of the block, read before `included_cycle`, which
    the supervisor writes before the phase leaves DECIDING.
    """
    if included_cycle == voted_cycle:
        return Outcome.COMMIT
    if cycle_id == voted_cycle and phase in (Phase.FLUSHING, Phase.DECIDING):
        return Outcome.WAIT
    return Outcome.CARRY_OVER


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open range of offsets of one partition: the rows of [start, end) and no others."""

    partition: int
    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"not a span: partition {self.partition} [{self.start}, {self.end})")


class Tiling(IntEnum):
    """How a manifest stands to a table: still to commit, already in it, or torn."""

    COMMIT = 0
    DONE = 1
    TORN = 2


def judge_tiling(spans: Iterable[Span], txn_versions: Mapping[int, int | None]) -> Tiling:
    """Compare a manifest's spans with the bronze table's positions, all from one snapshot.

    A commit may only extend: every partition must stand exactly at its span's start.
    """
    spans = tuple(spans)
    if all(txn_versions.get(span.partition) == span.start for span in spans):
        return Tiling.COMMIT
    if all(_at_or_past(txn_versions.get(span.partition), span.end) for span in spans):
        return Tiling.DONE
    return Tiling.TORN


def judge_dead_letters(spans: Iterable[Span], txn_versions: Mapping[int, int | None]) -> Tiling:
    """The same for the DLQ table, whose positions move only with dead letters.

    `spans` are those of partitions that have dead letters in this manifest.
    """
    spans = tuple(spans)
    if all(_at_or_before(txn_versions.get(span.partition), span.start) for span in spans):
        return Tiling.COMMIT
    if all(_at_or_past(txn_versions.get(span.partition), span.end) for span in spans):
        return Tiling.DONE
    return Tiling.TORN


def _at_or_past(txn_version: int | None, offset: int) -> bool:
    return txn_version is not None and txn_version >= offset


def _at_or_before(txn_version: int | None, offset: int) -> bool:
    return txn_version is None or txn_version <= offset


Frontier = Mapping[tuple[str, int], int]
"""(topic, partition) -> the end of the last decided span; absent where no record is known."""


def fits_frontier(frontier: Frontier, topic: str, spans: Iterable[Span]) -> bool:
    """Whether every span begins where the last decided one ended.

    A record that could not be committed must never be written, so a manifest that does not fit is
    left out before the record is put.
    """
    return all(
        frontier.get((topic, span.partition), span.start) == span.start for span in spans
    )


def advance_frontier(
    frontier: Frontier, decided: Mapping[str, Iterable[Span]]
) -> dict[tuple[str, int], int]:
    """The frontier after a record that decided `decided`."""
    moved = {
        (topic, span.partition): span.end for topic, spans in decided.items() for span in spans
    }
    return {**frontier, **moved}


class NumberTaken(IntEnum):
    """What the record found at the number we wanted means to us."""

    OURS = 0
    FENCED = 1
    NEXT = 2


def judge_taken_number(
    *, found_uuid: str, found_instance: str, found_is_start: bool, found_same_bytes: bool,
    own_uuid: str, own_instance: str,
) -> NumberTaken:
    """Read a refused (or unanswered) put of a record back.

    The very bytes we sent: our put took effect and its answer was lost.  A start record of our
    own identity by another service: we are fenced.  Anything else belongs to another instance
    (or is our own earlier record): go on with the next number.
    """
    if found_same_bytes:
        return NumberTaken.OURS
    if found_is_start and found_instance == own_instance and found_uuid != own_uuid:
        return NumberTaken.FENCED
    return NumberTaken.NEXT


def complete_through(claims: Iterable[int], own_done: Iterable[int]) -> int:
    """The highest number up to which every record is known to be done.

    claims: the `complete_through` of every record read; each is true for ever.
    own_done: numbers known to be done otherwise (our own cycles, start records, rolled forward).
    """
    highest = max(claims, default=-1)
    done = set(own_done)
    while highest + 1 in done:
        highest += 1
    return highest


def resolve_start(
    committed: int | None, low: int, high: int, table_is_new: bool, earliest: bool
) -> int:
    """Where to begin a partition whose table holds no position for it.

    committed: the group's committed next_offset, if any.  A partition that appears later in the
    life of a topic starts at its beginning, or messages written before we noticed it were lost.
    """
    if not table_is_new:
        return low
    if committed is not None and committed >= 0:
        return committed
    return low if earliest else high
