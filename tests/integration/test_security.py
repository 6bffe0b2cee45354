"""Signing in to real brokers, and secrets that must not show anywhere."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import (
    AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion,
)

from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.evidence import Evidence, Strike
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

USER = "alice"
WRONG_FOR_S = 10
"""How long a wrong password is watched."""
LINES_OF_10_S_MAX = 3
"""Log lines of one topic about one error in that time: the first one, and its change."""
ANY_ACTION = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}],
}


@pytest.fixture
def managed_kafka(kafka: KafkaService) -> KafkaService:
    """Give the session's broker if it has the listeners that these tests are about."""
    if not kafka.is_managed:
        pytest.skip("a given broker's listeners and users are its own affair")
    return kafka


def login(kafka: KafkaService, mechanism: str, password: str) -> dict[str, str]:
    """The service's variables for the SASL listener."""
    return {
        "KAFKA_BOOTSTRAP_SERVERS": str(kafka.sasl_bootstrap),
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": mechanism,
        "KAFKA_SASL_USERNAME": USER,
        "KAFKA_SASL_PASSWORD": password,
    }


@pytest.mark.parametrize("way", ["scram", "ssl"])
def test_messages_arrive_over_a_secured_listener(
    managed_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, way: str
) -> None:
    """Admin and consumer both have to sign in; PLAIN is shown by the test of secrets."""
    lake = ls.folder_lake(tmp_path)
    topics = topic_names(2)
    ls.create_topics(managed_kafka, topics)
    secured = {
        "scram": login(managed_kafka, "SCRAM-SHA-512", managed_kafka.users[USER]),
        "ssl": {
            "KAFKA_BOOTSTRAP_SERVERS": str(managed_kafka.ssl_bootstrap),
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CA_LOCATION": str(managed_kafka.ca_path),
        },
    }[way]
    for topic in topics:
        ls.send(managed_kafka.bootstrap, topic, ls.numbered(20))
    with Service(ls.settings("unused:1", lake, topics, **secured), 2) as service:
        for topic in topics:
            ls.wait_for_position(service, lake, topic, 20, timeout_s=ls.START_S)
        service.wait_healthy(20)
        wait_until(
            lambda: managed_kafka.committed_offsets(ls.group_of(topics), topics[0]) == {0: 20},
            15, "the group's offsets are told over the secured listener")
        assert service.terminate() == 0
    assert ls.offsets_of(ls.rows(lake, topics[0])) == list(range(20))


@pytest.mark.fault("K13")
@pytest.mark.parametrize("way", ["password", "authority"])
def test_refused_login_is_named_at_a_bounded_rate_and_ends_with_75(
    managed_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, way: str,
    evidence: Evidence,
) -> None:
    """A refused login is an outage until somebody acts: no storm of restarts, lines or log-ins."""
    lake = ls.folder_lake(tmp_path)
    topics = topic_names(2)
    ls.create_topics(managed_kafka, topics)
    wrong = f"wrong-{uuid.uuid4().hex}"
    refused = {
        "password": login(managed_kafka, "SCRAM-SHA-512", wrong),
        "authority": {
            "KAFKA_BOOTSTRAP_SERVERS": str(managed_kafka.ssl_bootstrap),
            "KAFKA_SECURITY_PROTOCOL": "SSL",
        },
    }[way]
    environ = ls.settings(
        "unused:1", lake, topics, **refused, START_DEADLINE_SECONDS=WRONG_FOR_S)
    with Service(environ, 2) as service:
        named: dict[str, dict[str, object]] = {}

        def watch() -> bool:
            for topic, entry in service.topics().items():
                error = entry["last_error"]
                if error and error["name"] == "KafkaAuthenticationFailed":
                    named[topic] = error
                assert entry["restarts"] == 0
            return not service.is_running()

        wait_until(watch, WRONG_FOR_S + 30, "the service gives up")
        assert service.exit_code == 75
        assert sorted(named) == sorted(topics)
        assert all("KAFKA_SASL_MECHANISM" in str(error["what_to_do"]) for error in named.values())
        told = service.log_events("worker_error")
        for topic in topics:
            lines = [event for event in told if event["topic"] == topic]
            assert 1 <= len(lines) <= LINES_OF_10_S_MAX, lines
            assert "KafkaAuthenticationFailed" in {event["error"] for event in lines}
        assert len(service.log_events("worker_spawned")) == 2
        assert service.log_events("dependency_never_came")
        assert service.log_strays() == []
        assert wrong not in service.log_path.read_text()
    evidence.struck(Strike.KAFKA, f"a refused login ({way}) at the start")


