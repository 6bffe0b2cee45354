"""How long it takes until rows land again, seen from outside, and what is promised about it.

    since = commits(service)
    kill(pid)
    seconds = committed_again(service, topics, since)

Messages must keep coming meanwhile: nothing to commit looks like no recovery.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping

from tests.rig.evidence import Evidence
from tests.rig.scene import LABEL, SAMPLE, Scene
from tests.rig.service import Service
from tests.waiting import wait_until

COMMITS = "bronze_commits_total"
WORKER_RECOVERY_S = 3.0
"""Beyond the batch interval: a killed worker's topic has committed again."""
SERVICE_RECOVERY_S = 10.0
"""Beyond the batch interval: a service started anew has committed on every topic."""
GIVE_UP_S = 60
QUANTILE = 0.95


def commits(service: Service) -> dict[str, int]:
    """Topic -> commits so far; {} while the page is away."""
    try:
        _, body = service.get("/metrics")
    except OSError:
        return {}
    matches = (SAMPLE.fullmatch(line) for line in body.decode().splitlines())
    return {
        dict(LABEL.findall(match["labels"]))["topic"]: int(float(match["value"]))
        for match in matches if match and match["name"] == COMMITS
    }


def committed_again(
    service: Service, topics: Iterable[str], since: Mapping[str, int], began_s: float
) -> dict[str, float]:
    """Topic -> seconds from `began_s` (monotonic) until it had committed more than in `since`."""
    seconds: dict[str, float] = {}
    waiting = set(topics)

    def all_have() -> bool:
        now = commits(service)
        for topic in [t for t in waiting if now.get(t, 0) > since.get(t, 0)]:
            seconds[topic] = time.monotonic() - began_s
            waiting.discard(topic)
        return not waiting

    wait_until(
        all_have, GIVE_UP_S,
        lambda: f"committed again, missing: {sorted(waiting)}\n{service.log_tail()}")
    return seconds


def quantile(seconds: Iterable[float], share: float = QUANTILE) -> float:
    """The smallest of the given values that at least that share of them does not exceed."""
    ordered = sorted(seconds)
    return ordered[math.ceil(share * len(ordered)) - 1]


def note(evidence: Evidence, what: str, seconds: Iterable[float]) -> None:
    """Enter each recovery."""
    for value in seconds:
        evidence.recovered(what, value)


def judged(scene: Scene, evidence: Evidence) -> None:
    """Have a scene at rest judged, and enter how much was found right."""
    report = scene.judge()
    evidence.judged(scene.ledger.rows(), report.checked["records"])
