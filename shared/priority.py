"""A process that gives way to the ones that bring messages into tables."""

from __future__ import annotations

import os


def give_way(niceness: int) -> bool:
    """Lower this process's priority; whether the system let us.

    A sandbox may forbid it, as systemd's `SystemCallFilter=~@resources` does.  Work that does not
    give way is better than none.
    """
    try:
        os.nice(niceness)
    except OSError:
        return False
    return True
