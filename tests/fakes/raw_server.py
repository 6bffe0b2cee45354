"""A server on a port of its own that sends prepared bytes, of whatever kind, to whoever asks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType

REQUEST_BYTES_MAX = 4096
END_S = 5.0

Pieces = Callable[[], Iterable[bytes]]


def answer(body: bytes, status: str = "200 OK") -> bytes:
    """A whole answer in HTTP."""
    return (f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


class RawServer:
    """Answers by path; a path that is not there gets the connection closed.

    pages: path -> the bytes, or what makes them piece by piece while they are sent; it may be
    changed at any time.
    asked: the paths, in order.
    """

    def __init__(self, pages: Mapping[str, bytes | Pieces]) -> None:
        self.pages = dict(pages)
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> RawServer:
        """Start to listen."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop; whoever is still being answered loses the connection."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(END_S)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(END_S)
        words = connection.recv(REQUEST_BYTES_MAX).decode("latin-1").split()
        path = words[1] if len(words) > 1 else ""
        self.asked.append(path)
        page = self.pages.get(path, b"")
        for piece in page() if callable(page) else [page]:
            if self._over.is_set():
                return
            connection.sendall(piece)
