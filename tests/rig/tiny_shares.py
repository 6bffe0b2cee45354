"""`python -m tests.rig.tiny_shares`: the service, whose workers all outgrow their share at once.

No limit that the configuration takes is too small for a worker that is well, so the share is cut
down where it is derived.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import shared.config
import shared.memory
from shared.memory import MemoryPlan
from supervisor import __main__ as service

RECYCLE_AGE_S = 3.0
"""Less than the real one, so that a test sees many of them."""


def cut_down() -> None:
    """Leave nothing for workers; before anything is forked, so that all processes have it."""
    plan = shared.config.plan

    def without_shares(limit_mb: int, topic_count: int) -> MemoryPlan:
        return replace(plan(limit_mb, topic_count), worker_share_bytes=0)

    shared.config.plan = without_shares
    shared.memory.RECYCLE_AGE_S = RECYCLE_AGE_S


if __name__ == "__main__":
    cut_down()
    sys.exit(service.main())
