"""The real services themselves: whether tests may rely on what they promise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from minio.error import S3Error
from obstore.exceptions import AlreadyExistsError

from tests.conftest import TopicNames
from tests.services import (
    KafkaService, MinioService, ServiceError, ServiceProvider, ServiceUnavailable, install,
)
from tests.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]
DELIVERY_TIMEOUT_S = 20
SILENT = {"log_level": 0}
"""Tests that provoke errors look at them through callbacks, not on the terminal."""


def produce(settings: Mapping[str, object], topic: str, values: list[bytes]) -> None:
    """Write values to partition 0 and fail unless the broker confirmed every one."""
    answers: list[str] = []
    producer = Producer({**settings, **SILENT, "message.timeout.ms": DELIVERY_TIMEOUT_S * 1000})
    for value in values:
        producer.produce(
            topic, value, partition=0, on_delivery=lambda error, _: answers.append(str(error))
        )
    assert producer.flush(DELIVERY_TIMEOUT_S) == 0
    assert answers == ["None"] * len(values)


def consume(settings: Mapping[str, object], topic: str, count: int) -> list[bytes]:
    """Read ``count`` values of partition 0 from its beginning."""
    consumer = Consumer({**settings, **SILENT, "group.id": "reader", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes] = []

    def has_all() -> bool:
        for message in consumer.consume(count - len(values), timeout=0.2):
            assert message.error() is None, message.error()
            values.append(message.value() or b"")
        return len(values) == count

    try:
        wait_until(has_all, DELIVERY_TIMEOUT_S, f"{count} messages arrived")
    finally:
        consumer.close()
    return values


def sasl_settings(kafka: KafkaService, mechanism: str, password: str) -> dict[str, object]:
    return {
        "bootstrap.servers": kafka.sasl_bootstrap,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": "alice",
        "sasl.password": password,
    }


@pytest.fixture
def managed_kafka(kafka: KafkaService) -> KafkaService:
    """Give the session's broker where it has all listeners."""
    if not kafka.is_managed:
        pytest.skip("a given Kafka has only the listener that was given")
    return kafka


