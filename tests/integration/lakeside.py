"""What the feature tests share: a lake to write to, settings, messages in, rows out.

Rows, positions and records are read with the rig's readers or as plain files, never with the
product's code.
"""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Producer
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from tests.rig.lake import RECORDS, bronze_table, dlq_table, open_lake, read_numbered, table_uri
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

DELIVERY_TIMEOUT_S = 30
START_S = 40
"""A start takes about three seconds; the rest is for a machine that does other things, too."""
LAND_S = 30
"""For messages to be rows, at an interval of one second."""

LABEL = re.compile(r'(\w+)="([^"]*)"')

QUICK: Mapping[str, str] = {
    "BATCH_INTERVAL_SECONDS": "1",
    "STORE_TIMEOUT_SECONDS": "3",
    "HEARTBEAT_LIMIT_SECONDS": "15",
    "CYCLE_DEADLINE_SECONDS": "10",
    "STOP_DEADLINE_SECONDS": "15",
}
"""Short limits, so that a test of what happens at a limit does not take long."""


@dataclass(frozen=True, slots=True)
class Lake:
    """Where tables go: the URI, deltalake's options, and the service's variables."""

    uri: str
    options: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def folder_lake(folder: Path) -> Lake:
    """A lake in a local folder, for tests to which the store does not matter."""
    path = str(folder / "lake")
    return Lake(path, {}, {"LAKE_URI": path})


def store_lake(minio: MinioService, prefix: str) -> Lake:
    """A lake in the store."""
    return Lake(minio.lake_uri(prefix), minio.storage_options(), minio.environment(prefix))


def settings(
    bootstrap: str, lake: Lake, topics: Sequence[str], **more: str | int
) -> dict[str, str]:
    """The service's variables; the group is named after the first topic."""
    return {
        **QUICK,
        **lake.environment,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "KAFKA_TOPICS": ",".join(topics),
        "KAFKA_GROUP_ID": group_of(topics),
        **{name: str(value) for name, value in more.items()},
    }


def group_of(topics: Sequence[str]) -> str:
    """The consumer group that `settings` names."""
    return f"group-of-{topics[0]}"


def send(
    bootstrap: str, topic: str, values: Iterable[bytes | None], partition: int = 0,
    client: Mapping[str, object] | None = None, key: bytes | None = None,
) -> list[int]:
    """Write values to one partition and return their offsets, see `send_messages`."""
    messages = [{"value": value, "key": key} for value in values]
    return send_messages(bootstrap, topic, messages, partition, client)


def send_messages(
    bootstrap: str, topic: str, messages: Iterable[Mapping[str, Any]], partition: int = 0,
    client: Mapping[str, object] | None = None,
) -> list[int]:
    """Write messages to one partition; return their offsets once the broker confirmed all.

    messages: value, key, headers, timestamp, as the client takes them; client: further settings.
    """
    offsets: list[int] = []
    failures: list[str] = []

    def delivered(error: Any, confirmed: Any) -> None:
        if error is None:
            offsets.append(confirmed.offset())
        else:
            failures.append(error.str())

    # One request at a time and no second try keep the order without the half second that an
    # idempotent producer takes to begin.
    producer = Producer({
        "bootstrap.servers": bootstrap, "log_level": 0, "acks": "all", "retries": 0,
        "max.in.flight.requests.per.connection": 1,
        "message.timeout.ms": DELIVERY_TIMEOUT_S * 1000, **(client or {})})
    for message in messages:
        producer.produce(topic, partition=partition, on_delivery=delivered, **message)
    left = producer.flush(DELIVERY_TIMEOUT_S)
    assert not left and not failures, (left, failures[:3])
    return sorted(offsets)


def send_with_raw_header_name(
    bootstrap: str, topic: str, name: bytes, *, key: bytes, value: bytes
) -> None:
    """Write one message to partition 0 with a header name of any bytes but zeros.

    Only librdkafka's own interface takes it; the client for Python wants text.
    """
    folder = Path(confluent_kafka.__file__).parent.with_name("confluent_kafka.libs")
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*"))))
    for function in (library.rd_kafka_conf_new, library.rd_kafka_new):
        function.restype = ctypes.c_void_p
    text = ctypes.create_string_buffer(512)
    conf = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(
        conf, b"bootstrap.servers", bootstrap.encode(), text, ctypes.c_size_t(len(text)))
    client = ctypes.c_void_p(library.rd_kafka_new(0, conf, text, ctypes.c_size_t(len(text))))
    assert client, text.value
    # Tags of rd_kafka_vtype_t with their arguments: topic, partition, copy, value, key, header.
    code = library.rd_kafka_producev(
        client, 1, topic.encode(), 3, ctypes.c_int32(0), 7, 2,
        4, value, ctypes.c_size_t(len(value)), 5, key, ctypes.c_size_t(len(key)),
        9, name, b"v", ctypes.c_ssize_t(1), 0)
    assert code == 0
    assert library.rd_kafka_flush(client, DELIVERY_TIMEOUT_S * 1000) == 0
    library.rd_kafka_destroy(client)


