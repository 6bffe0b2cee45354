"""`python -m healthcheck --block PATH --host HOST --port PORT`: the health page's process.

It has a lifeline, a descriptor whose other end the supervisor holds (stdin, where it is started by
hand): end of file there means that the supervisor is gone, and the page ends with it.  It also
ends on SIGTERM (both with 0), and with 1 and a named log line when the block is not ours or the
address cannot be had.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from healthcheck.app import create_app
from healthcheck.moment import Observer
from healthcheck.server import HealthServer, listen, quieten
from shared.block import Block
from shared.clock import SystemClock
from shared.errors import BlockError
from shared.exit_codes import ExitCode
from shared.logs import configure, log_event
from shared.priority import give_way

ORDERLY_END_S = 2.0
"""Time for answers under way after the supervisor has gone; then the process just ends."""
NICENESS = 5
"""Below the workers' priority: a flood of requests gets the CPU they leave over."""

_LOGGER = logging.getLogger("healthcheck")
_STDIN = 0


def main(arguments: Sequence[str], lifeline: int = _STDIN) -> ExitCode:
    """Serve until told to end; raises SystemExit after SIGTERM."""
    options = _parser().parse_args(arguments)
    configure(options.log_level, options.log_format)
    quieten()
    give_way(NICENESS)
    signal.signal(signal.SIGTERM, _end)
    if not os.isatty(lifeline):
        # Ctrl-C reaches every process of the terminal; the page shows the stop to its end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return _serve(options, lifeline)
    except BlockError as error:
        log_event(_LOGGER, logging.ERROR, "health_page_ends", error=error.name, message=error,
                  what_to_do=error.what_to_do)
    return ExitCode.INTERNAL


def _serve(options: argparse.Namespace, lifeline: int) -> ExitCode:
    block = Block.attach(options.block, writable=False)
    clock = SystemClock()
    observer = Observer(block, clock)
    observer.look()
    try:
        listening = listen(options.host, options.port)
    except OSError as error:
        log_event(_LOGGER, logging.ERROR, "health_page_ends", error="AddressNotAvailable",
                  message=f"cannot listen on {options.host} port {options.port}: {error.strerror}",
                  what_to_do="Stop what uses the port, or set HEALTH_HOST and HEALTH_PORT.")
        return ExitCode.INTERNAL
    server = HealthServer(create_app(block, clock, observer), observer, listening)
    threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()
    log_event(_LOGGER, logging.INFO, "health_page_open", host=server.effective_host,
              port=int(server.effective_port))
    server.run()
    return ExitCode.OK


def _watch(lifeline: int) -> None:
    """End the process with its lifeline, in order if the main thread still can."""
    while os.read(lifeline, 1024):
        pass
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    threading.main_thread().join(ORDERLY_END_S)
    os._exit(ExitCode.OK)


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitCode.OK)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m healthcheck",
        description="The health page of the service; the supervisor starts it.")
    parser.add_argument("--block", type=Path, required=True, help="file of the shared block")
    parser.add_argument("--host", required=True, help="address to listen on")
    parser.add_argument("--port", type=int, required=True, help="port; 0 takes any free one")
    parser.add_argument("--log-level", default="INFO", help="least important line to log")
    parser.add_argument("--log-format", choices=("json", "text"), default="json",
                        help="form of log lines")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
