"""Diagnoses, and what was looked at for them, as text for people and as JSON.  Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from shared.exit_codes import ExitCode
from shared.text import printable
from shared.version import SERVICE_VERSION
from tools.causes import Diagnosis
from tools.render import COLOURS
from tools.report import Line, Status, worst
from tools.words import many

SUBJECTS_SHOWN_MAX = 5
INDENT = " " * 9


@dataclass(frozen=True, slots=True)
class Consultation:
    """What doctor has come to: diagnoses, the most likely first, and what it looked at."""

    diagnoses: tuple[Diagnosis, ...]
    lines: tuple[Line, ...]

    @property
    def status(self) -> Status:
        """The worst of the diagnoses."""
        return worst(each.status for each in self.diagnoses)

    def exit_code(self) -> ExitCode:
        """A warning counts: it was found wrong."""
        return ExitCode.INTERNAL if self.diagnoses else ExitCode.OK

    def hidden(self, hide: Callable[[str], str]) -> Consultation:
        """The same after `hide` has seen every text that is not ours."""
        return Consultation(
            tuple(replace(each, evidence=tuple(map(hide, each.evidence)),
                          what_to_do=hide(each.what_to_do)) for each in self.diagnoses),
            tuple(replace(line, found=hide(line.found), what_to_do=hide(line.what_to_do))
                  for line in self.lines))


def as_json(found: Consultation) -> str:
    """One object in one line; its keys are an interface (docs/tools.md)."""
    return json.dumps({
        "tool": "doctor", "service_version": SERVICE_VERSION, "status": found.status.value,
        "diagnoses": [asdict(each) for each in found.diagnoses],
        "lines": [asdict(line) for line in found.lines]})


def as_text(found: Consultation, *, colour: bool = False) -> str:
    """Each diagnosis with its evidence and what to do; then what was looked at."""
    if not found.diagnoses:
        text = [f"Nothing wrong was found. {_looked_at(found.lines)}"]
    else:
        text = [f"{many(len(found.diagnoses), 'thing')} found wrong, the most likely cause first:"]
        for number, each in enumerate(found.diagnoses, 1):
            text += ["", *_told(number, each, colour)]
        text += ["", _looked_at(found.lines)]
    return "\n".join([*text, *_notes(found)])


def _told(number: int, found: Diagnosis, colour: bool) -> list[str]:
    status = f"{found.status.upper():4}"
    if colour:
        status = f"\x1b[{COLOURS[found.status]}m{status}\x1b[0m"
    return [f"{number:>2} {status}  {found.cause}{_subjects(found.subjects)}",
            *(f"{INDENT}{printable(each)}" for each in found.evidence),
            f"{INDENT}-> {printable(found.what_to_do)}"]


def _subjects(subjects: Sequence[str]) -> str:
    shown = ", ".join(map(printable, subjects[:SUBJECTS_SHOWN_MAX]))
    more = len(subjects) - SUBJECTS_SHOWN_MAX
    return f": {shown}{f' and {more} more' if more > 0 else ''}" if subjects else ""


def _looked_at(lines: Sequence[Line]) -> str:
    counts = Counter(line.check for line in lines)
    kinds = [check if count == 1 else f"{check} ({count})" for check, count in counts.items()]
    return f"Looked at: {', '.join(kinds)}."


def _notes(found: Consultation) -> list[str]:
    """What was not looked at or not told, so that nobody takes it for well."""
    told = {(each.name, subject) for each in found.diagnoses for subject in each.subjects or ("",)}
    return [f"Note: {printable(f'{line.check} {line.subject}'.strip())}: {printable(line.found)}"
            for line in found.lines
            if line.status is Status.WARN and (line.check, line.subject) not in told]

