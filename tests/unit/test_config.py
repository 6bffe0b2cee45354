"""The configuration: what is taken, what is refused and in which words, and what never shows."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path

import dill
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config import (
    Config,
    ConfigError,
    FileRead,
    GapPolicy,
    LogFormat,
    OnMalformed,
    Secret,
    load,
    read_file,
)
from shared.config_properties import BY_VARIABLE, FREE, OWN_VARIABLE, OWNED
from shared.config_render import rewritten
from shared.config_settings import PROPERTY_PREFIX, REFUSED_AWS, SETTINGS, Kind
from shared.layout import MANIFEST_BYTES
from shared.memory import MemoryPlan, least_limit_mb, plan
from shared.records import BRONZE, DataFile, Manifest, Range, encode
from workers.parquet_file import STATISTICS, new_path

ROOT = Path(__file__).resolve().parents[2]
CANARY = "c4n4ry-do-not-show"

FOLDER = {
    "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
    "KAFKA_TOPICS": "orders,payments",
    "LAKE_URI": "/var/lib/lake",
}
S3 = {
    **FOLDER,
    "LAKE_URI": "s3://lake/bronze",
    "AWS_ENDPOINT_URL": "https://minio:9000",
    "AWS_ACCESS_KEY_ID": "reader",
    "AWS_SECRET_ACCESS_KEY": "s3-secret",
}
SASL = {
    **FOLDER,
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA_SASL_USERNAME": "ingest",
    "KAFKA_SASL_PASSWORD": "kafka-secret",
}
OAUTH = {
    **FOLDER,
    "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
    "KAFKA_PROPERTY_SASL_OAUTHBEARER_METHOD": "oidc",
}

FILES = {
    "/secrets/good": FileRead(b"from-the-file\n", 0o400),
    "/secrets/group": FileRead(b"from-the-file\r\n", 0o440),
    "/secrets/open": FileRead(b"x", 0o644),
    "/secrets/empty": FileRead(b"\n", 0o400),
    "/secrets/lines": FileRead(b"one\ntwo\n", 0o400),
    "/secrets/long": FileRead(b"x" * 5000, 0o400),
    "/secrets/binary": FileRead(b"\xff\xfe", 0o400),
    "/ca.pem": FileRead(b"-----BEGIN CERTIFICATE-----", 0o644),
}


def fake_read_file(path: str) -> FileRead:
    if path == "/secrets/denied":
        raise PermissionError(13, "Permission denied", path)
    if path == "/ca-folder":
        raise IsADirectoryError(21, "is a folder")
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


def loaded(environ: Mapping[str, str], *, workers: int | None = None) -> Config:
    return load(environ, workers=workers, read_file=fake_read_file, is_terminal=lambda: False)


def faults_of(environ: Mapping[str, str], *, workers: int | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loaded(environ, workers=workers)
    return caught.value


def bad(name: str, environ: Mapping[str, str], variable: str, phrase: str) -> object:
    return pytest.param(environ, variable, phrase, id=name)


BAD = [
    bad("no-brokers", {**FOLDER, "KAFKA_BOOTSTRAP_SERVERS": ""},
        "KAFKA_BOOTSTRAP_SERVERS", "is not set"),
    bad("no-topics", {**FOLDER, "KAFKA_TOPICS": "  "}, "KAFKA_TOPICS", "is not set"),
    bad("no-lake", {**FOLDER, "LAKE_URI": ""}, "LAKE_URI", "is not set"),
    *(bad(f"servers-{name}", {**FOLDER, "KAFKA_BOOTSTRAP_SERVERS": value},
          "KAFKA_BOOTSTRAP_SERVERS", phrase) for name, value, phrase in (
        ("no-port", "kafka", "'kafka' is not host:port"),
        ("port-zero", "kafka:0", "is not host:port"),
        ("port-large", "kafka:65536", "is not host:port"),
        ("empty-entry", "kafka:9092,", "empty entry"),
        ("protocol", "PLAINTEXT://kafka:9092", "holds a protocol"),
        ("blank", "kaf ka:9092", "is not host:port"),
        ("bad-ipv4", "10.0.0.256:9092", "is not host:port"),
        ("bad-ipv6", "[::g]:9092", "is not host:port"),
        ("bare-ipv6", "::1:9092", "is not host:port"),
        ("control", "kafka:9092\nb:1", "control character"),
        ("not-utf8", "kafka\udcff:9092", "not UTF-8"),
        ("many", ",".join(f"k{n}:9092" for n in range(65)), "names 65 brokers"),
    )),
    *(bad(f"topics-{name}", {**FOLDER, "KAFKA_TOPICS": value}, "KAFKA_TOPICS", phrase)
      for name, value, phrase in (
        ("empty-entry", "orders,,payments", "empty entry"),
        ("twice", "orders,payments,orders", "'orders' more than once"),
        ("dot", "orders,.", "'.' is not a topic"),
        ("dots", "..", "'..' is not a topic"),
        ("slash", "orders/eu", "is not a topic"),
        ("quotes", '"orders"', "is not a topic"),
        ("pattern", "^orders.*", "is not a topic"),
        ("accent", "commandes-d\xe9t\xe9", "is not a topic"),
        ("long", "a" * 240, "longer than 239"),
        ("many", ",".join(f"t{n}" for n in range(65)), "names 65 topics"),
    )),
    *(bad(f"lake-{name}", {**FOLDER, "LAKE_URI": value}, "LAKE_URI", phrase)
      for name, value, phrase in (
        ("s3a", "s3a://lake/bronze", "write s3://bucket/prefix"),
        ("upper-case", "S3://lake/bronze", "write s3://bucket/prefix"),
        ("other-store", "gs://lake/bronze", "not an address the service can write to"),
        ("bare-name", "lake/bronze", "neither an s3:// address nor clearly a folder"),
        ("no-bucket", "s3:///bronze", "no valid bucket"),
        ("short-bucket", "s3://a/bronze", "no valid bucket"),
        ("password", "s3://user:pw@lake/bronze", "holds a user name or password"),
        ("double-slash", "s3://lake/a//b", "not safe in a path"),
        ("parent", "s3://lake/a/../b", "not safe in a path"),
        ("query", "s3://lake/a?x=1", "not safe in a path"),
        ("percent", "s3://lake/a%2Fb", "not safe in a path"),
        ("root", "/", "root of the file system"),
        ("file-host", "file://host/lake", "not an address"),
        ("file-percent", "file:///lake%20one", "write the folder as a plain path"),
        ("long", "/" + "a" * 1024, "longer than 1024"),
    )),
    *(bad(f"number-{name}-{value}", {**FOLDER, name: value}, name, phrase)
      for name, value, phrase in (
        ("BATCH_INTERVAL_SECONDS", "0", "too small"),
        ("BATCH_INTERVAL_SECONDS", "-1", "too small"),
        ("BATCH_INTERVAL_SECONDS", "ten", "not a number of seconds"),
        ("BATCH_INTERVAL_SECONDS", "nan", "not a number of seconds"),
        ("BATCH_INTERVAL_SECONDS", "inf", "not a number of seconds"),
        ("BATCH_INTERVAL_SECONDS", "1e3", "not a number of seconds"),
        ("BATCH_INTERVAL_SECONDS", "10s", "not a number of seconds"),
        ("BATCH_INTERVAL_SECONDS", "\u0661\u0660", "not a number of seconds"),
        ("CYCLE_DEADLINE_SECONDS", "3601", "too large"),
        ("STOP_DEADLINE_SECONDS", "0", "too small"),
        ("START_DEADLINE_SECONDS", "soon", "not a number of seconds"),
        ("STORE_TIMEOUT_SECONDS", "601", "too large"),
        ("ISOLATE_AFTER", "-1", "too small"),
        ("ISOLATE_AFTER", "2.5", "not a whole number"),
        ("HEALTH_PORT", "65536", "too large"),
        ("HEALTH_PORT", "http", "not a whole number"),
        ("MEMORY_LIMIT_MB", "0", "too small"),
        ("MEMORY_LIMIT_MB", str(least_limit_mb(1) - 1), f"from {least_limit_mb(1)} to 65536"),
        ("MEMORY_LIMIT_MB", "65537", "too large"),
        ("MEMORY_LIMIT_MB", "256M", "not a whole number"),
        ("MEMORY_LIMIT_MB", "1_000", "not a whole number"),
        ("MEMORY_LIMIT", "256", "did you mean MEMORY_LIMIT_MB?"),
        ("CYCLE_BYTES_MAX", "9" * 19, "not a whole number"),
        ("CARRY_OVER_FILES_MAX", "0", "too small"),
        ("CARRY_OVER_FILES_MAX", "151", "too large"),
        ("CARRY_OVER_BYTES_MAX", "9" * 18, "too large"),
    )),
    *(bad(f"choice-{name}", {**FOLDER, name: value}, name, phrase) for name, value, phrase in (
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "write PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
        ("KAFKA_SASL_MECHANISM", "GSSAPI", "not among the choices"),
        ("KAFKA_AUTO_OFFSET_RESET", "smallest", "write earliest or latest"),
        ("ON_MALFORMED", "drop", "write stop or skip"),
        ("GAP_POLICY", "ignore", "write fail or continue"),
        ("DLQ_ENABLED", "maybe", "neither true nor false"),
        ("AWS_ALLOW_HTTP", "2", "neither true nor false"),
        ("LOG_LEVEL", "verbose", "DEBUG, INFO, WARNING or ERROR"),
        ("LOG_FORMAT", "xml", "write json or text"),
        ("INSTANCE_ID", "a b", "not an identifier"),
        ("INSTANCE_ID", "x" * 65, "not an identifier"),
        ("AWS_REGION", "us east", "not an identifier"),
        ("HEALTH_HOST", "localhost:8080", "neither an IP address nor a host name"),
        ("HEALTH_HOST", "300.1.1.1", "neither an IP address nor a host name"),
        ("KAFKA_GROUP_ID", "g" * 256, "longer than 255"),
    )),
    bad("sasl-no-mechanism", {**SASL, "KAFKA_SASL_MECHANISM": ""},
        "KAFKA_SASL_MECHANISM", "is needed with KAFKA_SECURITY_PROTOCOL=SASL_SSL"),
    bad("sasl-no-user", {**SASL, "KAFKA_SASL_USERNAME": ""}, "KAFKA_SASL_USERNAME", "not set"),
    bad("sasl-no-password", {**SASL, "KAFKA_SASL_PASSWORD": ""},
        "KAFKA_SASL_PASSWORD", "not set"),
    bad("sasl-blank-password", {**SASL, "KAFKA_SASL_PASSWORD": "  "},
        "KAFKA_SASL_PASSWORD", "not set"),
    bad("oauth-without-oidc", {**OAUTH, "KAFKA_PROPERTY_SASL_OAUTHBEARER_METHOD": ""},
        "KAFKA_SASL_MECHANISM", "by method oidc only"),
    bad("secret-twice", {**SASL, "KAFKA_SASL_PASSWORD_FILE": "/secrets/good"},
        "KAFKA_SASL_PASSWORD", "and so is KAFKA_SASL_PASSWORD_FILE"),
    bad("secret-with-line-break", {**SASL, "KAFKA_SASL_PASSWORD": "abc\n"},
        "KAFKA_SASL_PASSWORD", "control character"),
    bad("secret-long", {**SASL, "KAFKA_SASL_PASSWORD": "x" * 4097},
        "KAFKA_SASL_PASSWORD", "longer than 4096"),
    *(bad(f"secret-file-{name}",
          {**SASL, "KAFKA_SASL_PASSWORD": "", "KAFKA_SASL_PASSWORD_FILE": path},
          "KAFKA_SASL_PASSWORD_FILE", phrase) for name, path, phrase in (
        ("missing", "/secrets/none", "No such file"),
        ("denied", "/secrets/denied", "may not read"),
        ("open", "/secrets/open", "every user of this machine may open (mode 0644)"),
        ("empty", "/secrets/empty", "empty file"),
        ("lines", "/secrets/lines", "line break"),
        ("long", "/secrets/long", "more than 4096 bytes"),
        ("binary", "/secrets/binary", "not UTF-8"),
        ("folder", "/ca-folder", "is a folder"),
        ("relative", "secrets/good", "not an absolute path"),
    )),
    bad("ca-missing", {**FOLDER, "KAFKA_SSL_CA_LOCATION": "/none.pem"},
        "KAFKA_SSL_CA_LOCATION", "'/none.pem' cannot be read"),
    bad("ca-relative", {**FOLDER, "KAFKA_SSL_CA_LOCATION": "ca.pem"},
        "KAFKA_SSL_CA_LOCATION", "not an absolute path"),
    bad("key-without-secret", {**S3, "AWS_SECRET_ACCESS_KEY": ""},
        "AWS_SECRET_ACCESS_KEY", "is not set, though AWS_ACCESS_KEY_ID is"),
    bad("secret-without-key", {**S3, "AWS_ACCESS_KEY_ID": ""},
        "AWS_ACCESS_KEY_ID", "is not set, though the secret key is"),
    bad("key-without-secret-folder", {**FOLDER, "AWS_ACCESS_KEY_ID": "reader"},
        "AWS_SECRET_ACCESS_KEY", "is not set"),
    bad("endpoint-without-keys",
        {**S3, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        "AWS_ACCESS_KEY_ID", "is not set, though AWS_ENDPOINT_URL is"),
    bad("endpoint-http", {**S3, "AWS_ENDPOINT_URL": "http://minio:9000"},
        "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP is false"),
    bad("endpoint-no-scheme", {**S3, "AWS_ENDPOINT_URL": "minio:9000"},
        "AWS_ENDPOINT_URL", "not the address of a store"),
    bad("endpoint-port", {**S3, "AWS_ENDPOINT_URL": "https://minio:99999"},
        "AWS_ENDPOINT_URL", "not the address of a store"),
    bad("endpoint-password", {**S3, "AWS_ENDPOINT_URL": "https://a:b@minio:9000"},
        "AWS_ENDPOINT_URL", "holds a user name or password"),
    *(bad(f"refused-{name}", {**S3, name: "x"}, name, "read by the store's client")
      for name in REFUSED_AWS),
    bad("heartbeat-margin", {**FOLDER, "HEARTBEAT_LIMIT_SECONDS": "29.9"},
        "HEARTBEAT_LIMIT_SECONDS", "29.9 is less than 3 times STORE_TIMEOUT_SECONDS (30)"),
    bad("cycle-shorter-than-request", {**FOLDER, "CYCLE_DEADLINE_SECONDS": "9"},
        "CYCLE_DEADLINE_SECONDS", "less than STORE_TIMEOUT_SECONDS"),
    bad("start-shorter-than-request", {**FOLDER, "START_DEADLINE_SECONDS": "9"},
        "START_DEADLINE_SECONDS", "less than STORE_TIMEOUT_SECONDS"),
    bad("memory-too-little-for-two", {**FOLDER, "MEMORY_LIMIT_MB": str(least_limit_mb(2) - 1)},
        "MEMORY_LIMIT_MB", f"is too little for 2 topics; set it to {least_limit_mb(2)} at least"),
    bad("memory-too-little-for-many",
        {**FOLDER, "KAFKA_TOPICS": ",".join(f"t{n}" for n in range(64))},
        "MEMORY_LIMIT_MB", f"256 is too little for 64 topics; set it to {least_limit_mb(64)} at"),
    bad("property-derived", {**FOLDER, "KAFKA_PROPERTY_QUEUED_MAX_MESSAGES_KBYTES": "1024"},
        "KAFKA_PROPERTY_QUEUED_MAX_MESSAGES_KBYTES", "it is derived from MEMORY_LIMIT_MB"),
    bad("carry-over-smaller-than-file", {**FOLDER, "CARRY_OVER_BYTES_MAX": "1048576"},
        "CARRY_OVER_BYTES_MAX", "less than CYCLE_BYTES_MAX"),
    bad("property-unknown", {**FOLDER, "KAFKA_PROPERTY_SESION_TIMEOUT_MS": "1"},
        "KAFKA_PROPERTY_SESION_TIMEOUT_MS", "did you mean KAFKA_PROPERTY_SESSION_TIMEOUT_MS?"),
    bad("property-nothing-like-it", {**FOLDER, "KAFKA_PROPERTY_QQQQ": "1"},
        "KAFKA_PROPERTY_QQQQ", "names no property"),
    bad("property-of-a-producer", {**FOLDER, "KAFKA_PROPERTY_ENABLE_IDEMPOTENCE": "true"},
        "KAFKA_PROPERTY_ENABLE_IDEMPOTENCE", "names no property of a Kafka consumer"),
    bad("property-callback", {**FOLDER, "KAFKA_PROPERTY_REBALANCE_CB": "x"},
        "KAFKA_PROPERTY_REBALANCE_CB", "names a callback"),
    bad("property-control", {**FOLDER, "KAFKA_PROPERTY_CLIENT_RACK": "a\x00b"},
        "KAFKA_PROPERTY_CLIENT_RACK", "control character"),
    bad("property-empty-name", {**FOLDER, "KAFKA_PROPERTY_": "x"},
        "KAFKA_PROPERTY_", "names no property"),
    *(bad(f"stranger-{name}", {**FOLDER, name: "x"}, name, phrase) for name, phrase in (
        ("KAFKA_TOPIC", "did you mean KAFKA_TOPICS?"),
        ("KAFKA_BOOTSTRAP_SERVER", "did you mean KAFKA_BOOTSTRAP_SERVERS?"),
        ("KAFKA_SASL_PASSWROD", "did you mean KAFKA_SASL_PASSWORD?"),
        ("KAFKA_ZZZ", "docs/configuration.md lists all variables"),
        ("VACUUM_DAYS", "docs/configuration.md lists all variables"),
        ("COMPACT_TARGET", "did you mean COMPACT_TARGET_MB?"),
        ("LAKE_URL", "did you mean LAKE_URI?"),
        ("BATCH_INTERVAL", "did you mean BATCH_INTERVAL_SECONDS?"),
        ("DLQ_ENABLE", "did you mean DLQ_ENABLED?"),
        ("DQL_ENABLED", "did you mean DLQ_ENABLED?"),
        ("HEALTH_PROT", "did you mean HEALTH_PORT?"),
        ("INSTANCE_IDD", "did you mean INSTANCE_ID?"),
        ("ON_MALFROMED", "did you mean ON_MALFORMED?"),
        ("LOG_LEVLE", "did you mean LOG_LEVEL?"),
        ("AWS_SECRET_ACCES_KEY", "did you mean AWS_SECRET_ACCESS_KEY?"),
        ("AWS_REGIN", "did you mean AWS_REGION?"),
        ("kafka_topics", "did you mean KAFKA_TOPICS?"),
    )),
]


@pytest.mark.parametrize(("environ", "variable", "phrase"), BAD)
def test_bad_configuration_is_named_by_variable_and_cause(
    environ: dict[str, str], variable: str, phrase: str
) -> None:
    """An operator at night has only this line; it names one variable and is one line."""
    error = faults_of(environ)

    assert [fault.variable for fault in error.faults] == [variable]
    line = str(error.faults[0])
    assert phrase in line
    assert "\n" not in line and line.isascii() and line.count("; ") >= 1


def test_the_table_of_bad_configurations_is_large_enough() -> None:
    """A table emptied by an edit would pass silently."""
    assert len(BAD) >= 60


def test_every_fault_is_named_at_once() -> None:
    """One fault per start would cost the operator a restart each."""
    error = faults_of({
        "KAFKA_TOPICS": "a,b,c",
        "LAKE_URI": "s3://lake",
        "AWS_ACCESS_KEY_ID": "key",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_PASSWORD_FILE": "/secrets/open",
        "HEALTH_PORT": "x",
        "STORE_TIMEOUT_SECONDS": "25",
        "KAFKA_PROPERTY_GROUP_ID": "x",
        "KAFKA_FOO": "x",
    }, workers=8)

    assert {fault.variable for fault in error.faults} == {
        "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_SASL_MECHANISM", "KAFKA_SASL_USERNAME",
        "KAFKA_SASL_PASSWORD_FILE", "HEALTH_PORT", "HEARTBEAT_LIMIT_SECONDS",
        "KAFKA_PROPERTY_GROUP_ID", "KAFKA_FOO", "AWS_SECRET_ACCESS_KEY", "--workers",
    }
    assert len(str(error).splitlines()) == 1 + len(error.faults)


def test_workers_must_equal_the_number_of_topics() -> None:
    """Each topic has exactly one worker; another number is a misunderstanding to clear up."""
    assert loaded(FOLDER, workers=2).topics == ("orders", "payments")
    error = faults_of(FOLDER, workers=3)
    assert str(error.faults[0]).startswith(
        "--workers: is 3, but KAFKA_TOPICS names 2 topics; "
    )


PLACES_FOR_A_SECRET = [
    "KAFKA_SASL_PASSWORD", "AWS_SECRET_ACCESS_KEY", "KAFKA_SASL_PASSWORD_FILE",
    "AWS_SECRET_ACCESS_KEY_FILE", "AWS_ACCESS_KEY_ID", "KAFKA_SASL_USERNAME",
    "KAFKA_PROPERTY_SSL_KEY_PASSWORD", "KAFKA_PROPERTY_SSL_KEY_PASWORD",
    "KAFKA_PROPERTY_SASL_PASSWORD", "KAFKA_SASL_PASSWROD", "AWS_ENDPOINT_URL_S3",
]  # fmt: skip


@pytest.mark.parametrize("form", [
    CANARY, f"/{CANARY}", f"/secrets/{CANARY}", f"{CANARY}\n", f"{CANARY}\udcff", CANARY * 300,
])
@pytest.mark.parametrize("variable", PLACES_FOR_A_SECRET)
def test_no_message_shows_a_secret_wherever_it_was_put(variable: str, form: str) -> None:
    """Start-up errors go to logs that many people read."""
    environ = {**S3, **SASL, "LAKE_URI": "s3://lake", "HEALTH_PORT": "x", variable: form}

    error = faults_of(environ)

    assert CANARY not in str(error)
    assert CANARY not in repr(error)


@pytest.mark.parametrize(("variable", "value"), [
    ("LAKE_URI", f"s3://user:{CANARY}@lake/x"),
    ("AWS_ENDPOINT_URL", f"https://user:{CANARY}@minio:9000"),
    ("KAFKA_BOOTSTRAP_SERVERS", f"user:{CANARY}@kafka:9092"),
    ("KAFKA_BOOTSTRAP_SERVERS", f"SASL_SSL://user:{CANARY}@kafka:9092"),
    ("LAKE_URI", f"https://user:{CANARY}@minio:9000/lake"),
])
def test_no_message_shows_a_password_inside_an_address(variable: str, value: str) -> None:
    """People paste whole connection strings."""
    error = faults_of({**S3, variable: value})

    assert [fault.variable for fault in error.faults] == [variable]
    assert CANARY not in str(error)


def test_a_configuration_prints_and_formats_without_its_secrets() -> None:
    """A Config ends up in a log line sooner or later."""
    config = loaded({
        **S3, **SASL, "LAKE_URI": "s3://lake", "KAFKA_SASL_PASSWORD": CANARY,
        "AWS_SECRET_ACCESS_KEY": CANARY, "KAFKA_PROPERTY_SSL_KEY_PASSWORD": CANARY,
        "KAFKA_SASL_USERNAME": CANARY, "AWS_ACCESS_KEY_ID": CANARY,
    })

    assert CANARY not in f"{config} {config!r} {config.kafka} {config.lake}"
    secret = Secret(CANARY)
    assert [f"{secret}", f"{secret:>5}", "%s" % secret, repr(secret)] == [
        "***", "  ***", "***", "***"
    ]
    assert secret.reveal() == CANARY


def test_a_configuration_travels_to_child_processes() -> None:
    """Workers get it through dill, with its secrets intact."""
    config = loaded({**S3, **SASL, "LAKE_URI": "s3://lake"})

    for module in (dill, pickle):
        copy = module.loads(module.dumps(config))
        assert copy == config
        assert copy.kafka.sasl_password.reveal() == "kafka-secret"


def test_a_configuration_cannot_be_changed() -> None:
    """What was checked at start is what runs."""
    config = loaded(FOLDER)
    with pytest.raises(AttributeError):
        config.instance_id = "1"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        config.kafka.group_id = "other"  # type: ignore[misc]


def test_defaults_are_those_promised() -> None:
    """Operators' documents and other tools rely on them."""
    config = loaded(FOLDER)

    assert config.kafka.client_properties() == {
        "bootstrap.servers": "kafka:9092", "security.protocol": "PLAINTEXT",
    }
    assert (config.kafka.group_id, config.kafka.auto_offset_reset) == (
        "bronze-ingestion", "earliest",
    )
    assert (config.instance_id, config.dlq_enabled) == ("0", True)
    assert (config.on_malformed, config.gap_policy) == (OnMalformed.STOP, GapPolicy.FAIL)
    assert (config.health.host, config.health.port) == ("127.0.0.1", 8080)
    assert (config.log.level, config.log.format) == ("INFO", LogFormat.JSON)
    cycle = config.cycle
    assert (cycle.batch_interval_seconds, cycle.cycle_deadline_seconds) == (10, 30)
    assert (cycle.start_deadline_seconds, cycle.stop_deadline_seconds) == (60, 30)
    assert (cycle.heartbeat_limit_seconds, cycle.isolate_after) == (60, 3)
    assert config.lake.store_timeout_seconds == 10
    assert config.lineage.url is None and config.lineage.api_key is None
    limits = config.limits
    assert limits.memory_limit_mb == 256
    assert (limits.consume_batch_messages, limits.kafka_queue_kilobytes) == (1000, 512)
    assert (limits.row_group_bytes, limits.upload_bytes) == (1 << 19, 1 << 20)
    assert (limits.cycle_bytes_max, limits.carry_over_files_max) == (128 << 20, 128)
    assert limits.carry_over_bytes_max == 512 << 20


