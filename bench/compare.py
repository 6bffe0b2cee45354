"""Runs the peer over the same topics into a lake of its own, and measures it alike."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.product import ROOT, ProductError, clean_environment
from bench.sampler import Sampler, Watched

PEER_TIMEOUT_S = 900.0
POLL_S = 0.25
KILL_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class PeerRun:
    """As `Drain`, of one process: seconds, CPU in seconds, from its own account."""

    messages: int
    start_s: float
    committed_s: float
    start_cpu_s: float
    cpu_s: float
    memory: Watched


def run_peer(
    bootstrap: str, topics: Sequence[str], messages: int, lake_uri: str,
    store_environ: Mapping[str, str], interval_s: float, folder: Path,
) -> PeerRun:
    """Copy all messages of the topics with the peer.

    Raises:
        ProductError: it failed, or was not done in time.
    """
    command = [
        sys.executable, "-m", "bench.peer", "--bootstrap", bootstrap, "--group", "bench-peer",
        "--lake", lake_uri, "--topics", ",".join(topics), "--messages", str(messages),
        "--interval", f"{interval_s:g}"]
    told, errors = folder / "peer.out", folder / "peer.err"
    with told.open("wb") as out, errors.open("wb") as err:
        started_at = time.time()
        process = subprocess.Popen(
            command, cwd=ROOT, env={**clean_environment(), **store_environ},
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
    try:
        with Sampler(process.pid) as sampler:
            process.wait(PEER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ProductError(f"the peer was not done within {PEER_TIMEOUT_S:g} s") from None
    finally:
        process.kill()
        process.wait(KILL_WAIT_S)
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    if process.returncode or len(lines) != 2:
        raise ProductError(f"the peer failed: {errors.read_text(errors='replace')[-2000:]}")
    ready, done = lines
    return PeerRun(
        done["written"], ready["at"] - started_at, done["at"] - ready["at"], ready["cpu_s"],
        done["cpu_s"] - ready["cpu_s"], sampler.seen)