def test_kafka_plaintext_listener_carries_messages(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """Everything else is built on this listener."""
    (topic,) = topic_names()
    kafka.create_topic(topic)
    settings = {"bootstrap.servers": kafka.bootstrap}

    produce(settings, topic, [b"one", b"two"])

    assert consume(settings, topic, 2) == [b"one", b"two"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_kafka_sasl_listener_carries_messages(
    managed_kafka: KafkaService, topic_names: TopicNames, mechanism: str
) -> None:
    """Both log-in mechanisms of the product's contract can be tested for real."""
    (topic,) = topic_names()
    managed_kafka.create_topic(topic)
    settings = sasl_settings(managed_kafka, mechanism, managed_kafka.users["alice"])

    produce(settings, topic, [b"by alice"])

    assert consume(settings, topic, 1) == [b"by alice"]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_kafka_sasl_listener_refuses_a_wrong_password(
    managed_kafka: KafkaService, mechanism: str
) -> None:
    """A listener that lets anybody in would make every test of log-in failures worthless."""
    codes: list[int] = []
    producer = Producer(
        {
            **sasl_settings(managed_kafka, mechanism, "wrong"),
            **SILENT,
            "error_cb": lambda error: codes.append(error.code()),
        }
    )

    def is_refused() -> bool:
        producer.poll(0.1)
        return KafkaError._AUTHENTICATION in codes

    wait_until(is_refused, DELIVERY_TIMEOUT_S, lambda: f"the log-in is refused (saw {codes})")


def test_kafka_ssl_listener_carries_messages(
    managed_kafka: KafkaService, topic_names: TopicNames
) -> None:
    """The certificate stands the client's default checks: signed by the CA, right host name."""
    (topic,) = topic_names()
    managed_kafka.create_topic(topic)
    settings = {
        "bootstrap.servers": managed_kafka.ssl_bootstrap,
        "security.protocol": "SSL",
        "ssl.ca.location": str(managed_kafka.ca_path),
    }

    produce(settings, topic, [b"sealed"])

    assert consume(settings, topic, 1) == [b"sealed"]


def test_kafka_ssl_listener_is_not_trusted_without_its_ca(managed_kafka: KafkaService) -> None:
    """The CA is the session's own, so that a client without it must refuse."""
    codes: list[int] = []
    producer = Producer(
        {
            "bootstrap.servers": managed_kafka.ssl_bootstrap,
            "security.protocol": "SSL",
            **SILENT,
            "error_cb": lambda error: codes.append(error.code()),
        }
    )

    def is_refused() -> bool:
        producer.poll(0.1)
        return KafkaError._SSL in codes

    wait_until(is_refused, DELIVERY_TIMEOUT_S, lambda: f"the server is refused (saw {codes})")


def test_kafka_administration_does_what_it_says(
    kafka: KafkaService, topic_names: TopicNames
) -> None:
    """Tests of gaps, growth and positions rest on each of these."""
    (topic,) = topic_names()
    settings = {"bootstrap.servers": kafka.bootstrap}
    kafka.create_topic(topic, 2, {"retention.ms": 3_600_000})
    produce(settings, topic, [b"0", b"1", b"2"])
    assert kafka.offset_ranges(topic) == {0: (0, 3), 1: (0, 0)}

    kafka.create_partitions(topic, 3)
    assert kafka.delete_records(topic, {0: 2}) == {0: 2}
    assert kafka.offset_ranges(topic) == {0: (2, 3), 1: (0, 0), 2: (0, 0)}

    kafka.alter_topic_config(topic, {"max.message.bytes": 100})
    with pytest.raises(AssertionError, match="MSG_SIZE_TOO_LARGE"):
        produce(settings, topic, [b"x" * 1000])

    group = f"{topic}-group"
    assert kafka.committed_offsets(group, topic) == {}
    consumer = Consumer({**settings, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    consumer.close()
    assert kafka.committed_offsets(group, topic) == {0: 3}

    kafka.delete_topic(topic)
    assert topic not in kafka.admin().list_topics(timeout=10).topics


@pytest.mark.slow
def test_kafka_restart_keeps_data_and_addresses(
    own_kafka: KafkaService, topic_names: TopicNames
) -> None:
    """After a kill and after a stop, clients find the same broker with the same messages."""
    (topic,) = topic_names()
    own_kafka.create_topic(topic)
    settings = {"bootstrap.servers": own_kafka.bootstrap}
    with_login = sasl_settings(own_kafka, "SCRAM-SHA-512", own_kafka.users["alice"])

    produce(settings, topic, [b"before the kill"])
    own_kafka.kill()
    assert own_kafka.instance is not None
    assert not own_kafka.instance.is_running()
    own_kafka.start()
    produce(settings, topic, [b"before the stop"])
    own_kafka.stop()
    own_kafka.start()

    assert consume(with_login, topic, 2) == [b"before the kill", b"before the stop"]


def test_minio_refuses_to_create_an_object_twice(minio: MinioService, lake_prefix: str) -> None:
    """The commit protocol rests on this one operation of the store."""
    store = minio.object_store(lake_prefix)
    store.put("record", b"first", mode="create")

    with pytest.raises(AlreadyExistsError):
        store.put("record", b"second", mode="create")

    assert bytes(store.get("record").bytes()) == b"first"


def test_minio_restart_keeps_data_and_address(own_minio: MinioService, lake_prefix: str) -> None:
    """After a kill and after a stop, clients find the same store with the same objects."""
    store = own_minio.object_store(lake_prefix)
    store.put("one", b"1")
    own_minio.kill()
    own_minio.start()
    store.put("two", b"2")
    own_minio.stop()
    own_minio.start()

    assert [bytes(store.get(name).bytes()) for name in ("one", "two")] == [b"1", b"2"]


def test_minio_user_may_do_what_its_policy_says(own_minio: MinioService, lake_prefix: str) -> None:
    """A policy is how tests make the writes of one topic fail, and heal, on a real store."""
    key, secret = f"user-{uuid.uuid4().hex[:8]}", "user-secret-1"

    def policy(*actions: str) -> dict[str, object]:
        everything = [f"arn:aws:s3:::{own_minio.bucket}", f"arn:aws:s3:::{own_minio.bucket}/*"]
        statement = {"Effect": "Allow", "Action": list(actions), "Resource": everything}
        return {"Version": "2012-10-17", "Statement": [statement]}

    own_minio.put_user(key, secret, policy("s3:GetObject", "s3:PutObject"))
    user = MinioService(own_minio.endpoint, key, secret)
    client = user.client()
    client.fput_object(own_minio.bucket, f"{lake_prefix}/a", __file__)

    own_minio.put_user(key, secret, policy("s3:GetObject"))
    with pytest.raises(S3Error, match="AccessDenied"):
        client.fput_object(own_minio.bucket, f"{lake_prefix}/b", __file__)

    own_minio.put_user(key, secret, policy("s3:GetObject", "s3:PutObject"))
    client.fput_object(own_minio.bucket, f"{lake_prefix}/b", __file__)


def test_given_service_is_not_to_be_killed() -> None:
    """An endpoint from the environment may be somebody's; only what we started is ours."""
    with pytest.raises(ServiceError, match="own_kafka"):
        KafkaService("127.0.0.1:1").kill()
    with pytest.raises(ServiceError, match="own_minio"):
        MinioService("http://127.0.0.1:1", "key", "secret").kill()


def test_given_store_needs_its_keys() -> None:
    """Half a configuration is an error, and never a reason to use something else quietly."""
    provider = ServiceProvider(print, {"TEST_S3_ENDPOINT_URL": "http://127.0.0.1:1"})

    with pytest.raises(ServiceError, match="TEST_S3_ACCESS_KEY_ID and TEST_S3_SECRET_ACCESS_KEY"):
        provider.minio()


def test_given_store_is_used_and_left_clean(own_minio: MinioService) -> None:
    """The bucket made in somebody's store goes with the session, and nothing else does."""
    environ = {
        "TEST_S3_ENDPOINT_URL": own_minio.endpoint,
        "TEST_S3_ACCESS_KEY_ID": own_minio.access_key,
        "TEST_S3_SECRET_ACCESS_KEY": own_minio.secret_key,
    }
    provider = ServiceProvider(print, environ)
    given = provider.minio()
    given.object_store("some/prefix").put("object", b"content")
    assert not given.is_managed
    assert own_minio.client().bucket_exists(given.bucket)

    provider.close()

    assert [found.name for found in own_minio.client().list_buckets()] == [own_minio.bucket]


def test_services_die_with_a_session_that_cannot_clean_up(minio: MinioService) -> None:
    """A killed session must leave no process and no data behind; ``atexit`` is no help then."""
    if not minio.is_managed:
        pytest.skip("needs a store that is started here")
    script = """
        import sys
        from tests.services import ServiceProvider

        service = ServiceProvider(print).own_minio()
        print(service.endpoint, flush=True)
        sys.stdin.read()
    """
    session = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert session.stdin is not None and session.stdout is not None
    endpoint = session.stdout.readline().strip()
    family = psutil.Process(session.pid).children(recursive=True)
    folders = [process.cwd() for process in family if "bronze-test-" in process.cwd()]
    assert endpoint.startswith("http://127.0.0.1:")

    os.kill(session.pid, signal.SIGKILL)
    session.wait()
    session.stdin.close()
    session.stdout.close()

    wait_until(
        lambda: not any(process.is_running() for process in family),
        timeout_s=10,
        message="the store and the reaper have ended",
    )
    assert not any(Path(folder).exists() for folder in folders)


APT_GET = """#!/bin/sh
echo "$@" >> {folder}/asked
for name in chromium chromedriver; do
    [ "$2" = install ] && echo > {folder}/$name && /bin/chmod 755 {folder}/$name
done
exit 0
"""


@pytest.mark.parametrize(("require_real", "uid", "asked"), [
    ("0", 0, 0), ("1", 1000, 0), ("1", 0, 2),
])
def test_a_browser_is_installed_by_root_in_ci_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_real: str, uid: int, asked: int
) -> None:
    """Tests must not change the packages of whoever runs them; without a browser they say so."""
    apt_get = tmp_path / "apt-get"
    apt_get.write_text(APT_GET.format(folder=tmp_path))
    apt_get.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    environ = {"REQUIRE_REAL": require_real}
    if asked:
        found = install.chromium_commands(lambda _line: None, environ)
        assert found == (str(tmp_path / "chromium"), str(tmp_path / "chromedriver"))
    else:
        with pytest.raises(ServiceUnavailable, match="apt-get install chromium"):
            install.chromium_commands(lambda _line: None, environ)
    log = tmp_path / "asked"
    assert len(log.read_text().splitlines() if log.exists() else []) == asked


@pytest.mark.parametrize(("require_real", "exit_code"), [("0", 0), ("1", 1)])
def test_session_says_what_it_could_not_run(
    tmp_path: Path, require_real: str, exit_code: int
) -> None:
    """A skipped real test must be impossible to overlook, and a failure where it is required."""
    wanted = "test_kafka_plaintext_listener_carries_messages"
    environ = {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "DOCKER_HOST": f"unix://{tmp_path}/no-engine",
        "REQUIRE_REAL": require_real,
    }

    session = subprocess.run(
        [sys.executable, "-m", "pytest", f"{__file__}::{wanted}", "-p", "no:cacheprovider"],
        cwd=CHECKOUT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert session.returncode == exit_code, session.stdout + session.stderr
    assert "NOT RUN, FOR WANT OF REAL SERVICES: 1" in session.stdout
    assert f"test_services.py::{wanted}" in session.stdout
    for reason in ("no container engine answers", "no Java 17+"):
        assert reason in session.stdout
