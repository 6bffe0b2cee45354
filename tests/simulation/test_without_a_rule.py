"""With a rule of the protocol taken out, the simulation finds what the rule is there for.

A simulation that finds nothing in a broken service has shown nothing of a whole one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

import supervisor.coordinator
import supervisor.decider
import workers.tables
import workers.worker
from shared.block import Slot
from shared.errors import RecoverableError
from shared.layout import Order
from shared.protocol import NumberTaken, Tiling
from shared.record_log import Tail
from supervisor.coordinator import Coordinator
from supervisor.decider import Decider
from tests.simulation.gate import Mode
from tests.simulation.schedules import SMALL, of_seed, singles
from tests.simulation.tally import run_all
from tests.simulation.world import Schedule
from workers.draft import Draft
from workers.tables import TopicTables
from workers.worker import Worker

SEEDS = 1_500

Break = Callable[[pytest.MonkeyPatch], None]


def always_commit(patch: pytest.MonkeyPatch) -> None:
    """Positions are not compared."""
    patch.setattr(workers.tables, "_ROLES", {
        name: replace(role, judge=lambda spans, found: Tiling.COMMIT)
        for name, role in workers.tables._ROLES.items()})


def rows_before_dead_letters(patch: pytest.MonkeyPatch) -> None:
    """The bronze table is committed first."""
    real = TopicTables.roll_forward

    def roll_forward(self: TopicTables, number: int, manifest: Any) -> Any:
        bare = replace_manifest(manifest)
        real(self, number, bare)
        return real(self, number, manifest)

    patch.setattr(TopicTables, "roll_forward", roll_forward)


def replace_manifest(manifest: Any) -> Any:
    """The manifest as if it had no dead letters."""
    ranges = tuple(type(part)(part.partition, part.start, part.end, part.rows)
                   for part in manifest.ranges)
    return type(manifest)(manifest.topic, manifest.topic_id, manifest.incarnation,
                          manifest.files, ranges, manifest.flaws, manifest.value_bytes)


def nothing_to_roll_forward(patch: pytest.MonkeyPatch) -> None:
    """A worker's start does not look at what is decided and undone."""
    patch.setattr(Tail, "cycles", property(lambda self: {}))


def taken_number_is_not_read(patch: pytest.MonkeyPatch) -> None:
    """A cycle whose number is taken goes to the next one, whatever is there."""
    real = Decider._is_ours

    def is_ours(self: Decider, number: int, data: bytes) -> bool:
        if data and self._log.read_bytes(number) == data:
            self._next = number + 1
            return False
        return real(self, number, data)

    patch.setattr(Decider, "_is_ours", is_ours)


def never_fenced(patch: pytest.MonkeyPatch) -> None:
    """A newer service's start record is passed over."""
    real = supervisor.decider.judge_taken_number

    def judge(**facts: Any) -> NumberTaken:
        found = real(**facts)
        return NumberTaken.NEXT if found is NumberTaken.FENCED else found

    patch.setattr(supervisor.decider, "judge_taken_number", judge)


def dead_votes_count(patch: pytest.MonkeyPatch) -> None:
    """A worker that died is positioned anew while its record is being decided."""
    patch.setattr(Coordinator, "may_respawn", lambda self, topic: True)
    patch.setattr(Coordinator, "worker_died", lambda self, topic: self._dead.add(topic))
    patch.setattr(Coordinator, "_is_running", lambda self, topic: True)


def revoked_is_kept(patch: pytest.MonkeyPatch) -> None:
    """What was read of a partition that was taken away is kept."""
    def on_revoke(self: Worker, partitions: tuple[int, ...]) -> None:
        self._assigned -= set(partitions)

    patch.setattr(Worker, "_on_revoke", on_revoke)


def votes_while_behind(patch: pytest.MonkeyPatch) -> None:
    """A topic that owes a record votes on the next one."""
    real = Worker._prepare

    def prepare(self: Worker, cycle_id: int) -> Any:
        held, self._owed = self._owed, None
        try:
            return real(self, cycle_id)
        finally:
            self._owed = held

    patch.setattr(Worker, "_prepare", prepare)


def aborted_is_committed(patch: pytest.MonkeyPatch) -> None:
    """A vote is taken for a decision."""
    patch.setattr(Slot, "included_record",
                  lambda self, cycle_id: self.order(Order.INCLUDED_RECORD))


