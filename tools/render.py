"""Reports as text for people and as JSON for machines.  Pure.

Names come from Kafka, from tables and from servers' errors: nothing unprintable of them reaches a
terminal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

from shared.text import printable
from shared.version import SERVICE_VERSION
from tools.report import Report, Status

COLOURS = {Status.OK: "32", Status.WARN: "33", Status.FAIL: "31"}
SUBJECT_WIDTH_MAX = 40
"""A longer name pushes its own line aside and leaves all others aligned."""


def wants_colour(environ: Mapping[str, str], is_terminal: bool) -> bool:
    """Whether to colour: on a terminal, unless NO_COLOR is set (no-color.org) or it is dumb."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def as_text(report: Report, *, colour: bool = False) -> str:
    """One line for each thing, below it what to do where it is not well, and a summary."""
    titles = [printable(f"{line.check} {line.subject}" if line.subject else line.check)
              for line in report.lines]
    width = min(max(map(len, titles), default=0), SUBJECT_WIDTH_MAX)
    text = []
    for title, line in zip(titles, report.lines, strict=True):
        status = f"{line.status.upper():4}"
        if colour:
            status = f"\x1b[{COLOURS[line.status]}m{status}\x1b[0m"
        text.append(f"{status}  {title:{width}}  {printable(line.found)}".rstrip())
        if line.what_to_do:
            text.append(f"{'':6}{'':{width}}  -> {printable(line.what_to_do)}")
    text.append(", ".join(f"{report.count(status)} {status.upper()}" for status in Status))
    return "\n".join(text)


def as_json(
    report: Report, tool: str, facts: Mapping[str, object] = MappingProxyType({})
) -> str:
    """One object in one line; its keys are an interface (docs/tools.md).  facts: further ones."""
    return json.dumps({
        "tool": tool,
        "service_version": SERVICE_VERSION,
        "status": report.status.value,
        "lines": [{"check": line.check, "subject": line.subject, "status": line.status.value,
                   "found": line.found, "what_to_do": line.what_to_do}
                  for line in report.lines],
        **facts})
