"""The configuration as frozen values, and what its faults look like.

These values are built once, at start, and travel to child processes.  They do no I/O.  A secret
in them shows as `***` however it is printed, and is read by `reveal()` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from shared.memory import MemoryPlan

SECRET_MASK = "***"

# A store that answers at all does so within this; a longer request limit is for moving bytes.
CONNECT_TIMEOUT_SECONDS_MAX = 5.0

# Repetitions inside the client libraries are few: the service has its own loop for an outage.
STORE_RETRIES = 2


class Secret:
    """A text that no log, error, repr or format shows.

    It compares by value and pickles (the pickle holds the text: it is for child processes only).
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the client library that needs it."""
        return self._text

    def __repr__(self) -> str:
        return SECRET_MASK

    def __format__(self, spec: str) -> str:
        return format(SECRET_MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (self._text,))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the configuration: where, what, and what to do about it."""

    variable: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.variable}: {self.problem}; {self.remedy}"


class ConfigError(Exception):
    """The configuration cannot be used; `faults` holds every fault found, not only the first."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        count = len(self.faults)
        head = f"the configuration has {count} fault{'' if count == 1 else 's'}:"
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])


class OnMalformed(StrEnum):
    """What becomes of a malformed message while the dead letter queue is off."""

    STOP = "stop"
    SKIP = "skip"


class GapPolicy(StrEnum):
    """What a topic does when Kafka no longer holds the offset to read next."""

    FAIL = "fail"
    CONTINUE = "continue"


class OffsetReset(StrEnum):
    """Where reading begins when neither the table nor the consumer group has a position."""

    EARLIEST = "earliest"
    LATEST = "latest"


class LogFormat(StrEnum):
    """How log lines look: one JSON object a line, or text for people."""

    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """How to reach and read Kafka.  `properties` are the operator's, as (librdkafka name, value);
    values are secrets because some of them are (a key's password, a token client's secret)."""

    bootstrap_servers: str
    group_id: str
    security_protocol: str
    sasl_mechanism: str | None
    sasl_username: str | None = field(repr=False)
    sasl_password: Secret | None
    ssl_ca_location: str | None
    auto_offset_reset: OffsetReset
    properties: tuple[tuple[str, Secret], ...]

    @property
    def uses_sasl(self) -> bool:
        """Whether the client signs in."""
        return self.security_protocol.startswith("SASL_")

    @property
    def uses_ssl(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security_protocol.endswith("SSL")

    def client_properties(self) -> dict[str, str]:
        """What any client (consumer or admin) gets for connection and security, secrets included,
        and the operator's own properties.

        SASL and TLS settings are left out where the protocol does not use them.  Group, offsets
        and queue limits are the consumer's affair and not in here.  Do not log the result.
        """
        chosen = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
        }
        if self.uses_sasl and self.sasl_mechanism is not None:
            chosen["sasl.mechanism"] = self.sasl_mechanism
            if self.sasl_username is not None and self.sasl_password is not None:
                chosen["sasl.username"] = self.sasl_username
                chosen["sasl.password"] = self.sasl_password.reveal()
        if self.uses_ssl and self.ssl_ca_location is not None:
            chosen["ssl.ca.location"] = self.ssl_ca_location
        for name, value in self.properties:
            if self._applies(name):
                chosen[name] = value.reveal()
        return chosen

    def _applies(self, name: str) -> bool:
        # librdkafka warns about, or fails on, security settings its protocol has no use for.
        if name.startswith(("sasl.", "enable.sasl.")):
            return self.uses_sasl
        if name.startswith(("ssl.", "enable.ssl.")):
            return self.uses_ssl
        return True


@dataclass(frozen=True, slots=True)
class LakeConfig:
    """Where the tables are: `uri` is `s3://bucket[/prefix]` or the absolute path of a folder,
    without a slash at its end.  Times are in seconds."""

    uri: str
    endpoint_url: str | None
    access_key_id: str | None = field(repr=False)
    secret_access_key: Secret | None
    region: str
    allow_http: bool
    store_timeout_seconds: float

    @property
    def is_s3(self) -> bool:
        """Whether the lake is an object store rather than a local folder."""
        return self.uri.startswith("s3://")

    def storage_options(self) -> dict[str, str]:
        """The options deltalake takes; {} for a folder.  Holds the secret: do not log it.

        The retry limit equals the request limit, so that one operation on a silent store ends
        within twice `store_timeout_seconds`.
        """
        if not self.is_s3:
            return {}
        return {
            **self._s3_options(),
            "AWS_ALLOW_HTTP": _lower(self.allow_http),
            "timeout": _milliseconds(self.store_timeout_seconds),
            "connect_timeout": _milliseconds(self._connect_timeout_seconds),
            "max_retries": str(STORE_RETRIES),
            "retry_timeout": _milliseconds(self.store_timeout_seconds),
        }

    def object_store_options(self) -> dict[str, Any]:
        """The same as keyword arguments for obstore's `S3Store.from_url(uri, **options)`, which
        refuses the client's own options among the S3 ones; {} for a folder."""
        if not self.is_s3:
            return {}
        from datetime import timedelta  # only processes that open a store need it

        return {
            "config": self._s3_options(),
            "client_options": {
                "allow_http": self.allow_http,
                "timeout": _milliseconds(self.store_timeout_seconds),
                "connect_timeout": _milliseconds(self._connect_timeout_seconds),
            },
            "retry_config": {
                "max_retries": STORE_RETRIES,
                "retry_timeout": timedelta(seconds=self.store_timeout_seconds),
            },
        }

    @property
    def _connect_timeout_seconds(self) -> float:
        return min(self.store_timeout_seconds, CONNECT_TIMEOUT_SECONDS_MAX)

    def _s3_options(self) -> dict[str, str]:
        options = {"AWS_REGION": self.region}
        if self.endpoint_url is not None:
            options["AWS_ENDPOINT_URL"] = self.endpoint_url
            # Buckets as host names need a DNS entry each, which a store of one's own rarely has.
            options["aws_virtual_hosted_style_request"] = "false"
        if self.access_key_id is not None and self.secret_access_key is not None:
            options["AWS_ACCESS_KEY_ID"] = self.access_key_id
            options["AWS_SECRET_ACCESS_KEY"] = self.secret_access_key.reveal()
        return options


