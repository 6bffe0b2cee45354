"""`python -m supervisor check` against a real Kafka and a real MinIO, as its user runs it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka.admin import (
    AclBinding, AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType,
    ResourceType,
)
from deltalake import write_deltalake

from tests.conftest import TopicNames
from tests.integration import lakeside as ls
from tests.rig.environment import clean_environment
from tests.rig.service import ROOT, Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

USER = "bob"
LIMIT_S = 30
"""What the command promises, whatever is down."""
ACL_S = 20
CHECKPOINT_S = 60
"""Twenty commits of five a second, and a turn of the keeper; mostly far less."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What one run of the command came to."""

    code: int
    lines: dict[tuple[str, str], dict[str, str]]
    text: str

    def not_ok(self) -> dict[tuple[str, str], str]:
        """The lines that are not well, and how they are."""
        return {key: line["status"] for key, line in self.lines.items() if line["status"] != "ok"}

    def found(self, check: str, subject: str = "") -> str:
        """What a line says, its advice too."""
        line = self.lines[check, subject]
        return f"{line['found']} -> {line['what_to_do']}"


def run(environ: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command; it must end in time, without a traceback, and show no secret."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "supervisor", "check", *options], cwd=ROOT,
        env=clean_environment() | dict(environ), capture_output=True, text=True,
        timeout=3 * LIMIT_S, check=False)
    assert time.monotonic() - began < LIMIT_S + 5, "the rest is for Python to start"
    assert done.stderr == ""
    for name in ("AWS_SECRET_ACCESS_KEY", "KAFKA_SASL_PASSWORD"):
        assert name not in environ or environ[name] not in done.stdout
    return done


def check(environ: Mapping[str, str]) -> Checked:
    """Run it with --json."""
    done = run(environ, "--json")
    said = json.loads(done.stdout)
    assert set(said) == {"tool", "service_version", "status", "lines"}
    lines = {(line["check"], line["subject"]): line for line in said["lines"]}
    assert len(lines) == len(said["lines"])
    return Checked(done.returncode, lines, done.stdout)


@pytest.fixture
def topics(kafka: KafkaService, topic_names: TopicNames) -> list[str]:
    """Give two topics that are kept for a week."""
    names = topic_names(2)
    ls.create_topics(kafka, names, partitions=3)
    return names


@pytest.fixture
def environ(
    kafka: KafkaService, minio: MinioService, lake_prefix: str, topics: list[str]
) -> dict[str, str]:
    """Give the variables of a service to which nothing is wrong."""
    return ls.settings(kafka.bootstrap, ls.store_lake(minio, lake_prefix), topics)


def objects(minio: MinioService, prefix: str) -> list[str]:
    """What lies in the lake."""
    return sorted(str(entry.object_name) for entry in
                  minio.client().list_objects(minio.bucket, f"{prefix}/", recursive=True))


def test_all_is_well_before_the_first_start_and_nothing_is_left(
    environ: dict[str, str], minio: MinioService, lake_prefix: str, topics: list[str]
) -> None:
    """Looking must not make a table, a record or anything else."""
    checked = check(environ)
    assert (checked.code, checked.not_ok()) == (0, {})
    assert {key[0] for key in checked.lines} == {
        "configuration", "memory", "broker", "topic", "group", "retention", "store", "clock",
        "log", "table", "instance"}
    assert "3 partitions" in checked.found("topic", topics[0])
    assert "kept for 7 d" in checked.found("retention", topics[1])
    assert "the first start makes it" in checked.found("table", f"dlq_bronze_{topics[1]}")
    assert objects(minio, lake_prefix) == []

    done = run(environ)
    text = done.stdout.splitlines()
    assert done.returncode == 0
    assert [line[:6] for line in text[:-1]] == ["OK    "] * len(checked.lines)
    assert text[-1] == f"{len(checked.lines)} OK, 0 WARN, 0 FAIL"
    assert "\x1b" not in done.stdout


