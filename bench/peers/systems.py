"""The systems that are compared, each started on the same topics and watched in the same way.

From the start of the first process to the last commit: seconds, CPU of all processes, and the
highest sum of their memory. What they wrote is judged elsewhere; every wait is bounded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import installation
from bench.installation import ROOT
from bench.peers import tools
from bench.processes import Family
from bench.product import Product, ProductError, committed, measured_environment
from bench.sampler import Sampler

READY_TIMEOUT_S = 180.0
POLL_S = 0.25
END_TIMEOUT_S = 30.0
START_ALLOWANCE_S = 600.0
RATE_MIN = 8_000.0
"""Messages per second: who is slower than this, start not counted, is given up."""
REASON_CHARACTERS_MAX = 160
JOB_THREADS = 2


class NoNumber(Exception):
    """A system failed, was not done in time, or its tables are not complete; in one line."""


@dataclass(frozen=True, slots=True)
class SystemRun:
    """What one system took for `messages`.

    wall_s: from the start of its first process to its last commit, by its own clock.
    cpu_s: user and system time of all its processes until then, ended children included.
    peak_bytes: the highest sum of the PSS of all its processes.
    """

    name: str
    messages: int
    wall_s: float
    cpu_s: float
    peak_bytes: int

    @property
    def per_second(self) -> float:
        """Messages per second, the start included."""
        return self.messages / self.wall_s

    @property
    def cpu_us(self) -> float:
        """CPU microseconds per message, the start included."""
        return self.cpu_s * 1e6 / self.messages


@dataclass(frozen=True, slots=True)
class Task:
    """What every system is given.

    ends: topic -> partition -> the offset behind its last message.
    store: environment of a client of the store; lake: an s3:// URI of this system alone.
    """

    bootstrap: str
    ends: Mapping[str, Mapping[int, int]]
    messages: int
    interval_s: float
    store: Mapping[str, str]
    lake: str
    folder: Path

    @property
    def topics(self) -> Sequence[str]:
        """Their names."""
        return list(self.ends)

    @property
    def limit_s(self) -> float:
        """How long a system may take."""
        return limit_s(self.messages)


def limit_s(messages: int) -> float:
    """How long a system may take for so many messages, its start included."""
    return START_ALLOWANCE_S + messages / RATE_MIN


def run_service(name: str, task: Task) -> SystemRun:
    """The service, as its operator starts it.

    Raises:
        NoNumber: it was not done in time, or did not end as it should.
    """
    environ = {
        **task.store, "LAKE_URI": task.lake, "KAFKA_BOOTSTRAP_SERVERS": task.bootstrap,
        "KAFKA_TOPICS": ",".join(task.topics), "KAFKA_GROUP_ID": "bench-peers-service",
        "BATCH_INTERVAL_SECONDS": f"{task.interval_s:g}"}
    try:
        with Product(environ, len(task.topics), task.folder) as product:
            family, deadline = Family(product.pid), time.monotonic() + task.limit_s
            with Sampler(product.pid) as sampler:
                product.wait_ready(READY_TIMEOUT_S)
                metrics = product.metrics()
                while committed(metrics) < task.messages:
                    if time.monotonic() > deadline:
                        raise NoNumber(f"not done within {task.limit_s:.0f} s")
                    product.must_run()
                    time.sleep(POLL_S)
                    metrics = product.metrics()
                cpu_s = sum(family.cpu_s().values())
            code = product.stop()
    except ProductError as error:
        raise NoNumber(str(error)) from error
    restarts = int(metrics["bronze_worker_restarts_total"])
    if code or restarts:
        raise NoNumber(f"ended with {code}, its workers were started {restarts} times anew")
    return SystemRun(
        name, task.messages,
        metrics["max:bronze_last_commit_timestamp_seconds"] - product.started_at, cpu_s,
        sampler.seen.peak)


def run_loop(name: str, task: Task) -> SystemRun:
    """The plain loop, on the libraries that the service runs on; see `_run_job`."""
    command = [
        str(installation.python()), "-m", "bench.peers.loop_job", "--bootstrap", task.bootstrap,
        "--group", "bench-peers-loop", "--lake", task.lake, "--topics", ",".join(task.topics),
        "--messages", str(task.messages), "--interval", f"{task.interval_s:g}"]
    return _run_job(name, task, command, {**measured_environment(), **task.store},
                    _folder_for(task, "loop"))


@dataclass(frozen=True, slots=True)
class Spark:
    """How Spark is run.

    heap: its size, as `-Xmx` takes it.
    is_cached: whether a batch is cached between its two writes or read from Kafka twice.
    """

    heap: str
    is_cached: bool = False


def run_spark(name: str, task: Task, spark: Spark, jars: Path) -> SystemRun:
    """Spark's job; see `_run_job`."""
    folder = _folder_for(task, "spark")
    return _run_job(
        name, task, spark_command(task, spark, jars, folder),
        tools.spark_environment({**measured_environment(), **task.store}), folder)