@pytest.mark.fault("K13")
def test_password_mended_at_the_broker_heals_the_service_by_itself(
    managed_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """The person on call mends the user, not the service."""
    lake = ls.folder_lake(tmp_path)
    topics = topic_names(1)
    ls.create_topics(managed_kafka, topics)
    ls.send(managed_kafka.bootstrap, topics[0], ls.numbered(5))
    user, password = f"user-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    environ = ls.settings("unused:1", lake, topics, **{
        **login(managed_kafka, "SCRAM-SHA-512", password), "KAFKA_SASL_USERNAME": user})
    with Service(environ, 1) as service:
        ls.wait_for_error(service, topics[0], "KafkaAuthenticationFailed", ls.START_S)
        pid = service.worker_pids()[topics[0]]
        admin: AdminClient = managed_kafka.admin()
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        for future in admin.alter_user_scram_credentials(
                [UserScramCredentialUpsertion(user, how, password.encode())]).values():
            future.result(timeout=20)
        healed = time.monotonic()
        ls.wait_for_position(service, lake, topics[0], 5, timeout_s=40)
        seconds = time.monotonic() - healed
        service.wait_healthy(20)
        assert service.worker_pids()[topics[0]] == pid
    evidence.struck(Strike.KAFKA, "a refused login that was mended")
    evidence.recovered("a refused login that was mended", seconds)
    evidence.judged(5)


def test_secrets_show_nowhere(
    managed_kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    tmp_path: Path,
) -> None:
    """Log, pages, lake, command lines and the sidecar's environment are read by many people."""
    topics = topic_names(2)
    ls.create_topics(managed_kafka, topics)
    store_key, store_secret = f"key{uuid.uuid4().hex[:12]}", f"canary-store-{uuid.uuid4().hex}"
    property_secret = f"canary-property-{uuid.uuid4().hex}"
    password = managed_kafka.users[USER]
    minio.put_user(store_key, store_secret, ANY_ACTION)
    lake = ls.store_lake(minio, lake_prefix)
    environ = ls.settings(managed_kafka.bootstrap, lake, topics, **{
        **login(managed_kafka, "PLAIN", password),
        "AWS_ACCESS_KEY_ID": store_key, "AWS_SECRET_ACCESS_KEY": store_secret,
        "KAFKA_PROPERTY_SSL_KEY_PASSWORD": property_secret, "LOG_LEVEL": "DEBUG"})
    secrets = [password, store_key, store_secret, property_secret]
    for topic in topics:
        ls.send(managed_kafka.bootstrap, topic, [*ls.numbered(20), b"{bad"])
    with Service(environ, 2) as service:
        for topic in topics:
            ls.wait_for_position(service, lake, topic, 21, timeout_s=ls.START_S)
        os.kill(service.worker_pids()[topics[0]], 9)
        ls.send(managed_kafka.bootstrap, topics[0], ls.numbered(5))
        ls.wait_for_position(service, lake, topics[0], 26)
        # Refused by the store: its error messages are the likeliest place for a secret.
        minio.put_user(store_key, f"{store_secret}-changed", ANY_ACTION)
        ls.send(managed_kafka.bootstrap, topics[0], ls.numbered(5))
        ls.wait_for_error(service, topics[0], "StorageUnavailable", 30)
        pages = b"".join(service.get(path)[1] for path in ("/health", "/metrics", "/", "/livez"))
        processes = [psutil.Process(pid) for pid in service.all_pids()]
        assert len(processes) >= 5
        assert property_secret in _environ_block(service.pid), "the look itself finds nothing"
        sidecar = service.sidecar_pid()
        assert sidecar is not None
        _absent("command lines", secrets, (" ".join(p.cmdline()) for p in processes))
        _absent("the sidecar's environment", secrets, [_environ_block(sidecar)])
        _absent("pages", secrets, [pages.decode()])
        minio.put_user(store_key, store_secret, ANY_ACTION)
        ls.wait_for_position(service, lake, topics[0], 31, timeout_s=40)
        assert service.terminate() == 0
        _absent("log", secrets, [service.log_path.read_text(errors="replace")])
        assert len(service.log_events()) > 20
    objects = _objects(minio, lake_prefix)
    assert any("/_bronze/log/" in name for name in objects)
    for name, content in objects.items():
        assert not [s for s in secrets if s.encode() in content or s in name], name


def _environ_block(pid: int) -> str:
    """All that the kernel shows as a process' environment, whatever it is by now."""
    return repr(Path(f"/proc/{pid}/environ").read_bytes())


def _absent(place: str, secrets: Iterable[str], texts: Iterable[str]) -> None:
    seen = list(texts)
    assert any(seen), f"{place}: nothing to look at"
    for number, secret in enumerate(secrets):
        assert not any(secret in text for text in seen), f"secret {number} shows in {place}"


def _objects(minio: MinioService, prefix: str) -> dict[str, bytes]:
    client = minio.client()
    found = {}
    for entry in client.list_objects(minio.bucket, prefix=prefix, recursive=True):
        answer = client.get_object(minio.bucket, str(entry.object_name))
        found[str(entry.object_name)] = answer.read()
        answer.close()
    return found
