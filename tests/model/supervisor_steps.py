"""What a supervisor does, one step at a time, through the functions of shared/protocol.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from shared.protocol import (
    Ballot, Flush, Member, NumberTaken, Phase, Span, Verdict, Vote, advance_frontier, after_abort,
    after_decision, after_done, after_good_vote, check_transition, complete_through,
    fits_frontier, judge_flush, judge_taken_number,
)
from tests.model.lake import check_claim, claimed, take_effect, undone
from tests.model.rules import Rules
from tests.model.state import (
    BOOT, DEAD, PUT, RUN, UNASSIGNED, UNKNOWN, Config, Pieces, Rec, Send, Service, State, Violation, Worker,
    swap,
)
from tests.model.worker_steps import Step, learn

Members = tuple[Member, ...]


@lru_cache(maxsize=None)
def _judge(
    members: Members, ballots: tuple[Ballot, ...], died: tuple[int, ...], cycle: int, late: bool
) -> Flush:
    return judge_flush(dict(enumerate(members)), dict(enumerate(ballots)), died, cycle, late)


@lru_cache(maxsize=None)
def _after_done(members: Members, done: tuple[int, ...]) -> Members:
    return tuple(after_done(dict(enumerate(members)), dict(enumerate(done))).values())


@lru_cache(maxsize=None)
def _after_good_vote(members: Members, ballots: tuple[Ballot, ...], cycle: int) -> Members:
    return tuple(
        after_good_vote(dict(enumerate(members)), dict(enumerate(ballots)), cycle).values())


def _span(pieces: Pieces) -> Span:
    return Span(0, pieces[0][0], pieces[-1][1])


def enter(service: Service, phase: Phase) -> Service:
    """The service in its next phase; one that may not follow raises."""
    return service._replace(phase=check_transition(service.phase, phase, service.cycle))


def observe(service: Service) -> Service:
    """The supervisor after it looked at the block: who is done, who has started, what follows."""
    service = _take_note(service)
    if service.step:
        return service
    members = service.members
    if service.phase is Phase.RECOVERING:
        if all(member.started and not member.undone_record for member in members):
            return enter(service, Phase.CONSUMING)
    elif service.phase is Phase.COMMITTING:
        if not any(member.undone_record == service.number - 1 for member in members):
            return enter(service, Phase.CONSUMING)
    return service


def _take_note(service: Service) -> Service:
    workers = service.workers
    if not workers:
        return service
    done = tuple(worker.done for worker in workers)
    members = service.members
    if not all(member.started for member in members):
        members = tuple(
            member if member.started or worker.life != RUN
            else Member(member.failures, member.isolated, member.stopped, True,
                        member.undone_record)
            for member, worker in zip(members, workers))
    if any(done):
        members = _after_done(members, done)
    if members == service.members:
        return service
    finished = tuple(number for number, topics in service.owed
                     if not any(members[topic].undone_record for topic in topics))
    return service._replace(
        members=members,
        # A report that has been taken note of means nothing any more.
        workers=tuple(
            worker._replace(done=0) if worker.done and not member.undone_record else worker
            for worker, member in zip(workers, members)),
        done=service.done + finished,
        owed=tuple(entry for entry in service.owed if entry[0] not in finished))


def supervisor_steps(state: State, index: int, config: Config, rules: Rules) -> Iterator[Step]:
    """Everything supervisor `index` may do next."""
    service = observe(state.services[index])
    name = f"s{service.uuid} supervisor"

    def moved(new: Service | None, base: State = state) -> State:
        rest = base.services[:index] + base.services[index + 1:]
        # One order of the services, whoever started first, keeps equal states equal.
        return base._replace(services=tuple(sorted(rest + ((new,) if new else ()),
                                                   key=lambda each: each.uuid)))

    if service.step:
        for label, world, new, fault in _record_steps(state, service, config, rules):
            yield f"{name} {label}", moved(new, world), fault
    elif service.phase is Phase.CONSUMING:
        if not _idle(state, service, rules):
            yield f"{name} begins a cycle", moved(_next_cycle(service, rules)), False
        if config.trimming:
            for label, world in _trims(state, service, rules):
                yield f"{name} {label}", moved(service, world), False
    elif service.phase is Phase.FLUSHING:
        for label, new in _flush_steps(service, config, rules):
            yield f"{name} {label}", moved(new), False
    elif config.deadlines:
        yield f"{name} stops waiting", moved(enter(service, Phase.CONSUMING)), False


def _idle(state: State, service: Service, rules: Rules) -> bool:
    """Whether a cycle could end in nothing but EMPTY votes of all topics, and change nothing."""
    for topic, each in enumerate(service.workers):
        worker = learn(each, service, topic, rules)
        member = service.members[topic]
        if worker.life != RUN or worker.todo or member.undone_record or not member.in_quorum:
            return False
        if worker.kept or worker.base not in (UNASSIGNED, state.high[topic]):
            return False
    return True


def _next_cycle(service: Service, rules: Rules) -> Service:
    """FLUSHING of the next cycle, with cycle ids renumbered.

    Only whether two cycle ids are equal ever matters.  So ids nobody refers to any more are
    forgotten and the others renumbered from 1, or no search would ever end.
    """
    workers = tuple(learn(worker, service, topic, rules)
                    for topic, worker in enumerate(service.workers))
    voted = sorted({worker.voted for worker in workers if worker.voted})
    new = {old: position + 1 for position, old in enumerate(voted)}
    return enter(service, Phase.FLUSHING)._replace(
        cycle=len(voted) + 1, died=(),
        workers=tuple(worker._replace(voted=new.get(worker.voted, 0),
                                      ballot=Ballot(new.get(worker.voted, 0), Vote.NONE))
                      for worker in workers),
        included=tuple((new.get(cycle, 0), number if cycle in new else 0)
                       for cycle, number in service.included),
        reset=tuple(new.get(cycle, 0) for cycle in service.reset))


def _flush_steps(
    service: Service, config: Config, rules: Rules
) -> Iterator[tuple[str, Service]]:
    ballots = tuple(worker.ballot for worker in service.workers)
    died = service.died if rules.dead_votes_are_void else ()
    flush = _judge(service.members, ballots, died, service.cycle, False)
    if flush.verdict is not Verdict.WAIT:
        yield _judged(service, flush, ballots, config, rules)
    elif config.deadlines:
        flush = _judge(service.members, ballots, died, service.cycle, True)
        label, new = _judged(service, flush, ballots, config, rules)
        yield f"loses patience and {label}", new


def _judged(
    service: Service, flush: Flush, ballots: tuple[Ballot, ...], config: Config, rules: Rules
) -> tuple[str, Service]:
    members = service.members
    if rules.good_vote_rejoins:
        members = _after_good_vote(members, ballots, service.cycle)
    service = service._replace(members=members, died=())
    if flush.verdict is Verdict.NOTHING:
        return "has nothing to decide", enter(service, Phase.CONSUMING)
    if flush.verdict is Verdict.ABORT:
        return _abort(service, tuple(flush.culprits), config, rules)
    manifests = {topic: service.workers[topic].pieces for topic in flush.included}
    return _propose(enter(service, Phase.DECIDING), manifests, config, rules)


def _abort(
    service: Service, culprits: tuple[int, ...], config: Config, rules: Rules
) -> tuple[str, Service]:
    limit = config.isolate_after if rules.failing_topic_is_isolated else 0
    members = dict(enumerate(service.members))
    if limit:
        members = after_abort(members, culprits, limit)
    service = enter(enter(service, Phase.ABORTING), Phase.CONSUMING)
    service = service._replace(members=tuple(members.values()), step="", record=None,
                               workers=_respawned(service.workers))
    return f"aborts the cycle because of topics {list(culprits)}", service


def _propose(
    service: Service, manifests: dict[int, Pieces], config: Config, rules: Rules
) -> tuple[str, Service]:
    """Send the record of the manifests that fit the frontier, or abort when none is left."""
    frontier = {(topic, 0): end for topic, end in enumerate(service.frontier) if end != UNKNOWN}
    kept = {topic: pieces for topic, pieces in manifests.items()
            if not rules.frontier_rule or fits_frontier(frontier, topic, [_span(pieces)])}
    for topic in manifests:
        if topic not in kept:
            service = service._replace(reset=swap(service.reset, topic, service.cycle))
    if not kept:
        _, service = _abort(service, (), config, rules)
        return "finds that no manifest fits, and aborts", service
    record = Rec(service.instance, service.uuid, tuple(sorted(kept.items())),
                 complete_through([service.claim], service.done))
    service = service._replace(step="put", record=record)
    return f"puts record {service.number} with {_names(record)}", service


def _names(record: Rec) -> str:
    return ", ".join(f"topic {topic} {list(pieces)}" for topic, pieces in record.manifests)


def _record_steps(
    state: State, service: Service, config: Config, rules: Rules
) -> Iterator[tuple[str, State, Service | None, bool]]:
    """Everything about a record of ours: listing, putting, reading back, checking."""
    number, what = service.number, f"record {service.number}"
    send = Send(PUT, number=number, record=service.record)
    if service.step == "list":
        yield _start(state, service, config, rules)
    elif service.step == "relist":
        yield _recover(state, service, config, rules)
    elif service.step == "put":
        world, accepted = take_effect(state, send, config, rules)
        if accepted:
            check_claim(world, service.record)
        if accepted and not config.trimming:
            # Nothing can happen between putting a record and checking the one before it.
            yield _decided(world, service, rules)
        else:
            yield (f"has put {what}" if accepted else f"is told that {what} is taken", world,
                   service._replace(step="check" if accepted else "unknown"), False)
        if config.losses:
            yield (f"puts {what}, the answer is lost", world,
                   service._replace(step="unknown"), True)
            yield (f"has an error for the put of {what}, which is still under way",
                   state._replace(late=state.late | {send}),
                   service._replace(step="unknown"), True)
    elif service.step == "unknown":
        yield _read_back(state, service, config, rules)
    elif service.step == "check":
        gone = config.trimming and number > 0 and state.log[number - 1] is None
        if gone and rules.predecessor_check:
            if service.phase is Phase.RECOVERING:
                yield "finds the log trimmed past it, and lists again", state, service._replace(
                    step="list", record=None), False
            else:
                yield "finds the log trimmed past it, and stops", _restart(state, service), None, (
                    False)
            return
        yield _decided(state, service, rules)


def _restart(state: State, service: Service) -> State:
    return state._replace(to_start=tuple(sorted(state.to_start + (service.instance,))))


def _start(
    state: State, service: Service, config: Config, rules: Rules
) -> tuple[str, State, Service, bool]:
    if not rules.start_record_claims_number:
        return _recover(state, service._replace(number=max(1, len(state.log))), config, rules)
    record = Rec(service.instance, service.uuid, (), claimed(state.log))
    service = service._replace(step="put", record=record, number=len(state.log))
    if not rules.list_after_start_record:
        service = _view(state, service, config, rules)
    return f"lists the log and puts start record {service.number}", state, service, False


def _view(state: State, service: Service, config: Config, rules: Rules) -> Service:
    """The service with what a listing of the log tells it."""
    listed = undone(state.log, rules)
    claim = claimed(state.log)
    frontier: dict[tuple[int, int], int] = {}
    members = [Member() for _ in config.topics]
    for number, record in listed:
        if rules.frontier_from_listing:
            frontier = advance_frontier(
                frontier, {topic: [_span(pieces)] for topic, pieces in record.manifests})
        topics = [topic for topic, _ in record.manifests]
        members = list(after_decision(dict(enumerate(members)), topics, number).values())
    return service._replace(
        members=tuple(members), claim=claim,
        frontier=tuple(frontier.get((topic, 0), UNKNOWN) for topic in config.topics),
        done=tuple(number for number, record in enumerate(state.log)
                   if record is not None and record.is_start and number > claim),
        owed=tuple((number, tuple(topic for topic, _ in record.manifests))
                   for number, record in listed if number > claim))


def _recover(
    state: State, service: Service, config: Config, rules: Rules
) -> tuple[str, State, Service | None, bool]:
    newer = [record.uuid for record in state.log[service.number + 1:]
             if record is not None and record.is_start and record.instance == service.instance]
    if newer and rules.second_listing_looks_for_newer_start:
        return f"lists the log again, finds service {newer[-1]}: fenced", state, None, False
    if (rules.start_record_claims_number and rules.start_record_lands_behind_claims
            and service.number <= claimed(state.log)):
        again = service._replace(step="list", record=None)
        return "finds its start record among trimmed ones, lists again", state, again, False
    if rules.list_after_start_record or not service.members:
        service = _view(state, service, config, rules)
    blank = len(config.messages)
    number = len(state.log) if rules.start_record_claims_number else service.number
    began = service.number
    active = dict(state.active)
    active[service.instance] = service.uuid
    service = service._replace(
        step="", record=None, number=max(number, began), included=((0, 0),) * blank,
        reset=(0,) * blank, workers=(Worker(),) * blank)
    return ("lists the log again and spawns workers", state._replace(
        active=tuple(sorted(active.items()))), service, False)


def _read_back(
    state: State, service: Service, config: Config, rules: Rules
) -> tuple[str, State, Service | None, bool]:
    """After any error: what is at the number we wanted."""
    number, log, starting = service.number, state.log, service.phase is Phase.RECOVERING
    found = log[number] if number < len(log) else None
    if not rules.read_back_after_put_error and not starting:
        label, service = _abort(service._replace(number=number + 1), (), config, rules)
        return f"takes record {number} for not written and {label}", state, service, False
    if found is None:
        return f"finds nothing at {number} and sends again", state, service._replace(
            step="put"), False
    taken = judge_taken_number(
        found_uuid=str(found.uuid), found_instance=str(found.instance),
        found_is_start=found.is_start, found_same_bytes=found == service.record,
        own_uuid=str(service.uuid), own_instance=str(service.instance))
    if taken is NumberTaken.OURS:
        return f"reads its own record {number}", state, service._replace(step="check"), False
    if starting:
        return f"finds {number} taken and puts its start record at {number + 1}", state, (
            service._replace(step="put", number=number + 1)), False
    if taken is NumberTaken.FENCED and rules.fenced_service_stops:
        return f"reads start record {number} of service {found.uuid}: fenced", state, None, False
    service = _learn_record(service._replace(number=number + 1), number, found, rules)
    label, service = _propose(service, dict(service.record.manifests), config, rules)
    return f"reads another's record {number} and {label}", state, service, False


def _learn_record(service: Service, number: int, found: Rec, rules: Rules) -> Service:
    done = service.done + (number,) if found.is_start else service.done
    service = service._replace(claim=max(service.claim, found.complete_through), done=done)
    if not rules.frontier_learns_from_taken_numbers:
        return service
    return _advance(service, found)


def _advance(service: Service, record: Rec) -> Service:
    frontier = {(topic, 0): end for topic, end in enumerate(service.frontier)}
    moved = advance_frontier(
        frontier, {topic: [_span(pieces)] for topic, pieces in record.manifests})
    return service._replace(frontier=tuple(moved.values()))


def _decided(
    state: State, service: Service, rules: Rules
) -> tuple[str, State, Service, bool]:
    number, record = service.number, service.record
    claim = max(service.claim, record.complete_through)
    if record.is_start:
        service = service._replace(step="relist", number=number)
        return f"has put start record {number}", state, service, False
    topics = tuple(topic for topic, _ in record.manifests)
    members = after_decision(dict(enumerate(service.members)), topics, number)
    included = tuple((service.cycle, number) if topic in topics else entry
                     for topic, entry in enumerate(service.included))
    service = enter(_advance(service, record), Phase.COMMITTING)._replace(
        step="", record=None, number=number + 1, members=tuple(members.values()),
        included=included, claim=claim, owed=service.owed + ((number, topics),),
        done=tuple(n for n in service.done if n > claim),
        workers=_respawned(service.workers))
    if not rules.complete_through_truthful:
        service = service._replace(done=service.done + (number,), owed=())
    return f"has put record {number} and announces it", state, service, False


def _respawned(workers: tuple[Worker, ...]) -> tuple[Worker, ...]:
    """New incarnations for those that had to wait for the outcome."""
    return tuple(worker._replace(life=BOOT) if worker.life == DEAD else worker
                 for worker in workers)


def worker_dies(state: State, index: int, topic: int, rules: Rules) -> State:
    """Worker `topic` is killed; its replacement starts at once where it may."""
    service = state.services[index]
    worker = service.workers[topic]
    late = state.late | {worker.sent} if worker.sent else state.late
    being_decided = (service.phase is Phase.DECIDING and service.record is not None
                     and topic in dict(service.record.manifests))
    waits = being_decided and rules.no_reposition_while_deciding
    new = Worker(life=DEAD if waits else BOOT)
    if not rules.dead_votes_are_void:
        new = new._replace(ballot=worker.ballot, pieces=worker.pieces)
    if not rules.one_incarnation_per_manifest and not worker.todo:
        new = new._replace(kept=worker.pieces or worker.kept)
    died = service.died
    if service.phase is Phase.FLUSHING:
        died = tuple(sorted({*died, topic}))
    service = service._replace(workers=swap(service.workers, topic, new), died=died)
    return state._replace(late=late, services=swap(state.services, index, service))


def service_dies(state: State, index: int) -> State:
    """The supervisor is killed, its workers notice and stop; requests may still arrive."""
    service = state.services[index]
    late = set(state.late)
    if service.step == "put":
        late.add(Send(PUT, number=service.number, record=service.record))
    late.update(worker.sent for worker in service.workers if worker.sent)
    rest = state.services[:index] + state.services[index + 1:]
    return _restart(state._replace(services=rest, late=frozenset(late)), service)


def _trims(state: State, service: Service, rules: Rules) -> Iterator[tuple[str, State]]:
    """Deleting one record; the newest is never deleted."""
    present = [number for number, record in enumerate(state.log) if record is not None]
    if not present:
        return
    complete = service.claim
    if not rules.trim_below_written_claims:
        complete = complete_through([service.claim], service.done)
    doomed = [number for number in present[:-1]
              if number <= complete or not rules.trim_only_complete]
    for number in doomed[:1] if rules.trim_oldest_first else doomed:
        record = state.log[number]
        if any((state.tables[topic].txn or 0) < pieces[-1][1]
               for topic, pieces in record.manifests) and number > claimed(state.log):
            raise Violation(f"record {number} is trimmed before it is complete")
        yield f"trims record {number}", state._replace(log=swap(state.log, number, None))