def numbered(count: int, first: int = 0) -> list[bytes]:
    """Small JSON values, every one different."""
    return [b'{"n": %d}' % number for number in range(first, first + count)]


def rows(lake: Lake, topic: str) -> list[dict[str, Any]]:
    """The bronze table's rows by partition and offset."""
    return _rows(lake, bronze_table(topic))


def dead_letters(lake: Lake, topic: str) -> list[dict[str, Any]]:
    """The dead letter table's rows by partition and offset."""
    return _rows(lake, dlq_table(topic))


def _rows(lake: Lake, table: str) -> list[dict[str, Any]]:
    found = open_table(lake, table).to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row["_kafka_partition"], row["_kafka_offset"]))


def open_table(lake: Lake, table: str) -> DeltaTable:
    """A table at its newest version."""
    return DeltaTable(table_uri(lake.uri, table), storage_options=lake.options)


def offsets_of(found: Iterable[Mapping[str, Any]], partition: int = 0) -> list[int]:
    """The offsets of one partition among rows, in order, doubles included."""
    return [row["_kafka_offset"] for row in found if row["_kafka_partition"] == partition]


def position(lake: Lake, topic: str, partition: int = 0) -> int | None:
    """The next offset that the bronze table waits for; None also when there is no table yet."""
    try:
        table = open_table(lake, bronze_table(topic))
    except TableNotFoundError:
        return None
    return table.transaction_version(f"bronze/{topic}/{partition}")


def wait_for_position(
    service: Service, lake: Lake, topic: str, wanted: int, partition: int = 0,
    timeout_s: float = LAND_S,
) -> None:
    """Wait until the bronze table stands at `wanted` or behind it; the service must not end."""

    def has_come() -> bool:
        assert service.is_running(), service.log_tail()
        found = position(lake, topic, partition)
        return found is not None and found >= wanted

    wait_until(
        has_come, timeout_s,
        lambda: f"{topic}/{partition} stands at {wanted}; is {position(lake, topic, partition)}\n"
        f"{service.health().get('reasons')}\n{service.log_tail()}", 0.2)


def wait_for_error(
    service: Service, topic: str, error: str, timeout_s: float, state: str | None = None
) -> dict[str, Any]:
    """Wait until /health gives `error` as the topic's last error (and its state), with 503."""

    def shows(page: dict[str, Any]) -> bool:
        entry = page["topics"][topic]
        named = (entry["last_error"] or {}).get("name") == error
        is_so = state is None or entry["state"] == state
        return named and is_so and page["http_status"] == 503

    return service.wait_for(shows, timeout_s, f"{topic} shows {error} ({state})")


def records(lake: Lake, kind: str = "cycle") -> list[dict[str, Any]]:
    """The records of one kind in the lake's log, in order."""
    found = read_numbered(open_lake(lake.uri, lake.options), RECORDS).values()
    return [record for record in map(json.loads, found) if record["kind"] == kind]


def ranges(lake: Lake, topic: str, partition: int = 0) -> list[dict[str, Any]]:
    """What the records say of one partition, in order."""
    return [
        part
        for record in records(lake)
        for manifest in record["manifests"] if manifest["topic"] == topic
        for part in manifest["ranges"] if part["partition"] == partition
    ]


def metric(service: Service, name: str, **labels: str) -> float:
    """One sample of /metrics, by its name and all its labels; it must be there."""
    status, body = service.get("/metrics")
    assert status == 200
    for line in body.decode().splitlines():
        sample, _, value = line.rpartition(" ")
        if sample.partition("{")[0] == name and dict(LABEL.findall(sample)) == labels:
            return float(value)
    raise AssertionError(f"{name} {labels} is not in /metrics")


def create_topics(kafka: KafkaService, topics: Iterable[str], partitions: int = 1) -> None:
    """Create topics of the broker's default settings."""
    for topic in topics:
        kafka.create_topic(topic, partitions)


class Kept:
    """Things that one test of a module makes and the others look at, too."""

    def __init__(self, closing: ExitStack) -> None:
        self.closing = closing
        self.things: dict[str, Any] = {}