@dataclass(frozen=True, slots=True)
class CycleConfig:
    """The times of the cycle, in seconds, and after how many failed cycles a topic is isolated."""

    batch_interval_seconds: float
    cycle_deadline_seconds: float
    start_deadline_seconds: float
    stop_deadline_seconds: float
    heartbeat_limit_seconds: float
    isolate_after: int


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    """How often the keeper works, the size of the files it makes (0: none), and for how many days
    files are kept that a table does not have any more (0: for ever)."""

    interval_seconds: float
    compact_target_mb: int
    vacuum_retention_days: int

    @property
    def deletes_data_files(self) -> bool:
        """Whether it needs the right to: for a compaction, too, that drops its own new file."""
        return bool(self.compact_target_mb or self.vacuum_retention_days)


@dataclass(frozen=True, slots=True)
class Limits(MemoryPlan):
    """What bounds memory, whatever the load; and a cycle, whatever the store."""

    cycle_bytes_max: int
    carry_over_files_max: int
    carry_over_bytes_max: int


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Where the health page listens; port 0 takes any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged, by the level names of the logging package, and how it looks."""

    level: str
    format: LogFormat


@dataclass(frozen=True, slots=True)
class LineageConfig:
    """Where lineage events go: `url` is an http(s) address, or the absolute path of a file; None
    turns lineage off."""

    url: str | None
    api_key: Secret | None
    namespace: str
    timeout_seconds: float

    @property
    def is_http(self) -> bool:
        """Whether events are sent to an endpoint rather than appended to a file."""
        return self.url is not None and self.url.startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the service was told."""

    kafka: KafkaConfig
    lake: LakeConfig
    cycle: CycleConfig
    keeper: KeeperConfig
    limits: Limits
    health: HealthConfig
    log: LogConfig
    lineage: LineageConfig
    topics: tuple[str, ...]
    instance_id: str
    dlq_enabled: bool
    on_malformed: OnMalformed
    gap_policy: GapPolicy


def _lower(value: bool) -> str:
    return "true" if value else "false"


def _milliseconds(seconds: float) -> str:
    return f"{max(1, round(seconds * 1000))}ms"
