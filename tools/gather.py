"""Sends the probes out, side by side and within one limit, and keeps what they bring home."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from shared.config import Config
from supervisor.cgroup import memory_max
from tools.findings import Finding, Key, Memory

LIMIT_S = 28.0
"""Of all probes together.  Silent brokers take 23 s at most, a silent store 8 s."""
_SECRET_PROPERTIES = ("password", "secret", "key", "token", "pem", "jaas", "config")

Look = Callable[[], None]


def gather(
    config: Config, limit_s: float = LIMIT_S, *, backlogs: bool = False,
    besides: Sequence[Look] = (),
) -> dict[Key, Finding]:
    """What the probes found within the limit; `backlogs` reads a message of each partition that
    has unread ones, and `besides` are further looks, which keep what they find."""
    from tools.kafka_probe import KafkaProbe
    from tools.store_probe import StoreProbe

    findings: dict[Key, Finding] = {
        Key("memory"): Memory(config.limits.memory_limit_mb, memory_max())}
    kafka = KafkaProbe(config, findings.__setitem__)

    def look_at_kafka() -> None:
        kafka.look()
        if backlogs:
            kafka.look_at_backlogs()

    run_side_by_side(
        (look_at_kafka, StoreProbe(config, findings.__setitem__).look, *besides), limit_s)
    return dict(findings)


def run_side_by_side(looks: Sequence[Look], limit_s: float) -> None:
    """Run each in a thread; one that takes longer is left behind and ends with the process."""
    deadline = time.monotonic() + limit_s
    threads = [threading.Thread(target=look, daemon=True) for look in looks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def secrets_of(config: Config) -> list[str]:
    """What must not show, whoever repeats it in an error."""
    kafka, lake = config.kafka, config.lake
    secrets = [secret.reveal() for secret in (kafka.sasl_password, lake.secret_access_key)
               if secret is not None]
    if lake.access_key_id is not None:
        secrets.append(lake.access_key_id)
    return secrets + [value.reveal() for name, value in kafka.properties
                      if any(part in name for part in _SECRET_PROPERTIES)]