def test_a_running_service_is_noticed_and_not_disturbed(
    environ: dict[str, str], kafka: KafkaService, topics: list[str]
) -> None:
    """A start with its INSTANCE_ID would end it, and a second member would take partitions."""
    with Service(environ, 2) as service:
        service.wait_healthy(ls.START_S)
        ls.send(kafka.bootstrap, topics[0], ls.numbered(5))
        checked = check(environ)
        assert (checked.code, checked.not_ok()) == (0, {("instance", ""): "warn"})
        assert "2 members of the group" in checked.found("instance")
        assert "of our columns" in checked.found("table", f"bronze_{topics[0]}")
        assert check({**environ, "INSTANCE_ID": "other"}).not_ok() == {}
        service.wait_healthy(5)
        assert all(entry["restarts"] == 0 for entry in service.topics().values())
        assert service.terminate() == 0


def test_a_folder_as_lake_is_left_as_it_was(
    kafka: KafkaService, topics: list[str], tmp_path: Path
) -> None:
    """Also one that does not exist yet: its owner may want to make it."""
    lake = ls.folder_lake(tmp_path)
    checked = check(ls.settings(kafka.bootstrap, lake, topics))
    assert (checked.code, checked.not_ok()) == (0, {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_topic_is_named_and_hides_nothing_else(
    environ: dict[str, str], topics: list[str]
) -> None:
    """Names as Kafka allows them, the ugliest included."""
    ugly = ["..", "-rf", "a.b_c-D", "x" * 239, f"gone-{uuid.uuid4().hex}"]
    checked = check({**environ, "KAFKA_TOPICS": ",".join([*topics, *ugly[1:]])})
    assert checked.code == 1
    assert checked.not_ok() == {
        (kind, name): "fail" for name in ugly[1:] for kind in ("topic", "retention")}
    assert "TopicMissing" in checked.found("topic", ugly[-1])
    assert "KAFKA_TOPICS" in checked.found("topic", ugly[-1])


def test_topics_with_ugly_names_are_checked_like_others(
    environ: dict[str, str], kafka: KafkaService
) -> None:
    """No name may break a path, an ACL's command or a line."""
    ugly = [f"-rf.{uuid.uuid4().hex}", f"...__{uuid.uuid4().hex}", f"x{uuid.uuid4().hex * 7}"]
    ls.create_topics(kafka, ugly)
    checked = check({**environ, "KAFKA_TOPICS": ",".join(ugly)})
    assert (checked.code, checked.not_ok()) == (0, {})


def test_a_short_retention_is_a_warning(
    environ: dict[str, str], kafka: KafkaService, topics: list[str]
) -> None:
    """After an hour's outage what was not read would be gone."""
    kafka.alter_topic_config(topics[0], {"retention.ms": 600_000})
    checked = check(environ)
    assert (checked.code, checked.not_ok()) == (0, {("retention", topics[0]): "warn"})
    assert "kept for 10 min" in checked.found("retention", topics[0])


def rule(kind: str, name: str, operation: str) -> AclBinding:
    """Allow our user something."""
    return AclBinding(ResourceType[kind.upper()], name, ResourcePatternType.LITERAL,
                      f"User:{USER}", "*", AclOperation[operation.upper()],
                      AclPermissionType.ALLOW)


@pytest.fixture
def acls(kafka: KafkaService, environ: dict[str, str], topics: list[str]) -> Iterator[list]:
    """Give what docs/runbook.md tells to allow; the test sets it or a part of it."""
    if not kafka.is_managed:
        pytest.skip("a given broker's users are its own affair")
    group = environ["KAFKA_GROUP_ID"]
    yield [*(rule("topic", topic, operation) for topic in topics
             for operation in ("describe", "read")), rule("group", group, "read")]
    kinds = [(ResourceType.TOPIC, topic) for topic in topics] + [(ResourceType.GROUP, group)]
    for kind, name in kinds:
        kafka.admin().delete_acls([AclBindingFilter(
            kind, name, ResourcePatternType.LITERAL, None, None, AclOperation.ANY,
            AclPermissionType.ANY)])


def as_user(environ: dict[str, str], kafka: KafkaService) -> dict[str, str]:
    """The same service, signing in."""
    return {**environ, "KAFKA_BOOTSTRAP_SERVERS": str(kafka.sasl_bootstrap),
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KAFKA_SASL_USERNAME": USER, "KAFKA_SASL_PASSWORD": kafka.users[USER]}


RIGHTS = {
    "none": (0, {}, ""),
    "topic read": (1, {"topic": "fail"}, "the right Read is missing"),
    "topic describe and read": (1, {"topic": "fail"}, "the right Describe is missing"),
    "group read": (1, {"group": "fail", "instance": "warn"}, "the right Read is missing"),
}
"""What is taken away -> exit code, the lines that say so, and their words."""


@pytest.mark.parametrize("taken", RIGHTS)
def test_a_missing_right_of_kafka_is_named(
    environ: dict[str, str], kafka: KafkaService, topics: list[str], acls: list, taken: str
) -> None:
    """Least privilege is enough, and one right less is found before the start."""
    code, kinds, words = RIGHTS[taken]
    victim = {"topic": topics[0], "group": environ["KAFKA_GROUP_ID"]}.get(taken.split()[0])
    kept = [acl for acl in acls
            if acl.name != victim or acl.operation.name.lower() not in taken]
    # Without a rule of any kind for it, the test's broker would allow everything.
    kept.append(AclBinding(
        ResourceType.GROUP if "group" in taken else ResourceType.TOPIC, victim or topics[0],
        ResourcePatternType.LITERAL, "User:nobody", "*", AclOperation.ALTER,
        AclPermissionType.ALLOW))
    for future in kafka.admin().create_acls(kept).values():
        future.result(ACL_S)
    expected = {("retention", topic): "warn" for topic in topics}
    expected |= {(kind, topics[0] if kind == "topic" else ""): status
                 for kind, status in kinds.items()}
    checked: list[Checked] = []

    def is_in_force() -> bool:
        checked.append(check(as_user(environ, kafka)))
        return checked[-1].not_ok() == expected

    wait_until(is_in_force, ACL_S, "the rules are in force, and only what is missing is named")
    assert checked[-1].code == code
    for kind in kinds:
        if kind != "instance":
            subject = topics[0] if kind == "topic" else ""
            assert words in checked[-1].found(kind, subject)
            assert "kafka-acls.sh" in checked[-1].found(kind, subject)
            assert str(victim) in checked[-1].found(kind, subject)


@pytest.mark.parametrize("way", [
    "password", "authority", "other protocol", "nobody listens", "no such host"])
def test_brokers_that_cannot_be_reached_are_one_failure(
    environ: dict[str, str], kafka: KafkaService, topics: list[str], way: str
) -> None:
    """The cause is named once; what hangs on it is said not to have been looked at."""
    if not kafka.is_managed:
        pytest.skip("a given broker's listeners are its own affair")
    wrong = f"wrong-{uuid.uuid4().hex}"
    changed, words = {
        "password": ({**as_user(environ, kafka), "KAFKA_SASL_PASSWORD": wrong},
                     ["KafkaAuthenticationFailed", "KAFKA_SASL_MECHANISM"]),
        "authority": ({**environ, "KAFKA_BOOTSTRAP_SERVERS": str(kafka.ssl_bootstrap),
                       "KAFKA_SECURITY_PROTOCOL": "SSL"},
                      ["KafkaAuthenticationFailed", "certificate"]),
        "other protocol": ({**environ, "KAFKA_BOOTSTRAP_SERVERS": str(kafka.ssl_bootstrap)},
                           ["KafkaUnavailable", "KAFKA_SECURITY_PROTOCOL"]),
        "nobody listens": ({**environ, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"},
                           ["KafkaUnavailable", "refused"]),
        "no such host": ({**environ, "KAFKA_BOOTSTRAP_SERVERS": "no-such-host.invalid:9092"},
                         ["KafkaUnavailable", "no-such-host.invalid"]),
    }[way]
    checked = check(changed)
    assert checked.code == 1
    assert checked.not_ok() == {
        ("broker", ""): "fail", ("group", ""): "warn", ("instance", ""): "warn",
        **{(kind, topic): "warn" for kind in ("topic", "retention") for topic in topics}}
    assert all(word in checked.found("broker") for word in words), checked.found("broker")


def test_everything_down_ends_in_time(environ: dict[str, str], tcp_hole: str) -> None:
    """A store that accepts connections and is silent is the slowest."""
    checked = check({**environ, "KAFKA_BOOTSTRAP_SERVERS": tcp_hole.removeprefix("http://"),
                     "AWS_ENDPOINT_URL": tcp_hole, "STORE_TIMEOUT_SECONDS": "30",
                     "HEARTBEAT_LIMIT_SECONDS": "90", "CYCLE_DEADLINE_SECONDS": "30"})
    assert checked.code == 1
    failed = {key for key, status in checked.not_ok().items() if status == "fail"}
    assert failed == {("broker", ""), ("store", "list")}


@pytest.fixture
def tcp_hole() -> Iterator[str]:
    """Give the address of a server that takes connections and never answers."""
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(("changed", "words"), [
    ({"LAKE_URI": "s3://no-such-bucket-here/lake"}, ["NoSuchBucket", "Create the bucket"]),
    ({"AWS_ACCESS_KEY_ID": "nobody-here"}, ["InvalidAccessKeyId"]),
    ({"AWS_SECRET_ACCESS_KEY": "wrong-secret-of-nobody"}, ["SignatureDoesNotMatch"]),
    ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, ["StorageUnavailable", "127.0.0.1:9"]),
])
def test_a_store_that_cannot_be_used_is_one_failure(
    environ: dict[str, str], changed: dict[str, str], words: list[str]
) -> None:
    """Bucket, key, secret, address: each is named once."""
    checked = check({**environ, **changed})
    assert checked.code == 1
    assert [key for key, status in checked.not_ok().items() if status == "fail"] == [
        ("store", "list")]
    assert all(word in checked.found("store", "list") for word in words)


def policy_of(minio: MinioService, prefix: str, without: str) -> dict[str, Any]:
    """deploy/s3-policy.json for the test's lake, less one action (on one resource)."""
    action, _, resource = without.partition(" ")
    text = (ROOT / "deploy" / "s3-policy.json").read_text()
    text = text.replace(":::lake/bronze", f":::{minio.bucket}/{prefix}").replace(
        ":::lake\"", f":::{minio.bucket}\"")
    policy = copy.deepcopy(json.loads(text))
    for statement in policy["Statement"]:
        if action in statement["Action"]:
            if resource:
                statement["Resource"] = [name for name in statement["Resource"]
                                         if not name.endswith(resource)]
            else:
                statement["Action"].remove(action)
    policy["Statement"] = [statement for statement in policy["Statement"]
                           if statement["Action"] and statement["Resource"]]
    return policy


STORE_RIGHTS = {
    "nothing": {},
    "s3:ListBucket": {"list"},
    "s3:GetObject": {"get"},
    "s3:PutObject": {"put", "create"},
    "s3:DeleteObject /_bronze/log/*": {"trim"},
    "s3:DeleteObject /_delta_log/*": {"delete"},
    "s3:DeleteObject /_ingestion_date=*": {"vacuum"},
}
"""What is taken out of the policy -> the operations that say so."""


@pytest.mark.parametrize("without", STORE_RIGHTS)
def test_a_missing_right_of_the_store_is_named(
    environ: dict[str, str], minio: MinioService, lake_prefix: str, without: str
) -> None:
    """The policy that comes with the service is enough, and each right in it is needed."""
    user = f"u{uuid.uuid4().hex[:16]}"
    minio.put_user(user, "a-secret-of-this-test", policy_of(minio, lake_prefix, without))
    checked = check({**environ, "AWS_ACCESS_KEY_ID": user,
                     "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test"})
    named = {subject for (kind, subject), status in checked.not_ok().items() if kind == "store"}
    assert named == set(STORE_RIGHTS[without])
    for operation in named:
        action, _, resource = without.partition(" ")
        assert f"the right {action} on arn:aws:s3:::{minio.bucket}" in checked.found(
            "store", operation)
        assert resource in checked.found("store", operation)
    assert checked.code == (1 if named else 0)
    if without not in ("s3:DeleteObject /_delta_log/*", "s3:ListBucket"):
        assert objects(minio, lake_prefix) == []


@pytest.mark.slow
def test_the_service_runs_with_the_policy_it_comes_with(
    environ: dict[str, str], kafka: KafkaService, minio: MinioService, lake_prefix: str,
    topics: list[str], tmp_path: Path,
) -> None:
    """A user with these rights alone: rows, ledger, checkpoints and lineage's position."""
    user = f"u{uuid.uuid4().hex[:16]}"
    minio.put_user(user, "a-secret-of-this-test", policy_of(minio, lake_prefix, "nothing"))
    settings = {**environ, "AWS_ACCESS_KEY_ID": user, "KEEPER_INTERVAL_SECONDS": "1",
                "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test", "BATCH_INTERVAL_SECONDS": "0.2",
                "LINEAGE_URL": str(tmp_path / "lineage.jsonl")}
    sent = 0
    with Service(settings, len(topics)) as service:
        service.wait_healthy(ls.START_S)

        def has_a_checkpoint() -> bool:
            nonlocal sent
            ls.send(kafka.bootstrap, topics[0], ls.numbered(1, sent))
            sent += 1
            return any("checkpoint" in path for path in objects(minio, lake_prefix))

        wait_until(has_a_checkpoint, CHECKPOINT_S, "the keeper wrote a checkpoint")
        lake = ls.store_lake(minio, lake_prefix)
        ls.wait_for_position(service, lake, topics[0], sent)
        service.wait_for(lambda page: page["keeper"]["ledger_behind"] == 0, CHECKPOINT_S,
                         "all is in the ledger")
        assert service.terminate() == 0
        refused = [line for line in service.log_events()
                   if line["level"] in ("warning", "error")]
        assert refused == []
    assert ls.offsets_of(ls.rows(lake, topics[0])) == list(range(sent))
    assert f"{lake_prefix}/_bronze/lineage.json" in objects(minio, lake_prefix)


def test_a_table_with_a_wrong_column_and_a_vanished_one_are_named(
    environ: dict[str, str], minio: MinioService, lake_prefix: str, topics: list[str]
) -> None:
    """Both stop their topic at the start; a column's name is somebody else's text."""
    lake = ls.store_lake(minio, lake_prefix)
    rows = pa.table({"value": [1], "ev\x1b[31mil": ["x"]})
    write_deltalake(f"{lake.uri}/bronze_{topics[0]}", rows, storage_options=lake.options)
    minio.object_store(lake_prefix).put(
        f"_bronze/tables/dlq_bronze_{topics[1]}.json", b"{}")
    checked = check(environ)
    assert checked.code == 1
    assert checked.not_ok() == {("table", f"bronze_{topics[0]}"): "fail",
                                ("table", f"dlq_bronze_{topics[1]}"): "fail"}
    assert "TableMismatch" in checked.found("table", f"bronze_{topics[0]}")
    assert "value is" in checked.found("table", f"bronze_{topics[0]}")
    assert "TableVanished" in checked.found("table", f"dlq_bronze_{topics[1]}")
    assert "\x1b" not in run(environ).stdout


def test_a_damaged_log_is_named(
    environ: dict[str, str], minio: MinioService, lake_prefix: str
) -> None:
    """A start on it ends with 78."""
    minio.object_store(lake_prefix).put(f"_bronze/log/{7:020d}.json", b'{"kind":"strange"}')
    checked = check(environ)
    assert checked.not_ok() == {("log", ""): "fail", ("instance", ""): "warn"}
    assert checked.code == 1


def test_bad_configuration_ends_with_78_and_names_every_fault() -> None:
    """As --check-config does, which stays."""
    checked = check({"KAFKA_TOPICS": "a,a", "MEMORY_LIMIT_MB": "1"})
    assert checked.code == 78
    assert {"KAFKA_TOPICS", "MEMORY_LIMIT_MB", "LAKE_URI", "KAFKA_BOOTSTRAP_SERVERS"} <= {
        subject for _, subject in checked.lines}
    assert set(checked.not_ok().values()) == {"fail"}
