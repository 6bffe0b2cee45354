"""Where lineage events go: a file, one event a line, or an HTTP endpoint, one request an event.

Whoever answers there is not trusted: a request has one deadline, however slowly it is answered, of
the answer the status alone is read, and a redirect is not followed, for the key would go with it.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from typing import Protocol
from urllib.parse import urlsplit

from shared.config import LineageConfig, Secret
from shared.errors import LineageUnavailable

HEAD_BYTES_MAX = 16 * 1024
"""Of an answer, interim ones included."""
RECEIVE_BYTES = 4096
FILE_MODE = 0o640

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: |\r?$)")
_FINAL_STATUS_MIN = 200


class Sink(Protocol):
    """Takes events, in order."""

    def send(self, event: bytes) -> None:
        """Hand over one event, a line of JSON; raises `LineageUnavailable`, after which it may
        have been taken all the same."""


def open_sink(config: LineageConfig) -> Sink | None:
    """The configured sink, None where lineage is off; makes no request."""
    if config.url is None:
        return None
    if config.is_http:
        return HttpSink(config.url, config.api_key, config.timeout_seconds)
    return FileSink(config.url)


class FileSink:
    """Appends lines to a file, which is made if need be, and may be rotated at any time."""

    def __init__(self, path: str) -> None:
        self._path = path

    def send(self, event: bytes) -> None:
        """See `Sink`; it is on the disk then."""
        try:
            self._append(event)
        except OSError as error:
            cause = error.strerror or "unknown error"
            raise LineageUnavailable(f"append to {self._path}: {cause}") from error

    def _append(self, event: bytes) -> None:
        # Not blocking: a pipe in the file's place would hold the keeper up.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, FILE_MODE)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise LineageUnavailable(f"append to {self._path}: it is not a regular file")
            size = status.st_size
            # A machine that died in the middle of a line must not spoil the next one.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            line = (b"\n" if torn else b"") + event + b"\n"
            if os.write(descriptor, line) != len(line):
                os.ftruncate(descriptor, size)
                raise LineageUnavailable(f"append to {self._path}: the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class HttpSink:
    """Sends each event in a POST of its own, over a connection of its own."""

    def __init__(self, url: str, api_key: Secret | None, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._is_tls else 80)
        self._path, self._netloc = parts.path or "/", parts.netloc
        self._api_key, self._timeout_s = api_key, timeout_s

    def send(self, event: bytes) -> None:
        """See `Sink`."""
        deadline = time.monotonic() + self._timeout_s
        try:
            with self._connect(deadline) as connection:
                connection.settimeout(_left(deadline))
                connection.sendall(self._request(event))
                status = _read_status(connection, deadline)
        except TimeoutError as error:
            raise self._failed(f"no answer within {self._timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise self._failed(_cause(error)) from error
        if 300 <= status < 400:
            raise self._failed(f"it answers {status}, and redirects are not followed")
        if not 200 <= status < 300:
            raise self._failed(f"it answers {status}")

    def _failed(self, cause: str) -> LineageUnavailable:
        # Without the path, in which people put tokens.
        return LineageUnavailable(f"POST to {self._netloc}: {cause}")

    def _connect(self, deadline: float) -> socket.socket:
        connection = socket.create_connection((self._host, self._port), _left(deadline))
        if not self._is_tls:
            return connection
        import ssl  # 3 MB that nobody else in this process needs

        try:
            connection.settimeout(_left(deadline))
            return ssl.create_default_context().wrap_socket(
                connection, server_hostname=self._host)
        except BaseException:
            connection.close()
            raise

    def _request(self, event: bytes) -> bytes:
        lines = [f"POST {self._path} HTTP/1.1", f"Host: {self._netloc}",
                 "Content-Type: application/json", f"Content-Length: {len(event)}",
                 "Connection: close"]
        if self._api_key is not None:
            lines.append(f"Authorization: Bearer {self._api_key.reveal()}")
        return "\r\n".join([*lines, "", ""]).encode() + event


def _read_status(connection: socket.socket, deadline: float) -> int:
    """The final status of an answer; raises ValueError for what is no answer."""
    head, taken = b"", 0
    while True:
        line, found, _ = head.partition(b"\n")
        if found:
            match = _STATUS.match(line)
            if match is None:
                raise ValueError("it does not speak HTTP/1.1")
            if int(match[1]) >= _FINAL_STATUS_MIN:
                return int(match[1])
            _, ended, after = head.partition(b"\r\n\r\n")
            if ended:
                head = after
                continue
        connection.settimeout(_left(deadline))
        piece = connection.recv(RECEIVE_BYTES)
        taken += len(piece)
        if not piece:
            raise ValueError("it ended the connection without an answer")
        if taken > HEAD_BYTES_MAX:
            raise ValueError("its answer's head has no end")
        head += piece


def _cause(error: Exception) -> str:
    """One line; of a certificate, what is wrong with it."""
    for name in ("verify_message", "strerror"):
        if getattr(error, name, None):
            return str(getattr(error, name))
    return str(error) or type(error).__name__


def _left(deadline: float) -> float:
    """Seconds until then; raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
