"""Waitress, with limits small enough for a page that answers a few lines to a few askers.

The one place that imports waitress.  Its defaults are for web applications: bodies of a gigabyte,
headers of 256 kB, two minutes for a silent connection, and no limit at all for a request that
arrives one byte at a time.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask

from healthcheck.headers import SECURITY_HEADERS
from healthcheck.moment import LOOK_INTERVAL_S, Observer
from shared.logs import RateLimit

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

CONNECTIONS_MAX = 50
BACKLOG_CONNECTIONS = 64
REQUEST_SECONDS = 5
"""A request that is not complete by then is not going to be one."""
IDLE_SECONDS = 75
"""Longer than the usual pause between two scrapes, so that a scraper keeps its connection."""

LIMITS = {
    "threads": 2,
    "connection_limit": CONNECTIONS_MAX,
    "backlog": BACKLOG_CONNECTIONS,
    "channel_timeout": IDLE_SECONDS,
    "cleanup_interval": LOOK_INTERVAL_S,
    "max_request_header_size": 4096,
    "max_request_body_size": 1024,
    "inbuf_overflow": 16 * 1024,
    # More than the limits, so that what is refused has mostly been read: closing a connection with
    # unread bytes resets it, and the asker would not get the refusal.
    "recv_bytes": 16 * 1024,
    "ident": None,
    "expose_tracebacks": False,
    "clear_untrusted_proxy_headers": True,
    "asyncore_use_poll": True,
}


class _Parser(HTTPRequestParser):
    """A request being received, which knows when it began."""

    def __init__(self, adj: object) -> None:
        super().__init__(adj)
        self.begun_s = time.monotonic()


class _ErrorTask(ErrorTask):
    """The answer to what is not a request, as plain and guarded as all the others."""

    def execute(self) -> None:
        error = self.request.error
        body = f"{error.reason.lower()}\n".encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "text/plain; charset=utf-8"))
        self.response_headers.extend(SECURITY_HEADERS.items())
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):
    parser_class = _Parser
    error_task_class = _ErrorTask


class HealthServer(TcpWSGIServer):
    """Serves one application on one listening socket until SystemExit is raised in it."""

    channel_class = _Channel

    def __init__(self, app: WSGIApplication, observer: Observer, listening: socket.socket) -> None:
        self._observer = observer
        super().__init__(
            app, map={}, _sock=listening, bind_socket=False,
            sockinfo=(listening.family, listening.type, listening.proto, None), **LIMITS)

    def maintenance(self, now: float) -> None:
        """Called every `cleanup_interval`: look at the block, drop connections that only wait."""
        self._observer.look()
        super().maintenance(now)
        oldest_s = time.monotonic() - REQUEST_SECONDS
        for channel in self.active_channels.values():
            if channel.request is not None and channel.request.begun_s < oldest_s:
                channel.will_close = True


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the first address of `host`; port 0 takes any; raises OSError."""
    family, kind, protocol, _name, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError:
        listening.close()
        raise
    return listening


class OncePerInterval(logging.Filter):
    """Lets each of waitress' warnings through once per interval: askers must not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = RateLimit()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        return self._repeats.admit((record.pathname, record.lineno), time.monotonic()) is not None


def quieten() -> None:
    """Keep waitress' own lines rare, and only warnings."""
    for name in ("waitress", "waitress.queue"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.addFilter(OncePerInterval())
