"""What is measured: one module a scenario, each with `run`, which takes the surroundings.

A scenario is bounded in time, shows how far it is, and holds every offset against the tables
before its numbers count. What it gives is frozen, becomes JSON as it is, and has `verdicts`, which
hold it against the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from bench.contract import Verdict
from bench.scenarios import (
    drain, files, freshness, growth, large, outage, steady, topics, window,
)
from bench.surroundings import Surroundings


class Result(Protocol):
    """What a scenario found."""

    def verdicts(self, limit_mb: int) -> list[Verdict]:
        """Its numbers held against the contract."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One entry of the list; `minutes` is what a full run takes, roughly."""

    run: Callable[[Surroundings], Result]
    result: type
    meaning: str
    minutes: int
    is_default: bool = True


SCENARIOS: Mapping[str, Scenario] = {
    "drain": Scenario(
        drain.run, drain.Drain, "10 million messages of backlog at full speed, then idle", 5),
    "steady": Scenario(steady.run, steady.Steady, "20,000 messages/s at the usual interval", 4),
    "window": Scenario(
        window.run, window.Window, "200 cycles, evenly loaded and with 90 % in one topic", 9),
    "freshness": Scenario(
        freshness.run, freshness.Freshness, "an interval of a second: 20,000 and 1,000/s", 4),
    "files": Scenario(files.run, files.Files, "tables with 10,000 files of 100 days", 4),
    "large": Scenario(large.run, large.Large, "messages of 1 MB in one topic of eight", 3),
    "topics": Scenario(topics.run, topics.Topics, "the same backlog in 8, 16 and 32 topics", 6),
    "outage": Scenario(
        outage.run, outage.Outage, "the store away for ten minutes", 16, is_default=False),
    "growth": Scenario(
        growth.run, growth.Growth, "5,000 cycles at a short interval", 30, is_default=False),
}
