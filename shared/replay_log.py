"""A topic's replays in the lake: dense numbers, each object made with put-if-absent."""

from __future__ import annotations

from shared.errors import StorageUnavailable
from shared.naming import record_numbers, replay_path, replays_prefix
from shared.object_store import ObjectStore
from shared.replay_plan import Plan, ReplayDamaged, decode, encode

PUT_ATTEMPTS_MAX = 3
"""The same bytes to the same place, so it does not matter which of them took effect."""


class ReplayLog:
    """Reads and writes one topic's plans.  Every method raises `StorageUnavailable`."""

    def __init__(self, store: ObjectStore, topic: str) -> None:
        self._store, self._topic = store, topic

    def read(self, after: int = 0) -> list[Plan]:
        """Every plan behind number `after`, in order; raises `ReplayDamaged` where one is missing
        or cannot be read."""
        start = replay_path(self._topic, after) if after else ""
        numbers = record_numbers(self._store.list_after(replays_prefix(self._topic), start))
        plans = [self._must_read(number) for number in numbers]
        if plans:
            first = after + 1 if after else plans[0].first
            gone = sorted(set(range(first, numbers[-1])) - set(numbers))
            if gone or numbers[0] != first:
                raise ReplayDamaged(f"replays of {self._topic}: they go from {first} to "
                                    f"{numbers[-1]}, and {gone[:5]} are missing")
        return plans

    def _must_read(self, number: int) -> Plan:
        data = self._store.get(replay_path(self._topic, number))
        if data is None:
            raise ReplayDamaged(f"replay {number} of {self._topic} was listed and is gone")
        return decode(data, self._topic, number)

    def put(self, plan: Plan) -> bool:
        """Decide a plan; False when another one has its number.

        Raises `StorageUnavailable` when it cannot be told: then it may be decided.
        """
        path, content = replay_path(self._topic, plan.number), encode(plan)
        for attempt in range(1, PUT_ATTEMPTS_MAX + 1):
            try:
                if self._store.put_if_absent(path, content):
                    return True
                # Taken: also by an attempt of ours whose answer was lost on its way.
                return self._store.get(path) == content
            except StorageUnavailable:
                if attempt == PUT_ATTEMPTS_MAX:
                    raise
        raise AssertionError("unreachable")
