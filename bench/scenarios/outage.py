"""The store is killed under a steady stream and comes back: memory meanwhile and afterwards."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from bench.contract import Verdict, memory
from bench.sampler import Sampler, Watched
from bench.surroundings import Surroundings
from bench.watch import READY_TIMEOUT_S, wait_committed
from tests.services import MinioService

INTERVAL_S = 10.0
PER_SECOND = 20_000
BEFORE_S, AFTER_S = 30.0, 30.0
OUTAGE_S, QUICK_OUTAGE_S = 600.0, 20.0


@dataclass(frozen=True, slots=True)
class Outage:
    """The store was away from away_at to back_at (Unix time); all was committed at done_at."""

    per_second: int
    messages: int
    away_at: float
    back_at: float
    done_at: float
    memory: Watched

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """See `bench.scenarios`."""
        return [memory(f"with the store away for {self.back_at - self.away_at:.0f} s",
                       self.memory.peak, limit_mb)]


def run(around: Surroundings) -> Outage:
    """Stream before, during and after the outage, wait until all is committed, count.

    Raises:
        Incomplete, ProductError, ServiceError: also when the store did not come back.
    """
    before_s, after_s = around.size(BEFORE_S, 12), around.size(AFTER_S, 5)
    outage_s = around.size(OUTAGE_S, QUICK_OUTAGE_S)
    seconds = before_s + outage_s + after_s
    with around.ground(minio=around.provider.own_minio()) as ground:
        strike = _Strike(ground.minio, before_s, outage_s)
        with ground.product(INTERVAL_S) as product:
            product.wait_ready(READY_TIMEOUT_S)
            with Sampler(product.pid) as sampler:
                strike.start()
                messages = int(PER_SECOND * seconds)
                with around.step("stream with an outage", messages) as tick:
                    ground.load.produce_steadily(PER_SECOND, seconds, tick)
                away_at, back_at = strike.moments()
                with around.step("drain what was left", messages) as tick:
                    wait_committed(product, messages, tick)
                done_at = time.time()
            ground.finish(product)
        ground.count()
    return Outage(PER_SECOND, messages, away_at, back_at, done_at, sampler.seen)


class _Strike(threading.Thread):
    """Kills the store after a while and starts it again after another one."""

    def __init__(self, minio: MinioService, before_s: float, outage_s: float) -> None:
        super().__init__(name="outage", daemon=True)
        self._minio, self._before_s, self._outage_s = minio, before_s, outage_s
        self._moments: list[float] = []
        self._error: Exception | None = None

    def run(self) -> None:
        """See the class."""
        try:
            time.sleep(self._before_s)
            self._moments.append(time.time())
            self._minio.kill()
            time.sleep(self._outage_s)
            self._minio.start()
            self._moments.append(time.time())
        except Exception as error:  # Handed to the thread that waits for the answer.
            self._error = error

    def moments(self) -> tuple[float, float]:
        """Wait; when the store was killed and when it was back."""
        self.join()
        if self._error is not None:
            raise self._error
        away_at, back_at = self._moments
        return away_at, back_at
