"""A plain byte proxy, for cutting a client off from its broker.

    with TcpProxy("127.0.0.1:29092", port=19092) as proxy:
        proxy.black_hole()   # connections stay open, nothing gets through any more
        proxy.cut()          # connections are reset, and new ones refused
        proxy.heal()         # new connections work, black-holed ones go on
        proxy.strand()       # what is connected now hangs for good; new connections work
        proxy.shape(latency_s=0.25, bytes_per_s=32_000, piece_bytes=7)
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from tests.rig.loop_thread import LoopThread

CHUNK_BYTES = 65_536
CONNECT_TIMEOUT_S = 10
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on with no time: closing sends RST instead of FIN."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How bytes travel; 0 is no limit.

    latency_s: one way.  bytes_per_s: of each connection and direction.  piece_bytes: sent at once.
    """

    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    piece_bytes: int = 0


class State(Enum):
    """What happens to bytes."""

    PASS = "pass"
    BLACK_HOLE = "black_hole"
    CUT = "cut"


class TcpProxy:
    """Forwards one port to one upstream; all methods may be called from any thread.

    Args:
        upstream: ``host:port``.
        port: where to listen on the loopback address; 0 takes a free one.

    Attributes:
        address: ``host:port`` for clients.
        connections: how many were accepted so far.
    """

    def __init__(self, upstream: str, port: int = 0) -> None:
        host, _, number = upstream.rpartition(":")
        self._upstream = (host, int(number))
        self._state = State.PASS
        self._writers: set[asyncio.StreamWriter] = set()
        self._shape = Shape()
        self._stranded = 0
        self.connections = 0
        self.bytes_forwarded = 0
        self._thread = LoopThread("tcp-proxy")
        self._may_flow = self._thread.call(self._new_event())
        self._server: asyncio.Server = self._thread.call(self._listen(port))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> TcpProxy:
        """Give itself, listening."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every connection and the port."""
        self.close()

    @property
    def state(self) -> State:
        """What happens to bytes now."""
        return self._state

    def cut(self) -> None:
        """Reset every connection; new ones are reset at once, until healed."""
        self._thread.call(self._set(State.CUT))

    def black_hole(self) -> None:
        """Keep connections open, also new ones, and let nothing through, until healed."""
        self._thread.call(self._set(State.BLACK_HOLE))

    def heal(self) -> None:
        """Let bytes through again, those held back first."""
        self._thread.call(self._set(State.PASS))

    def strand(self) -> None:
        """Never again bring anything through the connections there are, not even their end.

        As when the machine on the other side vanished, or a firewall forgot them: either side
        still believes in them. New connections work.
        """
        self._thread.call(self._strand())

    def shape(
        self, *, latency_s: float = 0.0, bytes_per_s: float = 0.0, piece_bytes: int = 0
    ) -> None:
        """From now on bytes travel like this; without arguments at once."""
        self._shape = Shape(latency_s, bytes_per_s, piece_bytes)

    def close(self) -> None:
        """End the proxy; no effect the second time."""
        if self._server.is_serving():
            self._thread.call(self._close())
        self._thread.close()

    async def _new_event(self) -> asyncio.Event:
        event = asyncio.Event()
        event.set()
        return event

    async def _listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def _set(self, state: State) -> None:
        self._state = state
        if state is State.CUT:
            for writer in list(self._writers):
                reset(writer)
        if state is State.BLACK_HOLE:
            self._may_flow.clear()
        else:
            self._may_flow.set()

    async def _strand(self) -> None:
        self._stranded = self.connections

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        if self._state is State.CUT:
            reset(writer)
            return
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            await self._may_flow.wait()
            opening = asyncio.open_connection(*self._upstream)
            answer, request = await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
            upstream = request
            self._writers.add(request)
            await asyncio.gather(
                self._pump(reader, request, number), self._pump(answer, writer, number))
        except (OSError, asyncio.TimeoutError, ConnectionError):
            # Either side is gone; the other one learns it from the reset below.
            reset(writer)
        except asyncio.CancelledError:
            # The proxy ends; asyncio would print a task that ended like this.
            reset(writer)
        finally:
            for end in (writer, upstream):
                if end is not None:
                    self._writers.discard(end)
                    end.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        """One direction of the connection with this number."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._pass_on(data, writer, number)
        except OSError:
            await self._hang_if_stranded(number)
            raise
        await self._hang_if_stranded(number)
        if writer.can_write_eof():
            writer.write_eof()

    async def _hang_if_stranded(self, number: int) -> None:
        """Nobody hears more of a stranded connection, not even that its other side has ended."""
        if number <= self._stranded:
            await asyncio.Event().wait()

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter, number: int) -> None:
        await self._may_flow.wait()
        await self._hang_if_stranded(number)
        shape = self._shape
        await asyncio.sleep(shape.latency_s)
        size = shape.piece_bytes or len(data)
        if shape.bytes_per_s:
            # In steps of a twentieth of a second, so that a slow line is not a stuttering one.
            size = min(size, max(1, int(shape.bytes_per_s / 20)))
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            if shape.bytes_per_s:
                await asyncio.sleep(len(piece) / shape.bytes_per_s)
            writer.write(piece)
            self.bytes_forwarded += len(piece)
            await writer.drain()
            if shape.piece_bytes:
                await asyncio.sleep(0)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST, as a killed machine or a firewall would."""
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
