"""What the probes of `check` make of stores and clients that misbehave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import tools.kafka_probe
import tools.store_probe
from demo.broker import EmbeddedCluster
from shared.errors import StorageUnavailable
from tests.fakes.config import make_config
from tests.fakes.store import MemoryStore
from tools.check import expected, judge
from tools.findings import (
    Backlog, Clocks, Failure, Finding, Key, NotTold, Operation, Topic, Unread,
)
from tools.kafka_probe import KafkaProbe
from tools.report import Status
from tools.store_probe import StoreProbe, is_worth_more

FLUSH_S = 10.0


class DatedStore(MemoryStore):
    """Tells when an object was written, as the real one does."""

    def modified_unix_s(self, path: str) -> float | None:
        """Long ago."""
        return 1000.0 if path in self.objects else None


class Careless(DatedStore):
    """Takes every create, as stores do that do not know conditional writes."""

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Overwrite."""
        self.objects[path] = bytes(data)
        return True


class Forgetful(DatedStore):
    """Holds something else than what it was given."""

    def get(self, path: str) -> bytes | None:
        """An older version."""
        return b"older" if path in self.objects else None


class Broken(DatedStore):
    """Fails as no adapter should."""

    def list_after(self, prefix: str, after: str = "") -> list[str]:
        """Raise."""
        raise ZeroDivisionError("a defect")


def found_in(
    store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **environ: str
) -> dict[Key, Finding]:
    """Run the probe on a store; the tables are looked for in an empty folder."""
    monkeypatch.setattr(tools.store_probe, "open_store", lambda lake: store)
    findings: dict[Key, Finding] = {}
    config = make_config(environ={"LAKE_URI": str(tmp_path / "lake"), **environ})
    StoreProbe(config, findings.__setitem__).look()
    return findings


def test_probe_tries_everything_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line about the store comes from it."""
    store = DatedStore()
    found = found_in(store, tmp_path, monkeypatch)
    kinds = ("store", "clock", "log", "table")
    assert set(found) == {key for key in expected(make_config()) if key.check in kinds}
    assert not [key for key, finding in found.items() if isinstance(finding, Failure)]
    clocks = found[Key("clock")]
    assert isinstance(clocks, Clocks) and clocks.store_s == 1000.0
    assert 1000.0 < clocks.before_s <= clocks.after_s
    assert store.objects == {}
    assert list(tmp_path.iterdir()) == []


def test_the_right_to_delete_data_files_is_not_tried_where_it_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without compaction and vacuum the policy may lack it."""
    found = found_in(DatedStore(), tmp_path, monkeypatch,
                     COMPACT_TARGET_MB="0", VACUUM_RETENTION_DAYS="0")
    assert Key("store", "trim") in found
    assert Key("store", "vacuum") not in found


def test_a_folder_keeps_what_was_in_it_and_nothing_else(tmp_path: Path) -> None:
    """The folders the probe had to make go with its objects."""
    kept = tmp_path / "lake" / "_bronze" / "check" / "kept"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    findings: dict[Key, Finding] = {}
    StoreProbe(make_config(environ={"LAKE_URI": str(tmp_path / "lake")}),
               findings.__setitem__).look()
    assert findings[Key("store", "delete")] == Operation()
    assert sorted(tmp_path.rglob("*")) == [*reversed(kept.parents[:3]), kept]