def draft_survives_errors(patch: pytest.MonkeyPatch) -> None:
    """After an error of Kafka reading goes on where it was."""
    def restart(self: Worker) -> None:
        self._restart = workers.worker.Restart.NO

    patch.setattr(Worker, "_restart_reading", restart)


def offsets_first(patch: pytest.MonkeyPatch) -> None:
    """Kafka's offsets are told when a vote goes out."""
    real = Worker._prepare

    def prepare(self: Worker, cycle_id: int) -> Any:
        self._p.source.commit(self._draft.book.ends, wait=False)
        return real(self, cycle_id)

    patch.setattr(Worker, "_prepare", prepare)


def frontier_ignored(patch: pytest.MonkeyPatch) -> None:
    """A range is decided wherever it begins."""
    patch.setattr(supervisor.decider, "fits_frontier", lambda frontier, topic, spans: True)


def everything_is_complete(patch: pytest.MonkeyPatch) -> None:
    """Records claim to be done what is only decided."""
    patch.setattr(Decider, "complete_through", property(lambda self: self._next - 1))


def nobody_is_let_back(patch: pytest.MonkeyPatch) -> None:
    """An isolated topic stays out."""
    patch.setattr(supervisor.coordinator.protocol, "after_good_vote",
                  lambda members, ballots, cycle_id: dict(members))
    patch.setattr(supervisor.coordinator.protocol, "after_decision",
                  lambda members, included, number: {
                      topic: replace(member, undone_record=number) if topic in included else member
                      for topic, member in members.items()})


def skips_rows(patch: pytest.MonkeyPatch) -> None:
    """Rows of some batches are forgotten."""
    real = Draft.take

    def take(self: Draft, batch: Any, decoded: Any, now_ms: int) -> None:
        forgotten = batch.offsets[-1] % 3 == 1
        real(self, batch, replace(decoded, rows=None) if forgotten else decoded, now_ms)

    patch.setattr(Draft, "take", take)


def commit_is_not_read_back(patch: pytest.MonkeyPatch) -> None:
    """After an error of a commit the same is committed again, on a fresh snapshot."""
    def commit(self: TopicTables, table: Any, folder: str, judge: Any, spans: Any, files: Any,
               number: int) -> None:
        txns = {self._app_id(span.partition): span.end for span in spans}
        while True:
            try:
                return table.commit(files, txns, {})
            except RecoverableError:
                table.refresh()

    patch.setattr(TopicTables, "_commit", commit)


def small(number: int, mode: Mode) -> Schedule:
    """The small script with one fault."""
    return replace(SMALL, faults=((number, mode),))


BREAKS: tuple[tuple[Break, str, Schedule | None], ...] = (
    (always_commit, "without a decided record", None),
    (rows_before_dead_letters, "before its dead letters", None),
    (nothing_to_roll_forward, "claims everything", small(62, Mode.CRASH_AFTER)),
    (taken_number_is_not_read, "was decided before", small(62, Mode.ERROR_AFTER)),
    (never_fenced, "did not end", None),
    (dead_votes_count, "is another's", small(57, Mode.FREEZE)),
    (revoked_is_kept, "is not 0", of_seed(972)),
    (votes_while_behind, "TornRecord", of_seed(119)),
    (aborted_is_committed, "without a decided record", None),
    (draft_survives_errors, "do not add up", small(47, Mode.ERROR_AFTER)),
    (offsets_first, "the group is at", None),
    (frontier_ignored, "decided is", of_seed(1088)),
    (everything_is_complete, "claims everything", of_seed(10)),
    (nobody_is_let_back, "is isolated", small(20, Mode.LATE)),
    (skips_rows, "rows", None),
    (commit_is_not_read_back, "without a decided record", None),
)
"""What is broken, words of what is found, and a schedule that finds it."""


def schedules(known: Schedule | None) -> Iterator[Schedule]:
    """The known one first; should it find nothing any more, everything else."""
    return chain([] if known is None else [known], singles(SMALL),
                 (of_seed(seed) for seed in range(SEEDS)))


@pytest.mark.parametrize(("broken", "words", "known"), BREAKS, ids=lambda case: getattr(
    case, "__name__", ""))
def test_a_broken_rule_is_found(
    broken: Break, words: str, known: Schedule | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them costs data or blocks; the judge must say so."""
    broken(monkeypatch)
    tally = run_all(schedules(known))
    assert tally.failures, f"nothing was found in {tally}"
    assert words in tally.failures[0].split("VIOLATION:")[1], tally.failures[0]
