"""Asks a service's own page over HTTP: one answer, of bounded size, within a bounded time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, RemoteDisconnected
from typing import TypeVar

from tools.address import Address
from tools.findings import Failure
from tools.health import Look, NotOurs, read_figures, read_health

ANSWER_BYTES_MAX = 4_000_000
"""64 topics, each with the longest error there can be, take a sixth of it."""
ANSWER_LIMIT_S = 5.0
"""From the connection to the last byte, however it trickles; the page answers in milliseconds."""
NO_ANSWER = "NoAnswer"
STRANGE_ANSWER = "StrangeAnswer"

Read = TypeVar("Read")


class _TooLate(Exception):
    """The answer was not complete in time."""


def look_at(address: Address) -> Look:
    """Ask /health, and /metrics when that answered."""
    health = _told(address, "/health", (200, 503), read_health)
    at_s, unix_s = time.monotonic(), time.time()
    figures = (health if isinstance(health, Failure)
               else _told(address, "/metrics", (200,), read_figures))
    return Look(address, health, figures, at_s, unix_s)


def _told(
    address: Address, path: str, codes: tuple[int, ...], read: Callable[[bytes], Read]
) -> Read | Failure:
    where = f"{address}{path}"
    try:
        code, body = _get(address, path)
        if code not in codes:
            raise NotOurs(f"the status is {code}")
        return read(body)
    except NotOurs as error:
        return _strange(f"{where}: {error}")
    except _TooLate:
        return _silent(f"{where}: no whole answer within {ANSWER_LIMIT_S:g} s")
    except RemoteDisconnected:
        return _silent(f"{where}: the connection was closed without an answer")
    except OSError as error:
        return _silent(f"{where}: {error.strerror or type(error).__name__}")
    except (HTTPException, ValueError) as error:
        # Only its name: the text repeats what was sent.
        return _strange(f"{where}: it is no HTTP ({type(error).__name__})")


def _get(address: Address, path: str) -> tuple[int, bytes]:
    """Status and body; redirects are not followed, and proxies not asked."""
    connection = HTTPConnection(address.host, address.port, timeout=ANSWER_LIMIT_S)
    with contextlib.closing(connection):
        connection.connect()
        with _cut_in_time(connection.sock):
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES_MAX + 1)
    if len(body) > ANSWER_BYTES_MAX:
        raise NotOurs(f"it is larger than {ANSWER_BYTES_MAX} bytes")
    return answer.status, body


@contextlib.contextmanager
def _cut_in_time(connection: socket.socket) -> Iterator[None]:
    """Cut the connection when its time is over: the socket's own limit is for each piece only.

    Raises `_TooLate` then, in place of whatever the cut led to.
    """
    over_at = time.monotonic() + ANSWER_LIMIT_S
    timer = threading.Timer(ANSWER_LIMIT_S, _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, HTTPException, ValueError):
        if time.monotonic() < over_at:
            raise
    finally:
        timer.cancel()
    if time.monotonic() >= over_at:
        raise _TooLate


def _cut(connection: socket.socket) -> None:
    """End whatever waits for this connection."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _silent(text: str) -> Failure:
    return Failure(NO_ANSWER, text,
                   "See whether the service runs (`systemctl status bronze-ingestion`; the "
                   "runbook has its exit codes) and whether HEALTH_HOST and HEALTH_PORT are "
                   "those it was started with; else give --url.")


def _strange(text: str) -> Failure:
    return Failure(STRANGE_ANSWER, text,
                   "Something else listens there, or another release: look for the port in the "
                   "service's HEALTH_PORT, and give --url.")
