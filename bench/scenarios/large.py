"""Messages of 1 MB in one topic, an ordinary backlog in the others."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contract import Verdict, memory
from bench.sampler import Watched
from bench.scenarios.drain import INTERVAL_S, drained
from bench.surroundings import Surroundings

LARGE_BYTES = 1_000_000
LARGE, QUICK_LARGE = 2_000, 100
ORDINARY, QUICK_ORDINARY = 1_000_000, 50_000


@dataclass(frozen=True, slots=True)
class Large:
    """A drain of `large` messages of `large_bytes` among `ordinary` small ones."""

    large: int
    large_bytes: int
    ordinary: int
    committed_s: float
    memory: Watched

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        return [memory(f"with {self.large:,} messages of 1 MB in one topic", self.memory.peak,
                       limit_mb)]


def run(around: Surroundings) -> Large:
    """Fill, drain, count."""
    large = int(around.size(LARGE, QUICK_LARGE))
    ordinary = int(around.size(ORDINARY, QUICK_ORDINARY))
    with around.ground(rota=list(range(1, 8))) as ground:
        ground.fill(ordinary)
        with around.step("produce 1 MB messages", large) as tick:
            ground.load.produce_large(ground.topics[0], large, LARGE_BYTES, tick)
        with ground.product(INTERVAL_S) as product:
            found = drained(product, ground.load.total, around)
            ground.finish(product)
        ground.count()
    return Large(large, LARGE_BYTES, ordinary, found.committed_s, found.memory)
