"""Replay one schedule step by step, or run many: see `python -m tests.simulation --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.gate import Mode
from tests.simulation.schedules import RECYCLED, SMALL, TWO, of_seed, pairs, singles
from tests.simulation.tally import run_spread
from tests.simulation.world import Schedule, World


def fault(text: str) -> tuple[int, Mode]:
    """`40:crash_after`: the number of a request and what goes wrong there."""
    number, _, mode = text.partition(":")
    return int(number), Mode(mode)


def main() -> int:
    """0 when nothing was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay the random schedule of this seed")
    parser.add_argument("--fault", type=fault, action="append", default=[],
                        help="NUMBER:MODE; of the small script, or instead of the seed's own")
    parser.add_argument("--two", action="store_true",
                        help="the script of two instances instead of the small one")
    parser.add_argument("--recycled", action="store_true",
                        help="the script in which a worker is recycled")
    parser.add_argument("--singles", action="store_true", help="all single faults")
    parser.add_argument("--pairs", action="store_true", help="all pairs of faults; an hour")
    parser.add_argument("--seeds", type=int, metavar="COUNT", help="random schedules")
    parser.add_argument("--first", type=int, default=0, help="the first of these seeds")
    given = parser.parse_args()
    script = TWO if given.two else RECYCLED if given.recycled else SMALL
    if given.singles:
        return _many(singles(script))
    if given.pairs:
        return _many(pairs(script))
    if given.seeds is not None:
        return _many(of_seed(given.first + number) for number in range(given.seeds))
    schedule = script if given.seed is None else of_seed(given.seed)
    return _one(replace(schedule, faults=tuple(given.fault)) if given.fault else schedule)


def _one(schedule: Schedule) -> int:
    outcome = World(schedule, tracing=True).run()
    print(schedule, *outcome.trace, sep="\n")
    print(f"{outcome.requests} requests before everything healed, {outcome.cycles} cycles, "
          f"{outcome.messages} messages; {outcome.missed} planned faults did not strike")
    print(f"VIOLATION: {outcome.violation}" if outcome.violation else "all is well")
    return 1 if outcome.violation else 0


def _many(schedules: Iterator[Schedule]) -> int:
    tally = run_spread(schedules, failures_max=5)
    print(tally)
    for failure in tally.failures:
        print(f"\n{failure}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
