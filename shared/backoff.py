"""How long to wait before trying again: doubling, bounded, with jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """A count of failures in a row and what it means; `failed` and `reset` give a new value.

    first_s: wait after the first failure; max_s: the longest wait; both in seconds.
    """

    first_s: float
    max_s: float
    failures: int = 0

    def failed(self) -> Backoff:
        """One more failure."""
        return replace(self, failures=self.failures + 1)

    def reset(self) -> Backoff:
        """It worked."""
        return replace(self, failures=0)

    def delay_s(self, jitter: float | None = None) -> float:
        """Seconds to wait now; `jitter` in [0, 1) is drawn when not given (20 % either way)."""
        if self.failures == 0:
            return 0.0
        exponent = min(self.failures - 1, 30)
        bounded = min(self.first_s * 2**exponent, self.max_s)
        drawn = random.random() if jitter is None else jitter
        return bounded * (0.8 + 0.4 * drawn)
