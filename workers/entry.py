"""Where worker processes begin.  Light at import: the supervisor imports it, the work does not.

Clients are built here, after the process exists: none of them survives a fork.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from shared.config import Config
from shared.exit_codes import WorkerExit
from shared.process_title import set_title
from workers.assignment import Assignment

LIBRARIES = [
    "confluent_kafka.admin", "msgspec", "obstore.store", "pyarrow.compute", "pyarrow.parquet"]
PRELOAD = [*LIBRARIES, "workers.preload"]
"""What the forkserver imports once, so that all workers share its pages.  First the libraries, so
that our own modules lie together behind them."""


def main(assignment: Assignment, wake: Any) -> None:
    """Run a worker until it ends; `wake` is a connection whose other end wakes the supervisor."""
    set_title([sys.executable, "-m", "workers", assignment.topic])
    settle(assignment.config)
    from shared.block import Block
    from workers.assembly import build_worker

    def wake_supervisor() -> None:
        try:
            os.write(wake.fileno(), b"\0")
        except (BlockingIOError, BrokenPipeError):
            pass  # A full pipe wakes it as well; a broken one means that it is gone.

    os.set_blocking(wake.fileno(), False)
    block = Block.attach(Path(assignment.block_path))
    worker = build_worker(assignment, block, wake_supervisor)
    gc.freeze()
    leave(guarded(worker.run, "worker", topic=assignment.topic))


def recover(config: Config, topic: str) -> None:
    """Roll a topic forward that undone records name and nobody is configured for any more."""
    set_title([sys.executable, "-m", "workers", "recover", topic])
    settle(config)
    from workers.assembly import roll_forward_only

    def run() -> WorkerExit:
        roll_forward_only(config, topic)
        return WorkerExit.STOPPED_CLEANLY

    leave(guarded(run, "worker", topic=topic))


def settle(config: Config) -> None:
    """Signals, logging, and an end of its own when the supervisor is gone."""
    from shared.logs import configure

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    faulthandler.enable()
    configure(config.log.level, config.log.format.value)
    threading.Thread(target=_leave_with_supervisor, name="orphan-watch", daemon=True).start()


def _leave_with_supervisor() -> None:
    """End at once when the supervisor dies, also in the middle of a request: any moment is safe.

    Asking for the parent's pid would not do: the parent of this process is the forkserver.
    """
    from multiprocess import parent_process
    from multiprocess.connection import wait

    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
    os._exit(WorkerExit.ORPHANED)


def guarded(run: Any, role: str, **facts: str) -> WorkerExit:
    """How it ended; what it died of is in the log, as `{role}_failed` or `{role}_crashed`."""
    from shared.errors import IngestError
    from shared.logs import log_event

    logger = logging.getLogger(role)
    try:
        return run()
    except IngestError as error:
        log_event(logger, logging.ERROR, f"{role}_failed", **facts, error=error.name,
                  message=error, what_to_do=error.what_to_do)
    except BaseException:
        logger.exception(f"{role}_crashed", extra={"facts": facts})
    return WorkerExit.FAILED


def leave(code: WorkerExit) -> None:
    """End without waiting for the clients' own threads."""
    logging.shutdown()
    os._exit(code)
