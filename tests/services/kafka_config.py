"""The broker's configuration, the same for a local process and for a container. Pure.

One node is broker and controller. Listeners: PLAINTEXT for ordinary tests; PROXIED, which is
advertised under a port where nothing listens until a test puts a proxy of its own there;
SASL_PLAINTEXT with PLAIN and SCRAM-SHA-512; SSL with a certificate of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

USERS: Mapping[str, str] = {"alice": "alice-secret", "bob": "bob-secret"}
"""Name to password, valid for PLAIN and for SCRAM-SHA-512; used nowhere but on loopback."""

BROKER_MEMORY = ("-Xms256m", "-Xmx512m")

_LOGIN = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class KafkaPorts:
    """TCP ports of 127.0.0.1, one per listener."""

    plaintext: int
    sasl: int
    ssl: int
    proxied: int
    """Where the broker listens for what a proxy forwards."""
    proxy: int
    """What the broker tells its proxied clients; free for the proxy of a test."""
    controller: int


def server_properties(ports: KafkaPorts, bind_host: str, data: str, server_pem: str) -> str:
    """Return the text of ``server.properties``.

    Args:
        ports: the listeners' ports.
        bind_host: the address to listen on; clients are always told 127.0.0.1.
        data: path of the data folder, as the broker sees it.
        server_pem: path of the server's key and certificates, as the broker sees it.
    """
    plain_users = " ".join(f'user_{name}="{secret}"' for name, secret in USERS.items())
    listeners = {
        "PLAINTEXT": (ports.plaintext, ports.plaintext),
        "PROXIED": (ports.proxied, ports.proxy),
        "SASL_PLAINTEXT": (ports.sasl, ports.sasl),
        "SSL": (ports.ssl, ports.ssl),
    }
    bound = [f"{name}://{bind_host}:{port}" for name, (port, _) in listeners.items()]
    advertised = [f"{name}://127.0.0.1:{port}" for name, (_, port) in listeners.items()]
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{ports.controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": ",".join([*bound, f"CONTROLLER://127.0.0.1:{ports.controller}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": (
            "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL"
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
            f"{_LOGIN}.plain.PlainLoginModule required {plain_users};"
        ),
        "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": (
            f"{_LOGIN}.scram.ScramLoginModule required;"
        ),
        "listener.name.ssl.ssl.keystore.type": "PEM",
        "listener.name.ssl.ssl.keystore.location": server_pem,
        "log.dirs": data,
        **_ONE_NODE,
        **_QUICK,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


_ONE_NODE: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Everybody may do everything, until a test denies somebody something.
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:ANONYMOUS",
    # The default of 128 MB would not fit beside the rest of a heap of 512 MB.
    "log.cleaner.dedupe.buffer.size": "16777216",
}

# What a test would otherwise wait for: clean-up, compaction and membership act within a second.
_QUICK: Mapping[str, str] = {
    # A broker that comes back from a SIGKILL is refused until its old session is over (9 s).
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # A group without members waits for more of them: whoever comes later than this joins with the
    # next heartbeat of the first one (2 s). Workers of one service start at the same time.
    "group.initial.rebalance.delay.ms": "300",
    "group.min.session.timeout.ms": "1000",
    "log.initial.task.delay.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.cleaner.backoff.ms": "500",
    "log.segment.delete.delay.ms": "500",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}

LOG4J_PROPERTIES = """\
status = error
appender.output.type = Console
appender.output.name = output
appender.output.layout.type = PatternLayout
appender.output.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.output.ref = output
"""
