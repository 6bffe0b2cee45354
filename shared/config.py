"""The service's configuration: environment variables in, one frozen `Config` out.

`load` looks at everything before it judges, so an operator sees all faults at once.  It raises
nothing but `ConfigError`, and no message of that holds a secret.  Files are read through
`read_file`, for secrets and to see that the certificate authorities are there.

The variables are in `shared.config_settings`, explained for users in docs/configuration.md.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from shared.config_parse import (
    SECRET_BYTES_MAX,
    Invalid,
    check_characters,
    is_loopback,
    parse,
    secret_from_file,
    shown,
)
from shared.config_properties import BY_VARIABLE, OWN_VARIABLE, OWNED
from shared.config_settings import (
    FOREIGN_NAMES,
    FOREIGN_PATTERN,
    OWN_PREFIXES,
    PROPERTY_PREFIX,
    REFUSED_AWS,
    SECRET_PAIRS,
    SETTINGS,
    Kind,
    Setting,
)
from shared.config_types import (
    Config,
    ConfigError,
    CycleConfig,
    Fault,
    GapPolicy,
    HealthConfig,
    KafkaConfig,
    KeeperConfig,
    LakeConfig,
    Limits,
    LineageConfig,
    LogConfig,
    LogFormat,
    OffsetReset,
    OnMalformed,
    Secret,
)
from shared.memory import MemoryPlan, TooLittleMemory, plan

__all__ = [
    "Config",
    "ConfigError",
    "CycleConfig",
    "Fault",
    "FileRead",
    "GapPolicy",
    "HealthConfig",
    "KafkaConfig",
    "KeeperConfig",
    "LakeConfig",
    "Limits",
    "LineageConfig",
    "LogConfig",
    "LogFormat",
    "OffsetReset",
    "OnMalformed",
    "Secret",
    "load",
]

# A request may be repeated once its limit is over, see LakeConfig; the third share is margin.
HEARTBEAT_PER_STORE_TIMEOUT = 3

# How like one of ours (0 to 1, difflib's ratio) a name without our prefix must be to be taken for
# a misspelling of it, and a name with our prefix for it to be worth suggesting.
MISSPELT_RATIO = 0.88
SUGGESTED_RATIO = 0.7

# A longer name is no misspelling of ours, and comparing it costs time.
NAME_CHARACTERS_MAX = 128

_BY_NAME = {setting.name: setting for setting in SETTINGS}


class FileRead(NamedTuple):
    """The first bytes of a file, and its permission bits."""

    content: bytes
    mode: int


def read_file(path: str) -> FileRead:
    """Read a little more than a secret's limit from a regular file.

    Raises OSError, and IsADirectoryError for a folder; a pipe or device is refused unread, for
    reading it could wait for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        return FileRead(os.read(descriptor, SECRET_BYTES_MAX + 16), stat.S_IMODE(status.st_mode))
    finally:
        os.close(descriptor)