def test_each_setting_reaches_its_place() -> None:
    """Two fields swapped in the builder would pass every other test."""
    config = loaded({
        **FOLDER, "KAFKA_GROUP_ID": "g", "KAFKA_AUTO_OFFSET_RESET": "LATEST",
        "BATCH_INTERVAL_SECONDS": "0.5", "CYCLE_DEADLINE_SECONDS": "21",
        "START_DEADLINE_SECONDS": "22", "STOP_DEADLINE_SECONDS": "23",
        "HEARTBEAT_LIMIT_SECONDS": "24", "STORE_TIMEOUT_SECONDS": "2", "ISOLATE_AFTER": "0",
        "KEEPER_INTERVAL_SECONDS": "25", "MEMORY_LIMIT_MB": "108", "CYCLE_BYTES_MAX": "3000",
        "CARRY_OVER_FILES_MAX": "5", "CARRY_OVER_BYTES_MAX": "4000", "HEALTH_HOST": "::1",
        "HEALTH_PORT": "0", "LOG_LEVEL": "debug", "LOG_FORMAT": "Text", "INSTANCE_ID": "b-1",
        "DLQ_ENABLED": "off", "ON_MALFORMED": "skip", "GAP_POLICY": "continue",
        "LINEAGE_URL": "https://lineage:5000/api/v1/lineage", "LINEAGE_API_KEY": "k",
        "LINEAGE_NAMESPACE": "n", "LINEAGE_TIMEOUT_SECONDS": "3",
    })

    lineage = config.lineage
    assert (lineage.url, lineage.namespace, lineage.timeout_seconds, lineage.is_http) == (
        "https://lineage:5000/api/v1/lineage", "n", 3, True)
    assert lineage.api_key is not None and lineage.api_key.reveal() == "k"
    assert (config.kafka.group_id, config.kafka.auto_offset_reset) == ("g", "latest")
    cycle = config.cycle
    assert (cycle.batch_interval_seconds, cycle.cycle_deadline_seconds,
            cycle.start_deadline_seconds, cycle.stop_deadline_seconds,
            cycle.heartbeat_limit_seconds, config.keeper.interval_seconds,
            cycle.isolate_after) == (0.5, 21, 22, 23, 24, 25, 0)
    limits = config.limits
    assert MemoryPlan(*astuple(limits)[:len(fields(MemoryPlan))]) == plan(108, 2)
    assert (limits.cycle_bytes_max, limits.carry_over_files_max,
            limits.carry_over_bytes_max) == (3000, 5, 4000)
    assert (config.health.host, config.health.port) == ("::1", 0)
    assert (config.log.level, config.log.format) == ("DEBUG", LogFormat.TEXT)
    assert (config.instance_id, config.dlq_enabled) == ("b-1", False)
    assert (config.on_malformed, config.gap_policy) == (OnMalformed.SKIP, GapPolicy.CONTINUE)
    assert config.lake.store_timeout_seconds == 2


