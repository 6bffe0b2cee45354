"""One comparison: fill the topics, let one system after the other drain them, count, write."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from minio.deleteobjects import DeleteObject
from rich.console import Console

from bench.facts import Facts, gather
from bench.installation import ROOT
from bench.lake import count_offsets
from bench.load import Load
from bench.peers import bars, report, tools
from bench.peers.report import HEAP, Comparison, HeapTry
from bench.peers.systems import (
    NoNumber,
    Spark,
    SystemRun,
    Task,
    run_loop,
    run_service,
    run_spark,
)
from tests.services import KafkaService, MinioService, ServiceError, ServiceProvider
from tests.services.instances import LocalProcess

TOPICS, PARTITIONS = 8, 4
FULL_MESSAGES = 10_000_000
PRODUCE_CHUNK = 500_000
"""Each chunk has the time limit of `Load.produce` for itself."""
SMALL_HEAPS = ("450m", "512m", "640m", "768m", "1g")
"""Tried in this order; with less than the first one Spark refuses to start."""
DISK_BYTES_PER_MESSAGE = 700
"""Kafka's log 240, one lake and the files on their way to it twice 200; the rest is to spare."""

Measure = Callable[[str, Task], SystemRun]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to compare; `output` None means: the repository after a full run, else nowhere."""

    messages: int
    trial_messages: int
    interval_s: float
    is_full: bool
    output: Path | None
    command: str


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics that hold messages, and what was sent to them."""

    names: list[str]
    messages: int
    malformed: dict[str, int]


class Run:
    """A comparison on one Kafka and one MinIO."""

    def __init__(self, plan: Plan, console: Console, provider: ServiceProvider) -> None:
        self._plan, self._console = plan, console
        self._jars = tools.jars(self._say)
        self._kafka: KafkaService = provider.kafka()
        self._minio: MinioService = provider.minio()
        facts = gather(
            plan.command, provider.has_given_kafka(), provider.has_given_minio(),
            not isinstance(self._minio.instance, LocalProcess))
        self._facts: Facts = replace(facts, versions={**facts.versions, **tools.versions()})
        self._name = uuid.uuid4().hex[:6]
        self._folder = Path(tempfile.mkdtemp(prefix="bronze-peers-"))
        self._runs: list[SystemRun] = []
        self._failures: dict[str, str] = {}
        self._tries: list[HeapTry] = []

    def compare(self) -> Comparison:
        """Every system in turn; one without a number does not stop the others."""
        try:
            _must_have_disk(self._folder, self._plan.messages)
            topics = self._fill("peers", self._plan.messages)
            self._try(report.SERVICE, topics, run_service, has_dead_letters=True)
            self._try(report.LOOP, topics, run_loop, has_dead_letters=False)
            self._try(report.SPARK, topics, self._spark(Spark(HEAP)), has_dead_letters=True)
            self._try(report.SPARK_CACHED, topics, self._spark(Spark(HEAP, is_cached=True)),
                      has_dead_letters=True)
            self._smallest_heap(topics)
            return Comparison(
                self._facts, TOPICS, PARTITIONS, self._plan.messages, self._plan.interval_s,
                self._runs, self._failures, self._tries)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _say(self, line: str) -> None:
        self._show(line, style="dim")

    def _show(self, line: str, style: str = "") -> None:
        self._console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    def _fill(self, kind: str, messages: int) -> Topics:
        names = [f"{kind}-{self._name}-{number}" for number in range(TOPICS)]
        for name in names:
            self._kafka.create_topic(name, PARTITIONS)
        load, began = Load(self._kafka.bootstrap, names, PARTITIONS), time.monotonic()
        for start in range(0, messages, PRODUCE_CHUNK):
            load.produce(min(PRODUCE_CHUNK, messages - start), lambda _sent: None)
        self._say(f"{messages:,} messages produced in {time.monotonic() - began:.1f} s")
        return Topics(names, load.total, dict(load.malformed))

    def _spark(self, spark: Spark) -> Measure:
        return lambda name, task: run_spark(name, task, spark, self._jars)

    def _try(
        self, name: str, topics: Topics, measure: Measure, *, has_dead_letters: bool
    ) -> None:
        """Measure one system, and keep its number or why there is none."""
        try:
            self._runs.append(self._measured(name, topics, measure, has_dead_letters))
        except NoNumber as error:
            self._failures[name] = str(error)
            self._show(f"{name}: no number: {error}", style="red")

    def _measured(
        self, name: str, topics: Topics, measure: Measure, has_dead_letters: bool
    ) -> SystemRun:
        """Run one system into a lake of its own, which is removed after it was counted.

        Raises:
            NoNumber: it failed, or its tables are not what the broker holds.
        """
        prefix = f"peers/{self._name}/{uuid.uuid4().hex[:6]}"
        store = self._minio.environment(prefix)
        lake = store.pop("LAKE_URI")
        ranges = {topic: self._kafka.offset_ranges(topic) for topic in topics.names}
        ends = {topic: {part: end for part, (_, end) in found.items()}
                for topic, found in ranges.items()}
        task = Task(self._kafka.bootstrap, ends, topics.messages, self._plan.interval_s, store,
                    lake, self._folder)
        try:
            found = measure(name, task)
            counted = count_offsets(
                lake, self._minio.storage_options(), ranges,
                topics.malformed if has_dead_letters else None)
        finally:
            self._wipe(prefix)
        faults = report.faults_of(topics.messages, counted)
        if faults:
            raise NoNumber(f"not complete: {'; '.join(faults)}")
        self._show(report.line_of(found))
        return found

    def _smallest_heap(self, topics: Topics) -> None:
        """Find the first heap with which Spark gets through a trial and then through all."""
        trial = self._fill("trial", self._plan.trial_messages)
        for heap in SMALL_HEAPS:
            for stage, some in (("trial", trial), ("all", topics)):
                name = report.spark_name(heap)
                try:
                    found = self._measured(name, some, self._spark(Spark(heap)), True)
                except NoNumber as error:
                    self._note(HeapTry(heap, some.messages, str(error)))
                    break
                self._note(HeapTry(heap, some.messages, ""))
                if stage == "all":
                    self._runs.append(found)
                    return
        self._failures[report.SPARK_SMALL] = f"none of {', '.join(SMALL_HEAPS)} is enough"

    def _note(self, tried: HeapTry) -> None:
        self._tries.append(tried)
        self._show(report.line_of_try(tried))

    def _wipe(self, prefix: str) -> None:
        client = self._minio.client()
        names = [DeleteObject(str(entry.object_name)) for entry in client.list_objects(
            self._minio.bucket, prefix=f"{prefix}/", recursive=True)]
        for error in client.remove_objects(self._minio.bucket, names):
            raise ServiceError(f"{prefix} could not be removed: {error}")