@pytest.mark.parametrize(("store", "operation"), [(Careless(), "create"), (Forgetful(), "get")])
def test_a_store_that_breaks_its_word_is_found_out(
    store: DatedStore, operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of 200 is not enough."""
    found = found_in(store, tmp_path, monkeypatch)
    finding = found[Key("store", operation)]
    assert isinstance(finding, Operation) and not finding.works and finding.instead
    assert store.objects == {}


def test_a_defect_is_a_finding_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed fails; what is not, is tried all the same."""
    found = found_in(Broken(), tmp_path, monkeypatch)
    assert found[Key("store", "list")] == Failure("ZeroDivisionError", "a defect")
    assert found[Key("store", "put")] == Operation()


def test_a_failed_put_leaves_out_the_clock_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no object whose time could be asked for."""
    class ReadOnly(DatedStore):
        def put(self, path: str, data: Any) -> None:
            raise StorageUnavailable("put", path, "403 Forbidden: AccessDenied")

    found = found_in(ReadOnly(), tmp_path, monkeypatch)
    assert Key("clock") not in found
    assert found[Key("store", "delete")] == Operation()


@pytest.mark.parametrize(("text", "expected"), [
    ("list x: 403 Forbidden: AccessDenied", True),
    ("delete x: DeleteObjects request failed for key x: Access Denied. (code: AccessDenied)", True),
    ("list x: 503 Service Unavailable: SlowDown", True),
    ("list x: 404 Not Found: NoSuchBucket", False),
    ("list x: 403 Forbidden: InvalidAccessKeyId", False),
    ("list x: Generic S3 error: error sending request", False),
    ("list x: Error performing GET http://host:9000/404 Not in 30s: timed out", False),
])
def test_after_a_silent_or_final_answer_nothing_else_is_asked(text: str, expected: bool) -> None:
    """Each further question would take a time-out, or say the same."""
    assert is_worth_more(text) is expected


def test_a_client_that_cannot_be_made_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A property may be one that the client refuses; no question can be asked then."""
    def refuse(properties: dict[str, Any]) -> None:
        raise ValueError("no such property")

    monkeypatch.setattr(tools.kafka_probe, "AdminClient", refuse)
    findings: dict[Key, Finding] = {}
    KafkaProbe(make_config(), findings.__setitem__).look()
    assert findings == {Key("broker"): Failure("ValueError", "no such property")}


@pytest.fixture
def mock() -> Iterator[dict[str, str]]:
    """Give the settings for librdkafka's mock cluster, with two topics of three partitions."""
    cluster = EmbeddedCluster(("orders", "payments"), 3)
    yield {"KAFKA_BOOTSTRAP_SERVERS": cluster.address}
    cluster.close()


def test_what_a_broker_does_not_tell_is_no_failure(mock: dict[str, str]) -> None:
    """The mock cluster has neither DescribeGroups nor DescribeConfigs, and is up."""
    config = make_config(("orders",), mock)
    findings: dict[Key, Finding] = {}
    KafkaProbe(config, findings.__setitem__).look()
    assert findings[Key("group")] == findings[Key("retention", "orders")] == NotTold()
    assert isinstance(findings[Key("topic", "orders")], Topic)
    lines = {line.check: line for line in judge(config, findings).lines}
    for check, advice in (("group", "Read on the group bronze-ingestion"),
                          ("retention", "longer than 1.01 h")):
        assert lines[check].status is Status.WARN
        assert "the broker does not tell" in lines[check].found
        assert advice in lines[check].what_to_do


def test_a_backlog_is_what_the_group_has_not_committed(mock: dict[str, str]) -> None:
    """With the oldest message's own time; what nobody committed is not known."""
    config = make_config(("orders", "payments"), mock)
    bootstrap = mock["KAFKA_BOOTSTRAP_SERVERS"]
    producer = Producer({"bootstrap.servers": bootstrap})
    for offset in range(5):
        for partition in (0, 1):
            producer.produce("orders", b"x", partition=partition, timestamp=1000 + offset)
    assert producer.flush(FLUSH_S) == 0
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": config.kafka.group_id})
    consumer.commit(offsets=[TopicPartition("orders", 0, 2), TopicPartition("orders", 1, 5)],
                    asynchronous=False)
    consumer.close()
    findings: dict[Key, Finding] = {}
    probe = KafkaProbe(config, findings.__setitem__)
    probe.look()
    probe.look_at_backlogs()
    assert findings[Key("loss", "orders")] == Backlog((Unread(0, 2, 0, 5, 1002),), 1)
    assert findings[Key("loss", "payments")] == Backlog((), 3)


def test_backlogs_that_cannot_be_asked_for_are_findings(
    mock: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each topic, with the error's name."""
    def refuse(properties: dict[str, Any]) -> None:
        raise ValueError("no such property")

    monkeypatch.setattr(tools.kafka_probe, "Consumer", refuse)
    findings: dict[Key, Finding] = {}
    probe = KafkaProbe(make_config(("orders", "payments"), mock), findings.__setitem__)
    probe.look()
    probe.look_at_backlogs()
    for topic in ("orders", "payments"):
        assert findings[Key("loss", topic)] == Failure("ValueError", "no such property")


def test_without_brokers_no_backlog_is_asked_for() -> None:
    """Each question would take its time."""
    findings: dict[Key, Finding] = {}
    probe = KafkaProbe(make_config(), findings.__setitem__)
    probe.look()
    probe.look_at_backlogs()
    assert set(findings) == {Key("broker")}
