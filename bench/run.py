"""One run: its scenarios one after the other, the files written, the contract judged."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench import installation, report
from bench.commits import LogGap
from bench.facts import Facts, gather
from bench.load import LoadError
from bench.product import ROOT, ProductError
from bench.results import Run, write
from bench.scenarios import SCENARIOS, Result
from bench.surroundings import Incomplete, Surroundings
from tests.services import ServiceError, ServiceProvider
from tests.services.instances import LocalProcess

KEEP_MAX_S = 3600.0
INTERRUPTED = "interrupted"
FAILURES = (Incomplete, LogGap, ProductError, LoadError, ServiceError)
"""What a scenario ends with when it has no numbers; the others still run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure; `output` None means: the repository after a full run, else nowhere."""

    scenarios: Sequence[str]
    is_quick: bool
    messages: int | None
    memory_limit_mb: int
    keep: bool
    is_full: bool
    output: Path | None
    command: str


def run(plan: Plan, console: Console) -> bool:
    """Measure, print, write; whether every scenario has numbers and keeps the contract.

    Raises:
        KeyboardInterrupt: after writing what there was.
        ServiceUnavailable, ServiceError, InstallationError: nothing was measured.
    """
    provider = ServiceProvider(lambda line: console.print(line, style="dim", highlight=False))
    folder = Path(tempfile.mkdtemp(prefix="bronze-bench-"))
    try:
        console.print("Getting Kafka and MinIO", style="dim")
        facts = _facts(plan, provider)
        installation.python(lambda line: console.print(line, style="dim", highlight=False))
        around = Surroundings(
            console, provider, folder, plan.is_quick, plan.messages, plan.memory_limit_mb)
        found = _measure(plan, facts, around)
        is_kept = _tell(found, console)
        _write(plan, found, console)
        if INTERRUPTED in found.failures.values():
            raise KeyboardInterrupt
        if plan.keep:
            console.print(f"Kept until Ctrl-C: Kafka {provider.kafka().bootstrap}, "
                          f"MinIO {provider.minio().endpoint}/{provider.minio().bucket}")
            time.sleep(KEEP_MAX_S)
        return is_kept
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        provider.close()


def _facts(plan: Plan, provider: ServiceProvider) -> Facts:
    provider.kafka()
    is_container = not isinstance(provider.minio().instance, LocalProcess)
    return gather(
        plan.command, provider.has_given_kafka(), provider.has_given_minio(), is_container)


def _measure(plan: Plan, facts: Facts, around: Surroundings) -> Run:
    """Every scenario in turn; what goes wrong in one costs its numbers and no others."""
    results: dict[str, Result] = {}
    failures: dict[str, str] = {}
    for number, name in enumerate(plan.scenarios, 1):
        around.console.print(f"{name} ({number} of {len(plan.scenarios)})", style="bold")
        try:
            results[name] = SCENARIOS[name].run(around)
        except KeyboardInterrupt:
            failures[name] = INTERRUPTED
            break
        except FAILURES as error:
            failures[name] = str(error)
        except Exception as error:  # A defect here must not throw away an hour of the others.
            failures[name] = f"{type(error).__name__}: {error}"
            around.console.print_exception()
        if name in failures:
            around.console.print(f"  no numbers: {failures[name]}", style="red", markup=False)
    return Run(facts, plan.is_full, plan.memory_limit_mb, results, failures)


def _tell(found: Run, console: Console) -> bool:
    """Print the contract's table and the sections; whether all is well."""
    runs = {name: found for name in SCENARIOS if name in found.results or name in found.failures}
    page = report.as_markdown(runs, None, None, [])
    console.print(page, highlight=False, markup=False, soft_wrap=True)
    missed = [verdict for _, verdict in report.verdicts_of(runs) if not verdict.is_kept]
    for verdict in missed:
        console.print(f"contract: missed: {verdict.promise}: {verdict.found}, "
                      f"limit {verdict.limit}", style="red", markup=False)
    return not missed and not found.failures


def _write(plan: Plan, found: Run, console: Console) -> None:
    output = plan.output or (ROOT if plan.is_full else None)
    if output is None:
        console.print("Not a full measurement, so nothing is written; --output names a folder.")
        return
    for path in [write(found, output), *report.write_page(output)]:
        console.print(f"Written: {path}", highlight=False)
