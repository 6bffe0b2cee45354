"""Every environment variable the service reads, in one table.

The parser, `--help` and the table in docs/configuration.md all come from `SETTINGS`; a variable
that is not in it does not exist.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from shared.config_types import GapPolicy, LogFormat, OffsetReset, OnMalformed
from shared.memory import LIMIT_MB_MAX, MIB, least_limit_mb


class Kind(Enum):
    """How a value is read."""

    BOOLEAN = "boolean"
    CHOICE = "choice"
    INTEGER = "integer"
    SECONDS = "seconds"
    TEXT = "text"
    IDENTIFIER = "identifier"
    SERVERS = "servers"
    TOPICS = "topics"
    LAKE_URI = "lake_uri"
    LINEAGE_URL = "lineage_url"
    URL = "url"
    HOST = "host"
    CA_LOCATION = "ca_location"
    SECRET = "secret"
    SECRET_FILE = "secret_file"


class Group(StrEnum):
    """The headings settings are listed under."""

    KAFKA = "Kafka"
    LAKE = "Lake"
    DATA = "Data"
    CYCLE = "Cycle and deadlines"
    LIMITS = "Memory and limits of a cycle"
    HEALTH = "Health and logs"
    LINEAGE = "Lineage"


class Setting(NamedTuple):
    """One variable.  `default` is None when there is none: then `required`, or simply not set.

    Numbers lie in [low, high]; `choices` holds the values in the form the service keeps.
    A `private` value is never shown in a message, secret or not.
    """

    name: str
    group: Group
    kind: Kind
    default: str | None
    meaning: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    required: bool = False
    private: bool = False


SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_KAFKA = (
    Setting("KAFKA_BOOTSTRAP_SERVERS", Group.KAFKA, Kind.SERVERS, None,
            "Brokers to ask first, as `host:port`, separated by commas.", required=True),
    Setting("KAFKA_TOPICS", Group.KAFKA, Kind.TOPICS, None,
            "Topics to copy, separated by commas; each gets a worker and a table.",
            required=True),
    Setting("KAFKA_GROUP_ID", Group.KAFKA, Kind.TEXT, "bronze-ingestion",
            "Consumer group: shares partitions among instances and shows the lag to Kafka's "
            "tools."),
    Setting("KAFKA_SECURITY_PROTOCOL", Group.KAFKA, Kind.CHOICE, "PLAINTEXT",
            "How to connect. SASL and TLS settings are used only where the protocol has them.",
            choices=SECURITY_PROTOCOLS),
    Setting("KAFKA_SASL_MECHANISM", Group.KAFKA, Kind.CHOICE, None,
            "How to sign in; needed with a SASL protocol.", choices=SASL_MECHANISMS),
    Setting("KAFKA_SASL_USERNAME", Group.KAFKA, Kind.TEXT, None,
            "User name; needed with every mechanism but OAUTHBEARER.", private=True),
    Setting("KAFKA_SASL_PASSWORD", Group.KAFKA, Kind.SECRET, None,
            "Password, in the environment. Prefer the file.", private=True),
    Setting("KAFKA_SASL_PASSWORD_FILE", Group.KAFKA, Kind.SECRET_FILE, None,
            "File that holds the password.", private=True),
    Setting("KAFKA_SSL_CA_LOCATION", Group.KAFKA, Kind.CA_LOCATION, None,
            "File or folder of the certificate authorities to trust; the system's own if not "
            "set."),
    Setting("KAFKA_AUTO_OFFSET_RESET", Group.KAFKA, Kind.CHOICE, OffsetReset.EARLIEST,
            "Where to begin a partition for which neither the table nor the group has a "
            "position.", choices=tuple(OffsetReset)),
)

_LAKE = (
    Setting("LAKE_URI", Group.LAKE, Kind.LAKE_URI, None,
            "Where the tables are: `s3://bucket/prefix`, or a folder as `/path`, `./path` or "
            "`file:///path`.", required=True),
    Setting("AWS_ENDPOINT_URL", Group.LAKE, Kind.URL, None,
            "Address of an S3-compatible store such as MinIO; not set for AWS itself."),
    Setting("AWS_ACCESS_KEY_ID", Group.LAKE, Kind.TEXT, None,
            "Access key. Needed with an endpoint; on AWS, without it, the machine's own role is "
            "used.", private=True),
    Setting("AWS_SECRET_ACCESS_KEY", Group.LAKE, Kind.SECRET, None,
            "Secret key, in the environment. Prefer the file.", private=True),
    Setting("AWS_SECRET_ACCESS_KEY_FILE", Group.LAKE, Kind.SECRET_FILE, None,
            "File that holds the secret key.", private=True),
    Setting("AWS_REGION", Group.LAKE, Kind.IDENTIFIER, "us-east-1", "Region of the bucket."),
    Setting("AWS_ALLOW_HTTP", Group.LAKE, Kind.BOOLEAN, "false",
            "Allow an endpoint without TLS."),
    Setting("STORE_TIMEOUT_SECONDS", Group.LAKE, Kind.SECONDS, "10",
            "Limit of one request to the object store.", 0.1, 600),
)

_DATA = (
    Setting("INSTANCE_ID", Group.DATA, Kind.IDENTIFIER, "0",
            "Who this service is. Of two with one identity the older is fenced; give instances "
            "that share the work different ones."),
    Setting("DLQ_ENABLED", Group.DATA, Kind.BOOLEAN, "true",
            "Put malformed messages into `dlq_bronze_{topic}`."),
    Setting("ON_MALFORMED", Group.DATA, Kind.CHOICE, OnMalformed.STOP,
            "With DLQ_ENABLED=false: stop the topic at a malformed message, or skip and count "
            "it.", choices=tuple(OnMalformed)),
    Setting("GAP_POLICY", Group.DATA, Kind.CHOICE, GapPolicy.FAIL,
            "When retention removed messages before they were read: stop the topic, or record "
            "the gap and continue.", choices=tuple(GapPolicy)),
)

_CYCLE = (
    Setting("BATCH_INTERVAL_SECONDS", Group.CYCLE, Kind.SECONDS, "10",
            "Time between two flushes of all topics.", 0.01, 86400),
    Setting("CYCLE_DEADLINE_SECONDS", Group.CYCLE, Kind.SECONDS, "30",
            "Limit of one flush; the topics missing by then are late.", 0.1, 3600),
    Setting("START_DEADLINE_SECONDS", Group.CYCLE, Kind.SECONDS, "60",
            "How long to wait at start for Kafka and the store before exit 75.", 0.1, 3600),
    Setting("STOP_DEADLINE_SECONDS", Group.CYCLE, Kind.SECONDS, "30",
            "How long a stop may take to finish or abandon the flush.", 0.1, 3600),
    Setting("HEARTBEAT_LIMIT_SECONDS", Group.CYCLE, Kind.SECONDS, "60",
            "A worker silent for longer is killed and started anew. At least three times "
            "STORE_TIMEOUT_SECONDS.", 0.3, 3600),
    Setting("KEEPER_INTERVAL_SECONDS", Group.CYCLE, Kind.SECONDS, "60",
            "Time between two turns of the keeper, which enters finished cycles into the ledger, "
            "writes checkpoints of the tables' logs, compacts and vacuums.", 1, 3600),
    Setting("COMPACT_TARGET_MB", Group.CYCLE, Kind.INTEGER, "64",
            "Size in MB (10^6 bytes) of the files that the keeper makes out of the small ones of a "
            "day that is over; 0: it makes none.", 0, 1024),
    Setting("VACUUM_RETENTION_DAYS", Group.CYCLE, Kind.INTEGER, "7",
            "For how many days files are kept that a table does not have any more, for readers of "
            "older versions; a table's own `delta.deletedFileRetentionDuration` may ask for more. "
            "0: for ever.", 0, 3650),
    Setting("ISOLATE_AFTER", Group.CYCLE, Kind.INTEGER, "3",
            "Failed cycles after which the others go on without a topic; 0 waits for ever.",
            0, 1_000_000),
)

_LIMITS = (
    Setting("MEMORY_LIMIT_MB", Group.LIMITS, Kind.INTEGER, "256",
            "Memory of all processes together, in MB of 10^6 bytes; the limit of every part is "
            "derived from it.", least_limit_mb(1), LIMIT_MB_MAX),
    Setting("CYCLE_BYTES_MAX", Group.LIMITS, Kind.INTEGER, str(128 * MIB),
            "Raw bytes of values a topic reads for one cycle: at half of it the worker asks for a "
            "flush, at all of it reading pauses.",
            1024, 16 * 1024 * MIB),
    Setting("CARRY_OVER_FILES_MAX", Group.LIMITS, Kind.INTEGER, "128",
            "Files a topic may have sent that no commit names yet before it stops reading. Bound "
            "by the manifest that names them: 150 fit with 128 partitions, 128 with 256; with more "
            "partitions, lower it.", 1, 150),
    Setting("CARRY_OVER_BYTES_MAX", Group.LIMITS, Kind.INTEGER, str(512 * MIB),
            "The same, in bytes of those files.", 1024, 1024 * 1024 * MIB),
)

_HEALTH = (
    Setting("HEALTH_HOST", Group.HEALTH, Kind.HOST, "127.0.0.1",
            "Address the health page listens on. It has no password: open it to others on "
            "purpose only."),
    Setting("HEALTH_PORT", Group.HEALTH, Kind.INTEGER, "8080",
            "Port of the health page; 0 takes any free one.", 0, 65535),
    Setting("LOG_LEVEL", Group.HEALTH, Kind.CHOICE, "INFO", "The least important line to log.",
            choices=LOG_LEVELS),
    Setting("LOG_FORMAT", Group.HEALTH, Kind.CHOICE, None,
            "Form of log lines on stderr; `text` if that is a terminal, else `json`.",
            choices=tuple(LogFormat)),
)

_LINEAGE = (
    Setting("LINEAGE_URL", Group.LINEAGE, Kind.LINEAGE_URL, None,
            "Where to send one OpenLineage event per cycle: `http://` or `https://` address of an "
            "endpoint, or a file as `/path` or `file:///path`. Off if not set.", private=True),
    Setting("LINEAGE_API_KEY", Group.LINEAGE, Kind.SECRET, None,
            "Key sent to the endpoint as `Authorization: Bearer`, in the environment. Prefer the "
            "file.", private=True),
    Setting("LINEAGE_API_KEY_FILE", Group.LINEAGE, Kind.SECRET_FILE, None,
            "File that holds the key.", private=True),
    Setting("LINEAGE_NAMESPACE", Group.LINEAGE, Kind.TEXT, "bronze-ingestion",
            "Namespace of the job in the events; the job's name is "
            "`bronze-ingestion.{INSTANCE_ID}`."),
    Setting("LINEAGE_TIMEOUT_SECONDS", Group.LINEAGE, Kind.SECONDS, "5",
            "Limit of one event's request.", 0.1, 30),
)

SETTINGS: tuple[Setting, ...] = (
    _KAFKA + _LAKE + _DATA + _CYCLE + _LIMITS + _HEALTH + _LINEAGE)

# (the secret in the environment, the file that may hold it instead)
SECRET_PAIRS = (
    ("KAFKA_SASL_PASSWORD", "KAFKA_SASL_PASSWORD_FILE"),
    ("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY_FILE"),
    ("LINEAGE_API_KEY", "LINEAGE_API_KEY_FILE"),
)

# Names beginning so are ours alone: an unknown one is a fault even if it is like none of ours.
OWN_PREFIXES = (
    "KAFKA_", "LAKE_", "DLQ_", "GAP_", "BATCH_", "CYCLE_", "HEARTBEAT_", "ISOLATE_", "KEEPER_",
    "COMPACT_", "VACUUM_", "CARRY_OVER_", "HEALTH_", "MEMORY_", "LINEAGE_",
)  # fmt: skip

PROPERTY_PREFIX = "KAFKA_PROPERTY_"

# Variables of others that begin like ours: those of Kafka's own scripts, those that systemd sets
# for every service since its version 254, and those Kubernetes sets in every pod for a service
# named, for example, "kafka".
FOREIGN_NAMES = frozenset({
    "KAFKA_HOME", "KAFKA_OPTS", "KAFKA_HEAP_OPTS", "KAFKA_JMX_OPTS", "KAFKA_LOG4J_OPTS",
    "KAFKA_GC_LOG_OPTS", "KAFKA_JVM_PERFORMANCE_OPTS", "KAFKA_DEBUG", "KAFKA_VERSION",
    "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE",
})  # fmt: skip
FOREIGN_PATTERN = (
    r"[A-Z0-9_]+_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)"
    r"|[A-Z0-9_]+_PORT_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?"
    r"|KAFKA_([A-Z0-9_]+_)?PORT"
    r"|AWS_ENDPOINT_URL_[A-Z0-9_]+"
)

# Variables the object store's client reads by itself, past our settings (measured), and what
# they would break.
REFUSED_AWS = {
    "AWS_ENDPOINT": "it names a second endpoint",
    "AWS_ENDPOINT_URL_S3": "it silently replaces AWS_ENDPOINT_URL",
    "AWS_CONDITIONAL_PUT": "put-if-absent is what keeps two services from deciding both",
    "AWS_S3_ALLOW_UNSAFE_RENAME": "commits must not overwrite each other",
    "AWS_S3_EXPRESS": "buckets of that kind are not supported",
}
