"""A fork shows its own command line, and none of the environment it came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from shared.process_title import set_title

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60

SHOW = """
import json, os, subprocess
print(json.dumps({
    "command": open("/proc/self/cmdline").read(),
    "shown": open("/proc/self/environ").read().replace("\\0", ""),
    "python": dict(os.environ),
    "inherited": dict(line.partition("=")[::2] for line in
                      subprocess.check_output(["/usr/bin/env"], text=True).splitlines())}))
"""


def run(script: str) -> dict[str, Any]:
    """Run a process that shows itself at its end."""
    found = subprocess.run(
        [sys.executable, "-c", "from shared.process_title import *\n" + script + SHOW], cwd=ROOT,
        env={"HOME": "/home/of", "CANARY": "a secret of the environment", "TZ": "UTC"},
        capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    shown: dict[str, Any] = json.loads(found.stdout)
    return shown


def test_the_title_replaces_command_and_environment_for_onlookers_only() -> None:
    """Libraries go on reading the variables they want."""
    shown = run("assert set_title(['python', '-m', 'page', '--port', '80'])")
    assert shown["command"].rstrip("\0 ").split(" ") == ["python", "-m", "page", "--port", "80"]
    assert "secret" not in shown["shown"]
    for seen in (shown["python"], shown["inherited"]):
        assert seen["CANARY"] == "a secret of the environment"
        assert seen["HOME"] == "/home/of"


def test_a_title_longer_than_its_place_is_cut() -> None:
    """What lies behind the place belongs to somebody else."""
    shown = run("assert set_title(['x' * 100_000])")
    assert set(shown["command"].rstrip("\0")) == {"x"}
    assert shown["python"]["CANARY"] == "a secret of the environment"


def test_only_the_variables_named_are_kept() -> None:
    """In Python, in libc, for programs to come and for onlookers."""
    shown = run("set_title(['page'])\nkeep_only(['TZ', 'LANG'])")
    assert shown["python"] == {"TZ": "UTC"}
    assert "CANARY" not in shown["inherited"] and shown["inherited"]["TZ"] == "UTC"
    assert "secret" not in shown["shown"]


def test_the_strings_that_libc_held_are_overwritten() -> None:
    """Also without a title, where they still lie in the block that onlookers see."""
    shown = run("keep_only(['TZ'])")
    assert shown["shown"] == ""


def test_where_the_kernel_does_not_tell_its_block_the_title_stays(tmp_path: Path) -> None:
    """It is for people; nothing depends on it."""
    before = dict(os.environ)
    assert not set_title(["page"], tmp_path / "stat")
    assert dict(os.environ) == before
