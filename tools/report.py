"""What a tool has found out, line by line.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.exit_codes import ExitCode

SECRET_CHARS_MIN = 4
"""A shorter text is hidden by no mask: it would be taken out of the middle of common words."""
MASK = "***"


class Status(StrEnum):
    """What a line says; the worst of all lines is the report's."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


def worst(statuses: Iterable[Status]) -> Status:
    """Of several; of none it is OK."""
    return max(statuses, key=(Status.OK, Status.WARN, Status.FAIL).index, default=Status.OK)


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was looked at: which, how it is, what was found, and what to do about it.

    `subject` tells things of one kind apart: a topic, a table, an operation.
    """

    check: str
    subject: str
    status: Status
    found: str
    what_to_do: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All lines, in the order in which a start needs the things they are about."""

    lines: tuple[Line, ...]

    @property
    def status(self) -> Status:
        """The worst of the lines."""
        return worst(line.status for line in self.lines)

    def count(self, status: Status) -> int:
        """How many lines say so."""
        return sum(line.status is status for line in self.lines)

    def exit_code(self) -> ExitCode:
        """A warning is no failure."""
        return ExitCode.INTERNAL if self.status is Status.FAIL else ExitCode.OK


def hider(secrets: Iterable[str]) -> Callable[[str], str]:
    """What takes these out of a text: what clients and servers say is not ours to trust."""
    hidden = sorted({text for text in secrets if len(text) >= SECRET_CHARS_MIN},
                    key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, MASK)
        return text

    return hide


def masked(report: Report, secrets: Iterable[str]) -> Report:
    """The report without these texts."""
    hide = hider(secrets)
    return Report(tuple(
        replace(line, found=hide(line.found), what_to_do=hide(line.what_to_do))
        for line in report.lines))
