"""A proxy in front of a Kafka broker that makes chosen requests go wrong, seen by their headers.

    with KafkaProxy(kafka.proxy_upstream, port_of(kafka.proxied_bootstrap)) as proxy:
        rule = proxy.rule(Api.OFFSET_COMMIT, client=r"^bronze-orders$", action=LOSE_ANSWER,
                          times=1)
        ...
        assert rule.fired == 1

It cuts the streams into Kafka's frames (a length, then the message) and looks at the first fields
only: of a request the api key, its version, the correlation id and the client's name; of an
answer the correlation id. So it needs a listener without encryption and log-in. A request is
judged by the first rule, in the order made, that matches it and is not used up.
"""

from __future__ import annotations

import asyncio
import re
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import TracebackType

from tests.rig.loop_thread import LoopThread
from tests.rig.tcp_proxy import reset

CONNECT_TIMEOUT_S = 10
_LENGTH = struct.Struct(">i")
_CORRELATION = struct.Struct(">i")
_REQUEST = struct.Struct(">hhih")
"""Api key, version, correlation id, length of the client's name (-1: null)."""


class Api(IntEnum):
    """The requests that tests name."""

    FETCH = 1
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14


class Kind(Enum):
    """What a rule does to a request."""

    PASS = "pass"
    DROP = "drop"
    DELAY = "delay"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    LOSE_ANSWER = "lose_answer"
    ALTER = "alter"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as rules see it."""

    api: int
    version: int
    client: str


Alteration = Callable[[Request, bytes], bytes]
"""Gives the answer that the client gets instead: all of the frame behind its length."""


@dataclass(frozen=True, slots=True)
class Action:
    """A kind with what it needs."""

    kind: Kind
    seconds: float = 0.0
    alteration: Alteration | None = None


PASS = Action(Kind.PASS)
DROP = Action(Kind.DROP)
"""The broker never sees the request; the connection goes on, and the client waits in vain."""
RESET_BEFORE = Action(Kind.RESET_BEFORE)
"""The broker never sees the request; the connection is reset."""
RESET_AFTER = Action(Kind.RESET_AFTER)
"""The broker has answered; the connection is reset instead."""
LOSE_ANSWER = Action(Kind.LOSE_ANSWER)
"""The broker has answered; the connection goes on, and the client waits in vain."""


def delay(seconds: float) -> Action:
    """Hold the request, and whatever follows it on its connection, back for a while."""
    return Action(Kind.DELAY, seconds=seconds)


def alter(alteration: Alteration) -> Action:
    """Give the client another answer than the broker's, who has done what was asked."""
    return Action(Kind.ALTER, alteration=alteration)


FLEXIBLE_OFFSET_COMMIT = 8
"""From this version on, strings and arrays begin with a count in seven bits per byte."""


def refuse_offsets(code: int, topic: str) -> Action:
    """Have the answer to an OffsetCommit of one topic give `code` for every partition."""

    def refused(request: Request, frame: bytes) -> bytes:
        changed = bytearray(frame)
        at = frame.index(topic.encode()) + len(topic.encode())
        is_flexible = request.version >= FLEXIBLE_OFFSET_COMMIT
        # The count is one more than there are, and one byte is enough for what tests use.
        count = frame[at] - 1 if is_flexible else struct.unpack_from(">i", frame, at)[0]
        at += 1 if is_flexible else 4
        for _ in range(count):
            struct.pack_into(">h", changed, at + 4, code)
            at += 4 + 2 + (1 if is_flexible else 0)
        return bytes(changed)

    return alter(refused)


Callback = Callable[[Request], None]


@dataclass(slots=True)
class Rule:
    """One rule and how often it fired; made by `KafkaProxy.rule`.

    fired: requests it applied to.  answered: those of them whose answer has come.
    """

    api: Api
    client: re.Pattern[str]
    action: Action
    times: int | None
    on_match: Callback | None
    on_effect: Callback | None
    fired: int = 0
    answered: int = 0
    requests: list[Request] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, request: Request) -> bool:
        """Whether the rule applies to a request; it counts when it does."""
        if request.api != self.api or not self.client.search(request.client):
            return False
        with self._lock:
            if self.times is not None and self.fired >= self.times:
                return False
            self.fired += 1
            self.requests.append(request)
        return True


class _Lost(Exception):
    """The connection is to be reset."""


