"""What a scenario is given: the services, a size, and ground of its own to measure on."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import TracebackType

from pyarrow import fs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.commits import Follower
from bench.lake import Counted, count_offsets
from bench.load import Load, Tick
from bench.product import Product, committed
from bench.watch import metrics_of
from tests.services import KafkaService, MinioService, ServiceProvider

TOPICS, PARTITIONS = 8, 4
KEEPER_INTERVAL_S = 60.0
"""The service's default."""


class Incomplete(Exception):
    """The tables do not hold what the broker holds, or the service did what it must not do."""


@dataclass(slots=True)
class Surroundings:
    """What all scenarios of a run share.

    is_quick: short phases, to see that everything works; such numbers prove nothing.
    """

    console: Console
    provider: ServiceProvider
    folder: Path
    is_quick: bool
    messages: int | None
    memory_limit_mb: int

    def size(self, full: float, quick: float) -> float:
        """How long or how much, by the kind of run."""
        return quick if self.is_quick else full

    def ground(
        self, topics: int = TOPICS, partitions: int = PARTITIONS,
        rota: Sequence[int] | None = None, minio: MinioService | None = None,
    ) -> Ground:
        """New topics and an empty lake; `minio` is the shared one unless another is given."""
        return Ground(self, topics, partitions, rota, minio or self.provider.minio())

    @contextmanager
    def step(self, name: str, goal: float | None) -> Iterator[Tick]:
        """Show a step while it runs, and a line with its time when it is over."""
        began = time.monotonic()
        with Progress(
                TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), console=self.console, transient=True,
                disable=not self.console.is_terminal) as progress:
            bar = progress.add_task(name, total=goal)
            yield lambda done: progress.update(bar, completed=done)
        self.console.print(f"  {name:<36} {time.monotonic() - began:6.1f} s", highlight=False)


class Ground:
    """Topics and a lake of one measurement; its topics are deleted when the block is left.

    Attributes:
        load: what sends to the topics.
        landed: messages that services which have ended here have committed.
    """

    def __init__(
        self, around: Surroundings, topics: int, partitions: int, rota: Sequence[int] | None,
        minio: MinioService,
    ) -> None:
        self.around, self.minio = around, minio
        self.kafka: KafkaService = around.provider.kafka()
        self.name = f"bench-{uuid.uuid4().hex[:6]}"
        self.topics = [f"{self.name}-{number}" for number in range(topics)]
        self.landed = 0
        for topic in self.topics:
            self.kafka.create_topic(topic, partitions)
        self.load = Load(self.kafka.bootstrap, self.topics, partitions, rota)

    def __enter__(self) -> Ground:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for topic in self.topics:
            self.kafka.delete_topic(topic)

    @property
    def missing(self) -> int:
        """Messages sent that no service which has ended has committed."""
        return self.load.total - self.landed

    def fill(self, messages: int) -> None:
        """Produce a backlog."""
        with self.around.step("produce", messages) as tick:
            self.load.produce(messages, tick)

    def product(
        self, interval_s: float, memory_limit_mb: int | None = None,
        keeper_interval_s: float = KEEPER_INTERVAL_S,
    ) -> Product:
        """The service on this ground, not started."""
        environ = {
            **self.minio.environment(self.name),
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "KAFKA_TOPICS": ",".join(self.topics),
            "KAFKA_GROUP_ID": self.name,
            "BATCH_INTERVAL_SECONDS": f"{interval_s:g}",
            "KEEPER_INTERVAL_SECONDS": f"{keeper_interval_s:g}",
            "MEMORY_LIMIT_MB": str(memory_limit_mb or self.around.memory_limit_mb)}
        return Product(environ, len(self.topics), self.around.folder)

    def finish(self, product: Product) -> None:
        """Stop a service that has done its work.

        Raises:
            Incomplete: a worker had been started anew, or its end was not clean.
        """
        metrics = metrics_of(product)
        restarts = int(metrics["bronze_worker_restarts_total"])
        self.landed += committed(metrics)
        code = product.stop()
        if code or restarts:
            raise Incomplete(f"the service ended with {code}, its workers were started {restarts} "
                             f"times anew; no run to count:\n{product.log_tail()}")

    def count(self, since: date | None = None) -> Counted:
        """Hold every offset of the broker against the tables.

        Raises:
            Incomplete: something is missing, doubled or in the wrong table.
        """
        with self.around.step("count offsets", None):
            counted = count_offsets(
                self.minio.lake_uri(self.name), self.minio.storage_options(),
                {topic: self.kafka.offset_ranges(topic) for topic in self.topics},
                dict(self.load.malformed), since)
        if counted.faults:
            raise Incomplete("\n".join(counted.faults))
        return counted

    def table_folder(self, topic: str) -> str:
        """The bronze table's folder in the bucket."""
        return f"{self.name}/bronze_{topic}"

    def follow(self) -> Follower:
        """Follow the logs of all bronze tables."""
        return Follower(self.minio.client(), self.minio.bucket,
                        {topic: self.table_folder(topic) for topic in self.topics})

    def objects(self, part: str = "", counts: Callable[[str], bool] = bool) -> int:
        """How many objects lie below a part of the lake whose names count."""
        return sum(map(counts, self.object_names(part)))

    def object_names(self, part: str = "") -> list[str]:
        """All objects below a part of the lake."""
        return [str(entry.object_name) for entry in self.minio.client().list_objects(
            self.minio.bucket, prefix=f"{self.name}/{part}", recursive=True)]

    def filesystem(self) -> fs.FileSystem:
        """The bucket, as pyarrow reads it."""
        return fs.SubTreeFileSystem(self.minio.bucket, fs.S3FileSystem(
            access_key=self.minio.access_key, secret_key=self.minio.secret_key,
            region="us-east-1", scheme=self.minio.endpoint.partition(":")[0],
            endpoint_override=self.minio.endpoint.partition("//")[2]))
