"""What the fault tests of store and tables share: paths on the wire, hands in the lake, ends.

`Objects` is the operator, or another writer, who reaches past the service; the rest drives a scene
from a first landing to the judgement, and tells the evidence what it saw on the way.
"""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Iterable, Mapping, Sequence

import obstore
from confluent_kafka import Producer
from deltalake import CommitProperties, DeltaTable, Transaction
from obstore.store import S3Store

from tests.rig.evidence import Evidence
from tests.rig.lake import bronze_table, table_uri
from tests.rig.ledger import Kind, digest_of
from tests.rig.producer import LoadProducer
from tests.rig.scene import START_S, Scene
from tests.rig.service import Service
from tests.services import MinioService

MESSAGES = 600
"""Per part: before a fault, in the cycle that meets it, and after it."""
FIRE_S = 30
LANDING_S = 60

UPLOAD = r"/(dlq_)?bronze_[^/]+/_ingestion_date=.*\.parquet$"
RECORD = r"/_bronze/log/\d+\.json$"
COMMIT = r"/(dlq_)?bronze_[^/]+/_delta_log/\d{20}\.json$"
CHECKPOINT = r"/_delta_log/\d{20}\.checkpoint.*\.parquet$"

LARGE_VALUE_BYTES = 100_000
LARGE_DELIVERY_S = 60


class Objects:
    """The objects of a lake as somebody else's hands: read, put, delete, restore."""

    def __init__(self, minio: MinioService, prefix: str) -> None:
        self._store: S3Store = minio.object_store(prefix)

    def names(self, folder: str) -> list[str]:
        """Every object below a folder, in order."""
        return sorted(
            meta["path"] for chunk in obstore.list(self._store, prefix=folder) for meta in chunk
        )

    def copy(self, folder: str) -> dict[str, bytes]:
        """The content of every object below a folder."""
        return {name: self.get(name) for name in self.names(folder)}

    def get(self, name: str) -> bytes:
        """One object's content."""
        return bytes(obstore.get(self._store, name).bytes())

    def put(self, name: str, data: bytes) -> None:
        """Write an object, over one that is there."""
        obstore.put(self._store, name, data, use_multipart=False)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects."""
        for name in names:
            obstore.delete(self._store, name)

    def restore(self, kept: Mapping[str, bytes]) -> list[str]:
        """Put back what is missing of a copy, oldest names first; the names put back."""
        gone = []
        for name in sorted(kept):
            try:
                obstore.head(self._store, name)
            except FileNotFoundError:
                self.put(name, kept[name])
                gone.append(name)
        return gone


def log_folder(topic: str) -> str:
    """The folder of a bronze table's log."""
    return f"{bronze_table(topic)}/_delta_log"


def open_bronze(scene: Scene, topic: str) -> DeltaTable:
    """A topic's bronze table for another writer."""
    return DeltaTable(
        table_uri(scene.lake_uri, bronze_table(topic)), storage_options=scene.options)


def commit_beside(scene: Scene, topic: str, name: str) -> None:
    """One commit of somebody else's position, on a fresh snapshot."""
    table = open_bronze(scene, topic)
    properties = CommitProperties(
        app_transactions=[Transaction(name, int(time.time() * 1000))], max_commit_retries=0)
    table.create_write_transaction([], "append", table.schema(), commit_properties=properties)


def settle(scene: Scene, service: Service, producer: LoadProducer) -> None:
    """Have a first part land while everything is well."""
    service.wait_healthy(START_S)
    producer.produce(MESSAGES)
    scene.wait_landed(service, LANDING_S)


def wait_recovered(
    scene: Scene, service: Service, evidence: Evidence, what: str, since_s: float,
    topics: Sequence[str] | None = None,
) -> None:
    """Wait until all is visible and healthy, and tell how long that took since a moment."""
    scene.wait_landed(service, LANDING_S, topics)
    if topics is None:
        service.wait_healthy(LANDING_S)
    evidence.recovered(what, time.monotonic() - since_s)


def finish(
    scene: Scene, service: Service, producer: LoadProducer, evidence: Evidence
) -> None:
    """Produce once more, see all of it land without a worker's death, stop, and judge."""
    producer.produce(MESSAGES)
    scene.wait_landed(service, LANDING_S)
    page = service.wait_healthy(LANDING_S)
    restarts = {topic: entry["restarts"] for topic, entry in page["topics"].items()}
    assert set(restarts.values()) == {0}, restarts
    assert service.terminate() == 0
    judge(scene, evidence)


def judge(scene: Scene, evidence: Evidence) -> None:
    """Hold everything against the ledger, and tell what was judged."""
    scene.judge()
    evidence.judged(scene.ledger.rows(), len(scene.record_numbers()))


def produce_large(bootstrap: str, scene: Scene, topic: str, count: int, seed: int) -> None:
    """Write values that do not compress to one partition, and enter them in the ledger."""
    generator = random.Random(f"large {seed}")
    part = scene.ledger.partition(topic, 0)
    failures: list[str] = []
    producer = Producer({
        "bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0,
        "message.timeout.ms": LARGE_DELIVERY_S * 1000})
    now_ms = int(time.time() * 1000)
    for _ in range(count):
        raw = generator.randbytes(LARGE_VALUE_BYTES * 3 // 4)
        value = b'"%b"' % base64.b64encode(raw)
        digest = digest_of(None, value, b"", now_ms)

        def delivered(error: object, message: object, digest: bytes = digest) -> None:
            if error is not None:
                failures.append(str(error))
            else:
                part.record(message.offset(), Kind.VALID, digest)

        producer.produce(
            topic, value=value, partition=0, timestamp=now_ms, on_delivery=delivered)
        producer.poll(0)
    left = producer.flush(LARGE_DELIVERY_S)
    assert not left and not failures, (left, failures[:3])