class KafkaProxy:
    """Forwards one port to one broker, with rules; methods may be called from any thread.

    Args:
        upstream: ``host:port`` of the broker.
        port: where to listen on the loopback address, 0 for a free one: the one that the broker
            advertises to clients of that listener, or they leave the proxy after their first
            question.

    Attributes:
        requests: how many came in, by api key.
        errors: what callbacks and alterations raised; a test asserts that there is nothing.
    """

    def __init__(self, upstream: str, port: int = 0) -> None:
        host, _, number = upstream.rpartition(":")
        self._upstream = (host, int(number))
        self._rules: list[Rule] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests: dict[int, int] = {}
        self.errors: list[Exception] = []
        self._thread = LoopThread("kafka-proxy")
        self._server: asyncio.Server = self._thread.call(self._listen(port))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> KafkaProxy:
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
        api: Api,
        *,
        client: str = "",
        action: Action = PASS,
        times: int | None = None,
        on_match: Callback | None = None,
        on_effect: Callback | None = None,
    ) -> Rule:
        """Add a rule behind those that are there.

        Args:
            client: searched in the client's name, which is "" where it gives none.
            times: how often it fires before it is used up; None is for ever.
            on_match: called before the broker sees the request.
            on_effect: called after the broker answered, before the client hears of it. Both run
                in a thread, and the connection waits for them; an error in them resets it.
        """
        made = Rule(api, re.compile(client), action, times, on_match, on_effect)
        self._rules = [*self._rules, made]
        return made

    def clear(self) -> None:
        """Forget every rule: from now on everything goes through."""
        self._rules = []

    def close(self) -> None:
        """End the proxy; no effect the second time."""
        if self._server.is_serving():
            self._thread.call(self._close())
        self._thread.close()

    async def _listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def _close(self) -> None:
        self._server.close()
        for writer in list(self._writers):
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests one way, answers the other."""
        self._writers.add(writer)
        broker: asyncio.StreamWriter | None = None
        try:
            opening = asyncio.open_connection(*self._upstream)
            answers, broker = await asyncio.wait_for(opening, CONNECT_TIMEOUT_S)
            waiting: dict[int, tuple[Rule, Request]] = {}
            ways = [asyncio.ensure_future(self._forward(reader, broker, waiting)),
                    asyncio.ensure_future(self._bring_back(answers, writer, waiting))]
            done, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in pending:
                way.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            for way in done:
                way.result()
        except (OSError, EOFError, asyncio.TimeoutError, _Lost):
            reset(writer)
        except asyncio.CancelledError:
            # The proxy ends; asyncio would print a task that ended like this.
            reset(writer)
        finally:
            self._writers.discard(writer)
            writer.close()
            if broker is not None:
                broker.close()

    async def _forward(
        self, reader: asyncio.StreamReader, broker: asyncio.StreamWriter,
        waiting: dict[int, tuple[Rule, Request]],
    ) -> None:
        """Requests to the broker; what a rule wants with the answer is left in `waiting`."""
        while True:
            frame = await _read_frame(reader)
            request, correlation = parse_request(frame)
            self.requests[request.api] = self.requests.get(request.api, 0) + 1
            rule = next((rule for rule in self._rules if rule.take(request)), None)
            if rule is not None:
                if rule.on_match is not None:
                    await self._in_thread(rule.on_match, request)
                if rule.action.kind is Kind.DROP:
                    continue
                if rule.action.kind is Kind.RESET_BEFORE:
                    raise _Lost
                if rule.action.kind is Kind.DELAY:
                    await asyncio.sleep(rule.action.seconds)
                waiting[correlation] = (rule, request)
            await _write_frame(broker, frame)

    async def _bring_back(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter,
        waiting: dict[int, tuple[Rule, Request]],
    ) -> None:
        while True:
            frame = await _read_frame(answers)
            (correlation,) = _CORRELATION.unpack_from(frame)
            rule, request = waiting.pop(correlation, (None, None))
            if rule is not None and request is not None:
                rule.answered += 1
                if rule.on_effect is not None:
                    await self._in_thread(rule.on_effect, request)
                if rule.action.kind is Kind.RESET_AFTER:
                    raise _Lost
                if rule.action.kind is Kind.LOSE_ANSWER:
                    continue
                if rule.action.alteration is not None:
                    frame = self._altered(rule.action.alteration, request, frame)
            await _write_frame(writer, frame)

    def _altered(self, alteration: Alteration, request: Request, frame: bytes) -> bytes:
        try:
            return alteration(request, frame)
        except Exception as error:
            self.errors.append(error)
            raise _Lost from error

    async def _in_thread(self, callback: Callback, request: Request) -> None:
        """Run a test's callback; one that fails must not look like a healthy broker."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, callback, request)
        except Exception as error:
            self.errors.append(error)
            raise _Lost from error


def parse_request(frame: bytes) -> tuple[Request, int]:
    """What a request's header says, and its correlation id."""
    api, version, correlation, length = _REQUEST.unpack_from(frame)
    name = frame[_REQUEST.size : _REQUEST.size + max(0, length)]
    return Request(api, version, name.decode()), correlation


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(length)


async def _write_frame(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(_LENGTH.pack(len(frame)) + frame)
    await writer.drain()