def _folder_for(task: Task, kind: str) -> Path:
    folder = task.folder / f"{kind}-{time.monotonic_ns()}"
    folder.mkdir()
    return folder


def _run_job(
    name: str, task: Task, command: Sequence[str], environ: Mapping[str, str], folder: Path
) -> SystemRun:
    """Run a job that prints the time of its last commit and then waits to be killed.

    Raises:
        NoNumber: it ended, or was not done in time.
    """
    told, errors = folder / "job.out", folder / "job.err"
    with told.open("wb") as out, errors.open("wb") as err:
        started_at = time.time()
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=out, stderr=err,
            start_new_session=True, env={**environ, "PYTHONPATH": str(ROOT)})
    try:
        family, deadline = Family(process.pid), time.monotonic() + task.limit_s
        with Sampler(process.pid) as sampler:
            while not told.read_bytes().endswith(b"\n"):
                if process.poll() is not None:
                    text = errors.read_text(errors="replace")
                    raise NoNumber(reason_in(text) or f"ended with {process.returncode}")
                if time.monotonic() > deadline:
                    raise NoNumber(f"not done within {task.limit_s:.0f} s")
                time.sleep(POLL_S)
            cpu_s = sum(family.cpu_s().values())
    finally:
        _end(process)
    done = json.loads(told.read_text().splitlines()[-1])
    return SystemRun(name, task.messages, done["at"] - started_at, cpu_s, sampler.seen.peak)


def spark_command(task: Task, spark: Spark, jars: Path, folder: Path) -> list[str]:
    """The job with everything it is given; its temporary files stay in the folder."""
    return [
        str(tools.PYTHON), "-m", "bench.peers.spark_job", "--bootstrap", task.bootstrap,
        "--lake", task.lake.replace("s3://", "s3a://", 1), "--heap", spark.heap,
        "--threads", str(JOB_THREADS), "--settings", json.dumps(spark_settings(task, folder)),
        "--ends", json.dumps(task.ends), "--jars", str(jars),
        "--checkpoints", str(folder / "checkpoints"), "--interval", f"{task.interval_s:g}",
        *(["--cached"] if spark.is_cached else [])]


def spark_settings(task: Task, folder: Path) -> dict[str, str]:
    """What is set besides heap, jars and Delta's own two settings.

    The three numbers of partitions are 200, 50 and as many as there are cores by default: made
    for a cluster, and on two cores only slower.
    """
    s3a = "spark.hadoop.fs.s3a"
    return {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(folder / "local"),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": str(JOB_THREADS),
        "spark.databricks.delta.snapshotPartitions": str(JOB_THREADS),
        f"{s3a}.endpoint": task.store["AWS_ENDPOINT_URL"],
        f"{s3a}.endpoint.region": task.store.get("AWS_REGION", "us-east-1"),
        f"{s3a}.path.style.access": "true",
        f"{s3a}.connection.ssl.enabled": str(
            task.store["AWS_ENDPOINT_URL"].startswith("https")).lower(),
        f"{s3a}.buffer.dir": str(folder / "s3a"),
    }


def reason_in(text: str) -> str:
    """The line of a log that says best why its writer ended; empty where it says nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for word in ("OutOfMemoryError", "INVALID_DRIVER_MEMORY", "Exception: ", "Error: "):
        for line in lines:
            if word in line:
                return line[:REASON_CHARACTERS_MAX]
    return lines[-1][:REASON_CHARACTERS_MAX] if lines else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a job with its Java, which is in the same process group."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(END_TIMEOUT_S)


