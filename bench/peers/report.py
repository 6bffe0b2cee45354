"""Turns a comparison into docs/benchmarks-peers.md, a chart and a JSON file. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bench.contract import MB
from bench.facts import Facts
from bench.lake import Counted
from bench.peers.bars import Panel
from bench.peers.systems import RATE_MIN, START_ALLOWANCE_S, SystemRun
from bench.tables import table

FORMAT = "peers-1"
SERVICE, LOOP, SPARK_SMALL = "Service", "Plain loop", "Spark, smallest heap"
FAULTS_SHOWN = 3


def spark_name(heap: str) -> str:
    """What Spark with a heap is called in tables."""
    return f"Spark, {heap} heap"


HEAP = "4g"
SPARK = spark_name(HEAP)
SPARK_CACHED = f"{SPARK}, cached"


@dataclass(frozen=True, slots=True)
class HeapTry:
    """Spark with a heap on so many messages; `failure` is empty where it got through."""

    heap: str
    messages: int
    failure: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything one comparison found; `failures`: system -> why it has no number."""

    facts: Facts
    topics: int
    partitions: int
    messages: int
    interval_s: float
    runs: Sequence[SystemRun]
    failures: dict[str, str]
    tries: Sequence[HeapTry]

    @property
    def service(self) -> SystemRun:
        """What all others are held against; there is no page without it."""
        return next(run for run in self.runs if run.name == SERVICE)


Measure = tuple[str, Callable[[SystemRun], float], str]
MEASURES: tuple[Measure, ...] = (
    ("Start to last commit, s", lambda run: run.wall_s, ",.1f"),
    ("Messages/s", lambda run: run.per_second, ",.0f"),
    ("CPU, us/message", lambda run: run.cpu_us, ",.2f"),
    ("Peak memory (PSS), MB", lambda run: run.peak_bytes / MB, ",.1f"),
)
"""Title, value, format. The start of each system is part of every one of them."""


def faults_of(messages: int, counted: Counted) -> list[str]:
    """Why what was counted is not everything exactly once; at most a few of the reasons."""
    faults = list(counted.faults)
    found = counted.rows + counted.dead_letters
    if found != messages:
        faults.append(f"{found:,} rows and dead letters, {messages:,} messages were sent")
    hidden = len(faults) - FAULTS_SHOWN
    return faults[:FAULTS_SHOWN] + ([f"and {hidden} more"] if hidden > 0 else [])


def line_of(run: SystemRun) -> str:
    """One system in one line."""
    return (f"{run.name}: {run.messages:,} messages complete in {run.wall_s:.1f} s, "
            f"{run.per_second:,.0f}/s, {run.cpu_us:.2f} us/message, "
            f"{run.peak_bytes / MB:,.1f} MB")


def line_of_try(tried: HeapTry) -> str:
    """One try of a heap in one line."""
    outcome = tried.failure or "complete"
    return f"Spark, {tried.heap} heap, {tried.messages:,} messages: {outcome}"


def ratio(run: SystemRun, service: SystemRun, value: Callable[[SystemRun], float]) -> float:
    """A system's value in multiples of the service's."""
    return value(run) / value(service)


def as_json(found: Comparison) -> str:
    """The whole comparison, for later ones."""
    return json.dumps({"format": FORMAT, **asdict(found)}, indent=1) + "\n"


def panels(found: Comparison) -> list[Panel]:
    """The chart: all measures but the wall time, which the rate tells already."""
    return [Panel(title, [(run.name, value(run), f"{value(run):{form}}") for run in found.runs])
            for title, value, form in MEASURES[1:]]


def as_markdown(found: Comparison) -> str:
    """The page for readers."""
    return "\n".join([_intro(found), _numbers(found), _tries(found), PROMISES, _method(found),
                      _machine(found.facts)])


def _intro(found: Comparison) -> str:
    return (
        "# Beside other ways to do it\n\n"
        "Written by `make bench-peers`; edit `bench/peers/report.py` instead. One run: the same "
        f"{found.messages:,} messages in the same {found.topics} topics of {found.partitions} "
        "partitions on one Kafka, drained into one MinIO by one system after the other. A number "
        "stands here only if afterwards every offset of every partition was in that system's "
        "tables exactly once; the reason stands here where it was not.\n")