def _must_have_disk(folder: Path, messages: int) -> None:
    """Raise `ServiceError` where what all this writes would not fit beside the folder."""
    needed, free = messages * DISK_BYTES_PER_MESSAGE, shutil.disk_usage(folder).free
    if free < needed:
        raise ServiceError(
            f"{needed / 1e9:.1f} GB of disk are needed at {folder.parent}, {free / 1e9:.1f} GB "
            "are free; take fewer --messages, or another TMPDIR")


def run(plan: Plan, console: Console) -> bool:
    """Compare, print the page, write the files; whether every system has a number.

    Raises:
        LoadError, ServiceError, InstallationError: nothing is written then.
    """
    def say(line: str) -> None:
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)

    provider = ServiceProvider(say)
    try:
        say("Getting Kafka, MinIO and Spark")
        found = Run(plan, console, provider).compare()
    finally:
        provider.close()
    if report.SERVICE in found.failures:
        return False
    page = report.as_markdown(found)
    console.print(page, highlight=False, markup=False, soft_wrap=True)
    output = plan.output or (ROOT if plan.is_full else None)
    if output is None:
        say("Not a full comparison, so nothing is written; --output names a folder.")
    else:
        _write(output, found, page, say)
    return not found.failures


def _write(output: Path, found: Comparison, page: str, say: Callable[[str], None]) -> None:
    stem = f"{found.facts.at[:10]}-{found.facts.commit}-peers"
    files = {
        output / "docs" / "benchmarks-peers.md": page,
        output / "docs" / "images" / "bench-peers.svg": bars.svg(report.panels(found)),
        output / "bench" / "results" / f"{stem}.json": report.as_json(found)}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        say(f"Written: {path}")
