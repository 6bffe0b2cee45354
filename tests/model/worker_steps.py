"""What a worker does, one step at a time, through the functions of shared/protocol.py."""

from __future__ import annotations

from collections.abc import Iterator

from shared.protocol import (
    Ballot, Outcome, Phase, Span, Tiling, Vote, judge_dead_letters, judge_tiling, outcome,
    resolve_start,
)
from tests.model.lake import take_effect, undone
from tests.model.rules import Rules
from tests.model.state import (
    BOOT, BRONZE, COMMIT, DEAD, DLQ, POSITION, ROLL, RUN, UNASSIGNED, Config, Pieces, Send,
    Service, State, Violation, Worker, swap,
)

Step = tuple[str, State, bool]
"""What happens, the state afterwards, whether it is a fault."""


def learn(worker: Worker, service: Service, topic: int, rules: Rules) -> Worker:
    """The worker after it looked at the block: what became of its vote."""
    voted = worker.voted
    if not voted:
        return worker
    if service.reset[topic] == voted and rules.reset_drops_undecided:
        return Worker(ballot=worker.ballot, done=worker.done)
    included, number = service.included[topic]
    fate = outcome(voted, service.phase, service.cycle, included)
    if not rules.decide_before_commit and (service.phase, service.cycle) == (
            Phase.DECIDING, voted):
        fate, number = Outcome.COMMIT, service.number
    if fate is Outcome.WAIT:
        return worker
    worker = worker._replace(voted=0, pieces=())
    if fate is Outcome.CARRY_OVER:
        return worker if rules.carry_over_keeps_files else worker._replace(base=worker.end)
    pieces = service.workers[topic].pieces
    owed = (worker.todo if rules.behind_votes_failed else ()) + ((number, pieces),)
    base = worker.base if worker.base == UNASSIGNED else pieces[-1][1]
    return worker._replace(todo=owed, base=base, kept=())


def worker_steps(
    state: State, index: int, topic: int, config: Config, rules: Rules
) -> Iterator[Step]:
    """Everything worker `topic` of service `index` may do next."""
    service = state.services[index]
    if service.workers[topic].life == DEAD:
        return
    worker = learn(service.workers[topic], service, topic, rules)
    name = f"s{service.uuid} worker {topic}"

    def moved(new: Worker, base: State = state) -> State:
        changed = service._replace(workers=swap(service.workers, topic, new))
        return base._replace(services=swap(base.services, index, changed))

    if worker.life == BOOT:
        yield f"{name} reads the log", moved(_read_log(worker, state, service, topic, rules)), False
        return
    if worker.sent is not None:
        for label, world, new, fault in _answers(state, worker, config, rules):
            yield f"{name}: {label}", moved(new, world), fault
    elif worker.todo:
        label, world, new = _commit_next(state, worker, topic, config, rules)
        yield f"{name} {label}", moved(new, world), False
    elif worker.life == ROLL:
        label, world, new = _position(state, worker, service, topic, config, rules)
        yield f"{name} {label}", moved(new, world), False
    yield from (
        (f"{name} {label}", moved(new), False)
        for label, new in _local_steps(state, worker, service, topic, rules)
    )


def _read_log(
    worker: Worker, state: State, service: Service, topic: int, rules: Rules
) -> Worker:
    todo = tuple(
        (number, pieces)
        for number, record in undone(state.log, rules)
        if record.instance == service.instance or rules.roll_forward_whoever_wrote_it
        for named, pieces in record.manifests if named == topic
    )
    if not rules.roll_forward_before_reading:
        todo = ()
    return worker._replace(life=ROLL, todo=todo)


def _answers(
    state: State, worker: Worker, config: Config, rules: Rules
) -> Iterator[tuple[str, State, Worker, bool]]:
    """The three fates of a commit: taken up and answered, answer lost, late."""
    send = worker.sent
    idle = worker._replace(sent=None)
    what = f"commit of {list(send.pieces) or send.end} to the {send.table} table"
    if send.table == BRONZE and send.topic in config.refused and not state.healed:
        yield f"the {what} fails", state, idle, False
        return
    world, accepted = take_effect(state, send, config, rules)
    after = idle
    if accepted and not rules.compare_from_with_txn:
        after = idle._replace(stage=worker.stage + 1)
    elif accepted and send.table == (BRONZE if rules.dlq_before_bronze else DLQ):
        # The last table of the record: finding it there is part of the same step.
        _, world, after = _commit_next(world, idle, send.topic, config, rules)
    yield f"the {what} {'succeeds' if accepted else 'is refused'}", world, after, False
    if not config.losses:
        return
    # With the rule, a lost answer leads to the same state as a received one: look again.
    if not rules.read_back_after_commit_error:
        table = world.tables[send.topic]
        held = table.dlq_txn if send.table == DLQ else table.txn
        again = worker._replace(sent=send._replace(expect=held))
        yield f"the {what} takes effect, its answer is lost", world, again, True
        return
    yield (f"an error for the {what}, which is still under way",
           state._replace(late=state.late | {send}), idle, True)


