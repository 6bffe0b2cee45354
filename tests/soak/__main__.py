"""`python -m tests.soak`: arguments in, hours of faults, a verdict out."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
import uuid
from pathlib import Path
from types import FrameType

from tests.rig.evidence import ROOT, commit
from tests.rig.producer import UnknownFate
from tests.rig.s3_proxy import S3Proxy
from tests.rig.scene import START_S, Scene
from tests.rig.service import Service
from tests.rig.tcp_proxy import TcpProxy
from tests.services import KafkaService, MinioService, ServiceProvider
from tests.soak.plan import Planner
from tests.soak.run import Soak
from tests.soak.strikes import World
from tests.soak.verdict import judge, keep_all, line_of, write_line

TOPICS = 8
PARTITIONS = 4
RATE_PER_S = 3_000
HEARTBEAT_LIMIT_S = "10"
"""Inside the range in which workers are frozen: some are killed for it, and some are not."""
DESCRIPTION = """\
Run the real service on a real Kafka and a real MinIO (8 topics of 4 partitions) while processes
are killed and frozen, requests fail before and after they took effect, store and broker die, and
other writers change tables; after each period wait until all is well, and at the end hold every
message against the tables. Ctrl-C ends it early, and it still judges."""
EPILOG = "exit codes: 0 nothing wrong, 1 something is wrong or the run is void"


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--hours", type=float, default=1.0, help="how long, e.g. 0.1 (1)")
    parser.add_argument("--rate", type=float, default=RATE_PER_S,
                        help=f"messages per second ({RATE_PER_S})")
    parser.add_argument("--seed", type=int, default=None, help="of plan and messages (drawn)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "evidence",
                        help="folder of the line of evidence (docs/evidence)")
    return parser.parse_args(argv)


def say(line: str) -> None:
    """Tell whoever watches."""
    print(line, flush=True)


def soak(given: argparse.Namespace, kafka: KafkaService, minio: MinioService) -> int:
    """One soak on given surroundings; gives the exit code."""
    assert kafka.proxy_upstream is not None and kafka.proxied_bootstrap is not None
    prefix = f"soak-{uuid.uuid4().hex[:8]}"
    names = [f"{prefix}-{number}" for number in range(TOPICS)]
    port = int(kafka.proxied_bootstrap.rpartition(":")[2])
    with S3Proxy(minio.endpoint) as store, TcpProxy(kafka.proxy_upstream, port) as broker:
        scene = Scene(
            kafka, minio, names, prefix, partitions=PARTITIONS, store_endpoint=store.endpoint,
            settings={
                "KAFKA_BOOTSTRAP_SERVERS": kafka.proxied_bootstrap,
                "HEARTBEAT_LIMIT_SECONDS": HEARTBEAT_LIMIT_S,
            },
        )
        with scene.service() as service, scene.producer(given.seed) as producer:
            world = World(scene, service, kafka, minio, store, broker, given.seed)
            run = Soak(scene, world, kafka, producer, Planner(given.seed), given.rate, say)

            def end_early(number: int, frame: FrameType | None) -> None:
                say("ending early, after this period")
                run.stop.set()

            signal.signal(signal.SIGINT, end_early)
            service.wait_healthy(START_S)
            failure = go(run, world, given.hours * 3600)
            return conclude(given, scene, kafka, service, world, run, failure)


def go(run: Soak, world: World, seconds: float) -> str | None:
    """Run, and heal whatever happens; gives what went wrong on the way."""
    failure = None
    try:
        run.run(seconds)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        say(failure)
    world.close()
    try:
        run.end_load()
    except UnknownFate as error:
        failure = failure or f"void: {error}"
    return failure


def conclude(
    given: argparse.Namespace, scene: Scene, kafka: KafkaService, service: Service, world: World,
    run: Soak, failure: str | None,
) -> int:
    """Judge, tell, keep; gives the exit code."""
    seconds = run.seconds()
    say(f"judging {scene.ledger.rows():,} messages")
    verdict = judge(scene, kafka, service, world, run.course)
    if failure is not None:
        verdict.wrong.insert(0, failure)
    notes = {"seed": given.seed, "rate": given.rate}
    line = line_of(verdict, scene, world, run.course, service, notes, seconds)
    say(json.dumps(json.loads(line), indent=2))
    say(f"written to {write_line(line, given.output)}")
    if verdict.wrong:
        say("\n".join(["SOMETHING IS WRONG:", *verdict.wrong]))
        say(f"kept in {keep_all(scene, service, say)}")
        return 1
    say(f"{scene.ledger.rows():,} messages, each in exactly one table, by both readers; "
        f"{sum(world.fired.values()):,} strikes in {seconds / 3600:.2f} h; "
        f"judged in {verdict.judge_s:.0f} s")
    return 0


def main(argv: list[str]) -> int:
    """Start the surroundings, soak, and remove them."""
    given = parse(argv)
    if given.seed is None:
        given.seed = random.SystemRandom().randrange(1_000_000)
    say(f"{time.strftime('%H:%M:%S')}  commit {commit()}, seed {given.seed}, {given.hours} h, "
        f"{given.rate:g} messages/s")
    provider = ServiceProvider(say)
    try:
        return soak(given, provider.own_kafka(), provider.own_minio())
    finally:
        provider.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
