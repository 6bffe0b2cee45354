"""Where the keeper's process begins: one turn, then it ends.  Light at import, as the supervisor
imports it; its libraries are those of the workers, which the forkserver holds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from shared.config import Config
from shared.exit_codes import WorkerExit
from shared.priority import give_way
from shared.process_title import set_title
from workers.entry import guarded, leave, settle

NICENESS = 10
"""Work that can wait: ingestion comes first wherever both want the processor."""


def main(config: Config, block_path: str) -> None:
    """Take one turn; any moment is safe to be killed at."""
    set_title([sys.executable, "-m", "keeper"])
    give_way(NICENESS)
    settle(config)
    from keeper.turn import build_turn
    from shared.block import Block

    turn = build_turn(config, Block.attach(Path(block_path)))

    def run() -> WorkerExit:
        return WorkerExit.STOPPED_CLEANLY if turn.run() else WorkerExit.FAILED

    leave(guarded(run, "keeper"))