@pytest.mark.parametrize(("uri", "expected"), [
    ("s3://lake", "s3://lake"),
    ("s3://lake/", "s3://lake"),
    ("s3://lake/a/b_c=1/", "s3://lake/a/b_c=1"),
    ("/srv/lake/", "/srv/lake"),
    ("file:///srv/lake", "/srv/lake"),
    ("file://localhost/srv/lake", "/srv/lake"),
    ("./lake", os.path.join(os.getcwd(), "lake")),
])
def test_lake_addresses_take_one_form(uri: str, expected: str) -> None:
    """Paths are made by joining to it, so there is no slash at its end and nothing relative."""
    assert loaded({**FOLDER, "LAKE_URI": uri}).lake.uri == expected


@pytest.mark.parametrize("servers", [
    "kafka:9092", "a:1,b:2", " a:1 , b:65535", "10.0.0.1:9092", "[::1]:9092",
    "broker-1.example.org:9093", "my_broker:9092",
])
def test_broker_lists_of_every_usual_form_are_taken(servers: str) -> None:
    """Refusing a good list is as bad as taking a wrong one."""
    config = loaded({**FOLDER, "KAFKA_BOOTSTRAP_SERVERS": servers})
    assert config.kafka.bootstrap_servers == servers.replace(" ", "")


