"""One measurement from the first service started to the files written."""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import report
from bench.compare import PeerRun, run_peer
from bench.facts import Facts, gather
from bench.lake import Counted, count_offsets
from bench.load import Load
from bench.phases import Drain, Idle, Steady, drain, idle, steady
from bench.product import ROOT, Product
from tests.services import KafkaService, MinioService, ServiceProvider
from tests.services.instances import LocalProcess

TOPICS, PARTITIONS = 8, 4
KEEP_MAX_S = 3600.0
FULL_MESSAGES = 2_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure; `output` None means: the repository after a full run, else nowhere."""

    messages: int
    interval_s: float
    idle_s: float
    steady_s: float
    steady_per_second: int
    with_peer: bool
    keep: bool
    is_full: bool
    output: Path | None
    command: str


class Incomplete(Exception):
    """The tables do not hold what the broker holds, or the service did what it must not do."""


class Run:
    """A measurement on one Kafka and one MinIO."""

    def __init__(self, plan: Plan, console: Console, provider: ServiceProvider) -> None:
        self._plan, self._console = plan, console
        self._kafka: KafkaService = provider.kafka()
        self._minio: MinioService = provider.minio()
        self._facts: Facts = gather(
            plan.command, provider.has_given_kafka(), provider.has_given_minio(),
            not isinstance(self._minio.instance, LocalProcess))
        self._name = uuid.uuid4().hex[:6]
        self._topics = [f"bench-{self._name}-{number}" for number in range(TOPICS)]
        self._folder = Path(tempfile.mkdtemp(prefix="bronze-bench-"))

    def measure(self) -> report.Measurement:
        """Every step in order; raises `Incomplete` before any number counts."""
        try:
            load = self._fill()
            # First, so that it drains the same messages: the service gets more afterwards.
            peer = self._measure_peer(load.total) if self._plan.with_peer else None
            found = self._measure_service(load)
            counted = self._count("service", dict(load.malformed))
            return report.Measurement(
                self._facts, TOPICS, PARTITIONS, load.mean_bytes, self._plan.interval_s,
                self._plan.steady_per_second, *found, counted.rows, counted.dead_letters, peer)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def addresses(self) -> str:
        """Where to look while the services are kept."""
        return (f"Kafka {self._kafka.bootstrap}, topics {self._topics[0]} ...; "
                f"MinIO {self._minio.endpoint}, tables below "
                f"{self._minio.lake_uri(self._prefix('service'))}")

    def _prefix(self, writer: str) -> str:
        return f"bench/{self._name}/{writer}"

    def _fill(self) -> Load:
        for topic in self._topics:
            self._kafka.create_topic(topic, PARTITIONS)
        load = Load(self._kafka.bootstrap, self._topics, PARTITIONS)
        with self._step("produce", self._plan.messages) as tick:
            load.produce(self._plan.messages, tick)
        return load

    def _measure_service(self, load: Load) -> tuple[Drain, Idle, Steady]:
        plan = self._plan
        environ = {
            **self._minio.environment(self._prefix("service")),
            "KAFKA_BOOTSTRAP_SERVERS": self._kafka.bootstrap,
            "KAFKA_TOPICS": ",".join(self._topics),
            "KAFKA_GROUP_ID": f"bench-{self._name}",
            "BATCH_INTERVAL_SECONDS": f"{plan.interval_s:g}"}
        with Product(environ, TOPICS, self._folder) as product:
            with self._step("drain", plan.messages) as tick:
                drained = drain(product, load.total, tick)
            with self._step("idle (s)", int(plan.idle_s)) as tick:
                rested = idle(product, plan.idle_s, self._count_objects, tick)
            with self._step("steady", int(plan.steady_s * plan.steady_per_second)) as tick:
                streamed = steady(product, load, plan.steady_per_second, plan.steady_s, tick)
            code = product.stop()
        if code or drained.worker_restarts:
            raise Incomplete(f"the service ended with {code}, its workers were started "
                             f"{drained.worker_restarts} times anew; no run to count")
        if rested.commits or rested.records or rested.objects_written:
            raise Incomplete(f"while idle it wrote {rested.commits} commits, {rested.records} "
                             f"records, {rested.objects_written} objects; it must write nothing")
        return drained, rested, streamed

    def _measure_peer(self, messages: int) -> PeerRun:
        environ = self._minio.environment(self._prefix("peer"))
        with self._step("peer", None):
            found = run_peer(
                self._kafka.bootstrap, self._topics, messages, environ.pop("LAKE_URI"), environ,
                self._plan.interval_s, self._folder)
        self._count("peer", None)
        return found

    def _count(self, writer: str, malformed: dict[str, int] | None) -> Counted:
        with self._step(f"count offsets of the {writer}", None):
            counted = count_offsets(
                self._minio.lake_uri(self._prefix(writer)), self._minio.storage_options(),
                {topic: self._kafka.offset_ranges(topic) for topic in self._topics}, malformed)
        if counted.faults:
            raise Incomplete("\n".join(counted.faults))
        return counted

    def _count_objects(self) -> int:
        prefix = f"{self._prefix('service')}/"
        return sum(1 for _ in self._minio.client().list_objects(
            self._minio.bucket, prefix=prefix, recursive=True))

    @contextmanager
    def _step(self, name: str, goal: int | None) -> Iterator[Callable[[int], None]]:
        """Show a step while it runs, and a line with its time when it is over."""
        began = time.monotonic()
        with Progress(
                TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), console=self._console, transient=True,
                disable=not self._console.is_terminal) as progress:
            bar = progress.add_task(name, total=goal)
            yield lambda done: progress.update(bar, completed=done)
        self._console.print(f"{name:<28} {time.monotonic() - began:6.1f} s", highlight=False)


def run(plan: Plan, console: Console) -> None:
    """Measure, print the page, write the files.

    Raises:
        Incomplete, ProductError, LoadError, ServiceError: nothing is written then.
    """
    provider = ServiceProvider(lambda line: console.print(line, style="dim", highlight=False))
    try:
        console.print("Getting Kafka and MinIO", style="dim")
        one = Run(plan, console, provider)
        found = one.measure()
        page = report.as_markdown(found)
        console.print(page, highlight=False, markup=False, soft_wrap=True)
        _write(plan, found, page, console)
        if plan.keep:
            console.print(f"Kept until Ctrl-C: {one.addresses()}")
            time.sleep(KEEP_MAX_S)
    finally:
        provider.close()


def _write(plan: Plan, found: report.Measurement, page: str, console: Console) -> None:
    output = plan.output or (ROOT if plan.is_full else None)
    if output is None:
        console.print("Not a full measurement, so nothing is written; --output names a folder.")
        return
    date = found.facts.at[:10]
    files = {
        output / "docs" / "benchmarks.md": page,
        output / "bench" / "results" / f"{date}-{found.facts.commit}.json": report.as_json(found)}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        console.print(f"Written: {path}", highlight=False)
