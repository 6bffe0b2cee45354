"""What a worker process is for; light, because the supervisor makes it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.config import Config


@dataclass(frozen=True, slots=True)
class Assignment:
    """One incarnation of one topic's worker; index is that of its slot in the shared block."""

    config: Config
    topic: str
    index: int
    incarnation: int
    block_path: str