def test_topics_keep_their_names_and_order() -> None:
    """Table names hold them verbatim; the order is that of the workers' slots."""
    names = ["b.Topic", "a_1", "x-" + "y" * 237, "..."]
    assert loaded({**FOLDER, "KAFKA_TOPICS": " ,".join(names)}).topics == tuple(names)
    many = tuple(f"t{n}" for n in range(64))
    environ = {**FOLDER, "KAFKA_TOPICS": ",".join(many), "MEMORY_LIMIT_MB": "2048"}
    assert loaded(environ).topics == many


def test_sasl_settings_reach_the_client_only_with_a_sasl_protocol() -> None:
    """librdkafka complains about, or acts on, what the protocol has no use for."""
    environ = {**SASL, "KAFKA_SSL_CA_LOCATION": "/ca.pem",
               "KAFKA_PROPERTY_SSL_KEY_LOCATION": "/key.pem",
               "KAFKA_PROPERTY_SASL_KERBEROS_PRINCIPAL": "p"}
    sasl = {"sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "ingest",
            "sasl.password": "kafka-secret", "sasl.kerberos.principal": "p"}
    ssl = {"ssl.ca.location": "/ca.pem", "ssl.key.location": "/key.pem"}
    expected = {"PLAINTEXT": {}, "SSL": ssl, "SASL_PLAINTEXT": sasl, "SASL_SSL": {**sasl, **ssl}}
    for protocol, security in expected.items():
        config = loaded({**environ, "KAFKA_SECURITY_PROTOCOL": protocol})
        assert config.kafka.client_properties() == {
            "bootstrap.servers": "kafka:9092", "security.protocol": protocol, **security,
        }


