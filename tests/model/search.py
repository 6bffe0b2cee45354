"""Breadth-first search over every interleaving, and the way back from the ends.

First pass: every reachable state is made once and its invariants are checked; the first violation
met is one of the shortest.  Second pass: from the states where everything has landed, backwards
along steps that are no fault; a state that is not met has lost its way (a block).

Reductions, each leaving what can be seen by anybody else unchanged: reading is part of the vote;
what a process only learns from the block is part of its next step; the effect of a request and
its answer are one step (its sender dying, or erring, in between is the same as the answer being
lost); ABORTING ends in the step it begins in; a replacement worker starts in the step in which
its predecessor dies; a supervisor's workers die with it (their requests under way do not);
requests that can have no effect any more are forgotten; cycle ids are renumbered.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from tests.model.lake import check, still_possible, take_effect
from tests.model.rules import Rules
from tests.model.state import (
    DEAD, PUT, Config, Send, Service, State, Violation, first_state,
)
from tests.model.supervisor_steps import (
    Phase, observe, service_dies, supervisor_steps, worker_dies,
)
from tests.model.worker_steps import Step, worker_steps

STATES_MAX = 2_000_000
"""A search that meets more states than this is a mistake in its configuration."""


@dataclass(frozen=True)
class Found:
    """What a search met: how many states and steps, how many ends, and the trace of a fault."""

    states: int
    steps: int
    ends: int
    fault: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.fault:
            return f"{self.states} states, {self.steps} steps, {self.ends} with everything landed"
        steps = "\n".join(f"{number:4d}  {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.fault}\nafter {len(self.trace)} steps:\n{steps}"


def successors(state: State, config: Config, rules: Rules) -> Iterator[Step]:
    """Every step possible in `state`."""
    for index in range(len(state.services)):
        yield from _own_steps(state, index, config, rules)
    for send in state.late:
        yield _arrives(state, send, config, rules)
    yield from _starts(state)
    yield from _accidents(state, config, rules)
    yield from _rebalances(state)
    if config.heals and not state.healed:
        yield "the refused table takes commits again", state._replace(healed=True), False
    for topic, written in enumerate(state.high):
        if written < config.messages[topic]:
            high = state.high[:topic] + (written + 1,) + state.high[topic + 1:]
            yield f"offset {written} of topic {topic} is written", state._replace(high=high), False


def _own_steps(state: State, index: int, config: Config, rules: Rules) -> Iterator[Step]:
    yield from supervisor_steps(state, index, config, rules)
    for topic in range(len(state.services[index].workers)):
        yield from worker_steps(state, index, topic, config, rules)


def _starts(state: State) -> Iterator[Step]:
    for instance in sorted(set(state.to_start)):
        rest = list(state.to_start)
        rest.remove(instance)
        service = Service(instance=instance, uuid=state.next_uuid)
        yield (f"service {state.next_uuid} of instance {instance} starts", state._replace(
            services=state.services + (service,), to_start=tuple(rest),
            next_uuid=state.next_uuid + 1), False)


def _arrives(state: State, send: Send, config: Config, rules: Rules) -> Step:
    what = (f"put of record {send.number}" if send.kind == PUT
            else f"commit of topic {send.topic} to the {send.table} table")
    refused = (send.kind != PUT and send.topic in config.refused and not state.healed)
    world = state._replace(late=state.late - {send})
    if not refused:
        world, _ = take_effect(world, send, config, rules)
    return f"the late {what} arrives", world, True


def _accidents(state: State, config: Config, rules: Rules) -> Iterator[Step]:
    if not state.crashes_left:
        return
    for index, service in enumerate(state.services):
        if config.supervisors_crash:
            after = service_dies(state, index)
            yield (f"service {service.uuid} is killed",
                   after._replace(crashes_left=state.crashes_left - 1), True)
        for topic, worker in enumerate(service.workers) if config.workers_crash else ():
            if worker.life == DEAD:
                continue
            after = worker_dies(state, index, topic, rules)
            yield (f"s{service.uuid} worker {topic} is killed",
                   after._replace(crashes_left=state.crashes_left - 1), True)


def _rebalances(state: State) -> Iterator[Step]:
    """Kafka gives a partition to another instance: budgeted, or because its owner is gone."""
    alive = {service.instance for service in state.services}
    for topic, owner in enumerate(state.owner):
        gone = owner not in alive and owner not in state.to_start
        if not gone and not state.rebalances_left:
            continue
        for other in sorted(alive - {owner}):
            left = state.rebalances_left - (not gone)
            new = state.owner[:topic] + (other,) + state.owner[topic + 1:]
            yield (f"topic {topic} is given to instance {other}",
                   state._replace(owner=new, rebalances_left=left), not gone)


def landed(state: State, config: Config) -> bool:
    """Whether all rows are in the tables and a service consumes, owing nothing, all in quorum."""
    if any(state.tables[topic].txn != state.high[topic] or
           state.high[topic] != config.messages[topic] for topic in config.goal):
        return False
    for service in map(observe, state.services):
        if service.phase is Phase.CONSUMING and not service.step:
            members = service.members
            if all(members[topic].in_quorum and not members[topic].undone_record
                   for topic in config.goal):
                return True
    return False


def search(config: Config, rules: Rules = Rules()) -> Found:
    """Search all states of `config`; see `Found`."""
    # Millions of small tuples and no cycle among them: collecting only costs time.
    gc.disable()
    try:
        return _search(config, rules)
    finally:
        gc.enable()


def _search(config: Config, rules: Rules) -> Found:
    first = _warmed_up(config) if config.warm else first_state(config)
    index: dict[State, int] = {first: 0}
    parents, sources, targets = array("i", [-1]), array("i"), array("i")
    states, ends, steps = [first], array("i"), 0
    position = 0
    while position < len(states):
        state = states[position]
        if landed(state, config):
            ends.append(position)
        try:
            fault = check(state.tables, state.log, state.decided, state.origin, config.malformed)
            if fault:
                raise Violation(fault)
            for _, after, is_fault in successors(state, config, rules):
                steps += 1
                after = _forget(after, config, rules)
                number = index.setdefault(after, len(states))
                if number == len(states):
                    states.append(after)
                    parents.append(position)
                if not is_fault:
                    sources.append(position)
                    targets.append(number)
        except Violation as violation:
            trace = _trace(states, parents, position, config, rules)
            return Found(len(states), steps, len(ends), str(violation), trace)
        if len(states) > STATES_MAX:
            raise RuntimeError(f"{config.name}: more than {STATES_MAX} states")
        position += 1
    lost = _cannot_end(len(states), ends, sources, targets)
    if lost is None:
        return Found(len(states), steps, len(ends))
    trace = _trace(states, parents, lost, config, rules)
    return Found(len(states), steps, len(ends), "block: from here nothing leads to the end", trace)


def _warmed_up(config: Config) -> State:
    """The first state in which every starting service consumes, one started after the other."""
    state = first_state(config)
    for _ in config.starting:
        _, state, _ = next(_starts(state))
        while observe(state.services[-1]).phase is not Phase.CONSUMING:
            index = len(state.services) - 1
            _, state, _ = next(step for step in _own_steps(state, index, config, Rules())
                               if not step[2])
    return state


def _forget(state: State, config: Config, rules: Rules) -> State:
    if not state.late:
        return state
    late = frozenset(send for send in state.late if still_possible(send, state, config, rules))
    return state if len(late) == len(state.late) else state._replace(late=late)


def _cannot_end(count: int, ends: array, sources: array, targets: array) -> int | None:
    """The first state from which no end can be reached, walking backwards from the ends."""
    heads, following = array("i", [-1]) * count, array("i", [-1]) * len(sources)
    for edge, target in enumerate(targets):
        following[edge] = heads[target]
        heads[target] = edge
    reached = bytearray(count)
    stack = list(ends)
    for position in stack:
        reached[position] = 1
    while stack:
        edge = heads[stack.pop()]
        while edge != -1:
            source = sources[edge]
            if not reached[source]:
                reached[source] = 1
                stack.append(source)
            edge = following[edge]
    lost = reached.find(0)
    return None if lost == -1 else lost


def _trace(
    states: list[State], parents: array, position: int, config: Config, rules: Rules
) -> tuple[str, ...]:
    """The steps that led to a state, found again from the chain of its parents."""
    chain = [position]
    while parents[chain[-1]] != -1:
        chain.append(parents[chain[-1]])
    chain.reverse()
    labels = []
    for before, after in zip(chain, chain[1:]):
        labels.append(next(
            label for label, state, _ in successors(states[before], config, rules)
            if _forget(state, config, rules) == states[after]))
    return tuple(labels)
