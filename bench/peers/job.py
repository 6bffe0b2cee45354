"""How a job talks with whoever started it: one line out when it is done, and an end with him.

The jobs run on other libraries than the program that starts them, so this needs none.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import NoReturn


def end_with_starter() -> None:
    """End this process at once when its input ends: when its starter closes it, or is dead."""
    threading.Thread(target=_wait_and_end, name="leash", daemon=True).start()


def done(last_commit_at: float) -> NoReturn:
    """Say that all is written, and when; then wait, to be looked at, until the input ends."""
    print(json.dumps({"at": last_commit_at}), flush=True)
    while True:
        threading.Event().wait()


def _wait_and_end() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)