def test_oauth_needs_no_user_name_and_passes_its_properties() -> None:
    """The client fetches tokens by itself with method oidc."""
    secret = "KAFKA_PROPERTY_SASL_OAUTHBEARER_CLIENT_SECRET"
    sent = loaded({**OAUTH, secret: "token-secret"}).kafka.client_properties()
    assert sent["sasl.mechanism"] == "OAUTHBEARER"
    assert sent["sasl.oauthbearer.method"] == "oidc"
    assert sent["sasl.oauthbearer.client.secret"] == "token-secret"
    assert "sasl.username" not in sent


@pytest.mark.parametrize(("path", "secret"), [
    ("/secrets/good", "from-the-file"), ("/secrets/group", "from-the-file"),
])
def test_a_secret_file_stands_for_its_variable(path: str, secret: str) -> None:
    """The line break that editors add is not a part of the secret."""
    kafka = loaded({**SASL, "KAFKA_SASL_PASSWORD": "", "KAFKA_SASL_PASSWORD_FILE": path}).kafka
    assert kafka.client_properties()["sasl.password"] == secret
    lake = loaded({**S3, "AWS_SECRET_ACCESS_KEY": "", "AWS_SECRET_ACCESS_KEY_FILE": path}).lake
    assert lake.storage_options()["AWS_SECRET_ACCESS_KEY"] == secret


