"""What Spark is made of here: PySpark in an environment of its own, jars by Maven.

Neither belongs to the service or its tests: `make bench-peers` installs requirements-peers.txt
into `.venv-peers`, and the jars go to the user's cache as Kafka's do.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bench.installation import ROOT
from tests.services import ServiceUnavailable
from tests.services.install import Progress, java_command, maven_jars

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
REQUIREMENTS = ROOT / "requirements-peers.txt"
SPARK_VERSION = "4.2.0"
DELTA_VERSION = "4.4.0"
HADOOP_VERSION = "3.5.0"
"""Of the client that PySpark brings along; S3A must be of the same release."""
SCALA_VERSION = "2.13"
VERSION_TIMEOUT_S = 60.0

JARS = (
    ("io.delta", f"delta-spark_4.2_{SCALA_VERSION}", DELTA_VERSION),
    ("io.delta", "delta-storage", DELTA_VERSION),
    ("io.delta", "delta-kernel-api", DELTA_VERSION),
    ("io.delta", "delta-kernel-defaults", DELTA_VERSION),
    ("io.delta", "delta-kernel-unitycatalog", DELTA_VERSION),
    ("io.unitycatalog", "unitycatalog-client", "0.6.0"),
    ("org.apache.spark", f"spark-sql-kafka-0-10_{SCALA_VERSION}", SPARK_VERSION),
    ("org.apache.spark", f"spark-token-provider-kafka-0-10_{SCALA_VERSION}", SPARK_VERSION),
    ("org.apache.kafka", "kafka-clients", "3.9.2"),
    ("org.apache.commons", "commons-pool2", "2.13.1"),
    ("org.apache.hadoop", "hadoop-aws", HADOOP_VERSION),
    ("software.amazon.s3.analyticsaccelerator", "analyticsaccelerator-s3", "1.3.1"),
)
"""What PySpark does not bring along; what these need in turn is named here or is in PySpark."""
AWS_JARS = ("s3", "s3-transfer-manager", "sts")
AWS_VERSION = "2.35.4"
"""The release that hadoop-aws names. It names the bundle of all services, some hundreds of MB that
Spark would have to open at every start; these three are all that S3A uses here."""
AWS_IN_PYSPARK = ("io.netty", "org.slf4j", "org.apache.httpcomponents", "commons-codec")


def missing_tools() -> list[str]:
    """What this machine lacks to run Spark, a sentence each; installs nothing."""
    missing = []
    try:
        java_command()
    except ServiceUnavailable as error:
        missing.append(f"Java: {error}")
    if shutil.which("mvn") is None:
        missing.append("Maven: mvn is not on PATH; it fetches Spark's jars")
    return missing


def jars(progress: Progress) -> Path:
    """The folder of the jars, fetched where needed.

    Raises:
        ServiceUnavailable: Java or Maven is missing, or Maven failed.
    """
    return maven_jars(f"spark-{SPARK_VERSION}-delta-{DELTA_VERSION}", pom(), "35 MB", progress)


def pom() -> str:
    """A project of exactly these jars: nothing that PySpark has in another version."""
    exact = "".join(_dependency(*jar, ("*",)) for jar in JARS)
    aws = "".join(_dependency("software.amazon.awssdk", name, AWS_VERSION, AWS_IN_PYSPARK)
                  for name in AWS_JARS)
    return ("<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId>"
            "<artifactId>spark-for-benchmarks</artifactId><version>1</version>"
            f"<dependencies>{exact}{aws}</dependencies></project>\n")


def _dependency(group: str, artifact: str, version: str, without: tuple[str, ...]) -> str:
    exclusions = "".join(f"<exclusion><groupId>{name}</groupId><artifactId>*</artifactId>"
                         "</exclusion>" for name in without)
    return (f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
            f"<version>{version}</version><exclusions>{exclusions}</exclusions></dependency>")


def versions() -> dict[str, str]:
    """Name -> version, for the page."""
    return {"Spark": SPARK_VERSION, "Delta Lake for Spark": DELTA_VERSION,
            "Hadoop S3A": HADOOP_VERSION, "AWS SDK": AWS_VERSION, "Java": java_version()}


def java_version() -> str:
    """The whole version of the Java that runs Spark."""
    answer = subprocess.run([java_command(), "-version"], capture_output=True, text=True,
                            timeout=VERSION_TIMEOUT_S, check=True)
    found = re.search(r'version "([^"]+)"', answer.stderr + answer.stdout)
    return found[1] if found else "unknown"


def spark_environment(environ: dict[str, str]) -> dict[str, str]:
    """An environment without settings of another Spark, on loopback."""
    kept = {name: value for name, value in environ.items()
            if not name.startswith(("SPARK_", "PYSPARK_", "HADOOP_"))}
    return {**kept, "SPARK_LOCAL_IP": "127.0.0.1"}
