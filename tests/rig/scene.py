"""One run of the service as a test sets it: topics, a ledger, a lake, and the final judgement.

    scene = Scene(kafka, minio, topic_names(3), lake_prefix, partitions=2)
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(1000)
        scene.wait_landed(service, 30)
        assert service.terminate() == 0
    scene.judge()

The service may reach the store through a proxy; the scene itself always goes there directly.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence

import psutil

from tests.rig.checker import check, check_log, group_offsets_equal_txn
from tests.rig.cycles_checker import TABLE as CYCLES
from tests.rig.cycles_checker import check_cycles
from tests.rig.lake import (
    RECORDS, Kept, bronze_table, list_numbers, open_lake, read_numbered, table_uri,
)
from tests.rig.ledger import Ledger
from tests.rig.producer import LoadProducer
from tests.rig.readers import DeltalakeReader, TableMissing
from tests.rig.report import Report
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

START_S = 40
"""From start to healthy, on a loaded machine; about three seconds on a quiet one."""
ORPHANS_END_S = 5
"""How soon workers and sidecar must have ended after the supervisor's SIGKILL."""
LANDING_POLL_S = 0.15
KILL_WAIT_S = 10

MALFORMED_FRACTION = 0.005
"""A thousandth of each of the five kinds."""

QUICK = {
    "BATCH_INTERVAL_SECONDS": "1",
    "STORE_TIMEOUT_SECONDS": "2",
    "CYCLE_DEADLINE_SECONDS": "10",
}
"""Settings under which a case of a fault takes seconds; every promise holds as with others."""

SAMPLE = re.compile(r"(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Scene:
    """Topics of its own on a shared broker, and a lake of its own in a shared bucket.

    Args:
        names: of the topics, which are created.
        prefix: of the lake in the bucket.
        store_endpoint: what the service is given instead of the store's own address.
        settings: of the service, on top of `QUICK`.

    Attributes:
        ledger: what all producers of the scene wrote.
    """

    def __init__(
        self,
        kafka: KafkaService,
        minio: MinioService,
        names: Sequence[str],
        prefix: str,
        *,
        partitions: int,
        store_endpoint: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.topics = list(names)
        self.partitions = partitions
        self.ledger = Ledger()
        self.lake_uri = minio.lake_uri(prefix)
        self.options = minio.storage_options()
        self.group = f"group-{prefix}"
        self._bootstrap = kafka.bootstrap
        self._lake = open_lake(self.lake_uri, self.options)
        self._kept = Kept()
        self.environ = {
            **minio.environment(prefix),
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "KAFKA_TOPICS": ",".join(self.topics),
            "KAFKA_GROUP_ID": self.group,
            **QUICK,
            **(settings or {}),
        }
        if store_endpoint is not None:
            self.environ["AWS_ENDPOINT_URL"] = store_endpoint
        for topic in self.topics:
            kafka.create_topic(topic, partitions)

    def service(self, **settings: str) -> Service:
        """A service on the scene's topics and lake; not started yet."""
        return Service({**self.environ, **settings}, len(self.topics))

    def producer(self, seed: int | str = 1) -> LoadProducer:
        """A producer that enters what it writes in the scene's ledger; one at a time."""
        return LoadProducer(
            self._bootstrap,
            self.topics,
            self.partitions,
            seed,
            ledger=self.ledger,
            malformed_fraction=MALFORMED_FRACTION,
        )

    # Looking at the lake

    def positions(self, topic: str) -> dict[int, int | None]:
        """Per partition the position in the bronze table at this moment; {} without a table."""
        reader = DeltalakeReader(self.options)
        try:
            table = reader.table(table_uri(self.lake_uri, bronze_table(topic)))
        except TableMissing:
            return {}
        return {
            number: table.transaction_version(f"bronze/{topic}/{number}")
            for number in range(self.partitions)
        }

    def all_positions(self) -> dict[str, dict[int, int | None]]:
        """Positions of all topics, one after the other."""
        return {topic: self.positions(topic) for topic in self.topics}

    def record_numbers(self) -> list[int]:
        """Numbers of the records in the lake's log at this moment."""
        return list_numbers(self._lake, RECORDS)

    def is_landed(self, topic: str) -> bool:
        """Whether the bronze table's positions are at the ends of what was written."""
        ends = {number: len(part) for number, part in self.ledger.partitions(topic)}
        return self.positions(topic) == ends

    def wait_landed(
        self, service: Service, timeout_s: float, topics: Sequence[str] | None = None
    ) -> None:
        """Wait until everything in the ledger is visible; its producer must not be at work."""
        waiting = list(self.topics if topics is None else topics)

        def is_empty() -> bool:
            waiting[:] = [topic for topic in waiting if not self.is_landed(topic)]
            return not waiting

        wait_until(
            is_empty,
            timeout_s,
            lambda: f"all landed, missing: {waiting}\n{service.health()}\n{service.log_tail()}",
            LANDING_POLL_S,
        )

    def remember_records(self) -> None:
        """For the judgement of a run that is long enough for the first ones to be trimmed."""
        read_numbered(self._lake, RECORDS, self._kept.records)

    # The judgement

    def judge(self, *, readers: Sequence[str] = ("deltalake", "duckdb")) -> Report:
        """After a clean stop: rows, commits, records and group offsets, all of it at once.

        Raises:
            AssertionError: something is wrong, or there was nothing to look at.
        """
        report = check(self.ledger, self.lake_uri, self.options, self.topics, readers)
        report.merge(check_log(
            self.lake_uri, self.options, self.topics, ledger=self.ledger, kept=self._kept))
        report.merge(
            group_offsets_equal_txn(
                self._bootstrap,
                self.group,
                self.lake_uri,
                self.options,
                dict.fromkeys(self.topics, self.partitions),
            )
        )
        if list_numbers(self._lake, f"{CYCLES}/_delta_log"):
            # A keeper has come to work; most scenes are over before.
            report.merge(check_cycles(self.lake_uri, self.options, caught_up=False))
        report.assert_ok()
        rows = self.ledger.rows()
        assert rows > 0
        for reader in readers:
            assert report.checked[f"rows by {reader}"] == rows
        assert report.checked["group offsets"] == len(self.topics) * self.partitions
        return report

    def judge_halfway(self) -> None:
        """At any moment: whatever is visible was decided, once and as a whole per table."""
        check_log(
            self.lake_uri, self.options, self.topics, settled=False, ledger=self.ledger
        ).assert_ok()


def metric(service: Service, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have the given labels.

    Raises:
        AssertionError: there is no such sample, so that a misspelt name cannot pass for zero.
    """
    _, body = service.get("/metrics")
    values = []
    for line in body.decode().splitlines():
        match = SAMPLE.fullmatch(line)
        if match and match["name"] == name:
            found = dict(LABEL.findall(match["labels"] or ""))
            if labels.items() <= found.items():
                values.append(float(match["value"]))
    assert values, f"no sample of {name} {labels}"
    return sum(values)


def kill(pid: int) -> None:
    """SIGKILL, and return once the process has ended; one that ended before is no error."""
    try:
        process = psutil.Process(pid)
        os.kill(pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return

    def has_ended() -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(has_ended, KILL_WAIT_S, f"process {pid} ended after SIGKILL")


def forkserver_pid(service: Service) -> int | None:
    """The pid of the process that workers are forked from."""
    for pid in service.all_pids():
        try:
            command = " ".join(psutil.Process(pid).cmdline())
            children = psutil.Process(pid).children()
        except psutil.Error:
            continue
        if "forkserver" in command and children:
            return pid
    return None