def test_a_secret_in_the_environment_keeps_its_blanks() -> None:
    """They may be a part of it."""
    config = loaded({**SASL, "KAFKA_SASL_PASSWORD": " pass word "})
    assert config.kafka.client_properties()["sasl.password"] == " pass word "


def test_a_folder_of_certificates_is_taken() -> None:
    """librdkafka takes either."""
    config = loaded({**FOLDER, "KAFKA_SSL_CA_LOCATION": "/ca-folder"})
    assert config.kafka.ssl_ca_location == "/ca-folder"


def test_store_options_are_what_the_libraries_take() -> None:
    """deltalake wants one flat table of texts, obstore three; both must mean the same."""
    lake = loaded({**S3, "AWS_REGION": "eu-1", "STORE_TIMEOUT_SECONDS": "2.5"}).lake
    keys = {
        "AWS_ENDPOINT_URL": "https://minio:9000", "AWS_ACCESS_KEY_ID": "reader",
        "AWS_SECRET_ACCESS_KEY": "s3-secret", "AWS_REGION": "eu-1",
        "aws_virtual_hosted_style_request": "false",
    }

    assert lake.storage_options() == {
        **keys, "AWS_ALLOW_HTTP": "false", "timeout": "2500ms", "connect_timeout": "2500ms",
        "max_retries": "2", "retry_timeout": "2500ms",
    }
    options = lake.object_store_options()
    assert options["config"] == keys
    assert options["client_options"] == {
        "allow_http": False, "timeout": "2500ms", "connect_timeout": "2500ms",
    }


