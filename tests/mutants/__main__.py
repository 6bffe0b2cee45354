"""`python -m tests.mutants`: every mutant on a scratch copy, and a table of who caught it."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.run import Broken, Outcome, run_all
from tests.rig.evidence import ROOT, commit

DESCRIPTION = """\
Break the product on purpose, one rule at a time, in a scratch copy, and run the tests that must
notice. Exit codes: 0 all caught, 1 one survived, 2 a run proved nothing."""


def parse(argv: list[str]) -> argparse.Namespace:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=DESCRIPTION)
    parser.add_argument("--only", metavar="TEXT", help="those whose name contains a text")
    parser.add_argument("--list", action="store_true", help="print their names and run nothing")
    parser.add_argument("--tests", metavar="SELECTION",
                        help="run these instead of each mutant's own, to see what a layer catches "
                             "alone, e.g. tests/simulation; writes nothing")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "evidence",
                        help="folder of the table, written when all are run (docs/evidence)")
    return parser.parse_args(argv)


def say(line: str) -> None:
    """Tell whoever watches."""
    print(line, flush=True)


def write_table(outcomes: list[Outcome], folder: Path) -> Path:
    """Write the table where the reliability page finds it; give its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y-%m-%d', time.gmtime())}-{commit()}-mutants.json"
    rows = [
        {"mutant": outcome.mutant.name, "file": outcome.mutant.file,
         "caught_by": outcome.caught_by, "seconds": round(outcome.seconds, 1)}
        for outcome in outcomes
    ]
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path.write_text(
        json.dumps({"commit": commit(), "written_at": at, "mutants": rows}, indent=1) + "\n")
    return path


def main(argv: list[str]) -> int:
    """Run them; 1 when one survives."""
    given = parse(argv)
    chosen = [mutant for mutant in MUTANTS if given.only is None or given.only in mutant.name]
    if not chosen:
        say(f"no mutant's name contains {given.only!r}")
        return 2
    if given.list:
        for mutant in chosen:
            say(f"{mutant.file}: {mutant.name}")
        return 0
    if given.tests is not None:
        chosen = [replace(mutant, tests=(given.tests,)) for mutant in chosen]
    with tempfile.TemporaryDirectory(prefix="bronze-mutants-") as folder:
        try:
            outcomes = run_all(chosen, Path(folder), say)
        except Broken as error:
            say(str(error))
            return 2
    survivors = [outcome for outcome in outcomes if outcome.caught_by is None]
    if given.only is None and given.tests is None:
        say(f"written to {write_table(outcomes, given.output)}")
    say(f"{len(outcomes) - len(survivors)} of {len(outcomes)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
