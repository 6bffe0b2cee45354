"""An installation of the service of its own, made as `make install` makes it.

The service is not measured in the environment that the tests and this program run in. There,
libraries that only tests need would be found and loaded by the service's own libraries (pyarrow
imports numpy where it is installed: 7 MB), and every library page that this program maps as well
would count only in part for the service, as PSS shares a page among all that map it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALL_TIMEOUT_S = 600.0
ERROR_CHARACTERS_MAX = 2000


class InstallationError(Exception):
    """The requirements could not be installed."""


def python(say: Callable[[str], None] = lambda line: None) -> Path:
    """The interpreter of an environment that holds requirements.txt and nothing else.

    Made once per content of requirements.txt, in the user's cache, which may take a minute.

    Raises:
        InstallationError: pip failed; the text has its last words.
    """
    requirements = ROOT / "requirements.txt"
    key = hashlib.sha256(
        f"{platform.python_version()} {sys.executable}\n".encode() + requirements.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "bronze-ingestion" / f"service-{key.hexdigest()[:12]}"
    interpreter = folder / "bin" / "python"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / "service.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                say("Installing requirements.txt for the service to be measured")
                _install(requirements, folder)
    return interpreter


def _install(requirements: Path, folder: Path) -> None:
    """Build beside the folder and move into place, so that a folder that exists is complete."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        built = Path(made) / "venv"
        _run([sys.executable, "-m", "venv", str(built)])
        _run([str(built / "bin" / "python"), "-m", "pip", "install", "--quiet",
              "--disable-pip-version-check", "--requirement", str(requirements)])
        built.rename(folder)


def _run(command: list[str]) -> None:
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallationError(f"{command[0]}: {error}") from error
    if answer.returncode:
        raise InstallationError((answer.stdout + answer.stderr)[-ERROR_CHARACTERS_MAX:])