def stderr_is_terminal() -> bool:
    """Whether log lines go to a person's terminal."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def load(
    environ: Mapping[str, str],
    *,
    workers: int | None = None,
    read_file: Callable[[str], FileRead] = read_file,
    is_terminal: Callable[[], bool] = stderr_is_terminal,
) -> Config:
    """The configuration in `environ`; an empty variable counts as not set.

    `workers` is the number asked for on the command line, if any: it must be that of the topics.
    Raises `ConfigError` with every fault found.
    """
    loader = _Loader(environ, read_file)
    loader.read_settings()
    loader.read_secret_files()
    loader.read_properties()
    loader.look_for_strangers()
    loader.check_kafka()
    loader.check_lake()
    loader.check_lineage()
    loader.check_numbers()
    loader.check_memory()
    loader.check_workers(workers)
    if loader.memory is None or loader.faults:
        raise ConfigError(loader.faults)
    return _build(loader.values, loader.memory, tuple(loader.properties), is_terminal)


class _Loader:
    """Collects values and faults.  A name is in `values` unless it is at fault; a setting that is
    not set is there as None."""

    def __init__(
        self, environ: Mapping[str, str], read_file: Callable[[str], FileRead]
    ) -> None:
        self._environ = environ
        self._read_file = read_file
        self.values: dict[str, Any] = {}
        self.properties: list[tuple[str, Secret]] = []
        self.faults: list[Fault] = []
        self.memory: MemoryPlan | None = None

    def fault(self, variable: str, problem: str, remedy: str) -> None:
        self.faults.append(Fault(variable, problem, remedy))

    def read_settings(self) -> None:
        for setting in SETTINGS:
            raw = self._environ.get(setting.name, "")
            if setting.kind is not Kind.SECRET or not raw.strip():
                raw = raw.strip()
            try:
                self.values[setting.name] = _value(setting, raw)
            except Invalid as invalid:
                self.fault(setting.name, invalid.problem, invalid.remedy)

    def read_secret_files(self) -> None:
        """Put a secret from its file in the place of the one in the environment."""
        for name, file_name in SECRET_PAIRS:
            path = self.values.get(file_name)
            if path is None:
                continue
            if self._environ.get(name, "").strip():
                self.fault(name, f"is set, and so is {file_name}", "keep one, best the file")
                continue
            try:
                self.values[name] = self._secret_at(path)
            except Invalid as invalid:
                self.values.pop(name, None)
                self.fault(file_name, invalid.problem, invalid.remedy)

    def _secret_at(self, path: str) -> Secret:
        # The path is shown only once a file was found there: before, it may be the secret itself.
        try:
            found = self._read_file(path)
        except PermissionError:
            raise Invalid("names a file the service may not read",
                          "give the file to the service's user, mode 0400") from None
        except OSError as error:
            raise Invalid(f"names no readable file ({error.strerror or 'unknown error'})",
                          "write the path of a file that holds the secret") from None
        if found.mode & 0o007:
            raise Invalid(f"names {shown(path)}, which every user of this machine may open "
                          f"(mode {found.mode:04o})", "chmod 0400 it")
        return secret_from_file(found.content)

    def read_properties(self) -> None:
        given: dict[str, str] = {}
        for variable in sorted(self._environ):
            if not variable.startswith(PROPERTY_PREFIX):
                continue
            try:
                name = _property_name(variable)
                value = self._environ[variable].strip()
                check_characters(value, lines=True)
            except Invalid as invalid:
                self.fault(_printable(variable), invalid.problem, invalid.remedy)
                continue
            if value:
                given[name] = value
        self.properties = [(name, Secret(value)) for name, value in given.items()]

    def look_for_strangers(self) -> None:
        """Name variables that look like ours and are not, for they would silently do nothing."""
        for variable in sorted(self._environ):
            if variable in _BY_NAME or variable.startswith(PROPERTY_PREFIX):
                continue
            if variable in REFUSED_AWS:
                if self._lake_may_be_s3() and self._environ[variable].strip():
                    self.fault(variable, f"is read by the store's client: {REFUSED_AWS[variable]}",
                               "unset it")
            else:
                self._judge_stranger(variable)

    def _judge_stranger(self, variable: str) -> None:
        ours = variable.startswith(OWN_PREFIXES)
        nearest = _nearest(variable, _BY_NAME, SUGGESTED_RATIO if ours else MISSPELT_RATIO)
        if (ours or nearest is not None) and not _is_foreign(variable):
            remedy = "remove it; docs/configuration.md lists all variables"
            if nearest is not None:
                remedy = f"did you mean {nearest}?"
            self.fault(_printable(variable), "is not a variable of this service", remedy)

    def check_kafka(self) -> None:
        values = self.values
        protocol = values.get("KAFKA_SECURITY_PROTOCOL") or ""
        if protocol.startswith("SASL_"):
            self._check_sasl(protocol)
        location = values.get("KAFKA_SSL_CA_LOCATION")
        if location is not None:
            try:
                self._read_file(location)
            except IsADirectoryError:
                pass  # a folder of certificates will do
            except OSError as error:
                self.fault("KAFKA_SSL_CA_LOCATION",
                           f"{shown(location)} cannot be read "
                           f"({error.strerror or 'unknown error'})",
                           "name a file or folder of certificates the service may read")

    def _check_sasl(self, protocol: str) -> None:
        values = self.values
        why = f"is needed with KAFKA_SECURITY_PROTOCOL={protocol}"
        mechanism = values.get("KAFKA_SASL_MECHANISM", "")
        if mechanism is None:
            self.fault("KAFKA_SASL_MECHANISM", f"{why} and is not set",
                       "set it to what the brokers ask for, for example SCRAM-SHA-512")
        if mechanism == "OAUTHBEARER":
            # Any other method needs a Python function to fetch tokens, which no variable can give.
            method = dict(self.properties).get("sasl.oauthbearer.method", Secret("default"))
            if method.reveal().lower() != "oidc":
                self.fault("KAFKA_SASL_MECHANISM", "OAUTHBEARER works by method oidc only",
                           "set KAFKA_PROPERTY_SASL_OAUTHBEARER_METHOD=oidc and the client's id, "
                           "secret and token address the same way")
            return
        if values.get("KAFKA_SASL_USERNAME", "") is None:
            self.fault("KAFKA_SASL_USERNAME", f"{why} and is not set", "set the user name")
        file_at_fault = "KAFKA_SASL_PASSWORD_FILE" not in values
        if values.get("KAFKA_SASL_PASSWORD", "") is None and not file_at_fault:
            self.fault("KAFKA_SASL_PASSWORD", f"{why} and is not set",
                       "set KAFKA_SASL_PASSWORD_FILE, or KAFKA_SASL_PASSWORD")

    def check_lake(self) -> None:
        values = self.values
        key = values.get("AWS_ACCESS_KEY_ID", "")
        secret = values.get("AWS_SECRET_ACCESS_KEY", "")
        if "AWS_SECRET_ACCESS_KEY_FILE" not in values:
            secret = ""  # given, though not usable: it has its fault
        if key and secret is None:
            self.fault("AWS_SECRET_ACCESS_KEY", "is not set, though AWS_ACCESS_KEY_ID is",
                       "set AWS_SECRET_ACCESS_KEY_FILE, or AWS_SECRET_ACCESS_KEY")
        if key is None and secret:
            self.fault("AWS_ACCESS_KEY_ID", "is not set, though the secret key is",
                       "set both, or neither")
        endpoint = values.get("AWS_ENDPOINT_URL")
        if not endpoint or not self._lake_may_be_s3():
            return
        if key is None and secret is None:
            self.fault("AWS_ACCESS_KEY_ID", "is not set, though AWS_ENDPOINT_URL is",
                       "set both keys: only AWS itself gives a machine a role of its own")
        if endpoint.startswith("http://") and values.get("AWS_ALLOW_HTTP") is False:
            self.fault("AWS_ENDPOINT_URL", "has no TLS, and AWS_ALLOW_HTTP is false",
                       "use https://, or set AWS_ALLOW_HTTP=true on a network you trust")

    def _lake_may_be_s3(self) -> bool:
        return (self.values.get("LAKE_URI") or "s3://").startswith("s3://")

    def check_lineage(self) -> None:
        url = self.values.get("LINEAGE_URL") or ""
        if self.values.get("LINEAGE_API_KEY") is None or not url:
            return
        if not url.startswith(("http://", "https://")):
            self.fault("LINEAGE_API_KEY", "is set, and LINEAGE_URL is a file", "unset it")
        elif url.startswith("http://") and not is_loopback(url):
            self.fault("LINEAGE_URL", "has no TLS, and anybody on the way could read the key",
                       "use https://, or unset LINEAGE_API_KEY")

    def check_numbers(self) -> None:
        self._check_at_least("HEARTBEAT_LIMIT_SECONDS", "STORE_TIMEOUT_SECONDS",
                             HEARTBEAT_PER_STORE_TIMEOUT)
        self._check_at_least("CYCLE_DEADLINE_SECONDS", "STORE_TIMEOUT_SECONDS")
        self._check_at_least("START_DEADLINE_SECONDS", "STORE_TIMEOUT_SECONDS")
        self._check_at_least("CARRY_OVER_BYTES_MAX", "CYCLE_BYTES_MAX")

    def check_memory(self) -> None:
        """Derive the limits of all parts."""
        limit_mb, topics = self.values.get("MEMORY_LIMIT_MB"), self.values.get("KAFKA_TOPICS")
        if limit_mb is None or topics is None:
            return
        try:
            self.memory = plan(limit_mb, len(topics))
        except TooLittleMemory as error:
            self.fault("MEMORY_LIMIT_MB", f"{limit_mb} is too little for {len(topics)} topics",
                       f"set it to {error.least_mb} at least, or let another service take some")

    def _check_at_least(self, name: str, other: str, factor: int = 1) -> None:
        value, least = self.values.get(name), self.values.get(other)
        if value is None or least is None or value >= factor * least:
            return
        bound = other if factor == 1 else f"{factor} times {other}"
        self.fault(name, f"{value:.12g} is less than {bound} ({factor * least:.12g})",
                   f"raise it, or lower {other}")

    def check_workers(self, workers: int | None) -> None:
        topics = self.values.get("KAFKA_TOPICS")
        if workers is not None and topics is not None and workers != len(topics):
            self.fault("--workers", f"is {workers}, but KAFKA_TOPICS names {len(topics)} topics",
                       "leave it out, or give the number of topics: each has one worker")


def _value(setting: Setting, raw: str) -> Any:
    if raw:
        return parse(setting, raw)
    if setting.required:
        raise Invalid("is not set", setting.meaning[0].lower() + setting.meaning[1:].rstrip("."))
    return None if setting.default is None else parse(setting, setting.default)


def _property_name(variable: str) -> str:
    """The librdkafka property `variable` sets.  Raises `Invalid` for one it may not set."""
    written = variable.removeprefix(PROPERTY_PREFIX)
    name = BY_VARIABLE.get(written)
    if name in OWN_VARIABLE:
        raise Invalid(f"{name} has a variable of its own", f"set {OWN_VARIABLE[name]} instead")
    if name in OWNED:
        raise Invalid(f"{name} belongs to the service: {OWNED[name]}", "remove it")
    if name is not None:
        return name
    if written.upper().endswith("_CB"):
        raise Invalid("names a callback, which is no text", "remove it")
    nearest = _nearest(written, BY_VARIABLE, SUGGESTED_RATIO)
    remedy = "remove it; librdkafka's CONFIGURATION.md lists what there is"
    if nearest is not None:
        remedy = f"did you mean {PROPERTY_PREFIX}{nearest}?"
    raise Invalid("names no property of a Kafka consumer", remedy)


def _is_foreign(variable: str) -> bool:
    if variable in FOREIGN_NAMES:
        return True
    return len(variable) <= NAME_CHARACTERS_MAX and bool(re.fullmatch(FOREIGN_PATTERN, variable))


def _nearest(name: str, names: Mapping[str, object], ratio: float) -> str | None:
    if len(name) > NAME_CHARACTERS_MAX:
        return None
    from difflib import get_close_matches  # only for names that are not ours

    found = get_close_matches(name.upper(), names, n=1, cutoff=ratio)
    return found[0] if found else None


def _printable(variable: str) -> str:
    return ascii(variable[:80])[1:-1]


def _build(
    values: Mapping[str, Any],
    memory: MemoryPlan,
    properties: tuple[tuple[str, Secret], ...],
    is_terminal: Callable[[], bool],
) -> Config:
    return Config(
        kafka=KafkaConfig(
            bootstrap_servers=values["KAFKA_BOOTSTRAP_SERVERS"],
            group_id=values["KAFKA_GROUP_ID"],
            security_protocol=values["KAFKA_SECURITY_PROTOCOL"],
            sasl_mechanism=values["KAFKA_SASL_MECHANISM"],
            sasl_username=values["KAFKA_SASL_USERNAME"],
            sasl_password=values["KAFKA_SASL_PASSWORD"],
            ssl_ca_location=values["KAFKA_SSL_CA_LOCATION"],
            auto_offset_reset=OffsetReset(values["KAFKA_AUTO_OFFSET_RESET"]),
            properties=properties,
        ),
        lake=_lake(values),
        cycle=CycleConfig(
            batch_interval_seconds=values["BATCH_INTERVAL_SECONDS"],
            cycle_deadline_seconds=values["CYCLE_DEADLINE_SECONDS"],
            start_deadline_seconds=values["START_DEADLINE_SECONDS"],
            stop_deadline_seconds=values["STOP_DEADLINE_SECONDS"],
            heartbeat_limit_seconds=values["HEARTBEAT_LIMIT_SECONDS"],
            isolate_after=values["ISOLATE_AFTER"],
        ),
        keeper=KeeperConfig(
            interval_seconds=values["KEEPER_INTERVAL_SECONDS"],
            compact_target_mb=values["COMPACT_TARGET_MB"],
            vacuum_retention_days=values["VACUUM_RETENTION_DAYS"],
        ),
        limits=Limits(
            **asdict(memory),
            cycle_bytes_max=values["CYCLE_BYTES_MAX"],
            carry_over_files_max=values["CARRY_OVER_FILES_MAX"],
            carry_over_bytes_max=values["CARRY_OVER_BYTES_MAX"],
        ),
        health=HealthConfig(host=values["HEALTH_HOST"], port=values["HEALTH_PORT"]),
        log=LogConfig(
            level=values["LOG_LEVEL"],
            format=LogFormat(values["LOG_FORMAT"] or ("text" if is_terminal() else "json")),
        ),
        lineage=LineageConfig(
            url=values["LINEAGE_URL"],
            api_key=values["LINEAGE_API_KEY"],
            namespace=values["LINEAGE_NAMESPACE"],
            timeout_seconds=values["LINEAGE_TIMEOUT_SECONDS"],
        ),
        topics=values["KAFKA_TOPICS"],
        instance_id=values["INSTANCE_ID"],
        dlq_enabled=values["DLQ_ENABLED"],
        on_malformed=OnMalformed(values["ON_MALFORMED"]),
        gap_policy=GapPolicy(values["GAP_POLICY"]),
    )


def _lake(values: Mapping[str, Any]) -> LakeConfig:
    uri = values["LAKE_URI"]
    return LakeConfig(
        # A folder is made absolute here, once: children may run elsewhere.
        uri=uri if uri.startswith("s3://") else os.path.abspath(uri),
        endpoint_url=values["AWS_ENDPOINT_URL"],
        access_key_id=values["AWS_ACCESS_KEY_ID"],
        secret_access_key=values["AWS_SECRET_ACCESS_KEY"],
        region=values["AWS_REGION"],
        allow_http=values["AWS_ALLOW_HTTP"],
        store_timeout_seconds=values["STORE_TIMEOUT_SECONDS"],
    )
