"""An HTTP proxy in front of an object store that makes chosen requests go wrong.

    with S3Proxy(minio.endpoint) as proxy:
        rule = proxy.rule(method="PUT", path_regex=r"_delta_log/.*json$",
                          action=fail_after(500), times=1)
        ...
        assert rule.fired == 1

The client is given `proxy.endpoint`. Every header goes through unchanged, also `Host`, which the
client has signed; bodies go through as they come, so chunked signatures stay valid. A request
is judged by the first rule, in the order made, that matches it and is not used up.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from urllib.parse import unquote, urlsplit

from tests.rig.loop_thread import LoopThread
from tests.rig.tcp_proxy import reset

HEAD_LIMIT_BYTES = 1 << 17
CHUNK_BYTES = 1 << 16
UPSTREAM_TIMEOUT_S = 60
SLOW_PIECE_BYTES = 4096
CODES = {429: "TooManyRequests", 503: "SlowDown", 404: "NoSuchBucket", 403: "AccessDenied"}
"""What S3 says beside a status, where it is not InternalError."""
SHARE_SEED = 20261124
"""Of the dice that say which requests a rule with a share strikes."""


class Kind(Enum):
    """What a rule does to a request."""

    PASS = "pass"
    FAIL_BEFORE = "fail_before"
    FAIL_AFTER = "fail_after"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    HANG_BEFORE = "hang_before"
    HANG_AFTER = "hang_after"
    DELAY = "delay"
    SLOW = "slow"
    CUT_REQUEST = "cut_request"
    CUT_ANSWER = "cut_answer"


@dataclass(frozen=True, slots=True)
class Action:
    """A kind with what it needs: the status and code to answer, seconds, or bytes per second."""

    kind: Kind
    status: int = 500
    code: str = ""
    seconds: float = 0.0
    bytes_per_s: float = 0.0


PASS = Action(Kind.PASS)
RESET_BEFORE = Action(Kind.RESET_BEFORE)
"""The store never sees the request; the client's connection is reset."""
RESET_AFTER = Action(Kind.RESET_AFTER)
"""The store has done it; the client's connection is reset instead of an answer."""


CUT_REQUEST = Action(Kind.CUT_REQUEST)
"""The store gets half of the body and then the end of the connection, and so does the client."""
CUT_ANSWER = Action(Kind.CUT_ANSWER)
"""The store has done it; the client gets half of the body announced, and then the end."""


def fail_before(status: int = 500, code: str = "") -> Action:
    """Answer an error, with S3's code for the status unless another is named; no effect."""
    return Action(Kind.FAIL_BEFORE, status=status, code=code)


def fail_after(status: int = 500) -> Action:
    """Let the store do it, then answer an error."""
    return Action(Kind.FAIL_AFTER, status=status)


def hang(seconds: float, *, after: bool) -> Action:
    """Answer nothing for a while, with or without effect, then reset the connection."""
    return Action(Kind.HANG_AFTER if after else Kind.HANG_BEFORE, seconds=seconds)


def delay(seconds: float) -> Action:
    """Hold the request back for a while, then let it through."""
    return Action(Kind.DELAY, seconds=seconds)


def slow(bytes_per_s: float) -> Action:
    """Let the answer through at this rate."""
    return Action(Kind.SLOW, bytes_per_s=bytes_per_s)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as rules see it; path and query are unquoted, `status` is the store's answer."""

    method: str
    path: str
    query: str
    status: int | None = None


Callback = Callable[[Request], None]
_Pieces = AsyncIterator[bytes]


@dataclass(slots=True)
class Rule:
    """One rule and how often it fired; made by `S3Proxy.rule`."""

    method: str | None
    path: re.Pattern[str]
    query: re.Pattern[str] | None
    action: Action
    times: int | None
    skip: int
    on_match: Callback | None
    on_effect: Callback | None
    share: float = 1.0
    fired: int = 0
    requests: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _dice: random.Random = field(default_factory=lambda: random.Random(SHARE_SEED))

    def take(self, request: Request) -> bool:
        """Whether the rule applies to a request; it counts when it does."""
        if self.method is not None and self.method != request.method:
            return False
        if not self.path.search(request.path):
            return False
        if self.query is not None and not self.query.search(request.query):
            return False
        with self._lock:
            if self.times is not None and self.fired >= self.times:
                return False
            if self.skip > 0:
                self.skip -= 1
                return False
            if self._dice.random() >= self.share:
                return False
            self.fired += 1
            self.requests.append(request)
        return True


