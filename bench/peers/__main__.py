"""`python -m bench.peers`: arguments in, a comparison out."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from bench.installation import InstallationError
from bench.load import LoadError
from bench.peers import tools
from bench.peers.report import HEAP
from bench.peers.run import FULL_MESSAGES, SMALL_HEAPS, Plan, run
from tests.services import ServiceError, ServiceUnavailable

DESCRIPTION = f"""\
Let the service, a plain loop and Spark do the same work, one after the other: drain the
same messages from 8 topics of 4 partitions on a real Kafka into a real MinIO.

steps, each bounded in time:
  produce   JSON messages of about 210 bytes, one in a thousand malformed
  service   python -m supervisor --workers 8
  loop      bench/peers/loop_job.py: consume into lists, write_deltalake every interval
  Spark     Structured Streaming with a {HEAP} heap, local[2], a query per topic;
            once reading each batch twice, once caching it between its two writes
  heaps     Spark with {', '.join(SMALL_HEAPS)}: the first that gets through a tenth of the
            messages and then through all of them counts
After each one every offset of every partition must be in its tables exactly once, dead
letters included where it has them; otherwise it has no number."""

EPILOG = """\
A full run (no --quick, at least 10,000,000 messages) takes about half an hour and 7 GB of
disk below TMPDIR, and writes docs/benchmarks-peers.md, docs/images/bench-peers.svg and
bench/results/<date>-<commit>-peers.json. Measure on a machine that does nothing else.

Kafka and MinIO come from where `python -m bench` takes them. Spark needs Java 17 and Maven,
and PySpark in .venv-peers, where `make bench-peers` installs it.

exit codes: 0 every system has a number, 1 something failed or is not complete, 2 wrong
arguments, 3 no Kafka or no MinIO to be had, 4 Java, Maven or .venv-peers is missing,
130 interrupted"""

QUICK_MESSAGES = 200_000
TRIAL_SHARE = 10
EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_NO_SPARK, EXIT_INTERRUPTED = 1, 3, 4, 130


def parse(argv: list[str]) -> Plan | None:
    """The plan that the arguments describe, None for --check-tools; SystemExit as argparse."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=_messages, metavar="N",
                        help=f"how many to drain ({FULL_MESSAGES}; {QUICK_MESSAGES} with --quick)")
    parser.add_argument("--interval", type=float, default=10.0, metavar="S",
                        help="interval of service and loop, trigger of Spark (10)")
    parser.add_argument("--quick", action="store_true",
                        help="few messages, to see that everything works")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="write the files below this folder, whatever was measured")
    parser.add_argument("--check-tools", action="store_true",
                        help="only tell whether Java and Maven are there")
    given = parser.parse_args(argv)
    if given.check_tools:
        return None
    if not 0.01 <= given.interval <= 600:
        parser.error("--interval must lie between 0.01 and 600")
    messages = given.messages or (QUICK_MESSAGES if given.quick else FULL_MESSAGES)
    return Plan(
        messages, max(1000, messages // TRIAL_SHARE), given.interval,
        not given.quick and messages >= FULL_MESSAGES, given.output,
        shlex.join(["python", "-m", "bench.peers", *argv]))


def _messages(text: str) -> int:
    number = int(text.replace("_", "").replace(",", ""))
    if number < 1000:
        raise argparse.ArgumentTypeError("must be 1000 or more: every topic gets some")
    return number


def main() -> int:
    """Compare; the exit codes are in the help."""
    plan = parse(sys.argv[1:])
    console = Console()
    missing = tools.missing_tools()
    if plan is not None and not tools.PYTHON.exists():
        missing.append(f"PySpark: {tools.PYTHON} does not exist; `make bench-peers` makes it")
    if missing:
        console.print("NOTHING WAS COMPARED, Spark cannot run on this machine:", style="bold red")
        for line in missing:
            console.print(f"  {line}", style="red", markup=False, soft_wrap=True)
        return EXIT_NO_SPARK
    if plan is None:
        return 0
    try:
        return 0 if run(plan, console) else EXIT_FAILED
    except ServiceUnavailable as error:
        console.print(f"No Kafka, no MinIO or no jars to be had: {error}", style="red",
                      markup=False)
        return EXIT_UNAVAILABLE
    except (LoadError, ServiceError, InstallationError) as error:
        console.print(f"Nothing was compared: {error}", style="red", markup=False)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
