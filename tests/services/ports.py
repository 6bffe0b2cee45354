"""Free TCP ports that stay free while a service is down.

A broker that is killed must come back at the same port. The kernel hands out the ports of its
ephemeral range to outgoing connections at any moment, so ports are picked below that range.
"""

from __future__ import annotations

import random
import socket

from tests.services.errors import ServiceError

PORT_MIN = 15_000
PORT_MAX = 30_000
"""Below the ephemeral ranges of Linux (32768 up) and macOS (49152 up)."""

ATTEMPTS_MAX = 1_000

_generator = random.SystemRandom()
"""Not the global generator: a test that seeds that one would make two sessions collide."""


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports of 127.0.0.1 that nobody listens on at the moment."""
    ports: list[int] = []
    for _ in range(ATTEMPTS_MAX):
        if len(ports) == count:
            return ports
        port = _generator.randrange(PORT_MIN, PORT_MAX)
        if port not in ports and _is_free(port):
            ports.append(port)
    raise ServiceError(
        f"found only {len(ports)} of {count} free ports between {PORT_MIN} and {PORT_MAX} "
        f"after {ATTEMPTS_MAX} attempts"
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