def _numbers(found: Comparison) -> str:
    values = [[title, *(f"{value(run):{form}}" for run in found.runs)]
              for title, value, form in MEASURES]
    ratios = [[title.split(",")[0],
               *(f"{ratio(run, found.service, value):,.2f}" for run in found.runs)]
              for title, value, _ in MEASURES]
    head = [run.name for run in found.runs]
    failures = "".join(f"\n{name}: no number. {reason}\n"
                       for name, reason in found.failures.items())
    return (
        "## Numbers\n\n" + table(["Measure", *head], values) + failures
        + "\nIn multiples of the service's:\n\n" + table(["Measure", *head], ratios)
        + "\n![The same as bars](images/bench-peers.svg)\n")


def _tries(found: Comparison) -> str:
    lines = [f"- {line_of_try(tried)}\n" for tried in found.tries]
    return (
        "## The smallest heap for Spark\n\n"
        "Heaps were tried from the smallest on with which Spark is willing to start (450m), each "
        "with a part of the messages first; the first that then got through all of them is the "
        "last column above.\n\n" + "".join(lines))


PROMISES = """\
## What each does not promise

The service: all topics are flushed together, and whatever fails, all of a flush lands or none of
it; every message lands once; malformed ones go to a dead letter table with reason and position. A
reader of several tables can still look between the commits of one flush (README).

The plain loop (`bench/peers/loop_job.py`):

- It checks no message and has no dead letters: malformed ones are among its rows.
- Killed between a table's commit and Kafka's, it writes rows twice.
- No table is flushed together with another one; no health page, no restart, no limit to memory:
  it holds whatever comes in an interval.

Spark (`bench/peers/spark_job.py`):

- A query per topic, each with batches of its own: topics do not become visible together.
- A batch's dead letters and its rows are two commits, one after the other. Done again after a
  failure it writes nothing twice (`txnAppId`, `txnVersion`), as long as its checkpoints are
  kept; here they are in a local folder, which is quicker than the store and goes with the machine.
- Nothing starts it again when it ends. A second Spark on the same tables is not kept out, and
  Delta's log store for S3 that Spark uses by default is safe for one writer only.
- A dead letter has the kind of its flaw, no message and no position.
- A backlog is one batch per topic, however long it takes: nothing of it is visible before.
"""


def _method(found: Comparison) -> str:
    return f"""\
## How

- Each system starts on the full backlog. The time runs from the start of its first process to its
  last commit by its own clock, so what it takes to start counts, also for CPU and memory.
- CPU is user and system time of all its processes (`/proc/<pid>/stat`), ended children included,
  until the last commit is noticed, which is looked for every 250 ms. Kafka, MinIO and the
  measuring are not in it, but run on the same cores.
- Memory is the PSS of all its processes, read every 0.5 s, and in each step of 100 ms in which
  their resident sizes tell that the highest sum was passed (`bench/sampler.py`); MB are 10^6
  bytes.
- Each system has a lake of its own, which is removed before the next one starts. The service is
  the first: what it reads was just written, and Kafka's code is not warm yet.
- The service: `python -m supervisor --workers {found.topics}`, `BATCH_INTERVAL_SECONDS=\
{found.interval_s:g}`. The loop: `consume` into lists, `write_deltalake` every \
{found.interval_s:g} s.
- Spark: one driver with `local[2]`, PySpark only to start it; trigger {found.interval_s:g} s;
  `try_parse_json` and `is_valid_utf8` tell rows from dead letters, nothing runs in Python per
  message. Settings were chosen in its favour: partitions of shuffles and of Delta's snapshots
  for two cores instead of for a cluster; no web page; no `maxOffsetsPerTrigger`, so it need not
  wait for a trigger between batches; only the modules of the AWS SDK that it needs.
- A batch of Spark's is written twice, dead letters and rows. For that it is read from Kafka and
  checked twice, or cached between (`persist`, memory and then disk): both were measured with
  the large heap. The small heaps do not cache.
- Heaps are `-Xmx`; a JVM takes more than its heap, and takes what the heap offers before it
  collects garbage. So the largest heap does not say what Spark needs; the smallest one does.
- A system is given up after {START_ALLOWANCE_S:.0f} s and {RATE_MIN:,.0f} messages/s from then on.
"""


def _machine(facts: Facts) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    state = " with uncommitted changes" if facts.is_dirty else ""
    return "## Where\n\n" + table(["", "This run"], [
        ["CPU", f"{facts.cpu}, {facts.cores} cores"], ["Memory", facts.memory],
        ["Kernel", facts.kernel], ["Load average before", f"{facts.load:.2f}"],
        ["Versions", versions], ["Commit", f"`{facts.commit}`{state}"],
        ["Command", f"`{facts.command}`"], ["Date", facts.at]])
