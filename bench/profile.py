"""`python -m bench.profile`: where the microseconds of a draining worker go, by `perf`.

Eight workers drain a backlog; one of them is looked at, 1999 times a second of its CPU time, for a
bounded time while it reads. Writes bench/results/profile-<date>-<commit>.json, from which the page
takes its table.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.facts import gather
from bench.processes import Family, Role
from bench.product import ROOT, Product, ProductError
from bench.scenarios.drain import INTERVAL_S
from bench.stacks import Profile, fold, parse, write_profile
from bench.surroundings import Ground, Incomplete, Surroundings
from bench.tables import table
from bench.watch import READY_TIMEOUT_S, difference, metrics_of, wait_committed
from tests.services import ServiceError, ServiceProvider, ServiceUnavailable
from tests.services.instances import LocalProcess

MESSAGES = 8_000_000
SECONDS = 8.0
PER_SECOND = 1999
"""Not a divisor of anything that happens a thousand times a second."""
PERF_TIMEOUT_S = 120.0
SAMPLES_MIN = 200
EXIT_FAILED, EXIT_UNAVAILABLE = 1, 3


class PerfError(Exception):
    """perf is not there, may not look, or saw too little."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What came of looking: perf's file, the messages all workers read, their CPU seconds."""

    data: Path
    messages: int
    worker_s: float


def record(pid: int, seconds: float, data: Path) -> None:
    """Have perf look at one process.

    Raises:
        PerfError: it could not.
    """
    command = ["perf", "record", "--quiet", "-g", "-F", str(PER_SECOND), "-e", "cpu-clock",
               "-p", str(pid), "-o", str(data), "--", "sleep", f"{seconds:g}"]
    _perf(command)


def script(data: Path) -> str:
    """The samples as perf prints them."""
    return _perf(["perf", "script", "-i", str(data), "-F", "comm,tid,time,ip,sym,dso"])


def _perf(command: list[str]) -> str:
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PERF_TIMEOUT_S,
            check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PerfError(f"{' '.join(command[:2])}: {error}") from error
    if answer.returncode:
        raise PerfError(f"{' '.join(command[:2])}: {answer.stderr[-2000:]}")
    return answer.stdout


def look(ground: Ground, product: Product, seconds: float, data: Path) -> _Seen:
    """Look at one worker while all read; ends before the backlog does."""
    product.wait_ready(READY_TIMEOUT_S)
    family = Family(product.pid)
    worker = next(member.pid for member in family.members() if member.role is Role.WORKER)
    before, cpu = metrics_of(product), family.cpu_s()
    record(worker, seconds, data)
    used, after = difference(family.cpu_s(), cpu), metrics_of(product)
    read = int(after["bronze_messages_consumed_total"])
    if read >= ground.load.total:
        raise PerfError(f"the backlog of {ground.load.total:,} messages ended before perf did")
    return _Seen(data, read - int(before["bronze_messages_consumed_total"]),
                 used.get(Role.WORKER, 0.0))


def measure(around: Surroundings, messages: int, seconds: float, data: Path) -> _Seen:
    """Fill, look, drain the rest, count."""
    with around.ground() as ground:
        ground.fill(messages)
        with ground.product(INTERVAL_S) as product:
            with around.step("perf (s)", seconds):
                seen = look(ground, product, seconds, data)
            wait_committed(product, messages, lambda _count: None)
            ground.finish(product)
        ground.count()
    return seen


def run(messages: int, seconds: float, output: Path, console: Console) -> None:
    """Measure, print and write.

    Raises:
        PerfError, Incomplete, ProductError, ServiceError: nothing was measured.
    """
    if shutil.which("perf") is None:
        raise PerfError("there is no `perf` on this machine (Debian: apt install linux-perf)")
    provider = ServiceProvider(lambda line: console.print(line, style="dim", highlight=False))
    folder = Path(tempfile.mkdtemp(prefix="bronze-profile-"))
    try:
        provider.kafka()
        is_container = not isinstance(provider.minio().instance, LocalProcess)
        facts = gather("python -m bench.profile", provider.has_given_kafka(),
                       provider.has_given_minio(), is_container)
        around = Surroundings(console, provider, folder, False, None, 256)
        seen = measure(around, messages, seconds, folder / "perf.data")
        samples, shares = fold(parse(script(seen.data).splitlines()))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        provider.close()
    if samples < SAMPLES_MIN:
        raise PerfError(f"only {samples} samples, which is too few to say anything")
    profile = Profile(facts.at, facts.commit, seconds, samples,
                      seen.worker_s * 1e6 / max(1, seen.messages), shares)
    console.print(table(["Stage", "Share", "us/message"], [
        [stage, f"{100 * share:.1f} %", f"{share * profile.worker_us:.3f}"]
        for stage, share in shares]), highlight=False, markup=False)
    console.print(f"{samples} samples; {profile.worker_us:.2f} us/message. "
                  f"Written: {write_profile(profile, output)}", highlight=False, markup=False)


def main() -> int:
    """Profile; 0 done, 1 failed, 3 no Kafka or no MinIO to be had."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="the backlog's size")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long perf looks")
    parser.add_argument("--output", type=Path, default=ROOT, help="the folder to write below")
    given = parser.parse_args()
    console = Console()
    began = time.monotonic()
    try:
        run(given.messages, given.seconds, given.output, console)
    except ServiceUnavailable as error:
        console.print(f"No Kafka or no MinIO to be had: {error}", markup=False)
        return EXIT_UNAVAILABLE
    except (PerfError, Incomplete, ProductError, ServiceError) as error:
        console.print(f"Nothing was measured: {error}", markup=False)
        return EXIT_FAILED
    console.print(f"{time.monotonic() - began:.0f} s", style="dim")
    return 0


if __name__ == "__main__":
    sys.exit(main())
