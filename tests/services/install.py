"""Fetches what local services are made of, and promtool, once per user, into a cache folder.

Chromium is the exception: it is a system's package, and is installed where CI runs only.

Every installation goes into a folder named after its exact version, is built beside it and moved
into place in one step, so a folder that exists is complete. One lock file keeps sessions that
start together from building the same thing twice. Each command has a time bound, and says on the
way that it is still at work.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.services.errors import ServiceUnavailable

Progress = Callable[[str], None]
"""Takes one line of text for the person who waits."""

KAFKA_VERSION = "4.1.2"
MINIO_MODULE = "github.com/minio/minio"
MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
PROMTOOL_MODULE = "github.com/prometheus/prometheus"
PROMTOOL_VERSION = "v0.316.0"
"""Prometheus 3.16, by the number that its module has for Go."""

JAVA_VERSION_MIN = 17
"""Kafka 4 brokers need it."""
GO_VERSION_MIN = (1, 21)
"""The first release that fetches by itself the newer toolchain which both modules ask for."""

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_PACKAGES = ("chromium", "chromium-driver", "fonts-liberation")
"""Of Debian. Without a font every text has no width, and no line is too long."""
REQUIRE_REAL = "REQUIRE_REAL"
"""Set to 1, as in CI: what is missing must be had, and a test not run is a failure."""

APT_TIMEOUT_S = 15 * 60
MAVEN_TIMEOUT_S = 15 * 60
GO_TIMEOUT_S = 40 * 60
"""About five minutes on two free cores; a busy machine takes several times that."""
LOCK_TIMEOUT_S = MAVEN_TIMEOUT_S + GO_TIMEOUT_S
VERSION_QUERY_TIMEOUT_S = 60
PROGRESS_INTERVAL_S = 20.0
POLL_INTERVAL_S = 0.2
ERROR_LINES_MAX = 20

# The binding is what makes the broker's own log appear; without it a failed start is mute.
KAFKA_POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka-tools</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>2.24.3</version>
    </dependency>
  </dependencies>
</project>
"""
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that keeps installed services between sessions."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bronze-ingestion"


def java_command() -> str:
    """Return the Java launcher: that of ``JAVA_HOME`` where set, else the first on ``PATH``.

    Raises:
        ServiceUnavailable: there is none, or it is too old for the broker.
    """
    home = os.environ.get("JAVA_HOME")
    command = str(Path(home) / "bin" / "java") if home else "java"
    match = re.search(r'version "(\d+)', _version_text([command, "-version"]))
    if match is None:
        raise ServiceUnavailable(f"no Java {JAVA_VERSION_MIN}+ to run it ({command} not found)")
    if int(match[1]) < JAVA_VERSION_MIN:
        raise ServiceUnavailable(f"Java is {match[1]}, it needs {JAVA_VERSION_MIN} or newer")
    return command


def kafka_jars(progress: Progress) -> Path:
    """Return the folder of the broker's jars, fetching them with Maven where needed.

    Raises:
        ServiceUnavailable: Java or Maven is missing, or Maven failed; the text says which.
    """
    return maven_jars(f"kafka-{KAFKA_VERSION}", KAFKA_POM, "54 MB, about 10 s", progress)


def maven_jars(name: str, pom: str, effort: str, progress: Progress) -> Path:
    """Return a folder with every jar that a pom's dependencies need at run time.

    Args:
        name: what they are, for the folder's name; the pom's digest is added to it.
        pom: the whole text of the pom.
        effort: what the first call costs, for the person who waits.

    Raises:
        ServiceUnavailable: Java or Maven is missing, or Maven failed; the text says which.
    """
    java_command()
    target = cache_folder() / f"{name}-{hashlib.sha256(pom.encode()).hexdigest()[:8]}"
    if target.is_dir():
        return target
    if shutil.which("mvn") is None:
        raise ServiceUnavailable("no Maven to fetch its jars with (mvn not found)")

    def fetch(building: Path) -> None:
        with tempfile.TemporaryDirectory() as project:
            Path(project, "pom.xml").write_text(pom)
            arguments = [MAVEN_GOAL, "-DincludeScope=runtime", f"-DoutputDirectory={building}"]
            run(
                f"fetching {name} with Maven ({effort})", ["mvn", "--batch-mode", *arguments],
                cwd=Path(project), environ=os.environ, timeout_s=MAVEN_TIMEOUT_S, progress=progress,
            )

    _install(target, fetch, progress)
    return target


def minio_binary(progress: Progress) -> Path:
    """Return the MinIO server's executable, building it with Go where needed.

    Raises:
        ServiceUnavailable: Go is missing or too old, or the build failed; the text says which.
    """
    return _go_binary(
        "minio", MINIO_VERSION, [f"{MINIO_MODULE}@{MINIO_VERSION}"],
        "about 5 minutes on two cores, once", progress,
    )


