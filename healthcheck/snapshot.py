"""A copy of the shared block as frozen values, for verdict, page and metrics to look at.

The copy is taken word by word while others write, so two words of it may be some microseconds
apart; each word by itself is whole.  Nothing here judges, and nothing here does I/O.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from shared.block import Block, Slot
from shared.errors import BlockError
from shared.layout import (
    DEAD_LETTERS, KEEPER_WORDS, Header, Histogram, Keeper, Order, Paused, Report, Retention,
    unpack,
)
from shared.protocol import Phase, Standing
from shared.trouble import Trouble, decode

_STANDINGS = tuple(Standing)
_PHASES = {int(phase): phase for phase in Phase}

@dataclass(frozen=True, slots=True)
class About:
    """What the supervisor wrote down once, when it made the block; seconds as configured."""

    topics: tuple[str, ...]
    instance: str
    service_version: str
    lake: str
    batch_interval_seconds: float
    cycle_deadline_seconds: float
    heartbeat_limit_seconds: float
    memory_limit_mb: int
    loan_budget_bytes: int


@dataclass(frozen=True, slots=True)
class Durations:
    """A histogram: a count per bucket (the last one: longer than all bounds), and the sum."""

    counts: tuple[int, ...]
    sum_seconds: float


@dataclass(frozen=True, slots=True)
class TopicSnapshot:
    """One topic's slot.

    order, report: all words, to be indexed by `Order` and `Report`.
    standing: None before the supervisor has written one this release knows.
    error: the worker's last error, active or not; None when there was none.
    verdict: what the supervisor holds against the topic at present, if anything.
    """

    name: str
    order: tuple[int, ...]
    report: tuple[int, ...]
    standing: Standing | None
    paused: Paused
    error: Trouble | None
    verdict: Trouble | None
    durations: Mapping[Histogram, Durations]

    @property
    def lag(self) -> int | None:
        """Messages that Kafka holds and the worker has not read; None while not known."""
        return self.report[Report.LAG] if self.report[Report.LAG_KNOWN] else None

    @property
    def answers(self) -> bool:
        """Whether the report is of the worker that the supervisor started last."""
        incarnation = self.order[Order.INCARNATION]
        return incarnation > 0 and self.report[Report.INCARNATION] == incarnation

    @property
    def dead_letters(self) -> int:
        """Malformed messages of all classes."""
        return sum(self.report[word] for word in DEAD_LETTERS.values())

    def lag_seconds(self, now_ms: int) -> float | None:
        """How long ago the last moment was that is read of all partitions; None while unknown."""
        through_ms = self.report[Report.VALID_THROUGH_MS]
        return max(0, now_ms - through_ms) / 1e3 if through_ms else None

    @property
    def retention(self) -> Retention:
        """When Kafka deletes the topic's messages; a word of a later release tells nothing."""
        word = self.report[Report.RETENTION]
        return Retention(word) if word <= max(Retention) else Retention.UNKNOWN

    @property
    def retention_seconds(self) -> float | None:
        """After how long they go, infinite where they stay; None where nobody can tell."""
        if self.retention in (Retention.TIME, Retention.TIME_OR_SIZE):
            return self.report[Report.RETENTION_MS] / 1e3
        return math.inf if self.retention is Retention.FOREVER else None

    def loss_seconds(self, now_ms: int) -> float | None:
        """How soon Kafka may delete something that is in no table, by its age; None if unknown.

        At the earliest: whole segments go, when their newest message is that old.
        """
        kept_s, through_ms = self.retention_seconds, self.report[Report.COMMITTED_THROUGH_MS]
        if kept_s is None or (not through_ms and kept_s != math.inf):
            return None
        return max(0.0, kept_s - max(0, now_ms - through_ms) / 1e3)

    @property
    def waiting(self) -> int:
        """Messages and files that are known to wait for a commit."""
        return (self.lag or 0) + self.report[Report.OPEN_ROWS] + self.report[Report.CARRIED_FILES]


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """The whole block.

    header, keeper: all words, to be indexed by `Header` and `Keeper`.
    phase: None before the supervisor has written one this release knows.
    keeper_error: the keeper's last error, if no turn has gone well since.
    phase_durations: how long phases took, however they ended.
    """

    about: About
    header: tuple[int, ...]
    keeper: tuple[int, ...]
    keeper_error: Trouble | None
    cycle_id: int
    phase: Phase | None
    cycle_durations: Durations
    phase_durations: Mapping[Phase, Durations]
    topics: tuple[TopicSnapshot, ...]

    @property
    def ledger_behind(self) -> int:
        """Records that are not in the ledger yet, as far as this service knows.

        Before the first turn the keeper has not told, and of other instances' records it tells
        only with each turn.
        """
        ours = self.header[Header.LAST_RECORD] + 1 - self.keeper[Keeper.NEXT_RECORD]
        return max(self.keeper[Keeper.BEHIND], ours if self.header[Header.LAST_RECORD] else 0)


def take(block: Block) -> ServiceSnapshot:
    """Copy the block; raises `BlockError` when its static facts are not what we expect."""
    about = _about(block.about())
    if len(about.topics) != block.topic_count:
        raise BlockError(
            f"{block.path} names {len(about.topics)} topics and has room for {block.topic_count}")
    header = tuple(block.header())
    keeper = tuple(block.keeper(word) for word in range(KEEPER_WORDS))
    cycle_id, tag = unpack(header[Header.PHASE])
    return ServiceSnapshot(
        about=about,
        header=header,
        keeper=keeper,
        keeper_error=decode(block.keeper_error.read()) if keeper[Keeper.ERROR_ACTIVE] else None,
        cycle_id=cycle_id,
        phase=_PHASES.get(tag),
        cycle_durations=Durations(*block.cycle_seconds.snapshot()),
        phase_durations={
            phase: Durations(*view.snapshot()) for phase, view in block.phase_seconds.items()},
        topics=tuple(
            _topic(name, block.slot(index)) for index, name in enumerate(about.topics)),
    )


def _topic(name: str, slot: Slot) -> TopicSnapshot:
    order = tuple(slot.order(word) for word in Order)
    report = tuple(slot.report(word) for word in Report)
    standing = order[Order.STANDING]
    return TopicSnapshot(
        name=name,
        order=order,
        report=report,
        standing=_STANDINGS[standing] if standing < len(_STANDINGS) else None,
        paused=_paused(report[Report.PAUSED]),
        error=decode(slot.error.read()),
        verdict=decode(slot.verdict.read()),
        durations={
            kind: Durations(*view.snapshot()) for kind, view in slot.histograms.items()},
    )


def _paused(word: int) -> Paused:
    # A word of a later release still means "does not read"; this release cannot say why.
    return Paused(word) if word <= max(Paused) else Paused.BACKING_OFF


def _about(content: bytes) -> About:
    try:
        facts = json.loads(content)
        return About(
            topics=tuple(str(topic) for topic in facts["topics"]),
            instance=str(facts["instance"]),
            service_version=str(facts["service_version"]),
            lake=str(facts["lake"]),
            batch_interval_seconds=float(facts["batch_interval_seconds"]),
            cycle_deadline_seconds=float(facts["cycle_deadline_seconds"]),
            heartbeat_limit_seconds=float(facts["heartbeat_limit_seconds"]),
            memory_limit_mb=int(facts["memory_limit_mb"]),
            loan_budget_bytes=int(facts["loan_budget_bytes"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BlockError(
            f"the static facts in the block are not understood: {type(error).__name__}: {error}"
        ) from error
