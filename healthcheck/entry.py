"""Where the health page begins as a child of the forkserver.  Light at import, as the supervisor
imports it; what it serves with is in `PRELOAD`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from shared.process_title import keep_only, set_title

PRELOAD = ["healthcheck.preload"]
"""What the forkserver imports once."""

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "TMPDIR")
"""All the page gets of the environment: it needs no secret, so it keeps none."""


def main(arguments: Sequence[str]) -> NoReturn:
    """Be `python -m healthcheck` with these arguments, and end with the supervisor."""
    set_title([sys.executable, "-m", "healthcheck", *arguments])
    keep_only(_KEPT_VARIABLES)
    from multiprocess import parent_process

    from healthcheck.__main__ import main as serve

    parent = parent_process()
    assert parent is not None, "a child has a parent"
    code = 1
    try:
        code = serve(arguments, parent.sentinel)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        logging.getLogger("healthcheck").exception("health_page_crashed")
    logging.shutdown()
    os._exit(code)
