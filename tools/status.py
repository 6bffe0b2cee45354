"""Two looks at a service's page in, a view out; as text for people and as JSON.  Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shared.exit_codes import ExitCode
from shared.layout import Retention
from shared.text import cut, printable
from shared.version import SERVICE_VERSION
from tools.findings import Failure
from tools.health import Health, Look, TopicHealth
from tools.words import duration

NO_ANSWER_STATUS = "no_answer"
"""Beside the words of /health itself."""
COLOURS = {"healthy": "32", "starting": "33", "stopping": "33", "unhealthy": "31",
           NO_ANSWER_STATUS: "31"}
HEADINGS = ("topic", "state", "lag", "time to loss", "rows", "rows/s", "dead letters",
            "last commit", "restarts", "paused", "last error")
NUMBERS = ("lag", "rows", "rows/s", "dead letters", "restarts")
"""The columns that end at their right, headings too."""
CELL_CHARS_MAX = 60
"""What is longer ends in an ellipsis; JSON has it whole."""
NOTHING = "-"
FOREVER = Retention.FOREVER.name.lower()


@dataclass(frozen=True, slots=True)
class TopicView:
    """A topic as it is shown; the fields are keys of the JSON, which are an interface.

    lag: None while not known.  retention, time_to_loss_seconds: see `TopicHealth`.
    rows_per_second: None where two looks cannot be compared.  last_error: the name, None when there
    was none.  error_active: whether nothing has succeeded since, None when /metrics did not tell.
    """

    state: str
    lag: int | None
    retention: str
    time_to_loss_seconds: float | None
    rows: int
    rows_per_second: float | None
    dead_letters: int
    last_commit_age_seconds: float | None
    restarts: int
    paused: str | None
    last_error: str | None
    error_active: bool | None


def topics_of(look: Look, earlier: Look | None) -> dict[str, TopicView]:
    """The topics at the later look; the earlier one is for rates only."""
    if isinstance(look.health, Failure):
        return {}
    return {name: TopicView(
        state=topic.state,
        lag=topic.lag,
        retention=topic.retention,
        time_to_loss_seconds=topic.time_to_loss_s,
        rows=topic.rows,
        rows_per_second=_rate(name, topic, look, earlier),
        dead_letters=topic.dead_letters,
        last_commit_age_seconds=_age_s(topic.last_commit_s, look),
        restarts=topic.restarts,
        paused=topic.paused,
        last_error=topic.last_error.name if topic.last_error else None,
        error_active=_is_error_active(name, look),
    ) for name, topic in look.health.topics.items()}


def exit_code(look: Look) -> ExitCode:
    """0 for a healthy service, 75 when none answered, else 1."""
    if isinstance(look.health, Failure):
        return ExitCode.UNAVAILABLE
    return ExitCode.OK if look.health.status == "healthy" else ExitCode.INTERNAL


def as_json(look: Look, earlier: Look | None) -> str:
    """One object in one line; its keys are an interface (docs/tools.md)."""
    health = look.health
    page: dict[str, Any] = {
        "tool": "status", "service_version": SERVICE_VERSION, "url": str(look.address),
        "status": status_of(look), "error": None, "reasons": [], "service": None, "cycle": None,
        "topics": {name: asdict(view) for name, view in topics_of(look, earlier).items()}}
    if isinstance(health, Failure):
        return json.dumps({**page, "error": _error(health)})
    return json.dumps({
        **page,
        "error": _error(look.figures) if isinstance(look.figures, Failure) else None,
        "reasons": [asdict(reason) for reason in health.reasons],
        "service": {"instance": health.instance, "version": health.version, "lake": health.lake,
                    "uptime_seconds": health.uptime_s},
        "cycle": {"id": health.cycle_id, "phase": health.phase,
                  "last_completed_age_seconds": _age_s(health.last_completed_s, look)},
    })


def summary(look: Look, *, colour: bool = False) -> str:
    """How the service is, in one line, and below it why, with what to do."""
    lines = [f"{_coloured(status_of(look), colour)}  {printable(_about(look))}"]
    if isinstance(look.health, Failure):
        return "\n".join([*lines, *_told(look.health.text, look.health.what_to_do)])
    if isinstance(look.figures, Failure):
        lines += _told(look.figures.text, look.figures.what_to_do)
    for reason in look.health.reasons:
        lines += _told(str(reason), reason.what_to_do)
    return "\n".join(lines)


def table(look: Look, earlier: Look | None) -> str:
    """One line for each topic below the headings; "" when there is none."""
    views = topics_of(look, earlier)
    if not views:
        return ""
    rows = [HEADINGS, *(_cells(name, view) for name, view in views.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join("  ".join(_aligned(row, widths)).rstrip() for row in rows)


def status_of(look: Look) -> str:
    """The word of /health, or that nobody said one."""
    return NO_ANSWER_STATUS if isinstance(look.health, Failure) else look.health.status


def _error(failure: Failure) -> Mapping[str, str]:
    return {"name": failure.name, "message": failure.text, "what_to_do": failure.what_to_do}


def _about(look: Look) -> str:
    health = look.health
    if isinstance(health, Failure):
        return f"{health.name} at {look.address}"
    completed_s = _age_s(health.last_completed_s, look)
    completed = "none completed yet" if completed_s is None else (
        f"last completed {duration(completed_s)} ago")
    return (f"instance {health.instance}, version {health.version}, "
            f"up {duration(health.uptime_s)}, cycle {health.cycle_id} "
            f"{health.phase or 'not begun'}, {completed}")


def _told(text: str, what_to_do: str) -> Iterable[str]:
    yield f"  {printable(text)}"
    if what_to_do:
        yield f"    -> {printable(what_to_do)}"


def _cells(name: str, view: TopicView) -> tuple[str, ...]:
    age_s, rate = view.last_commit_age_seconds, view.rows_per_second
    cells = (
        name, view.state, _or_nothing(view.lag), _loss_cell(view), str(view.rows),
        NOTHING if rate is None else f"{rate:.1f}", str(view.dead_letters),
        NOTHING if age_s is None else f"{duration(age_s)} ago", str(view.restarts),
        _or_nothing(view.paused), _error_cell(view))
    return tuple(cut(printable(cell), CELL_CHARS_MAX) for cell in cells)


def _loss_cell(view: TopicView) -> str:
    if view.retention == FOREVER:
        return "never"
    left_s = view.time_to_loss_seconds
    return NOTHING if left_s is None else duration(left_s)


def _error_cell(view: TopicView) -> str:
    """An error that is over stands in brackets."""
    if view.last_error is None:
        return NOTHING
    return f"({view.last_error})" if view.error_active is False else view.last_error


def _or_nothing(value: object) -> str:
    return NOTHING if value is None else str(value)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    for heading, cell, width in zip(HEADINGS, row, widths, strict=True):
        yield f"{cell:>{width}}" if heading in NUMBERS else f"{cell:{width}}"


def _coloured(status: str, colour: bool) -> str:
    word = status.upper().replace("_", " ")
    return f"\x1b[{COLOURS[status]}m{word}\x1b[0m" if colour else word


def _age_s(moment_s: float | None, look: Look) -> float | None:
    """Never below zero: the service's clock may be ahead of ours."""
    return None if moment_s is None else max(0.0, look.unix_s - moment_s)


def _rate(name: str, topic: TopicHealth, look: Look, earlier: Look | None) -> float | None:
    """Rows per second between two looks at one run of the service."""
    if earlier is None or not _are_of_one_run(earlier.health, look.health):
        return None
    assert isinstance(earlier.health, Health)
    before, elapsed_s = earlier.health.topics.get(name), look.at_s - earlier.at_s
    if before is None or elapsed_s <= 0 or topic.rows < before.rows:
        return None
    return (topic.rows - before.rows) / elapsed_s


def _are_of_one_run(earlier: Health | Failure, later: Health | Failure) -> bool:
    return (isinstance(earlier, Health) and isinstance(later, Health)
            and earlier.started_at_s == later.started_at_s)


def _is_error_active(name: str, look: Look) -> bool | None:
    if isinstance(look.figures, Failure):
        return None
    value = look.figures.get(("bronze_error_active", name))
    return None if value is None else value > 0