def test_store_options_are_taken_by_obstore() -> None:
    """The library refuses an unknown or misplaced option when the store is made."""
    from obstore.store import S3Store

    lake = loaded({**S3, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ALLOW_HTTP": "1"}).lake
    store = S3Store.from_url(lake.uri, **lake.object_store_options())
    assert store.prefix == "bronze"
    assert store.client_options["timeout"] == "10000ms"


def test_a_folder_has_no_store_options() -> None:
    """AWS variables of the machine must not change what a folder does."""
    config = loaded({**S3, "LAKE_URI": "/srv/lake", "AWS_ENDPOINT_URL_S3": "https://other"})
    assert config.lake.storage_options() == {}
    assert config.lake.object_store_options() == {}
    assert not config.lake.is_s3


def test_aws_itself_needs_no_keys() -> None:
    """The machine's role is the better credential there."""
    lake = loaded({**FOLDER, "LAKE_URI": "s3://lake"}).lake
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL",
                "aws_virtual_hosted_style_request"} & lake.storage_options().keys()


@pytest.mark.parametrize("name", [
    "KAFKA_HEAP_OPTS", "KAFKA_SERVICE_HOST", "KAFKA_SERVICE_PORT_CLIENT", "KAFKA_PORT",
    "KAFKA_PORT_9092_TCP_ADDR", "HEALTH_SERVICE_PORT", "AWS_PROFILE", "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_ENDPOINT_URL_SQS", "LOG_DIR", "LOG_PATH", "PATH",
    "CREDENTIALS_DIRECTORY", "INSTANCE_TYPE", "START_TIME", "HOSTNAME",
    "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE", "STORE_API_PORT", "STOP_SIGNAL",
])
def test_variables_of_others_are_let_through(name: str) -> None:
    """The environment is shared with the machine; refusing its names would stop a good start."""
    assert loaded({**FOLDER, name: "x"}) == loaded(FOLDER)


def test_log_format_follows_the_terminal_unless_it_is_set() -> None:
    """People read text, collectors read JSON."""
    assert load(FOLDER, is_terminal=lambda: True).log.format is LogFormat.TEXT
    assert load(FOLDER, is_terminal=lambda: False).log.format is LogFormat.JSON
    environ = {**FOLDER, "LOG_FORMAT": "json"}
    assert load(environ, is_terminal=lambda: True).log.format is LogFormat.JSON


def test_properties_with_dots_and_underscores_find_their_names() -> None:
    """log_level has an underscore of its own; a rule that makes every one a dot would miss it."""
    config = loaded({
        **FOLDER, "KAFKA_PROPERTY_SESSION_TIMEOUT_MS": "6000", "KAFKA_PROPERTY_LOG_LEVEL": "3",
        "KAFKA_PROPERTY_CLIENT_RACK": "",
    })
    sent = config.kafka.client_properties()
    assert (sent["session.timeout.ms"], sent["log_level"]) == ("6000", "3")
    assert "client.rack" not in sent


@pytest.mark.parametrize("name", [*OWN_VARIABLE, *OWNED])
def test_properties_of_the_service_are_refused_with_the_reason(name: str) -> None:
    """Setting one of them would break a promise of the service, silently."""
    variable = PROPERTY_PREFIX + name.replace(".", "_").upper()
    [fault] = faults_of({**FOLDER, variable: "x"}).faults
    assert fault.variable == variable
    assert name in fault.problem
    assert OWN_VARIABLE.get(name, "") in fault.remedy
    assert OWNED.get(name, "") in fault.problem


def test_known_properties_are_those_of_the_installed_librdkafka(tmp_path: Path) -> None:
    """After an upgrade the list must be looked through for new names the service should own."""
    page = tmp_path / "properties"
    subprocess.run([sys.executable, "-c", _SHOW_PROPERTIES, str(page)], check=True, timeout=60)
    offered = set()
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 5 and cells[1] in ("*", "C") and "see dedicated API" not in line:
            offered.add(cells[0])
    unlisted = {"enable_sasl_queue", "test.mock.num.brokers"}  # known to it, though not shown

    assert len(offered) > 100
    assert set(BY_VARIABLE.values()) - unlisted == offered
    assert len(BY_VARIABLE) == len(OWN_VARIABLE) + len(OWNED) + len(FREE)


_SHOW_PROPERTIES = """
import ctypes, sys
import confluent_kafka.cimpl
path = next(line.split()[-1] for line in open("/proc/self/maps") if "librdkafka" in line)
libc, library = ctypes.CDLL(None), ctypes.CDLL(path)
libc.fopen.restype = ctypes.c_void_p
page = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
library.rd_kafka_conf_properties_show(page)
libc.fclose(page)
"""


def test_files_are_read_with_their_mode_and_never_waited_for(tmp_path: Path) -> None:
    """A named pipe in place of a secret file would otherwise stop the start for ever."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 10000)
    secret.chmod(0o400)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    found = read_file(str(secret))
    assert found.mode == 0o400
    assert 4096 < len(found.content) < 10000
    with pytest.raises(IsADirectoryError):
        read_file(str(tmp_path))
    with pytest.raises(OSError, match="not a regular file"):
        read_file(str(pipe))


def test_a_real_secret_file_open_to_all_is_refused(tmp_path: Path) -> None:
    """The check must hold on a real file, not only on the tests' stand-in."""
    secret = tmp_path / "secret"
    secret.write_text("hidden\n")
    environ = {**SASL, "KAFKA_SASL_PASSWORD": "", "KAFKA_SASL_PASSWORD_FILE": str(secret)}

    secret.chmod(0o604)
    with pytest.raises(ConfigError, match="mode 0604"):
        load(environ)
    secret.chmod(0o400)
    assert load(environ).kafka.client_properties()["sasl.password"] == "hidden"


def test_docs_page_agrees_with_the_table_of_settings() -> None:
    """The page is what operators read; run python -m shared.config_render to renew it."""
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert rewritten(page) == page
    assert page.count("| `KAFKA_TOPICS` |") == 1


FILES_BEYOND = 5
"""Of a topic that stops reading at CARRY_OVER_FILES_MAX: one batch, read when one file was missing
to it, sends four at most, and the flush the two that are open then."""


@pytest.mark.parametrize(("files", "partitions"), [
    (next(int(setting.high) for setting in SETTINGS if setting.name == "CARRY_OVER_FILES_MAX"), 128),
    (load(FOLDER).limits.carry_over_files_max, 256),
])
def test_a_manifest_has_room_for_the_files_that_may_be_carried_over(
    files: int, partitions: int
) -> None:
    """Otherwise the setting would stop the topic with ManifestTooLarge; here every number and name
    is as long as it can be."""
    offset, partition, moment = 2**63 - 1, 9999, "9999-12-31T23:59:59.999Z"
    bounds = {"_kafka_partition": partition, "_kafka_offset": offset,
              "_kafka_timestamp": moment, "_ingested_at": moment}
    stats = json.dumps({"numRecords": 10**6, "minValues": bounds, "maxValues": bounds,
                        "nullCount": dict.fromkeys(STATISTICS[:4], 10**6)}, separators=(",", ":"))
    file = DataFile(BRONZE, new_path("9999-12-31"), 10**9, 10**6, "9999-12-31", stats, 10**13)
    manifest = Manifest(
        "t" * 239, "i" * 22, 10**6, (file,) * (files + FILES_BEYOND),
        (Range(partition, offset, offset, 10**7, 10**7, 10**7),) * partitions,
        dict.fromkeys(("encoding", "json", "empty", "headers"), 10**7), 10**11, 10**13)
    assert len(encode(manifest)) <= MANIFEST_BYTES


def test_settings_are_consistent_with_themselves() -> None:
    """Every default lies in its bounds, and no name is there twice."""
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert not (setting.required and setting.default is not None), setting.name
        assert (setting.kind is Kind.CHOICE) == bool(setting.choices), setting.name
        if setting.kind in (Kind.INTEGER, Kind.SECONDS):
            assert setting.low <= float(setting.default or "nan") <= setting.high, setting.name
        assert re.fullmatch(r"[A-Z_]+", setting.name) and setting.meaning.endswith(".")


_NAMES = [setting.name for setting in SETTINGS]
_PROPERTIES = [PROPERTY_PREFIX + name for name in BY_VARIABLE]
_VALUES = [
    "", "true", "0", "-1", "10", "0.5", "1e9", "9" * 40, "s3://lake/x", "s3://", "file:///", "/",
    "./x", "http://[::1]:1", "https://a:0", "[::1]:9092", "[:::]:1", "a:1,b:2", ",", ".", "SASL_SSL",
    "PLAIN", "OAUTHBEARER", "/secrets/good", "/secrets/open", "/ca-folder", "oidc", "json",
    "\x00", "\ud800", "\u2028", "%s", "{}",
]  # fmt: skip
_TEXT = st.text(max_size=40) | st.text(st.characters(codec=None), max_size=20)
_ENVIRONMENTS = st.dictionaries(
    st.sampled_from(_NAMES) | st.sampled_from(_PROPERTIES)
    | st.builds(str.__add__, st.sampled_from(["KAFKA_", "AWS_", "", PROPERTY_PREFIX]), _TEXT),
    st.sampled_from(_VALUES) | _TEXT,
    max_size=12,
)


@settings(max_examples=400, deadline=None)
@given(environ=_ENVIRONMENTS, base=st.sampled_from([{}, FOLDER, S3, SASL, OAUTH]),
       workers=st.none() | st.integers(1, 64))
def test_load_raises_nothing_but_config_errors(
    environ: dict[str, str], base: dict[str, str], workers: int | None
) -> None:
    """A traceback at start tells an operator nothing; every message is one printable line."""
    try:
        config = loaded({**base, **environ}, workers=workers)
    except ConfigError as error:
        assert error.faults
        assert all(str(fault).isascii() and str(fault).isprintable() for fault in error.faults)
    else:
        assert 1 <= len(config.topics) <= 64
        assert config.kafka.client_properties()
        config.lake.storage_options()


def test_configuration_imports_lightly() -> None:
    """The supervisor starts, and fails, fast: nothing heavy may come with it."""
    code = "import shared.config, sys; print(*sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                            text=True, check=True, timeout=60).stdout.split()
    heavy = {"confluent_kafka", "deltalake", "obstore", "pyarrow", "flask", "difflib", "msgspec",
             "argparse", "multiprocess", "dill", "typing_extensions", "urllib.parse"}
    assert not heavy & set(listed)


def test_a_bad_configuration_is_refused_quickly_in_a_large_environment() -> None:
    """A start that fails must fail within two seconds, misspelling search included."""
    environ = {**FOLDER, **{f"SOME_OTHER_VARIABLE_{n}": "x" * 100 for n in range(500)},
               "A" * 100_000: "x", "_SERVICE_" * 10_000: "x", "KAFKA_TOPIC": "x"}
    begin = time.process_time()
    [fault] = faults_of(environ).faults
    assert fault.variable == "KAFKA_TOPIC"
    assert time.process_time() - begin < 1.0
