"""What the examples are asked on their command lines: a lake, a cycle, and since when."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from deltalake.exceptions import DeltaError

from bronze_reader import Cut, Lake, ReaderError

EPILOG = """\
A store's address and keys come from the environment: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ALLOW_HTTP=true where it speaks no TLS."""


def parser(module: str, what: str) -> argparse.ArgumentParser:
    """The arguments that all of them have; an example may add its own."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=what, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("lake", help="where its tables are: a folder, or s3://bucket/prefix")
    which = made.add_mutually_exclusive_group()
    which.add_argument("--cycle", type=int, metavar="N",
                       help="open the tables at this cycle_id; else at the newest")
    which.add_argument("--at", type=moment, metavar="TIME",
                       help="at what was complete then, as 2026-11-28T12:00:00 (UTC)")
    made.add_argument("--since", type=int, metavar="N",
                      help="list what arrived behind this cycle_id; else from the beginning")
    return made


def moment(text: str) -> datetime:
    """A time in ISO 8601, in UTC where it names no zone; ValueError, as argparse wants it."""
    given = datetime.fromisoformat(text)
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def opened(given: argparse.Namespace) -> tuple[Lake, Cut, Cut | None]:
    """The lake, the cut that was asked for, and the earlier one; SystemExit says what is wrong."""
    lake = Lake(given.lake)
    try:
        cut = lake.cut(cycle_id=given.cycle, at=given.at)
        after = None if given.since is None else lake.cut(cycle_id=given.since)
    except (ReaderError, DeltaError, OSError) as error:
        sys.exit(f"error: {error}")
    since = "from the beginning" if after is None else f"since cycle {after.cycle_id}"
    print(f"cycle {cut.cycle_id}, decided {cut.decided_at:%Y-%m-%d %H:%M:%S} UTC; new: {since}\n")
    return lake, cut, after
