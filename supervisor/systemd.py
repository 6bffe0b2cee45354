"""sd_notify: tells systemd READY, STATUS, WATCHDOG and STOPPING; silent without a socket.

The protocol is one datagram of text; no library is worth a dependency for it.
"""

from __future__ import annotations

import os
import socket

from collections.abc import Mapping


class Notifier:
    """Sends state to $NOTIFY_SOCKET."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(text.encode(), self._address)
            except OSError:
                pass  # The service does not depend on who supervises it.

    def ready(self) -> None:
        """The first cycle can begin."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """The supervision loop has made a turn."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The stop has begun."""
        self._send("STOPPING=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for more time for a start or stop under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")
