"""Search every configuration and print what was met: `python -m tests.model [name ...]`."""

from __future__ import annotations

import sys

from tests.model.configurations import ALL
from tests.model.search import search


def main(names: list[str]) -> int:
    """Print one line per configuration; 1 when an invariant was broken."""
    faults = states = 0
    for config in ALL:
        if names and config.name not in names:
            continue
        found = search(config)
        states += found.states
        faults += bool(found.fault)
        print(f"{config.name}: {found}", flush=True)
    print(f"{states} states in all, {faults} configurations with a violation")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
