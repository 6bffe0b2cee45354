"""Pure: whether and when a dead worker is started again.

The wait depends on progress, not on uptime: a worker that dies at a certain message lives until
it meets it, however long that takes.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.backoff import Backoff
from shared.exit_codes import WorkerExit

RESPAWN_FIRST_S, RESPAWN_MAX_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class History:
    """Deaths in a row without a commit in between."""

    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Respawn:
    """Start again after `delay_s`; None means never."""

    delay_s: float | None
    history: History


def after_death(
    history: History, exit_code: int, *, made_progress: bool, jitter: float | None = None
) -> Respawn:
    """The first death (or the first after progress) costs no wait, then 1, 2, 4 … 60 s.

    A worker that was recycled has not failed; it comes back at once.
    """
    if exit_code == WorkerExit.TOPIC_STOPPED:
        return Respawn(None, history)
    if exit_code == WorkerExit.RECYCLED:
        return Respawn(0.0, history)
    deaths = 1 if made_progress else history.deaths + 1
    backoff = Backoff(RESPAWN_FIRST_S, RESPAWN_MAX_S, failures=deaths - 1)
    return Respawn(backoff.delay_s(jitter), History(deaths))


def describe(exit_code: int) -> str:
    """An exit code in words, for the log and /health."""
    if exit_code < 0:
        return f"killed by signal {-exit_code}"
    try:
        return WorkerExit(exit_code).name.lower().replace("_", " ")
    except ValueError:
        return f"exit code {exit_code}"
