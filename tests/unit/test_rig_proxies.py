"""The proxies: transparent without rules, and each fault has exactly the effect it names."""

from __future__ import annotations

import http.client
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import obstore
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from tests.rig.s3_proxy import (
    PASS,
    RESET_AFTER,
    RESET_BEFORE,
    Action,
    Request,
    S3Proxy,
    delay,
    fail_after,
    fail_before,
    hang,
    slow,
)
from tests.rig.tcp_proxy import State, TcpProxy
from tests.services import MinioService
from tests.waiting import wait_until

TIMEOUT_S = 10
PART_BYTES = 5 * 1024 * 1024


@pytest.fixture
def direct(minio: MinioService, lake_prefix: str) -> S3Store:
    """Give a client that sees what is really in the store."""
    return minio.object_store(lake_prefix)


def exists(store: S3Store, path: str) -> bool:
    return path in [entry["path"] for entry in obstore.list(store).collect()]


def test_s3_proxy_is_transparent(store: S3Store, proxy: S3Proxy) -> None:
    """Signatures, conditional puts, multipart uploads, ranges and lists go through unharmed."""
    data = bytes(range(256)) * (PART_BYTES // 256) * 2 + b"tail"
    with obstore.open_writer(store, "large", buffer_size=PART_BYTES) as writer:
        writer.write(data)
    assert obstore.get(store, "large").bytes() == data
    assert obstore.get_range(store, "large", start=10, length=5) == data[10:15]
    assert obstore.head(store, "large")["size"] == len(data)
    obstore.put(store, "with space+%/ü", b"", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "with space+%/ü", b"", mode="create")
    assert len(obstore.list(store).collect()) == 2
    obstore.delete(store, "large")
    assert len(obstore.list(store).collect()) == 1
    assert proxy.requests > 8


def test_s3_proxy_carries_a_delta_table_and_chunked_signatures(
    minio: MinioService, proxy: S3Proxy, lake_prefix: str
) -> None:
    """deltalake works through it, and so does a client that signs its body in chunks."""
    options = {**minio.storage_options(), "aws_endpoint_url": proxy.endpoint}
    uri = f"{minio.lake_uri(lake_prefix)}/table"
    rule = proxy.rule(method="PUT", path_regex=r"_delta_log/\d{20}\.json$")
    write_deltalake(uri, pa.table({"a": [1, 2]}), storage_options=options)
    assert DeltaTable(uri, storage_options=options).to_pyarrow_table().num_rows == 2
    assert rule.fired == 1
    through = MinioService(proxy.endpoint, minio.access_key, minio.secret_key).client()
    assert minio.client().bucket_exists(minio.bucket) and through.bucket_exists(minio.bucket)


def upstream_that_chunks() -> socketserver.ThreadingTCPServer:
    """A server that answers each chunked request with its body, chunked."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline() not in (b"", b"\r\n"):
                pass
            body = b""
            while not body.endswith(b"0\r\n\r\n"):
                body += self.rfile.readline()
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.wfile.write(head + body)

    return socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)


def test_s3_proxy_passes_chunked_bodies() -> None:
    """A body without a length, either way, arrives as it was sent."""
    with upstream_that_chunks() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with S3Proxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=TIMEOUT_S)
            pieces = iter([b"one\n", b"two\n" * 100_000])
            connection.request("PUT", "/x", body=pieces, encode_chunked=True)
            assert connection.getresponse().read() == b"one\n" + b"two\n" * 100_000
            connection.close()
        server.shutdown()


@pytest.mark.parametrize(
    ("action", "has_effect"),
    [
        (fail_before(500), False),
        (fail_before(503), False),
        (fail_before(429), False),
        (fail_after(500), True),
        (fail_after(503), True),
        (RESET_BEFORE, False),
        (RESET_AFTER, True),
        (hang(30, after=False), False),
        (hang(30, after=True), True),
    ],
    ids=str,
)
def test_s3_proxy_fault_before_or_after_the_effect(
    store: S3Store, direct: S3Store, proxy: S3Proxy, action: Action, has_effect: bool
) -> None:
    """The client fails in each case; whether the object is there depends on the side named."""
    rule = proxy.rule(method="PUT", path_regex="/victim$", action=action, times=1)
    with pytest.raises(BaseError):
        obstore.put(store, "victim", b"data")
    assert exists(direct, "victim") is has_effect
    assert rule.fired == 1
    assert [request.method for request in rule.requests] == ["PUT"]
    obstore.put(store, "victim", b"data")
    assert exists(direct, "victim")
    assert rule.fired == 1


def test_s3_proxy_fails_a_head_request(store: S3Store, proxy: S3Proxy) -> None:
    """An answer to HEAD has no body; one sent anyway would be read as the next answer."""
    obstore.put(store, "here", b"")
    proxy.rule(method="HEAD", action=fail_before(503), times=1)
    with pytest.raises(BaseError):
        obstore.head(store, "here")
    assert obstore.head(store, "here")["size"] == 0


def test_s3_proxy_rules_match_method_path_query_and_number(
    store: S3Store, proxy: S3Proxy
) -> None:
    """A rule fires for the requests it describes, from and up to the number it names."""
    parts = proxy.rule(method="PUT", query_regex="partNumber=2(&|$)")
    completes = proxy.rule(method="POST", query_regex="^uploadId=")
    third = proxy.rule(path_regex=r"/small-\d$", action=fail_before(500), skip=2, times=1)
    with obstore.open_writer(store, "large", buffer_size=PART_BYTES) as writer:
        writer.write(bytes(PART_BYTES * 3))
    assert (parts.fired, completes.fired) == (1, 1)
    failed = []
    for number in range(5):
        try:
            obstore.put(store, f"small-{number}", b"")
        except BaseError:
            failed.append(number)
    assert failed == [2] and third.fired == 1
    proxy.remove(parts)
    proxy.rule(path_regex="small", action=fail_before(500))
    proxy.clear()
    obstore.put(store, "small-9", b"")


def test_s3_proxy_delays_and_slows(store: S3Store, proxy: S3Proxy) -> None:
    """Both take the time that was asked for, and then the right answer comes."""
    obstore.put(store, "data", bytes(40_960))
    proxy.rule(method="GET", action=delay(0.3), times=1)
    proxy.rule(method="GET", action=slow(100_000), times=1)
    for expected_s in (0.3, 0.4):
        started_s = time.monotonic()
        assert len(obstore.get(store, "data").bytes()) == 40_960
        assert time.monotonic() - started_s >= expected_s


def test_s3_proxy_callbacks_come_before_and_after_the_effect(
    store: S3Store, direct: S3Store, proxy: S3Proxy
) -> None:
    """This is how a process is killed at a named moment of the protocol."""
    seen: list[tuple[str, bool, int | None]] = []

    def note(when: str) -> Callable[[Request], None]:
        return lambda request: seen.append((when, exists(direct, "victim"), request.status))

    proxy.rule(
        method="PUT", path_regex="victim", action=PASS, on_match=note("before"),
        on_effect=note("after"),
    )
    obstore.put(store, "victim", b"data")
    assert seen == [("before", False, None), ("after", True, 200)]


def test_s3_proxy_keeps_what_a_callback_raised(minio: MinioService) -> None:
    """A callback that failed must not pass for a fault that was injected."""

    def fail(request: Request) -> None:
        raise RuntimeError("no such process")

    with S3Proxy(minio.endpoint) as proxy:
        proxy.rule(on_match=fail, times=1)
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=TIMEOUT_S)
        with pytest.raises(ConnectionError):
            connection.request("GET", "/")
            connection.getresponse()
        assert [str(error) for error in proxy.errors] == ["no such process"]


class Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets."""

    def handle(self) -> None:
        while data := self.request.recv(4096):
            self.request.sendall(data)


@pytest.fixture
def tcp_proxy() -> Iterator[TcpProxy]:
    """Give a proxy in front of a server that echoes."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with TcpProxy(f"127.0.0.1:{server.server_address[1]}") as made:
            yield made
        server.shutdown()


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_S)


def test_tcp_proxy_cuts_and_heals(tcp_proxy: TcpProxy) -> None:
    """Open connections are reset, new ones too, until it is healed."""
    with connect(tcp_proxy) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        tcp_proxy.cut()
        with pytest.raises(ConnectionError):
            client.recv(10)
    with pytest.raises(ConnectionError), connect(tcp_proxy) as client:
        client.recv(10)
    tcp_proxy.heal()
    with connect(tcp_proxy) as client:
        client.sendall(b"two")
        assert client.recv(10) == b"two"


def test_tcp_proxy_black_hole_holds_bytes_back(tcp_proxy: TcpProxy) -> None:
    """Nothing arrives and nothing is refused; after healing, what was sent arrives."""
    with connect(tcp_proxy) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        tcp_proxy.black_hole()
        assert tcp_proxy.state is State.BLACK_HOLE
        client.sendall(b"two")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(10)
        with connect(tcp_proxy) as late:
            late.sendall(b"three")
            wait_until(lambda: tcp_proxy.connections == 2, TIMEOUT_S, "it is accepted")
            tcp_proxy.heal()
            assert late.recv(10) == b"three"
        client.settimeout(TIMEOUT_S)
        assert client.recv(10) == b"two"
