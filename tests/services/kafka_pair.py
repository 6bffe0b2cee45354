"""Two brokers that hold copies of each other's partitions, for tests of a leader that goes away.

The first is broker and controller, the second a broker only: it may die, and the first goes on.
Processes of Java only, whatever the other services of the session run on.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from confluent_kafka import ElectionType, KafkaException
from confluent_kafka.admin import NewTopic

from tests.services import install
from tests.services.certificates import make_certificates
from tests.services.install import Progress
from tests.services.instances import LocalProcess
from tests.services.kafka import KafkaService
from tests.services.kafka_config import (
    BROKER_MEMORY,
    LOG4J_PROPERTIES,
    KafkaPorts,
    server_properties,
)
from tests.services.ports import free_ports
from tests.services.reaper import Reaper
from tests.waiting import wait_until

FIRST, SECOND = 1, 2
GROUPS_TOPIC = "__consumer_offsets"
GROUPS_PARTITIONS = 4
START_TIMEOUT_S = 90
FORMAT_TIMEOUT_S = 90


class KafkaPair:
    """The pair, started; a context manager that removes it.

    Attributes:
        bootstrap: of both brokers.
        second: the one that may be stopped, killed and started again.

    Raises:
        ServiceUnavailable: there is no Java, or no way to the broker's jars.
    """

    def __init__(self, progress: Progress) -> None:
        java, jars = install.java_command(), install.kafka_jars(progress)
        self._reaper = Reaper()
        self._folder = Path(tempfile.mkdtemp(prefix="bronze-test-kafka-pair-"))
        self._reaper.watch("folder", str(self._folder))
        self._base = [java, "-cp", f"{jars}/*"]
        self._cluster = uuid.uuid4().hex[:22]
        ports = {node: KafkaPorts(*free_ports(6)) for node in (FIRST, SECOND)}
        controller = ports[FIRST].controller
        self._first = self._broker(FIRST, ports[FIRST], controller)
        self.second = self._broker(SECOND, ports[SECOND], controller)
        self.bootstrap = ",".join(f"127.0.0.1:{ports[node].plaintext}" for node in ports)
        self._service = KafkaService(self.bootstrap)

    def __enter__(self) -> KafkaPair:
        """Start both, and return once both serve."""
        try:
            self._first.start()
            self.second.start()
            self.wait_for_brokers(2)
            self._create(GROUPS_TOPIC, GROUPS_PARTITIONS, {"cleanup.policy": "compact"})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove both and their data."""
        self.close()

    def close(self) -> None:
        """Remove both and their data."""
        self.second.remove()
        self._first.remove()
        self._reaper.close()

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic with a copy on each broker; leaders take turns."""
        self._create(name, partitions, {})

    def leaders(self, topic: str) -> dict[int, int]:
        """Partition -> the broker that leads it; -1 for nobody."""
        found = self._service.admin().list_topics(topic, timeout=10).topics[topic].partitions
        return {number: partition.leader for number, partition in sorted(found.items())}

    def in_sync(self, topic: str) -> bool:
        """Whether both brokers hold all of every partition."""
        found = self._service.admin().list_topics(topic, timeout=10).topics[topic].partitions
        return all(len(partition.isrs) == 2 for partition in found.values())

    def prefer(self) -> None:
        """Have every partition led by the broker that led it first."""
        admin = self._service.admin()
        admin.elect_leaders(ElectionType.PREFERRED).result(timeout=30)

    def coordinator(self, group: str) -> int:
        """The broker that coordinates a group."""
        return self.leaders(GROUPS_TOPIC)[_java_hash(group) % GROUPS_PARTITIONS]

    def wait_for_brokers(self, count: int) -> None:
        """Wait until so many brokers are in the cluster."""

        def has_come() -> bool:
            try:
                return len(self._service.admin().list_topics(timeout=2).brokers) == count
            except KafkaException:
                return False

        wait_until(
            has_come, START_TIMEOUT_S,
            lambda: f"{count} brokers\n{self._first.log_tail()}\n{self.second.log_tail()}", 0.2)

    def _create(self, name: str, partitions: int, config: Mapping[str, str]) -> None:
        topic = NewTopic(name, partitions, 2, config=dict(config))
        self._service.admin().create_topics([topic])[name].result(timeout=30)

        def all_lead() -> bool:
            leaders = self.leaders(name)
            return len(leaders) == partitions and min(leaders.values()) > 0

        wait_until(all_lead, 30, f"{name} has leaders")

    def _broker(self, node: int, ports: KafkaPorts, controller: int) -> LocalProcess:
        folder = self._folder / str(node)
        folder.mkdir()
        text = server_properties(
            ports, "127.0.0.1", str(folder / "data"), str(make_certificates(folder).server))
        settings = dict(line.split("=", 1) for line in text.splitlines())
        settings |= {
            "node.id": str(node),
            "controller.quorum.voters": f"{FIRST}@127.0.0.1:{controller}",
            "offsets.topic.replication.factor": "2",
            "auto.leader.rebalance.enable": "false",
        }
        if node != FIRST:
            settings["process.roles"] = "broker"
            settings["listeners"] = settings["listeners"].rpartition(",")[0]
        config = folder / "server.properties"
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        logging_config = folder / "log4j2.properties"
        logging_config.write_text(LOG4J_PROPERTIES)
        base = [*self._base, f"-Dlog4j2.configurationFile={logging_config}"]
        tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", str(config)]
        subprocess.run(
            [*base, "-Xmx128m", *tool], capture_output=True, timeout=FORMAT_TIMEOUT_S, check=True)
        return LocalProcess(
            [*base, *BROKER_MEMORY, "kafka.Kafka", str(config)], os.environ, folder, self._reaper)


def _java_hash(text: str) -> int:
    """Of a string, as Kafka takes it to find a group's partition: never negative."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value & 0x7FFFFFFF
