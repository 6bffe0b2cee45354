"""The Kafka proxy: transparent without rules, and each fault has exactly the effect it names."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.rig.kafka_proxy import (
    DROP,
    LOSE_ANSWER,
    PASS,
    RESET_AFTER,
    RESET_BEFORE,
    Api,
    KafkaProxy,
    Request,
    alter,
    delay,
    parse_request,
)
from tests.rig.tcp_proxy import TcpProxy
from tests.waiting import wait_until

TIMEOUT_S = 5
SILENCE_S = 0.3
"""How long nothing is waited for."""


class Broker(socketserver.ThreadingTCPServer):
    """Answers each frame with its correlation id and what follows the client's name."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.seen: list[int] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while frame := read_frame(self.request):
            request, correlation = parse_request(frame)
            self.server.seen.append(correlation)
            body = frame[10 + len(request.client) :]
            self.request.sendall(framed(struct.pack(">i", correlation) + body))


def framed(frame: bytes) -> bytes:
    return struct.pack(">i", len(frame)) + frame


def read_frame(connection: socket.socket) -> bytes:
    """The next frame; b"" at the end."""
    head = read_exactly(connection, 4)
    return read_exactly(connection, struct.unpack(">i", head)[0]) if head else b""


def read_exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = connection.recv(size - len(found))
        if not piece:
            return b""
        found += piece
    return found


def request(api: int, correlation: int, body: bytes, client: bytes = b"bronze-orders") -> bytes:
    return framed(struct.pack(">hhih", api, 7, correlation, len(client)) + client + body)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """Give a broker that echoes."""
    made = Broker()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def proxy(broker: Broker) -> Iterator[KafkaProxy]:
    """Give a proxy in front of it."""
    with KafkaProxy(broker.address) as made:
        yield made


@pytest.fixture
def client(proxy: KafkaProxy) -> Iterator[socket.socket]:
    """Give a connection through the proxy."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_S) as made:
        yield made


def ask(client: socket.socket, api: int, correlation: int, body: bytes = b"body") -> bytes:
    """Send one request and return its answer's frame."""
    client.sendall(request(api, correlation, body))
    return read_frame(client)


def is_silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE_S)
    try:
        return not client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(TIMEOUT_S)


def test_header_is_read_also_without_a_name() -> None:
    """The name's length is -1 where a client gives none."""
    frame = struct.pack(">hhih", 8, 9, 42, -1) + b"rest"
    assert parse_request(frame) == (Request(8, 9, ""), 42)
    named = request(11, 5, b"x", b"bronze-a")[4:]
    assert parse_request(named) == (Request(11, 7, "bronze-a"), 5)


def test_kafka_proxy_is_transparent(client: socket.socket, proxy: KafkaProxy) -> None:
    """Frames of any size, several at once, cut anywhere: what comes back is what was sent."""
    large = bytes(range(256)) * 4000
    client.sendall(request(1, 1, large) + request(8, 2, b""))
    assert read_frame(client) == struct.pack(">i", 1) + large
    assert read_frame(client) == struct.pack(">i", 2)
    for byte in request(12, 3, b"slowly"):
        client.sendall(bytes([byte]))
    assert read_frame(client) == struct.pack(">i", 3) + b"slowly"
    assert proxy.requests == {1: 1, 8: 1, 12: 1}


def test_rule_applies_to_its_request_its_client_and_as_often_as_said(
    client: socket.socket, proxy: KafkaProxy, broker: Broker
) -> None:
    """A dropped request never arrives; the next one on the connection does."""
    rule = proxy.rule(Api.OFFSET_COMMIT, client=r"^bronze-orders$", action=DROP, times=1)
    other = proxy.rule(Api.OFFSET_COMMIT, client="payments", action=DROP)
    assert ask(client, Api.FETCH, 1)
    client.sendall(request(Api.OFFSET_COMMIT, 2, b"x"))
    assert ask(client, Api.OFFSET_COMMIT, 3) == struct.pack(">i", 3) + b"body"
    assert broker.seen == [1, 3]
    assert (rule.fired, rule.answered, other.fired) == (1, 0, 0)
    assert rule.requests == [Request(8, 7, "bronze-orders")]
    proxy.clear()
    assert ask(client, Api.OFFSET_COMMIT, 4)


