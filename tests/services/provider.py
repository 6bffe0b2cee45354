"""Decides where a real service comes from, and hands out the services of one session.

The shared Kafka and the shared MinIO are started when first asked for. A service of one's own
is a further instance, always one that may be killed, so never a given endpoint.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from tests.services import containers, install
from tests.services.browser import Browser
from tests.services.certificates import make_certificates
from tests.services.errors import ServiceError, ServiceUnavailable
from tests.services.install import Progress
from tests.services.instances import Instance, LocalProcess
from tests.services.kafka import KafkaService, ManagedKafka
from tests.services.kafka_config import (
    BROKER_MEMORY,
    LOG4J_PROPERTIES,
    KafkaPorts,
    server_properties,
)
from tests.services.minio import MinioService
from tests.services.ports import free_ports
from tests.services.reaper import Reaper

KAFKA_ENDPOINT = "TEST_KAFKA_BOOTSTRAP_SERVERS"
S3_ENDPOINT = "TEST_S3_ENDPOINT_URL"
S3_ACCESS_KEY = "TEST_S3_ACCESS_KEY_ID"
S3_SECRET_KEY = "TEST_S3_SECRET_ACCESS_KEY"

FORMAT_TIMEOUT_S = 90
MINIO_USER = "bronze-admin"
MINIO_PASSWORD = "bronze-admin-secret"

Service = TypeVar("Service", KafkaService, MinioService, Browser)
Maker = Callable[[], Service]


class ServiceProvider:
    """Finds and keeps the real services of one session.

    Args:
        progress: takes a line for whoever waits, for instance for a build.
        environ: where given endpoints are looked for.

    Every service it handed out is removed by ``close``.
    """

    def __init__(self, progress: Progress, environ: Mapping[str, str] = os.environ) -> None:
        self._progress = progress
        self._environ = environ
        self._reaper = Reaper()
        self._kafka_source = Source(self._kafka_ways())
        self._minio_source = Source(self._minio_ways())
        self._kafka: KafkaService | None = None
        self._minio: MinioService | None = None
        self._browser: Browser | None = None
        self._own: list[KafkaService | MinioService | Browser] = []

    def prepare_kafka(self) -> None:
        """Install what a broker needs, which may take minutes; start nothing.

        Raises:
            ServiceUnavailable: this machine has no way to a Kafka that we may kill.
        """
        self._kafka_source.maker()

    def prepare_minio(self) -> None:
        """Install what a store needs, which may take minutes; start nothing.

        Raises:
            ServiceUnavailable: this machine has no way to a MinIO that we may kill.
        """
        self._minio_source.maker()

    def has_given_kafka(self) -> bool:
        """Tell whether the environment names a Kafka to use."""
        return bool(self._environ.get(KAFKA_ENDPOINT))

    def has_given_minio(self) -> bool:
        """Tell whether the environment names an S3 endpoint to use."""
        return bool(self._environ.get(S3_ENDPOINT))

    def kafka(self) -> KafkaService:
        """Return the broker that the session shares, started.

        Raises:
            ServiceUnavailable: there is no way to one.
            ServiceError: there is, and it failed.
        """
        if self._kafka is None:
            if self.has_given_kafka():
                self._kafka = self._started(KafkaService(self._environ[KAFKA_ENDPOINT]))
            else:
                self._kafka = self.own_kafka()
        return self._kafka

    def minio(self) -> MinioService:
        """Return the store that the session shares, started.

        Raises:
            ServiceUnavailable: there is no way to one.
            ServiceError: there is, and it failed.
        """
        if self._minio is None:
            if self.has_given_minio():
                self._minio = self._started(self._given_minio())
            else:
                self._minio = self.own_minio()
        return self._minio

    def own_kafka(self) -> KafkaService:
        """Return a further broker, started; the caller may do with it what he likes."""
        return self._started(self._kafka_source.maker()())

    def own_minio(self) -> MinioService:
        """Return a further store, started; the caller may do with it what he likes."""
        return self._started(self._minio_source.maker()())

    def promtool(self) -> Path:
        """Return Prometheus' checker of rules and metrics; the first call may build it.

        Raises:
            ServiceUnavailable: this machine cannot build it.
        """
        return install.promtool_binary(self._progress)

    def prepare_browser(self) -> None:
        """Install a browser where that is ours to do; start nothing.

        Raises:
            ServiceUnavailable: there is none.
        """
        install.chromium_commands(self._progress, self._environ)

    def browser(self) -> Browser:
        """Return the Chromium that the session shares, started.

        Raises:
            ServiceUnavailable: there is none on this machine.
            ServiceError: there is, and it failed.
        """
        if self._browser is None:
            commands = install.chromium_commands(self._progress, self._environ)
            self._browser = self._started(local_browser(self._reaper, *commands))
        return self._browser

    def close(self) -> None:
        """Remove every service handed out, with its data."""
        try:
            while self._own:
                self._own.pop().close()
        finally:
            self._reaper.close()

    def _started(self, service: Service) -> Service:
        self._own.append(service)
        service.start()
        return service

    def _given_minio(self) -> MinioService:
        missing = [key for key in (S3_ACCESS_KEY, S3_SECRET_KEY) if not self._environ.get(key)]
        if missing:
            raise ServiceError(f"{S3_ENDPOINT} is set without {' and '.join(missing)}; set both")
        return MinioService(
            self._environ[S3_ENDPOINT], self._environ[S3_ACCESS_KEY], self._environ[S3_SECRET_KEY]
        )

    def _kafka_ways(self) -> list[Callable[[], Maker[KafkaService]]]:
        return [
            lambda: container_kafka(self._reaper, self._progress),
            lambda: local_kafka(self._reaper, self._progress),
        ]

    def _minio_ways(self) -> list[Callable[[], Maker[MinioService]]]:
        return [
            lambda: container_minio(self._reaper, self._progress),
            lambda: local_minio(self._reaper, self._progress),
        ]


class Source(Generic[Service]):
    """The first of several ways to a service that this machine can go; found once, then kept."""

    def __init__(self, ways: list[Callable[[], Callable[[], Service]]]) -> None:
        self._ways: list[Callable[[], Callable[[], Service]]] = ways
        self._maker: Maker[Service] | None = None
        self._reason: str | None = None

    def maker(self) -> Maker[Service]:
        """Return a function that makes one more instance, not started.

        Raises:
            ServiceUnavailable: no way can be gone; the text has the reason of each.
        """
        if self._maker is None and self._reason is None:
            reasons = []
            for way in self._ways:
                try:
                    self._maker = way()
                    break
                except ServiceUnavailable as error:
                    reasons.append(str(error))
            else:
                self._reason = "; ".join(reasons)
        if self._maker is None:
            raise ServiceUnavailable(self._reason)
        return self._maker


def container_kafka(reaper: Reaper, progress: Progress) -> Maker[KafkaService]:
    """Return a maker of brokers in containers."""
    client = containers.container_engine()
    containers.pull(client, containers.KAFKA_IMAGE, progress)

    def make() -> KafkaService:
        ports = KafkaPorts(*free_ports(6))
        folder = _folder("kafka-certificates", reaper)
        certificates = make_certificates(folder)
        properties = server_properties(ports, "0.0.0.0", "/tmp/data", "/tmp/server.pem")
        script = (
            "cd /opt/kafka && bin/kafka-storage.sh format --ignore-formatted"
            f" --cluster-id {_cluster_id()} --config /tmp/server.properties"
            " && exec bin/kafka-server-start.sh /tmp/server.properties"
        )
        instance = containers.create(
            client,
            containers.KAFKA_IMAGE,
            name=f"bronze-test-kafka-{uuid.uuid4().hex[:8]}",
            entrypoint=["bash", "-c", script],
            environ={"KAFKA_HEAP_OPTS": " ".join(BROKER_MEMORY)},
            ports=[ports.plaintext, ports.proxied, ports.sasl, ports.ssl],
            files={
                "server.properties": properties.encode(),
                "server.pem": certificates.server.read_bytes(),
            },
            reaper=reaper,
        )
        return _kafka_service(instance, ports, certificates.ca)

    return make


def local_kafka(reaper: Reaper, progress: Progress) -> Maker[KafkaService]:
    """Return a maker of brokers as processes of Java."""
    java = install.java_command()
    jars = install.kafka_jars(progress)

    def make() -> KafkaService:
        ports = KafkaPorts(*free_ports(6))
        folder = _folder("kafka", reaper)
        certificates = make_certificates(folder)
        config = folder / "server.properties"
        config.write_text(
            server_properties(
                ports, "127.0.0.1", str(folder / "data"), str(certificates.server)
            )
        )
        logging_config = folder / "log4j2.properties"
        logging_config.write_text(LOG4J_PROPERTIES)
        base = [java, "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={logging_config}"]
        _format([*base, "-XX:TieredStopAtLevel=1", "-Xmx128m"], config)
        instance = LocalProcess(
            [*base, *BROKER_MEMORY, "-XX:+ExitOnOutOfMemoryError", "kafka.Kafka", str(config)],
            os.environ,
            folder,
            reaper,
        )
        return _kafka_service(instance, ports, certificates.ca)

    return make


def container_minio(reaper: Reaper, progress: Progress) -> Maker[MinioService]:
    """Return a maker of stores in containers."""
    client = containers.container_engine()
    containers.pull(client, containers.MINIO_IMAGE, progress)

    def make() -> MinioService:
        (port,) = free_ports(1)
        instance = containers.create(
            client,
            containers.MINIO_IMAGE,
            name=f"bronze-test-minio-{uuid.uuid4().hex[:8]}",
            entrypoint=["minio", "server", "--quiet", "--address", f"0.0.0.0:{port}", "/data"],
            environ=_minio_environ({}),
            ports=[port],
            files={},
            reaper=reaper,
        )
        return _minio_service(instance, port)

    return make


def local_minio(reaper: Reaper, progress: Progress) -> Maker[MinioService]:
    """Return a maker of stores as processes of a MinIO built here."""
    binary = install.minio_binary(progress)

    def make() -> MinioService:
        port, console = free_ports(2)
        folder = _folder("minio", reaper)
        command = [
            str(binary), "server", "--quiet",
            "--address", f"127.0.0.1:{port}",
            "--console-address", f"127.0.0.1:{console}",
            "--certs-dir", str(folder / "certificates"),
            str(folder / "data"),
        ]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MINIO_")}
        instance = LocalProcess(command, _minio_environ(inherited), folder, reaper)
        return _minio_service(instance, port)

    return make


def local_browser(reaper: Reaper, chromium: str, driver: str) -> Browser:
    """Return a browser, not started, with a profile that nobody had before."""
    (port,) = free_ports(1)
    folder = _folder("browser", reaper)
    environ = {**os.environ, "HOME": str(folder), "TMPDIR": str(folder)}
    instance = LocalProcess([driver, f"--port={port}"], environ, folder, reaper)
    return Browser(instance, f"http://127.0.0.1:{port}", chromium, folder / "profile")


def _folder(name: str, reaper: Reaper) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"bronze-test-{name}-"))
    reaper.watch("folder", str(folder))
    return folder


def _cluster_id() -> str:
    return uuid.uuid4().hex[:22]


def _format(java: list[str], config: Path) -> None:
    """Prepare the data folder of a new broker, which refuses to start on any other."""
    tool = ["kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(config)]
    try:
        answer = subprocess.run(
            [*java, *tool], capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"formatting Kafka's data took over {FORMAT_TIMEOUT_S} s") from error
    if answer.returncode != 0:
        raise ServiceError(f"formatting Kafka's data failed: {answer.stdout}{answer.stderr}")


def _kafka_service(instance: Instance, ports: KafkaPorts, ca_path: Path) -> KafkaService:
    managed = ManagedKafka(instance=instance, ports=ports, ca_path=ca_path)
    return KafkaService(f"127.0.0.1:{ports.plaintext}", managed)


def _minio_service(instance: Instance, port: int) -> MinioService:
    return MinioService(f"http://127.0.0.1:{port}", MINIO_USER, MINIO_PASSWORD, instance)


def _minio_environ(inherited: Mapping[str, str]) -> dict[str, str]:
    return {
        **inherited,
        "MINIO_ROOT_USER": MINIO_USER,
        "MINIO_ROOT_PASSWORD": MINIO_PASSWORD,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        # Lets it keep its data on the root disk, as temporary folders often are.
        "MINIO_CI_CD": "on",
    }