class S3Proxy:
    """Forwards HTTP/1.1 to one endpoint, with rules; methods may be called from any thread.

    Args:
        upstream: the store's endpoint, ``http://host:port``.

    Attributes:
        endpoint: what clients are given instead.
        requests: how many requests came in.
        errors: what callbacks raised; a test asserts that there is nothing.
    """

    def __init__(self, upstream: str, port: int = 0) -> None:
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"only http endpoints can be looked into, not {upstream}")
        self._upstream = (parts.hostname, parts.port or 80)
        self._rules: list[Rule] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests = 0
        self.errors: list[Exception] = []
        self._thread = LoopThread("s3-proxy")
        self._server: asyncio.Server = self._thread.call(self._listen(port))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> S3Proxy:
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

    def rule(
        self,
        *,
        method: str | None = None,
        path_regex: str = "",
        query_regex: str | None = None,
        action: Action = PASS,
        times: int | None = None,
        skip: int = 0,
        share: float = 1.0,
        on_match: Callback | None = None,
        on_effect: Callback | None = None,
    ) -> Rule:
        """Add a rule behind those that are there.

        Args:
            method: as sent; None matches all.
            path_regex: searched in the unquoted path, which begins with ``/bucket/``.
            query_regex: searched in the unquoted query, ``""`` when there is none.
            times: how often it fires before it is used up; None is for ever.
            skip: how many matching requests it lets alone first.
            share: of the matching requests, which part it strikes; by dice with a fixed seed.
            on_match: called before the store sees the request.
            on_effect: called after the store answered, before the client hears of it. Both run
                in a thread, and the request waits for them; an error in them resets it.
        """
        made = Rule(
            method,
            re.compile(path_regex),
            None if query_regex is None else re.compile(query_regex),
            action,
            times,
            skip,
            on_match,
            on_effect,
            share,
        )
        self._rules = [*self._rules, made]
        return made

    def remove(self, rule: Rule) -> None:
        """Forget a rule; no effect when it is not there."""
        self._rules = [other for other in self._rules if other is not rule]

    def clear(self) -> None:
        """Forget every rule: from now on everything goes through."""
        self._rules = []

    def reset_connections(self) -> None:
        """Reset every connection that is open now."""
        self._thread.call(self._reset_all())

    def close(self) -> None:
        """End the proxy; no effect the second time."""
        if self._server.is_serving():
            self._server.get_loop().call_soon_threadsafe(self._server.close)
            self.reset_connections()
        self._thread.close()

    async def _listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(
            self._serve, "127.0.0.1", port, limit=HEAD_LIMIT_BYTES
        )

    async def _reset_all(self) -> None:
        for writer in list(self._writers):
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client: requests one after the other, one upstream connection."""
        self._writers.add(writer)
        link = _Upstream(self._upstream)
        try:
            while await self._exchange(reader, writer, link):
                pass
        except (OSError, EOFError, asyncio.TimeoutError, _Broken):
            reset(writer)
        finally:
            self._writers.discard(writer)
            link.close()
            writer.close()

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Upstream
    ) -> bool:
        """Carry one request through; tells whether the connection stays open."""
        head = await _read_head(reader)
        if head is None:
            return False
        method, target, _ = head.first.split(" ", 2)
        path, _, query = target.partition("?")
        request = Request(method, unquote(path), unquote(query))
        self.requests += 1
        rule = next((rule for rule in self._rules if rule.take(request)), None)
        action = rule.action if rule else PASS
        if rule is not None and rule.on_match is not None:
            await self._in_thread(rule.on_match, request)
        if action.kind in (Kind.FAIL_BEFORE, Kind.RESET_BEFORE, Kind.HANG_BEFORE):
            # The body is read to its end, so that the client's send is not what fails.
            if head.expects_continue:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            async for _ in _body(reader, head):
                pass
            return await _answer_falsely(writer, action, method)
        if action.kind is Kind.CUT_REQUEST:
            await link.send_half(head, _body(reader, head), writer)
            raise _Broken("the request was cut")
        if action.kind is Kind.DELAY:
            await asyncio.sleep(action.seconds)
        answer = await link.send(head, _body(reader, head), writer)
        if rule is not None and rule.on_effect is not None:
            done = Request(request.method, request.path, request.query, answer.status)
            await self._in_thread(rule.on_effect, done)
        if action.kind in (Kind.FAIL_AFTER, Kind.RESET_AFTER, Kind.HANG_AFTER):
            async for _ in link.body(answer, method):
                pass
            return await _answer_falsely(writer, action, method)
        writer.write(answer.raw)
        if action.kind is Kind.CUT_ANSWER:
            whole = b"".join([piece async for piece in link.body(answer, method)])
            writer.write(whole[: len(whole) // 2])
            await writer.drain()
            return False
        async for piece in link.body(answer, method):
            if action.kind is Kind.SLOW:
                await _write_slowly(writer, piece, action.bytes_per_s)
            writer.write(b"" if action.kind is Kind.SLOW else piece)
            await writer.drain()
        await writer.drain()
        return not (head.wants_close or answer.wants_close)

    async def _in_thread(self, callback: Callback, request: Request) -> None:
        """Run a test's callback; one that fails must not look like a healthy store."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, callback, request)
        except Exception as error:
            self.errors.append(error)
            raise _Broken(f"a callback failed: {error!r}") from error


