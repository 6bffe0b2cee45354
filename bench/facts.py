"""What a number means nothing without: the machine, the versions, the commit, the moment."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import confluent_kafka

from bench.product import ROOT
from tests.services.containers import MINIO_IMAGE
from tests.services.install import KAFKA_VERSION, MINIO_VERSION

LIBRARIES = ("confluent-kafka", "deltalake", "pyarrow", "obstore", "msgspec")
GIT_TIMEOUT_S = 10
OUTPUTS = ("docs/benchmarks.md", "docs/benchmarks-peers.md", "docs/images", "bench/results")
"""Written by the benchmark itself, so they do not make a checkout dirty."""
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one run; `load` is the machine's one-minute load average before it."""

    at: str
    commit: str
    is_dirty: bool
    command: str
    cpu: str
    cores: int
    memory: str
    kernel: str
    load: float
    versions: dict[str, str]


def gather(command: str, given_kafka: bool, given_minio: bool, is_container: bool) -> Facts:
    """Look at this machine and this checkout."""
    minio = MINIO_IMAGE[1] if is_container else MINIO_VERSION
    versions = {
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        "librdkafka": confluent_kafka.libversion()[0],
        "Kafka": "given" if given_kafka else KAFKA_VERSION,
        "MinIO": "given" if given_minio else minio,
    }
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Facts(
        datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), _git("rev-parse", "--short", "HEAD"),
        bool(_git("status", "--porcelain", "--", ".", *(f":!{path}" for path in OUTPUTS))),
        command, _cpu_model(), len(os.sched_getaffinity(0)), f"{pages / GIB:.1f} GiB",
        f"{platform.system()} {platform.release()}", round(os.getloadavg()[0], 2), versions)


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True,
            timeout=GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
