"""The health page's port, looked at before anything is started."""

from __future__ import annotations

import socket
import time

from shared.errors import IngestError

WAIT_S = 5.0
"""A predecessor that was killed a moment ago leaves a sidecar that is just about to end."""
WAIT_STEP_S = 0.1


class PortTaken(IngestError):
    """The health page cannot listen where it was told to."""

    what_to_do = "Set HEALTH_HOST and HEALTH_PORT to a free address of this machine."


def choose_port(host: str, port: int) -> int:
    """`port` if it is or becomes free, any free one for 0; raises `PortTaken`."""
    give_up_at = time.monotonic() + WAIT_S
    while True:
        try:
            return _try_port(host, port)
        except OSError as error:
            if time.monotonic() >= give_up_at:
                raise PortTaken(f"HEALTH_PORT: cannot listen on {host}:{port} "
                                f"({error.strerror})") from error
        time.sleep(WAIT_STEP_S)


def _try_port(host: str, port: int) -> int:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])