@pytest.mark.parametrize("after", [False, True])
def test_connection_is_reset_before_or_after_the_broker_has_done_it(
    client: socket.socket, proxy: KafkaProxy, broker: Broker, after: bool
) -> None:
    """Either way the client knows nothing; only the broker tells the two apart."""
    rule = proxy.rule(Api.JOIN_GROUP, action=RESET_AFTER if after else RESET_BEFORE)
    client.sendall(request(Api.JOIN_GROUP, 1, b"x"))
    with pytest.raises(ConnectionError):
        client.recv(1)
    assert broker.seen == ([1] if after else [])
    assert (rule.fired, rule.answered) == (1, int(after))


def test_lost_answer_leaves_the_connection_as_it_is(
    client: socket.socket, proxy: KafkaProxy, broker: Broker
) -> None:
    """The broker has done it; the client waits, and later requests are answered."""
    rule = proxy.rule(Api.HEARTBEAT, action=LOSE_ANSWER, times=1)
    client.sendall(request(Api.HEARTBEAT, 1, b"x"))
    wait_until(lambda: rule.answered, TIMEOUT_S, "the broker has answered")
    assert is_silent(client)
    assert ask(client, Api.HEARTBEAT, 2) == struct.pack(">i", 2) + b"body"
    assert broker.seen == [1, 2]


def test_delay_holds_a_request_back(client: socket.socket, proxy: KafkaProxy) -> None:
    """It arrives late, and unharmed."""
    proxy.rule(Api.FETCH, action=delay(SILENCE_S), times=1)
    began = time.monotonic()
    assert ask(client, Api.FETCH, 1) == struct.pack(">i", 1) + b"body"
    assert time.monotonic() - began >= SILENCE_S


def test_answer_is_altered_for_the_client_only(
    client: socket.socket, proxy: KafkaProxy, broker: Broker
) -> None:
    """The alteration sees whose answer it is; the frame's length is made anew."""
    proxy.rule(Api.FETCH, action=alter(lambda seen, frame: frame + bytes([seen.version])))
    assert ask(client, Api.FETCH, 1) == struct.pack(">i", 1) + b"body" + bytes([7])
    assert broker.seen == [1]


def test_callbacks_run_before_and_after_the_effect(
    client: socket.socket, proxy: KafkaProxy, broker: Broker
) -> None:
    """What a test does there happens at that very moment."""
    told: list[tuple[str, list[int]]] = []
    proxy.rule(
        Api.OFFSET_COMMIT, action=PASS, times=1,
        on_match=lambda _: told.append(("before", list(broker.seen))),
        on_effect=lambda _: told.append(("after", list(broker.seen))))
    assert ask(client, Api.OFFSET_COMMIT, 1)
    assert told == [("before", []), ("after", [1])]
    assert proxy.errors == []


def test_failed_callback_is_kept_and_resets_the_connection(
    client: socket.socket, proxy: KafkaProxy
) -> None:
    """A mistake of a test must not look like a broker that is well."""
    proxy.rule(Api.FETCH, on_match=lambda _: 1 / 0)
    client.sendall(request(Api.FETCH, 1, b"x"))
    with pytest.raises(ConnectionError):
        client.recv(1)
    assert [type(error) for error in proxy.errors] == [ZeroDivisionError]


# The plain proxy's ways to be bad without being gone


def test_tcp_proxy_strands_what_is_connected_and_serves_who_comes_later(broker: Broker) -> None:
    """A half-open connection: neither bytes nor its end come through, and a new one works."""
    with TcpProxy(broker.address) as proxy, socket.create_connection(
            ("127.0.0.1", proxy.port), timeout=TIMEOUT_S) as old:
        assert ask(old, Api.FETCH, 1)
        proxy.strand()
        old.sendall(request(Api.FETCH, 2, b"x"))
        assert is_silent(old)
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_S) as new:
            assert ask(new, Api.FETCH, 3)
        assert broker.seen == [1, 3]


def test_tcp_proxy_shapes_latency_rate_and_pieces(broker: Broker) -> None:
    """Every limit costs at least the time it names, and alters nothing."""
    body = bytes(range(256)) * 8
    with TcpProxy(broker.address) as proxy, socket.create_connection(
            ("127.0.0.1", proxy.port), timeout=TIMEOUT_S) as client:
        for limit, least_s in (
            ({"latency_s": 0.2}, 0.4),
            ({"bytes_per_s": 10_000}, 0.4),
            ({"piece_bytes": 7}, 0.0),
        ):
            proxy.shape(**limit)
            began = time.monotonic()
            assert ask(client, Api.FETCH, 1, body)[4:] == body
            assert time.monotonic() - began >= least_s, limit
        proxy.shape()
        began = time.monotonic()
        assert ask(client, Api.FETCH, 1, body)[4:] == body
        assert time.monotonic() - began < 0.2
