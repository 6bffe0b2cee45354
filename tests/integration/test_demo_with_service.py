"""What `make run` shows a newcomer, with the real service: rows land, Ctrl-C ends it cleanly."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

from demo.events import TOPICS
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
LANDING_S = 90
ENDING_S = 60


def rows_in(table: Path) -> int:
    """Rows of a table, 0 while it is not there."""
    if not (table / "_delta_log").exists():
        return 0
    adds = DeltaTable(str(table)).get_add_actions(flatten=True)
    return sum(adds["num_records"].to_pylist()) if adds.num_rows else 0


@pytest.mark.slow
def test_demo_lands_rows_of_all_topics_and_ends_cleanly(tmp_path: Path) -> None:
    """Each topic in its table, malformed messages in theirs, nothing sent is missing at the end."""
    lake = tmp_path / "lake"
    demo = subprocess.Popen(
        [sys.executable, "-m", "demo", "--folder", str(tmp_path)], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until(lambda: all(rows_in(lake / f"bronze_{topic}") for topic in TOPICS)
                   and any(rows_in(lake / f"dlq_bronze_{topic}") for topic in TOPICS),
                   LANDING_S, "rows of every topic and a dead letter have landed", 0.5)
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=ENDING_S)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, said
    assert "in no table" not in said, said
    assert "Health page: http://127.0.0.1:" in said
