"""Writes the log of records: claims the start, makes decisions durable, watches and trims.

The one place where a cycle becomes a fact.  Every method may raise `StorageUnavailable` and may
then simply be called again: what was sent is kept and sent again, to the same number, so a lost
answer and a lost request look alike and end alike.  `Fenced` and `ServiceHalted` end the service.

Blocking; the coordinator runs it in a thread of its own, one call at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shared.clock import rfc3339
from shared.errors import Fenced, LogOvertaken, StorageUnavailable
from shared.protocol import (
    NumberTaken, advance_frontier, complete_through, fits_frontier, judge_taken_number,
)
from shared.record_log import RecordLog, Tail
from shared.records import CycleRecord, Manifest, Record, StartRecord, decode, encode
from shared.version import SERVICE_VERSION

CLAIMED_MEANWHILE_MAX = 100
"""Records done between our start record and our listing; more means that we were frozen."""
NUMBERS_PER_CALL_MAX = 1000
"""Other instances' records passed over in one call before the loop calls us again."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A cycle to decide: manifests by topic, topics left out and why, versions to publish.

    done_records: topic -> number up to which its worker has brought every record into its tables.
    """

    cycle_id: int
    manifests: Mapping[str, Manifest]
    excluded: Mapping[str, str]
    table_versions: Mapping[str, int]
    done_records: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Decision:
    """number: of the record, None when nothing was left to decide; dropped: topics whose
    manifests did not fit the frontier and must be read again; foreign_record: the last cycle
    record of another instance before it, 0 when there is none."""

    number: int | None
    included: tuple[str, ...]
    dropped: tuple[str, ...]
    foreign_record: int = 0


class Decider:
    """See the module."""

    def __init__(
        self, log: RecordLog, instance: str, uuid: str, unix_ms: Callable[[], int]
    ) -> None:
        self._log, self._instance, self._uuid, self._unix_ms = log, instance, uuid, unix_ms
        self._next = 0
        self._claims: list[int] = [-1]
        self._written_claim = -1
        self.foreign_record = 0
        self._owing: dict[int, frozenset[str]] = {}
        self._frontier: Mapping[tuple[str, int], int] = {}
        self._sent: tuple[int, bytes, tuple[str, ...]] | None = None
        self.cycle_id = 0

    def claim_start(self) -> frozenset[str]:
        """Take the next number with a start record; topics that still have to be rolled forward.

        Only then is the log listed for good: a dead predecessor's late put lands before our
        record, where we see it, or is refused.
        """
        tail = self._log.tail()
        self.cycle_id = tail.cycle_id
        data = encode(StartRecord(
            self._instance, self._uuid, SERVICE_VERSION, tail.cycle_id,
            rfc3339(self._unix_ms()), tail.complete_through))
        number = tail.next_number
        for _ in range(NUMBERS_PER_CALL_MAX):
            if self._log.put(number, data) or self._log.read_bytes(number) == data:
                break
            number += 1
        else:
            raise StorageUnavailable("claim", "log", "no free number was found")
        self._check_predecessor(number)
        tail = self._log.tail()
        self._check_start(number, tail)
        return self._adopt(tail)

    def _check_start(self, number: int, tail: Tail) -> None:
        """Look at what was written while we started: a newer service, or far more than that."""
        later = {**self._claimed_already(number, tail), **tail.records}
        for found, record in sorted(later.items()):
            if (found > number and isinstance(record, StartRecord)
                    and record.instance == self._instance and record.uuid != self._uuid):
                raise Fenced(f"record {found} is the start of a newer service of instance "
                             f"{self._instance}")

    def _claimed_already(self, number: int, tail: Tail) -> dict[int, Record]:
        """Records behind ours that others claim as done by now, which the tail leaves out.

        One that is gone means that our number is in the trimmed part of the log.
        """
        behind = range(number + 1, tail.complete_through + 1)
        if len(behind) > CLAIMED_MEANWHILE_MAX:
            raise LogOvertaken(f"{len(behind)} records were done while start {number} listed them")
        records = {found: self._log.read(found) for found in behind}
        if None in records.values():
            raise LogOvertaken(f"our start record {number} landed in the trimmed part of the log")
        return {found: record for found, record in records.items() if record is not None}

    def _adopt(self, tail: Tail) -> frozenset[str]:
        self._next = tail.next_number
        self.cycle_id = max(self.cycle_id, tail.cycle_id)
        self._claims = [tail.complete_through]
        self._written_claim = tail.complete_through
        self._owing = {
            number: frozenset(manifest.topic for manifest in record.manifests)
            if isinstance(record, CycleRecord) else frozenset()
            for number, record in tail.records.items()}
        return frozenset().union(*self._owing.values())

    def _check_predecessor(self, number: int) -> None:
        """Refuse a number that was free only because trimming has been there before.

        Trimming deletes oldest first: while the record before ours stands, ours was never used.
        """
        if number > 0 and not self._log.exists(number - 1):
            raise LogOvertaken(f"record {number - 1} is gone, so number {number} was used before")

    def decide(self, proposal: Proposal) -> Decision:
        """Make a cycle a fact; call again with the same proposal after `StorageUnavailable`."""
        self._settle(proposal.done_records)
        for _ in range(NUMBERS_PER_CALL_MAX):
            number, data, included = self._sent or self._draw_up(proposal)
            dropped = tuple(topic for topic in proposal.manifests if topic not in included)
            if not included:
                self._sent = None
                return Decision(None, (), dropped)
            self._sent = number, data, included
            if self._log.put(number, data) or self._is_ours(number, data):
                self._check_predecessor(number)
                self._sent = None
                self._note(number, decode(data, number))
                return Decision(number, included, dropped, self.foreign_record)
            self._sent = None
        raise StorageUnavailable("decide", "log", "no free number was found")

    def _draw_up(self, proposal: Proposal) -> tuple[int, bytes, tuple[str, ...]]:
        included = {
            topic: manifest for topic, manifest in proposal.manifests.items()
            if fits_frontier(self._frontier, topic, manifest.spans)}
        excluded = {topic: "its range does not follow the last decided one"
                    for topic in proposal.manifests if topic not in included}
        record = CycleRecord(
            self._instance, self._uuid, proposal.cycle_id, rfc3339(self._unix_ms()),
            tuple(included.values()), {**proposal.excluded, **excluded}, self.complete_through,
            dict(proposal.table_versions) if not self.foreign_record else {})
        return self._next, encode(record), tuple(included)

    def _is_ours(self, number: int, data: bytes) -> bool:
        """Look at a taken number; if it is another's, take note of it and pass on."""
        found = self._log.read_bytes(number)
        if found is None:
            raise StorageUnavailable("read back", f"record {number}", "taken and not readable")
        record = decode(found, number)
        taken = judge_taken_number(
            found_uuid=record.uuid, found_instance=record.instance,
            found_is_start=isinstance(record, StartRecord), found_same_bytes=found == data,
            own_uuid=self._uuid, own_instance=self._instance)
        if taken is NumberTaken.OURS:
            return True
        if taken is NumberTaken.FENCED:
            raise Fenced(f"record {number} is the start of a newer service of instance "
                         f"{self._instance}")
        self._note(number, record)
        return False

    def _note(self, number: int, record: Record) -> None:
        """Learn a record: the frontier it moves, what it claims, what it leaves to be done."""
        self._claims.append(record.complete_through)
        self._written_claim = max(self._written_claim, record.complete_through)
        self._next = number + 1
        topics: frozenset[str] = frozenset()
        if isinstance(record, CycleRecord):
            topics = frozenset(manifest.topic for manifest in record.manifests)
            decided = {manifest.topic: manifest.spans for manifest in record.manifests}
            self._frontier = advance_frontier(self._frontier, decided)
            if record.uuid != self._uuid:
                # Another instance's record: that it is done only its own claims will tell, and
                # the table versions our workers know may lack it, so we publish none from now on.
                topics |= {_OTHERS}
                self.foreign_record = number
        self._owing[number] = topics

    def _settle(self, done_records: Mapping[str, int]) -> None:
        self._claims = [self.complete_through]
        self._owing = {
            number: frozenset(t for t in topics if done_records.get(t, -1) < number)
            for number, topics in self._owing.items() if number > self._claims[0]}

    def recovered(self, topic: str) -> None:
        """A topic that is not configured has been rolled forward through everything owed."""
        self._owing = {number: topics - {topic} for number, topics in self._owing.items()}

    @property
    def complete_through(self) -> int:
        """Every record up to this number is known to be in the tables."""
        return complete_through(
            self._claims, (number for number, topics in self._owing.items() if not topics))

    def watch(self) -> None:
        """Read what others wrote since; raises `Fenced` when a newer service is among them."""
        for number in self._log.numbers(after=self._next - 1)[:NUMBERS_PER_CALL_MAX]:
            if number != self._next:
                raise LogOvertaken(f"record {self._next} is gone, {number} is there")
            self._is_ours(number, b"")

    def trim(self, entered_through: int) -> int:
        """Delete old records that a record in the log claims to be done; how many.

        What only we know does not count: a start that reads the log would miss those records.
        entered_through: the last record that is in the ledger.
        """
        return self._log.trim(min(self._written_claim, entered_through))


_OTHERS = "\0others"
"""Stands among the topics owing a record for everything only another instance can know."""
