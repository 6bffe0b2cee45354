"""Environments of the examples that need much: PySpark, dbt, Airflow.

`python -m tests.examples.environments` builds what is missing in the user's cache, by the pins in
`examples/`; `make examples` calls it, and then runs every test of the examples.  An environment
holds `bronze_reader` as it was, so it counts as built only for the code it was built from.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

from bench.peers import tools
from tests.services import ServiceUnavailable
from tests.services.install import Progress, cache_folder, lock, run

ROOT = Path(__file__).resolve().parents[2]
READER = "./bronze_reader"
NAMES = ("pyspark", "dbt", "airflow")
COST = {"pyspark": "0.5 GB, some minutes", "dbt": "0.2 GB, a minute", "airflow": "0.4 GB, minutes"}
STAMP = ".built-of"
PIP_TIMEOUT_S = 15 * 60
HOW = "`make examples` builds it"


class NotBuilt(Exception):
    """There is no such environment of this code yet."""


def folder(name: str) -> Path:
    """Where an environment lies, by its pins."""
    digest = hashlib.sha256(requirements(name).read_bytes()).hexdigest()[:8]
    return cache_folder() / f"examples-{name}-{digest}"


def requirements(name: str) -> Path:
    """The pins of an example."""
    return ROOT / "examples" / f"requirements-{name}.txt"


def python(name: str) -> Path:
    """The environment's interpreter; its commands are beside it.

    Raises:
        NotBuilt: with what to do.
    """
    place = folder(name)
    stamp = place / STAMP
    if not stamp.exists():
        raise NotBuilt(f"there is no environment with {name}: {HOW}")
    if stamp.read_text() != reader_digest():
        raise NotBuilt(f"the environment with {name} has an older bronze_reader: {HOW} anew")
    return place / "bin" / "python"


def spark_jars() -> Path:
    """The folder of Delta Lake's jars for Spark, fetched where needed."""
    return tools.jars(_tell)


def reader_digest() -> str:
    """Of what is installed as `bronze_reader`."""
    files = sorted((ROOT / "bronze_reader").glob("*.*"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def build(name: str, progress: Progress) -> None:
    """Make the environment, or bring its `bronze_reader` up to date; ServiceUnavailable."""
    place = folder(name)
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock(place.parent / f"examples-{name}.lock", progress):
        try:
            python(name)
            return
        except NotBuilt:
            has_all = (place / STAMP).exists()
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet",
               "--disable-pip-version-check"]
        if has_all:
            _run(f"installing {READER} for {name}",
                 [*pip, "--no-deps", "--force-reinstall", READER], progress)
        else:
            _run(f"making an environment for {name}",
                 [sys.executable, "-m", "venv", "--clear", str(place)], progress)
            _run(f"installing {name} ({COST[name]})",
                 [*pip, "--requirement", str(requirements(name))], progress)
        (place / STAMP).write_text(reader_digest())


def _run(title: str, command: list[str], progress: Progress) -> None:
    # In the checkout's root, to which the requirements' path of bronze_reader belongs.
    run(title, command, cwd=ROOT, environ=os.environ, timeout_s=PIP_TIMEOUT_S, progress=progress)


def _tell(line: str) -> None:
    print(f"[examples] {line}", file=sys.stderr, flush=True)


def main() -> int:
    """Build, and tell where things are; 1 with the reason where that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.examples.environments",
        description="Build the environments of the examples that need much: "
                    f"{', '.join(NAMES)}. They are kept in {cache_folder()}.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--jars", action="store_true",
                        help="only fetch Spark's jars of Delta Lake, and print their folder")
    given = parser.parse_args()
    unknown = set(given.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    try:
        if given.jars:
            print(spark_jars())
            return 0
        for name in given.names or NAMES:
            build(name, _tell)
            print(f"{name}: {folder(name) / 'bin'}")
            if name == "pyspark":
                print(f"  jars of Delta Lake: {spark_jars()}")
    except ServiceUnavailable as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
