"""Kafka's side: a consumer group with static members on each topic, and a source that is in it.

A member that comes back under its name takes over what its predecessor held and fences it.  A
partition changes hands only after its owner has given it up or its session has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shared.errors import Fenced, KafkaUnavailable
from tests.fakes.clock import FakeClock
from tests.fakes.source import MemorySource, MemoryTopic
from tests.simulation.gate import Gate
from workers.kafka_source import OnAssign, OnRevoke, Polled

SESSION_S = 10.0


class Group:
    """The group on one topic.  members: static name -> source; owner: partition -> name."""

    def __init__(self, topic: MemoryTopic, clock: FakeClock) -> None:
        self.topic, self._clock = topic, clock
        self.members: dict[str, SimSource] = {}
        self.owner: dict[int, str] = {}
        self._leaving: dict[int, str] = {}

    def join(self, source: SimSource) -> None:
        """Let a member in; a predecessor of its name is fenced and its partitions go on."""
        before = self.members.get(source.member)
        if before is not None and before is not source:
            before.fenced = True
        self.members[source.member] = source
        held = tuple(p for p, name in self.owner.items() if name == source.member)
        for partition in held:
            self._leaving.pop(partition, None)
        source.assign(*held)
        self.balance()

    def balance(self) -> None:
        """Hand partitions round; whoever must give one up is asked to."""
        names = sorted(self.members)
        if not names:
            return
        for partition in range(self.topic.partition_count):
            target, owner = names[partition % len(names)], self.owner.get(partition)
            if owner is None:
                self.owner[partition] = target
                self.members[target].assign(partition)
            elif owner != target and partition not in self._leaving:
                self._leaving[partition] = owner
                self.members[owner].revoke(partition)
        for source in self.members.values():
            if not source.has_joined:
                source.assign()

    def gave_up(self, source: SimSource, partitions: tuple[int, ...]) -> None:
        """An owner has forgotten partitions."""
        for partition in partitions:
            if self.owner.get(partition) == source.member and not source.fenced:
                del self.owner[partition]
                self._leaving.pop(partition, None)
        self.balance()

    def shake(self, source: SimSource) -> None:
        """Let a member give everything up once; it gets it back, or another does."""
        for partition, name in self.owner.items():
            if name == source.member and partition not in self._leaving:
                self._leaving[partition] = name
                source.revoke(partition)

    def remove(self, name: str) -> None:
        """A member is gone: it left, or its session is over."""
        self.members.pop(name).expired = True
        self.owner = {p: owner for p, owner in self.owner.items() if owner != name}
        self._leaving = {p: owner for p, owner in self._leaving.items() if owner != name}
        self.balance()

    def expire(self) -> None:
        """End the sessions of members nobody has heard of for long."""
        now = self._clock.monotonic()
        for name, source in list(self.members.items()):
            if source.is_silent():
                if source.silent_since is None:
                    source.silent_since = now
                elif now - source.silent_since >= SESSION_S:
                    self.remove(name)
            else:
                source.silent_since = None


class SimSource(MemorySource):
    """A member of a `Group`."""

    def __init__(self, group: Group, member: str, gate: Gate, is_silent: Callable[[], bool]) -> None:
        super().__init__(group.topic, assigns_all=False)
        self.faults = gate
        self._group, self.member = group, member
        self.is_silent = is_silent
        self.silent_since: float | None = None
        self.fenced = self.expired = self.has_joined = False

    def subscribe(self, on_assign: OnAssign, on_revoke: OnRevoke) -> None:
        """See `Source`."""
        super().subscribe(on_assign, on_revoke)
        self._group.join(self)

    def assign(self, *partitions: int) -> None:
        """See `MemorySource`."""
        self.has_joined = True
        super().assign(*partitions)

    def poll(self, messages_max: int, timeout_s: float) -> Polled:
        """See `Source`."""
        if self.fenced:
            self.beside.append(Fenced("another member has our name"))
        elif self.expired and self._callbacks is not None:
            # The session ended while the process stood still: everything is lost, join anew.
            self.expired = False
            self._rebalances = [("revoke", tuple(self._next))]
            self._group.join(self)
        return super().poll(messages_max, timeout_s)

    def _rebalance(self) -> None:
        revoked = [parts for kind, parts in self._rebalances if kind == "revoke"]
        super()._rebalance()
        for partitions in revoked:
            self._group.gave_up(self, partitions)

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """See `Source`; the group takes offsets only from a partition's owner."""
        try:
            with self.faults.around("commit"):
                if self.fenced or self.expired or any(
                        self._group.owner.get(p) != self.member for p in offsets):
                    raise KafkaUnavailable("commit", "not a member, or not the owner")
                self.topic.group_offsets.update(offsets)
        except KafkaUnavailable as error:
            self.on_commit_failure(str(error))

    def leave(self) -> None:
        """See `Source`."""
        super().leave()
        if self._group.members.get(self.member) is self:
            self._group.remove(self.member)
