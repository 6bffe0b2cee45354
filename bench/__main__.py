"""`python -m bench`: arguments in, measurements out."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from bench.contract import MEMORY_LIMIT_MB
from bench.installation import InstallationError
from bench.run import Plan, run
from bench.scenarios import SCENARIOS
from bench.scenarios.drain import MESSAGES
from tests.services import ServiceError, ServiceUnavailable

DEFAULT = [name for name, scenario in SCENARIOS.items() if scenario.is_default]

DESCRIPTION = """\
Measure the service on a real Kafka and a real MinIO, and hold it against its contract.

scenarios (minutes of a full run):
""" + "\n".join(
    f"  {name:<10} {scenario.meaning} ({scenario.minutes})"
    for name, scenario in SCENARIOS.items()) + f"""

Without a name: {', '.join(DEFAULT)}; `all` is every one of them.
In each, every offset of every partition must be in the tables exactly once, dead letters
included; otherwise none of its numbers counts."""

EPILOG = """\
A run without --quick writes bench/results/<date>-<commit>.json, and docs/benchmarks.md with its
charts from the newest numbers of every scenario. Measure on a machine that does nothing else:
Kafka and MinIO share its cores already.

Kafka and MinIO come from TEST_KAFKA_BOOTSTRAP_SERVERS and TEST_S3_ENDPOINT_URL (with
TEST_S3_ACCESS_KEY_ID and TEST_S3_SECRET_ACCESS_KEY) where set, else from containers, else
they are installed and run as processes; what is started here is removed at the end.

exit codes: 0 measured, and the contract is kept; 1 it is missed, or something failed or is not
complete; 2 wrong arguments; 3 no Kafka or no MinIO to be had; 130 interrupted"""

EXIT_FAILED, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 1, 3, 130


def parse(argv: list[str]) -> Plan:
    """The plan that the arguments describe; raises SystemExit as argparse does."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO",
                        help="what to measure, in this order")
    parser.add_argument("--messages", type=_positive, metavar="N",
                        help=f"how many to drain in `drain` ({MESSAGES:,})")
    parser.add_argument("--memory-limit", type=_positive, default=MEMORY_LIMIT_MB, metavar="MB",
                        help=f"MEMORY_LIMIT_MB of the service ({MEMORY_LIMIT_MB})")
    parser.add_argument("--quick", action="store_true",
                        help="short phases, to see that everything works")
    parser.add_argument("--keep", action="store_true",
                        help="keep Kafka and MinIO afterwards until Ctrl-C, an hour at most")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="write the files below this folder, whatever was measured")
    given = parser.parse_args(argv)
    names = list(SCENARIOS) if given.scenarios == ["all"] else given.scenarios or DEFAULT
    unknown = sorted(set(names) - SCENARIOS.keys())
    if unknown:
        parser.error(f"no scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    return Plan(
        list(dict.fromkeys(names)), given.quick, given.messages, given.memory_limit, given.keep,
        not given.quick and (given.messages or MESSAGES) >= MESSAGES, given.output,
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
        return 0 if run(plan, console) else EXIT_FAILED
    except ServiceUnavailable as error:
        console.print(f"No Kafka or no MinIO to be had: {error}", style="red", markup=False)
        return EXIT_UNAVAILABLE
    except (ServiceError, InstallationError) as error:
        console.print(f"Nothing was measured: {error}", style="red", markup=False)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
