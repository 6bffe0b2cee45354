"""The states of the model: small immutable tuples, and what one search may do.

Offsets of a partition are numbered from 0, a set of offsets is a bit mask, a manifest is a tuple
of half-open pieces (one piece, except where a broken rule merges two incarnations).  A message
that is under way although its sender no longer waits for it is in `State.late`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from shared.protocol import Ballot, Member, Phase

Pieces = tuple[tuple[int, int], ...]

UNASSIGNED = -1
UNKNOWN = -1

DEAD, BOOT, ROLL, RUN = range(4)
BRONZE, DLQ, POSITION = "bronze", "DLQ", "first position"
PUT, COMMIT = "put", "commit"


class Violation(Exception):
    """An invariant does not hold."""


class Table(NamedTuple):
    """One topic's two tables; dead: offsets visible in the DLQ; kafka: the group's offset."""

    txn: int | None = 0
    rows: int = 0
    dlq_txn: int | None = None
    dead: int = 0
    kafka: int | None = None


class Rec(NamedTuple):
    """A record; manifests is empty in a start record."""

    instance: int
    uuid: int
    manifests: tuple[tuple[int, Pieces], ...]
    complete_through: int

    @property
    def is_start(self) -> bool:
        """A start record rather than a cycle record."""
        return not self.manifests


class Send(NamedTuple):
    """A request to the store.

    kind PUT: put-if-absent of `record` at `number`.  kind COMMIT: `pieces` of `topic` to `table`,
    refused unless the table's txn is still `expect`.
    """

    kind: str
    number: int = 0
    record: Rec | None = None
    topic: int = 0
    table: str = ""
    expect: int | None = None
    pieces: Pieces = ()
    end: int = 0


class Worker(NamedTuple):
    """One incarnation.

    todo: decided (number, pieces) to commit, in order.  sent: the commit it waits for.
    base: where its undecided rows begin; end: up to where they are prepared.
    voted: the cycle of a PREPARED vote whose fate it does not know yet, 0 for none; pieces: what
    it voted for.  kept: pieces of a dead incarnation (only where that rule is broken).
    stage: tables done without looking (only where that rule is broken).
    """

    life: int = BOOT
    todo: tuple[tuple[int, Pieces], ...] = ()
    sent: Send | None = None
    base: int = UNASSIGNED
    end: int = UNASSIGNED
    voted: int = 0
    pieces: Pieces = ()
    ballot: Ballot = Ballot()
    done: int = 0
    kept: Pieces = ()
    stage: int = 0


class Service(NamedTuple):
    """A live supervisor with its workers.

    step: "" or what it does about its record: list, put, unknown, check, relist.
    frontier: topic -> decided end or UNKNOWN.  claim: the highest complete_through read or made.
    done: numbers known to be done; owed: (number, topics) not known to be done.
    included: topic -> (cycle, number), reset: topic -> cycle, as in the shared block.
    """

    instance: int
    uuid: int
    phase: Phase = Phase.RECOVERING
    step: str = "list"
    number: int = 0
    record: Rec | None = None
    cycle: int = 0
    members: tuple[Member, ...] = ()
    died: tuple[int, ...] = ()
    included: tuple[tuple[int, int], ...] = ()
    reset: tuple[int, ...] = ()
    frontier: tuple[int, ...] = ()
    claim: int = -1
    done: tuple[int, ...] = ()
    owed: tuple[tuple[int, tuple[int, ...]], ...] = ()
    workers: tuple[Worker, ...] = ()


class State(NamedTuple):
    """Everything.

    log: records by number, None where one was trimmed.  owner: topic -> instance.
    high: topic -> messages written so far.  to_start: instances that may start a service.
    decided, origin: what the checks remember: per topic the boundaries of decided ranges, and
    the first position resolved; active: instance and uuid of the service that got past its start
    last; stale: numbers at which a record landed that had been in use and trimmed before.
    """

    tables: tuple[Table, ...]
    log: tuple[Rec | None, ...]
    late: frozenset[Send]
    services: tuple[Service, ...]
    owner: tuple[int, ...]
    high: tuple[int, ...]
    to_start: tuple[int, ...]
    next_uuid: int
    crashes_left: int
    rebalances_left: int
    healed: bool
    decided: tuple[tuple[int, ...], ...]
    origin: tuple[int | None, ...]
    active: tuple[tuple[int, int], ...]
    stale: tuple[int, ...] = ()


@dataclass(frozen=True)
class Config:
    """What one search starts from and may do.

    messages: per topic; malformed: offsets per topic.  starting: instances with a service at the
    beginning (past its start when `warm`); spares: instances that may start one more at any time.  losses: answers get lost
    and requests arrive late.  deadlines: the supervisor may lose patience.  refused: topics whose
    bronze table takes no commit (until healed, when `heals`).  new_tables: tables hold no
    position yet; written: messages there are at the start.  goal: topics whose rows must all be
    able to land.
    """

    name: str
    about: str
    messages: tuple[int, ...] = (2, 2)
    malformed: tuple[tuple[int, ...], ...] = ((1,), ())
    starting: tuple[int, ...] = (0,)
    spares: tuple[int, ...] = ()
    owner: tuple[int, ...] = (0, 0)
    crashes: int = 1
    supervisors_crash: bool = True
    workers_crash: bool = True
    losses: bool = True
    deadlines: bool = False
    isolate_after: int = 2
    trimming: bool = False
    warm: bool = False
    rebalances: int = 0
    refused: tuple[int, ...] = ()
    heals: bool = False
    new_tables: bool = False
    earliest: bool = True
    kafka: int | None = None
    written: tuple[int, ...] | None = None
    goal: tuple[int, ...] = (0, 1)

    @property
    def topics(self) -> range:
        """Topic numbers."""
        return range(len(self.messages))


def first_state(config: Config) -> State:
    """Tables as they were created, an empty log, nobody running."""
    count = len(config.messages)
    txn = None if config.new_tables else 0
    start = () if config.new_tables else (0,)
    return State(
        tables=(Table(txn=txn, kafka=config.kafka),) * count, log=(), late=frozenset(),
        services=(), owner=config.owner, high=config.written or config.messages,
        to_start=tuple(sorted(config.starting + config.spares)), next_uuid=0,
        crashes_left=config.crashes, rebalances_left=config.rebalances, healed=False,
        decided=(start,) * count, origin=(None if config.new_tables else 0,) * count, active=())


def swap(items: tuple, index: int, item: object) -> tuple:
    """`items` with one of them replaced."""
    return items[:index] + (item,) + items[index + 1:]


def mask(start: int, end: int) -> int:
    """The offsets of [start, end) as bits."""
    return (1 << end) - (1 << start)