class _Broken(Exception):
    """A peer closed in the middle of a message, or spoke something else than HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class _Head:
    """First line and headers of a message, as they came and by lower-case name."""

    raw: bytes
    first: str
    headers: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.first.split(" ", 2)[1])

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        value = self.headers.get("content-length")
        return None if value is None else int(value)

    @property
    def wants_close(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"

    @property
    def expects_continue(self) -> bool:
        return self.headers.get("expect", "").lower() == "100-continue"


class _Upstream:
    """The connection to the store that belongs to one connection of a client."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, head: _Head, body: _Pieces, client: asyncio.StreamWriter) -> _Head:
        """Send a request and return the head of its answer."""
        if self._writer is None or self._writer.is_closing() or self._is_at_end():
            self.close()
            opening = asyncio.open_connection(*self._address, limit=HEAD_LIMIT_BYTES)
            self._reader, self._writer = await asyncio.wait_for(opening, UPSTREAM_TIMEOUT_S)
        assert self._reader is not None and self._writer is not None
        writer = self._writer
        writer.write(head.raw)
        if head.expects_continue:
            answer = await self._answer()
            if answer.status != 100:
                # Refused without the body, which the client may or may not send now.
                raise _Broken(answer.first)
            client.write(answer.raw)
        async for piece in body:
            writer.write(piece)
            await writer.drain()
        return await self._answer()

    async def send_half(self, head: _Head, body: _Pieces, client: asyncio.StreamWriter) -> None:
        """Send a request up to the middle of its body, and end the connection."""
        self.close()
        opening = asyncio.open_connection(*self._address, limit=HEAD_LIMIT_BYTES)
        self._reader, self._writer = await asyncio.wait_for(opening, UPSTREAM_TIMEOUT_S)
        if head.expects_continue:
            client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        whole = b"".join([piece async for piece in body])
        self._writer.write(head.raw + whole[: len(whole) // 2])
        await self._writer.drain()
        self.close()

    async def body(self, answer: _Head, method: str) -> _Pieces:
        """The answer's body as it comes."""
        if method == "HEAD" or answer.status in (204, 304):
            return
        assert self._reader is not None
        if not answer.is_chunked and answer.length is None:
            while piece := await self._reader.read(CHUNK_BYTES):
                yield piece
            self.close()
            return
        async for piece in _body(self._reader, answer):
            yield piece

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _is_at_end(self) -> bool:
        return self._reader is not None and self._reader.at_eof()

    async def _answer(self) -> _Head:
        assert self._reader is not None
        answer = await asyncio.wait_for(_read_head(self._reader), UPSTREAM_TIMEOUT_S)
        if answer is None:
            raise _Broken("the store closed the connection")
        return answer


async def _read_head(reader: asyncio.StreamReader) -> _Head | None:
    """The next message's head; None when the peer closed between messages."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise _Broken("closed within a head") from error
        return None
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return _Head(raw, first, {name.lower(): value.strip() for name, _, value in pairs})


async def _body(reader: asyncio.StreamReader, head: _Head) -> _Pieces:
    """A message's body, byte for byte as it is sent, chunk marks included."""
    if not head.is_chunked:
        left = head.length or 0
        while left:
            piece = await reader.read(min(left, CHUNK_BYTES))
            if not piece:
                raise _Broken("closed within a body")
            left -= len(piece)
            yield piece
        return
    while True:
        line = await reader.readuntil(b"\r\n")
        yield line
        size = int(line.split(b";")[0], 16)
        if size == 0:
            while (trailer := await reader.readuntil(b"\r\n")) != b"\r\n":
                yield trailer
            yield b"\r\n"
            return
        yield await reader.readexactly(size + 2)


async def _answer_falsely(
    writer: asyncio.StreamWriter, action: Action, method: str
) -> bool:
    """Give the client what the rule says instead of an answer; tells whether it stays open."""
    if action.kind in (Kind.FAIL_BEFORE, Kind.FAIL_AFTER):
        code = action.code or CODES.get(action.status, "InternalError")
        body = f"<Error><Code>{code}</Code><Message>made by a test</Message></Error>".encode()
        writer.write(
            f"HTTP/1.1 {action.status} Made By A Test\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        if method != "HEAD":
            writer.write(body)
        await writer.drain()
        return True
    await asyncio.sleep(action.seconds)
    reset(writer)
    return False


async def _write_slowly(writer: asyncio.StreamWriter, data: bytes, bytes_per_s: float) -> None:
    for start in range(0, len(data), SLOW_PIECE_BYTES):
        piece = data[start : start + SLOW_PIECE_BYTES]
        await asyncio.sleep(len(piece) / bytes_per_s)
        writer.write(piece)
        await writer.drain()
