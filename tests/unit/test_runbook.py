"""The runbook has an entry for everything that the service can say, and for nothing else."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from healthcheck.metrics import METRICS
from shared.errors import IngestError
from shared.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs" / "runbook.md"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PRODUCT = ("shared", "workers", "supervisor", "healthcheck")

HEADING = re.compile(r"^(#{2,4}) (.+)$", flags=re.MULTILINE)
PARTS = ("Meaning", "Check", "Fix", "Proof")
ENTRIES_LIE_IN = {"Alerts", "Exit codes", "Health reasons"}
NO_ENTRIES = {
    "Other endings",
    "These heal by themselves", "These stop a topic until somebody acts", "These end the service",
    "These concern replays of dead letters only", "These concern the page only",
}
"""Headings in those chapters that only introduce others."""
SAID_IN_CODE = re.compile(r'(?:error=|Trouble\(\s*rfc3339\([^"]*, )"([A-Z]\w+)"')
"""How a name is given that is no exception's: of a dead worker, of the page's own process."""
SEE = re.compile(r"[Ss]ee ([A-Z]\w+) in the runbook")


def entries() -> dict[str, str]:
    """Title -> text of each entry."""
    text = RUNBOOK.read_text(encoding="utf-8")
    found, chapter = {}, ""
    matches = list(HEADING.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=True):
        depth, title = match[1], match[2]
        if depth == "##":
            chapter = title
        elif chapter in ENTRIES_LIE_IN and title not in NO_ENTRIES:
            assert title not in found, f"{title} is there twice"
            found[title] = text[match.end():end]
    return found


def chapters() -> set[str]:
    """Titles of the chapters."""
    matches = HEADING.findall(RUNBOOK.read_text(encoding="utf-8"))
    return {title for depth, title in matches if depth == "##"}


def sources() -> list[Path]:
    """The Python files of the product."""
    return sorted(path for package in PRODUCT for path in (ROOT / package).rglob("*.py"))


def leaves(kind: type[Exception]) -> Iterator[str]:
    """Names of the errors below a class that have no further ones below them."""
    below = kind.__subclasses__()
    if not below:
        yield kind.__name__
    for each in below:
        yield from leaves(each)


def errors() -> set[str]:
    """Every name of an error that the product can give, in /health, in a log line or a help."""
    # A subclass is known once its module is imported; most are in shared.errors, not all.
    for path in sources():
        if re.search(r"\(IngestError\):", path.read_text(encoding="utf-8")):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    texts = [path.read_text(encoding="utf-8") for path in sources()]
    said = {name for text in texts for name in SAID_IN_CODE.findall(text)}
    helped = {name for metric in METRICS for name in SEE.findall(metric.help)}
    return {*leaves(IngestError)} | said | (helped - chapters())


def alerts() -> set[str]:
    """Names of the alerts."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"] for group in groups for rule in group["rules"]}


def codes() -> set[str]:
    """How the headings of exit codes begin."""
    return {f"Exit {int(code)}" for code in ExitCode}


def test_every_error_alert_and_exit_code_has_its_entry_and_no_entry_is_stale() -> None:
    """Whoever reads a name or a number at night finds it as a heading."""
    titles = {title.partition(":")[0] for title in entries()}
    expected = errors() | alerts() | codes()
    assert (expected - titles, titles - expected) == (set(), set())


def test_names_are_found_where_they_are_given() -> None:
    """A pattern that finds nothing would let every entry pass for stale, or be missed."""
    assert {"StorageUnavailable", "Fenced", "PortTaken", "WorkerDied", "TopicIsolated",
            "WorkerStalled", "AddressNotAvailable"} <= errors()


@pytest.mark.parametrize("title", entries())
def test_an_entry_tells_meaning_check_fix_and_proof(title: str) -> None:
    """In this order, each once: it is read in a hurry."""
    assert tuple(re.findall(r"^- (\w+): \S", entries()[title], flags=re.MULTILINE)) == PARTS


@pytest.mark.parametrize("kind", ["alert", "metric"])
def test_what_entries_refer_to_exists(kind: str) -> None:
    """A name of a metric in the runbook is typed into Prometheus as it stands."""
    text = RUNBOOK.read_text(encoding="utf-8")
    if kind == "alert":
        assert set(re.findall(r"\bBronze[A-Z]\w+", text)) == alerts()
    else:
        named = {name for name in re.findall(r"\bbronze_\w+", text)
                 if name.removeprefix("bronze_") not in (
                     "orders", "payments", "cycles", "version")}
        assert named
        assert named <= {metric.name for metric in METRICS}
