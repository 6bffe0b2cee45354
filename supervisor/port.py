"""The health page's port, looked at before anything is started."""

from __future__ import annotations

import socket

from shared.errors import IngestError


class PortTaken(IngestError):
    """The health page cannot listen where it was told to."""

    what_to_do = "Set HEALTH_HOST and HEALTH_PORT to a free address of this machine."


def choose_port(host: str, port: int) -> int:
    """`port` if it is free, any free one for 0; raises `PortTaken`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise PortTaken(f"HEALTH_PORT: cannot listen on {host}:{port} ({error.strerror})") from error
