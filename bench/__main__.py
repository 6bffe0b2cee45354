"""`python -m bench`: arguments in, a measurement out."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from bench.load import LoadError
from bench.product import ProductError
from bench.run import FULL_MESSAGES, Incomplete, Plan, run
from tests.services import ServiceError, ServiceUnavailable

DESCRIPTION = """\
Measure the service on a real Kafka and a real MinIO: draining a backlog from 8 topics
of 4 partitions, doing nothing, and a steady stream; and a simple script beside it.

steps, each bounded in time:
  produce   JSON messages of about 210 bytes, one in a thousand malformed
  peer      bench/peer.py, a simple script, drains the same messages into its own tables
  drain     `python -m supervisor --workers 8` until every message is committed:
            wall time, messages/s, CPU by kind of process, peak memory (PSS) by process
  idle      20 s without messages: CPU, memory, and that nothing is written
  steady    8,000 messages/s for 40 s: CPU and memory
  count     every offset of every partition must be in the tables exactly once, dead
            letters included, also for the script; otherwise no number counts"""

EPILOG = """\
A full run (no --quick, at least 2,000,000 messages) takes about four minutes and writes
docs/benchmarks.md and bench/results/<date>-<commit>.json. Measure on a machine that does
nothing else: Kafka and MinIO share its cores already.

Kafka and MinIO come from TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_S3_ENDPOINT_URL (with
TEST_S3_ACCESS_KEY_ID and TEST_S3_SECRET_ACCESS_KEY) where set, else from containers, else
they are installed and run as processes; what is started here is removed at the end.

exit codes: 0 measured, 1 something failed or is not complete, 2 wrong arguments,
3 no Kafka or no MinIO to be had, 130 interrupted"""

QUICK_IDLE_S, QUICK_STEADY_S, QUICK_MESSAGES = 5.0, 10.0, 100_000
IDLE_S, STEADY_S = 20.0, 40.0
EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 1, 3, 130


def parse(argv: list[str]) -> Plan:
    """The plan that the arguments describe; raises SystemExit as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=_positive, metavar="N",
                        help=f"how many to drain ({FULL_MESSAGES}; {QUICK_MESSAGES} with --quick)")
    parser.add_argument("--interval", type=float, default=10.0, metavar="S",
                        help="BATCH_INTERVAL_SECONDS of the service and of the script (10)")
    parser.add_argument("--rate", type=_positive, default=8000, metavar="N",
                        help="messages per second of the steady stream (8000)")
    parser.add_argument("--quick", action="store_true",
                        help="short phases, to see that everything works")
    parser.add_argument("--skip-peer", action="store_true", help="leave the script out")
    parser.add_argument("--keep", action="store_true",
                        help="keep Kafka and MinIO afterwards until Ctrl-C, an hour at most")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="write the files below this folder, whatever was measured")
    given = parser.parse_args(argv)
    if not 0.01 <= given.interval <= 600:
        parser.error("--interval must lie between 0.01 and 600")
    messages = given.messages or (QUICK_MESSAGES if given.quick else FULL_MESSAGES)
    return Plan(
        messages, given.interval, QUICK_IDLE_S if given.quick else IDLE_S,
        QUICK_STEADY_S if given.quick else STEADY_S, given.rate, not given.skip_peer, given.keep,
        not given.quick and messages >= FULL_MESSAGES, given.output,
        shlex.join(["python", "-m", "bench", *argv]))


def _positive(text: str) -> int:
    number = int(text.replace("_", "").replace(",", ""))
    if number <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def main() -> int:
    """Measure; the exit codes are in the help."""
    plan = parse(sys.argv[1:])
    console = Console()
    try:
        run(plan, console)
    except ServiceUnavailable as error:
        console.print(f"No Kafka or no MinIO to be had: {error}", style="red", markup=False)
        return EXIT_UNAVAILABLE
    except (Incomplete, ProductError, LoadError, ServiceError) as error:
        console.print(f"Nothing was measured: {error}", style="red", markup=False)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