def promtool_binary(progress: Progress) -> Path:
    """Return Prometheus' promtool, building it with Go where needed.

    Raises:
        ServiceUnavailable: Go is missing or too old, or the build failed; the text says which.
    """
    # The clients of all clouds, by which Prometheus finds its targets, are half of it.
    arguments = ["-tags", "remove_all_sd", f"{PROMTOOL_MODULE}/cmd/promtool@{PROMTOOL_VERSION}"]
    return _go_binary(
        "promtool", PROMTOOL_VERSION, arguments, "about 3 minutes on two cores, once", progress
    )


def chromium_commands(
    progress: Progress, environ: Mapping[str, str] = os.environ
) -> tuple[str, str]:
    """Return the commands of Chromium and of its WebDriver.

    Where they are missing, root's ``REQUIRE_REAL=1`` is the leave to install them with apt-get;
    else a machine's packages are its owner's matter.

    Raises:
        ServiceUnavailable: there is none, or apt-get failed; the text says which.
    """
    found = _chromium_on_path()
    may_install = environ.get(REQUIRE_REAL) == "1" and os.geteuid() == 0
    if found is None and may_install and shutil.which("apt-get"):
        cache_folder().mkdir(parents=True, exist_ok=True)
        with lock(cache_folder() / "install.lock", progress):
            if _chromium_on_path() is None:
                _apt_get(["update"], progress)
                _apt_get(["install", "--yes", "--no-install-recommends", *CHROMIUM_PACKAGES],
                         progress)
        found = _chromium_on_path()
    if found is None:
        raise ServiceUnavailable(
            f"no chromedriver with one of {', '.join(CHROMIUM_NAMES)}; on Debian: "
            f"apt-get install {' '.join(CHROMIUM_PACKAGES)}")
    return found


def _chromium_on_path() -> tuple[str, str] | None:
    chromium = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


def _apt_get(arguments: Sequence[str], progress: Progress) -> None:
    run(f"apt-get {arguments[0]}, for Chromium", ["apt-get", "-qq", *arguments], cwd=Path("/"),
         environ={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
         timeout_s=APT_TIMEOUT_S, progress=progress)


def _go_binary(
    name: str, version: str, arguments: Sequence[str], effort: str, progress: Progress
) -> Path:
    """Return an executable that `go install` makes, from the cache folder or built anew."""
    target = cache_folder() / f"{name}-{version}"
    binary = target / name
    if target.is_dir():
        return binary
    match = re.search(r"go(\d+)\.(\d+)", _version_text(["go", "version"]))
    if match is None:
        raise ServiceUnavailable("no Go to build it with (go not found)")
    if (int(match[1]), int(match[2])) < GO_VERSION_MIN:
        needed = ".".join(map(str, GO_VERSION_MIN))
        raise ServiceUnavailable(f"Go is {match[1]}.{match[2]}, it needs {needed} or newer")

    def build(building: Path) -> None:
        run(
            f"building {name} {version} with Go ({effort})", ["go", "install", *arguments],
            # Elsewhere than in a checkout, whose go.mod could change what is built.
            cwd=building, environ={**os.environ, "GOBIN": str(building)},
            timeout_s=GO_TIMEOUT_S, progress=progress,
        )

    _install(target, build, progress)
    return binary


def _version_text(command: Sequence[str]) -> str:
    """Return all that a tool says about its version, or nothing where it cannot be run."""
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=VERSION_QUERY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout + answer.stderr


def _install(target: Path, build: Callable[[Path], None], progress: Progress) -> None:
    """Have ``build`` fill a new folder and move it to ``target``, unless another session did."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(target.parent / "install.lock", progress):
        if target.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="building-") as building:
            content = Path(building, "content")
            content.mkdir()
            build(content)
            content.rename(target)


@contextlib.contextmanager
def lock(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock file, waiting for another session's installation to end.

    The kernel frees such a lock when its holder dies, so a stale file blocks nobody.
    """
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    with path.open("w") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise ServiceUnavailable(
                        f"another session has held {path} for {LOCK_TIMEOUT_S} s; end it"
                    ) from None
            if not told:
                progress("waiting for another session that is installing a service")
                told = True
            time.sleep(POLL_INTERVAL_S)
        yield


def run(
    title: str,
    command: Sequence[str],
    *,
    cwd: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    progress: Progress,
) -> None:
    """Run one installation command within its time, telling now and then that it still runs."""
    progress(title)
    started_s = told_s = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environ), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - started_s < timeout_s:
                if time.monotonic() - told_s >= PROGRESS_INTERVAL_S:
                    told_s = time.monotonic()
                    progress(f"  still at it after {told_s - started_s:.0f} s")
                time.sleep(POLL_INTERVAL_S)
            is_over_time = process.poll() is None
        finally:
            # Also on Ctrl-C: the command has a session of its own and would go on alone.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode == 0:
            progress(f"  done in {time.monotonic() - started_s:.0f} s")
            return
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines()[-ERROR_LINES_MAX:]
    outcome = f"took over {timeout_s:.0f} s" if is_over_time else f"exit {process.returncode}"
    raise ServiceUnavailable(
        f"`{' '.join(command)}` failed ({outcome}); its last lines:\n" + "\n".join(lines)
    )
