"""Turns runs into docs/benchmarks.md and its charts. Pure: numbers in, text out.

    python -m bench.report          writes the page anew from the files in bench/results
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import plots
from bench.before import Before, before_and_after, read_first
from bench.contract import Verdict
from bench.facts import Facts
from bench.results import Run, newest, read_all
from bench.sampler import Watched
from bench.scenarios import SCENARIOS, Result
from bench.scenarios.drain import Drain
from bench.sections import SECTIONS
from bench.stacks import Profile, newest_profile
from bench.tables import table

PAGE = Path("docs") / "benchmarks.md"
IMAGES = Path("docs") / "images"


def write_page(root: Path) -> list[Path]:
    """Write the page and its charts from the runs below a folder; the files written."""
    runs = newest(read_all(root))
    results = results_of(runs)
    limit_mb = max((run.limit_mb for run in runs.values()), default=0)
    images = plots.charts(results, limit_mb)
    files = {root / PAGE: as_markdown(
        runs, newest_profile(root), read_first(root), list(images)),
             **{root / IMAGES / name: text for name, text in images.items()}}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(files)


def results_of(runs: Mapping[str, Run]) -> dict[str, Result]:
    """Scenario -> its numbers, where there are any."""
    return {name: run.results[name] for name, run in runs.items() if name in run.results}


def verdicts_of(runs: Mapping[str, Run]) -> list[tuple[str, Verdict]]:
    """(scenario, verdict) of all scenarios."""
    return [(name, verdict) for name, run in runs.items() if name in run.results
            for verdict in run.results[name].verdicts(run.limit_mb)]


def as_markdown(
    runs: Mapping[str, Run], profile: Profile | None, before: Before | None,
    images: Sequence[str],
) -> str:
    """The page for readers."""
    parts = [_intro(), contract(runs), _machine(runs)]
    results = results_of(runs)
    for name, result in results.items():
        parts.append(SECTIONS[name](result))
        parts += [f"![{image}](images/{image})\n" for image in images
                  if image.startswith(f"bench-{name}")]
        if isinstance(result, Drain):
            parts += [_profile(profile)] if profile is not None else []
            if before is not None and before.at < runs[name].facts.at:
                parts.append(before_and_after(before, result))
    return "\n".join([*parts, _method(results)])


def _intro() -> str:
    return (
        "# Benchmarks\n\n"
        "Written by `make bench`; edit `bench/report.py` instead. Before a number counted, every "
        "offset of every partition of its scenario had been found in the tables exactly once, "
        "dead letters included. The service is measured as `make install` installs it.\n")


def contract(runs: Mapping[str, Run]) -> str:
    """The promises and whether they are kept; what has no numbers says so."""
    rows = [[verdict.promise, verdict.limit, verdict.found,
             "kept" if verdict.is_kept else "**contract: missed**", name]
            for name, verdict in verdicts_of(runs)]
    rows += [["-", "-", "-", f"**not measured**: {_one_line(run.failures[name])}", name]
             for name, run in runs.items() if name in run.failures]
    rows += [["-", "-", "-", "not measured yet", name] for name in SCENARIOS if name not in runs]
    return ("## The contract\n\n"
            "What is promised of the service's performance; the limits are those of "
            "`bench/contract.py`. `make bench` ends with 1 when one of them is missed.\n\n"
            ) + table(["What", "Limit", "Measured", "", "Scenario"], rows)


def _one_line(text: str) -> str:
    return text.splitlines()[0].replace("|", "/") if text else ""


def _machine(runs: Mapping[str, Run]) -> str:
    by_run: dict[int, tuple[Run, list[str]]] = {}
    for name, run in runs.items():
        by_run.setdefault(id(run), (run, []))[1].append(name)
    return "## Where\n\n" + table(
        ["Scenarios", "Commit", "Date", "Machine", "Load average before", "Command"],
        [[", ".join(names), _commit(run.facts), run.facts.at, _where(run.facts),
          f"{run.facts.load:.2f}", f"`{run.facts.command}`{'' if run.is_full else ' (not full)'}"]
         for run, names in by_run.values()]) + "".join(
        f"\n`{commit}`: {versions}.\n" for commit, versions in sorted({
            (run.facts.commit, ", ".join(
                f"{name} {version}" for name, version in run.facts.versions.items()))
            for run in runs.values()})) + (
        "\nKafka, MinIO and the producer ran on the same cores.\n")


def _commit(facts: Facts) -> str:
    return f"`{facts.commit}`{' with uncommitted changes' if facts.is_dirty else ''}"


def _where(facts: Facts) -> str:
    return f"{facts.cpu}, {facts.cores} cores, {facts.memory}, {facts.kernel}"


def _profile(profile: Profile) -> str:
    return (
        "## Where the microseconds go\n\n"
        f"`python -m bench.profile` at `{profile.commit}`: {profile.samples:,} samples of one "
        f"draining worker in {profile.seconds:.0f} s, by what ran; the workers used "
        f"{profile.worker_us:.2f} us/message in that drain.\n\n" + table(
            ["Stage", "Share", "us/message"],
            [[stage, f"{100 * share:.1f} %", f"{share * profile.worker_us:.3f}"]
             for stage, share in profile.shares]))


def _method(results: Mapping[str, Result]) -> str:
    drain = results.get("drain")
    cost = f": {watching(drain.memory)} in the drain" if isinstance(drain, Drain) else ""
    return (
        "## How\n\n"
        "- Memory is the PSS of every process of the service, from `/proc/<pid>/smaps_rollup`; MB "
        "are 10^6 bytes. Reading it makes the kernel walk every page, so every 100 ms the "
        "resident sizes are read, which cost nothing, and the PSS of all processes twice a "
        "second, and at once in every step in which the resident sizes say that the sum has "
        f"passed the highest one seen. What that costs the service has to do without{cost}.\n"
        "- The service runs from this checkout on an installation of `requirements.txt` of its "
        "own: nothing that only tests need is loaded, and no page of a library is shared with "
        "the measuring program.\n"
        "- CPU is user and system time from `/proc/<pid>/stat`, ended children included. Kafka, "
        "MinIO, the producer and the measuring are not in it.\n"
        "- READY is the message of that name to the service manager. A worker begins to read "
        "when it is ready itself, so some messages of a backlog are read before that; figures "
        "per message from READY are per message read after it. The metrics are asked for every "
        "250 ms in a drain; the sidecar's CPU is part of the sum of all processes.\n"
        "- A table's version is visible once its log entry exists. That moment is the entry's "
        "LastModified in the store: MinIO's clock for all tables, to the millisecond, taken when "
        "it has received the entry. A window is the latest less the earliest of a decision "
        "record's bronze tables, of records with all topics in them.\n"
        "- The age of a row is that moment less its `_kafka_timestamp`, which the producer sets "
        "when it is handed the message; every row of the bronze tables counts once.\n"
        "- Growth is that of a straight line fitted by least squares, without the first tenth of "
        "the cycles.\n"
        "- The producer writes uncompressed batches with keys and without headers.\n")


def watching(watched: Watched) -> str:
    """What watching cost, and how well it saw."""
    return (f"{100 * watched.watching_cpu_s / max(watched.watching_s, 1e-9):.1f} % of a core "
            f"({watched.samples:,} looks at PSS in {watched.steps:,} steps)")


def main() -> None:
    """Write the page of this checkout anew."""
    for path in write_page(Path()):
        print(path)


if __name__ == "__main__":
    main()
