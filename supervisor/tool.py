"""Runs a tool in the place of the service; its code is imported only now."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module

from shared.exit_codes import ExitCode

INTERRUPTED = 130
"""What a shell makes of Ctrl-C."""


def run_tool(module: str, argv: Sequence[str]) -> int:
    """The tool's exit code; whatever it did not expect becomes one line, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names may have characters that this terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = int(import_module(module).main(argv))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        # Only the name: the text may be anybody's.
        print(f"the tool failed: {type(error).__name__}", file=sys.stderr)
        return ExitCode.INTERNAL
    return code