def _commit_next(
    state: State, worker: Worker, topic: int, config: Config, rules: Rules
) -> tuple[str, State, Worker]:
    """The next commit of the oldest record owed, or the end of it."""
    number, pieces = worker.todo[0]
    table = state.tables[topic]
    order = (DLQ, BRONZE) if rules.dlq_before_bronze else (BRONZE, DLQ)
    if not rules.compare_from_with_txn:
        order = order[worker.stage:]
    for name in order:
        tiling = _judge(state, topic, name, pieces, config)
        if tiling is None:
            continue
        if not rules.compare_from_with_txn:
            tiling = Tiling.COMMIT
        if tiling is Tiling.TORN:
            raise Violation(f"record {number} is torn: worker of topic {topic} finds txn "
                            f"{table.txn} (DLQ {table.dlq_txn}) for {list(pieces)}")
        if tiling is Tiling.COMMIT:
            expect = table.dlq_txn if name == DLQ else table.txn
            send = Send(COMMIT, topic=topic, table=name, expect=expect, pieces=pieces,
                        end=pieces[-1][1])
            world = state if rules.kafka_after_delta else _tell_kafka(state, topic, send.end)
            return f"sends record {number} to the {name} table", world, worker._replace(sent=send)
    if rules.kafka_after_delta:
        state = _tell_kafka(state, topic, pieces[-1][1])
    return (f"finds record {number} in its tables", state,
            worker._replace(todo=worker.todo[1:], done=max(worker.done, number), stage=0))


def _judge(
    state: State, topic: int, name: str, pieces: Pieces, config: Config
) -> Tiling | None:
    table = state.tables[topic]
    span = Span(0, pieces[0][0], pieces[-1][1])
    if name == BRONZE:
        return judge_tiling([span], {0: table.txn})
    if not any(span.start <= offset < span.end for offset in config.malformed[topic]):
        return None
    return judge_dead_letters([span], {0: table.dlq_txn})


def _tell_kafka(state: State, topic: int, end: int) -> State:
    table = state.tables[topic]
    if table.kafka is not None and table.kafka >= end:
        return state
    return state._replace(tables=swap(state.tables, topic, table._replace(kafka=end)))


def _position(
    state: State, worker: Worker, service: Service, topic: int, config: Config, rules: Rules
) -> tuple[str, State, Worker]:
    if state.owner[topic] != service.instance:
        return "is assigned nothing", state, worker._replace(life=RUN)
    table = state.tables[topic]
    if table.txn is not None:
        at = worker._replace(life=RUN, base=table.txn, end=table.txn)
        return f"reads from {table.txn}", state, at
    start = resolve_start(table.kafka, 0, state.high[topic], True, config.earliest)
    if rules.first_position_is_committed:
        send = Send(COMMIT, topic=topic, table=POSITION, expect=None, end=start)
        return f"resolves {start} as its first position", state, worker._replace(sent=send)
    origin = state.origin[topic]
    state = state._replace(
        origin=swap(state.origin, topic, start if origin is None else min(origin, start)))
    return f"reads from {start}", state, worker._replace(life=RUN, base=start, end=start)


def _local_steps(
    state: State, worker: Worker, service: Service, topic: int, rules: Rules
) -> Iterator[tuple[str, Worker]]:
    """Voting, and what a rebalance asks for."""
    owns = state.owner[topic] == service.instance
    if worker.base != UNASSIGNED and not owns:
        yield "notices that its partition is gone", worker._replace(
            base=UNASSIGNED, end=UNASSIGNED, kept=())
    if (worker.life == RUN and worker.base == UNASSIGNED and owns and not worker.voted
            and not worker.todo):
        yield "is assigned its partition", worker._replace(life=BOOT)
    if service.phase is Phase.FLUSHING and worker.ballot.cycle_id != service.cycle:
        yield from _votes(state, worker, service, topic, rules)


def _votes(
    state: State, worker: Worker, service: Service, topic: int, rules: Rules
) -> Iterator[tuple[str, Worker]]:
    cycle = service.cycle
    if worker.todo and (rules.behind_votes_failed or worker.life != RUN):
        yield "votes FAILED", worker._replace(ballot=Ballot(cycle, Vote.FAILED))
        return
    if worker.life != RUN:
        return
    if worker.base == UNASSIGNED:
        yield "votes EMPTY", worker._replace(ballot=Ballot(cycle, Vote.EMPTY))
        return
    # Reading is merged into the vote: what was read is seen by nobody before.
    for end in range(worker.end, state.high[topic] + 1):
        read = ((worker.base, end),) if end > worker.base else ()
        if not worker.kept + read:
            yield "votes EMPTY", worker._replace(ballot=Ballot(cycle, Vote.EMPTY))
            continue
        pieces = worker.kept + read
        yield f"votes PREPARED with {list(pieces)}", worker._replace(
            ballot=Ballot(cycle, Vote.PREPARED), voted=cycle, pieces=pieces, end=end)
