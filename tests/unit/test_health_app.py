"""The health page over HTTP: its contract, its manners, and its process under hostile askers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from healthcheck import preload
from healthcheck import app as app_module
from healthcheck.app import ADDRESSES, create_app
from healthcheck.headers import SECURITY_HEADERS
from healthcheck.moment import LOOK_INTERVAL_S
from healthcheck.server import CONNECTIONS_MAX, REQUEST_SECONDS
from shared.block import Block
from shared.layout import Header, Order, Paused, Report
from shared.protocol import Phase, Standing
from tests.waiting import wait_until

START_S = 20.0
END_S = 5.0
ROOT = Path(__file__).parents[2]
ABOUT = {
    "topics": ["orders", "payments"], "instance": "0", "service_version": "1.2.3",
    "batch_interval_seconds": 10.0, "cycle_deadline_seconds": 30.0,
    "heartbeat_limit_seconds": 60.0, "lake": "s3://lake/bronze", "dlq_enabled": True,
    "host": "vm-1", "memory_limit_mb": 256, "loan_budget_bytes": 26_000_000,
}
REFUSED = {"at": "2026-03-01T12:00:00.000Z", "name": "StorageUnavailable",
           "message": "put bronze_orders: 403", "what_to_do": "Check the rights."}


def beat(block: Block) -> None:
    """A sign of life of everybody, good for the length of a test."""
    ahead_ns = time.monotonic_ns() + 3_600 * 10**9
    block.set(Header.HEARTBEAT_NS, ahead_ns)
    for index in range(block.topic_count):
        block.slot(index).set_report(Report.HEARTBEAT_NS, ahead_ns)


@pytest.fixture
def block(tmp_path: Path) -> Block:
    """Give the block of a service that is well."""
    block = Block.create(tmp_path / "block", 2, json.dumps(ABOUT).encode())
    block.set(Header.SUPERVISOR_PID, 100)
    block.set(Header.STARTED_AT_MS, 1_700_000_000_000)
    block.set(Header.READY, 1)
    block.set_phase(12, Phase.CONSUMING)
    for index in range(2):
        slot = block.slot(index)
        slot.set_order(Order.PID, 200 + index)
        slot.set_order(Order.INCARNATION, 1)
        slot.set_order(Order.STANDING, list(Standing).index(Standing.ACTIVE))
        slot.set_report(Report.INCARNATION, 1)
    beat(block)
    return block


@pytest.fixture
def client(block: Block) -> FlaskClient:
    """Give a client of the application, without a server between."""
    return create_app(block).test_client()


def test_health_has_exactly_the_promised_shape(block: Block, client: FlaskClient) -> None:
    """Other tools read it; names and types are a contract."""
    slot = block.slot(0)
    for word, number in (
        (Report.LAG_KNOWN, 1), (Report.LAG, 0), (Report.ROWS, 1234), (Report.PARTITIONS, 4),
        (Report.DEAD_LETTERS_JSON, 2), (Report.DEAD_LETTERS_EMPTY, 1), (Report.TABLE_VERSION, 12),
        (Report.LAST_COMMIT_AT_MS, 1_700_000_060_500), (Report.PAUSED, Paused.CYCLE_FULL),
    ):
        slot.set_report(word, number)
    slot.error.write(json.dumps(REFUSED).encode())
    block.set(Header.LAST_COMPLETED_AT_MS, 1_700_000_061_000)
    block.set(Header.LAST_CYCLE_US, 200_000)
    block.set(Header.LAST_RECORD, 7)
    block.set(Header.CYCLES_COMPLETED, 6)
    block.set(Header.CYCLES_ABORTED, 1)
    answer = client.get("/health")
    body = answer.get_json()
    assert answer.mimetype == "application/json"
    assert body["service"].pop("uptime_seconds") > 0
    assert body == {
        "status": "healthy", "reasons": [],
        "service": {"instance": "0", "version": "1.2.3", "pid": 100, "lake": "s3://lake/bronze",
                    "started_at": "2023-11-14T22:13:20.000Z"},
        "cycle": {"id": 12, "phase": "consuming", "last_completed_at": "2023-11-14T22:14:21.000Z",
                  "last_duration_seconds": 0.2, "last_record": 7, "completed": 6, "aborted": 1},
        "keeper": {"ledger_behind": 8, "last_turn": None, "turns": 0, "failures": 0,
                   "saved": {"compacted_files": 0, "compaction_files": 0, "vacuumed_files": 0,
                             "vacuumed_bytes": 0, "log_entries_deleted": 0},
                   "last_error": None},
        "topics": {
            "orders": {
                "state": "active", "pid": 200, "incarnation": 1, "restarts": 0, "lag": 0,
                "lag_seconds": None,
                "rows": 1234, "dead_letters": 3, "partitions": 4, "paused": "cycle_full",
                "last_commit": "2023-11-14T22:14:20.500Z", "table_version": 12, "failures": 0,
                "last_error": REFUSED},
            "payments": {
                "state": "active", "pid": 201, "incarnation": 1, "restarts": 0, "lag": None,
                "lag_seconds": None,
                "rows": 0, "dead_letters": 0, "partitions": 0, "paused": None,
                "last_commit": None, "table_version": 0, "failures": 0, "last_error": None}},
    }


def test_health_tells_up_to_when_a_topic_is_read(block: Block, client: FlaskClient) -> None:
    """In seconds that have passed since; 0 while it is caught up."""
    ahead_ms = time.time_ns() // 1_000_000 + 3_600_000
    block.slot(0).set_report(Report.VALID_THROUGH_MS, ahead_ms - 7_200_000)
    block.slot(1).set_report(Report.VALID_THROUGH_MS, ahead_ms)
    topics = client.get("/health").get_json()["topics"]
    assert 3_599 < topics["orders"]["lag_seconds"] < 3_700
    assert topics["payments"]["lag_seconds"] == 0


def test_health_before_the_first_cycle_knows_no_dates(
    block: Block, client: FlaskClient
) -> None:
    """1970 is not an answer."""
    block.set(Header.PHASE, 0)
    cycle = client.get("/health").get_json()["cycle"]
    assert (cycle["phase"], cycle["last_completed_at"], cycle["last_duration_seconds"]) == (
        None, None, None)


def test_health_is_503_after_a_failed_write_and_200_after_the_next_good_one(
    block: Block, client: FlaskClient
) -> None:
    """It heals by nobody's hand, and the error stays readable."""
    slot = block.slot(0)
    assert client.get("/health").status_code == 200
    slot.error.write(json.dumps(REFUSED).encode())
    slot.set_report(Report.ERROR_ACTIVE, 1)
    failed = client.get("/health")
    slot.set_report(Report.ERROR_ACTIVE, 0)
    healed = client.get("/health")
    assert (failed.status_code, failed.get_json()["status"]) == (503, "unhealthy")
    assert failed.get_json()["reasons"] == [
        "orders: failing: StorageUnavailable: put bronze_orders: 403; "
        "what to do: Check the rights."]
    assert (healed.status_code, healed.get_json()["reasons"]) == (200, [])
    assert healed.get_json()["topics"]["orders"]["last_error"] == REFUSED


@pytest.mark.parametrize("text", [b"not json", b"[]", b'{"at": "x"}', b"\xff\xfe"])
def test_an_error_text_that_is_not_understood_does_not_break_the_page(
    block: Block, client: FlaskClient, text: bytes
) -> None:
    """The page must work when something else does not: that is what it is for."""
    block.slot(0).error.write(text)
    block.slot(0).set_report(Report.ERROR_ACTIVE, 1)
    answer = client.get("/health")
    assert answer.status_code == 503
    assert answer.get_json()["topics"]["orders"]["last_error"] is None


@pytest.mark.parametrize(("header", "value", "live", "ready"), [
    (Header.READY, 1, 200, 200),
    (Header.READY, 0, 200, 503),
    (Header.HEARTBEAT_NS, 1, 503, 200),
])
def test_livez_tells_of_the_loop_and_readyz_of_taking_part(
    block: Block, client: FlaskClient, header: Header, value: int, live: int, ready: int
) -> None:
    """One restarts the service, the other keeps work away from it; they must not be mixed up."""
    block.set(header, value)
    assert client.get("/livez").status_code == live
    assert client.get("/readyz").status_code == ready


def test_livez_does_not_mind_a_broken_store(block: Block, client: FlaskClient) -> None:
    """Restarting the service would not mend the store."""
    block.slot(0).set_report(Report.ERROR_ACTIVE, 1)
    assert client.get("/health").status_code == 503
    assert client.get("/livez").status_code == 200


def test_stopping_is_live_but_not_ready(block: Block, client: FlaskClient) -> None:
    """A service that stops in order must be left alone."""
    block.set_phase(12, Phase.STOPPING)
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/health").get_json()["status"] == "stopping"


def test_the_first_page_lists_addresses_that_exist(client: FlaskClient) -> None:
    """A person who types the port only must find the rest."""
    text = client.get("/").get_data(as_text=True)
    for address in ADDRESSES:
        assert address in text
        assert client.get(address).status_code == 200


@pytest.mark.parametrize("address", ["/", *ADDRESSES])
def test_head_is_answered_like_get_without_a_body(client: FlaskClient, address: str) -> None:
    """Some probes ask with HEAD."""
    head, get = client.head(address), client.get(address)
    assert head.status_code == get.status_code == 200
    assert head.data == b""
    assert head.headers["Content-Type"] == get.headers["Content-Type"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("address", ["/", *ADDRESSES])
def test_other_methods_are_refused(client: FlaskClient, address: str, method: str) -> None:
    """Nothing can be changed here, so nothing but reading is understood."""
    answer = client.open(address, method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("address", [
    "/nothing-here", "/health/secret-marker", "/static/x", "/console", "/%0d%0aSet-Cookie:x",
    "/..%2f..%2fetc/passwd", "/<script>", "/metrics.json",
])
def test_an_unknown_address_is_404_and_never_repeated(client: FlaskClient, address: str) -> None:
    """What an asker sends must not come back as part of a page."""
    answer = client.get(address)
    assert (answer.status_code, answer.data) == (404, b"not found\n")


@pytest.mark.parametrize(("method", "address", "status"), [
    ("GET", "/", 200), ("GET", "/health", 200), ("HEAD", "/health", 200), ("GET", "/metrics", 200),
    ("POST", "/health", 405), ("GET", "/nothing-here", 404),
])
def test_every_answer_carries_the_security_headers(
    client: FlaskClient, method: str, address: str, status: int
) -> None:
    """Errors are answers too."""
    answer = client.open(address, method=method)
    assert answer.status_code == status
    assert SECURITY_HEADERS.items() <= dict(answer.headers).items()
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize("address", ["/", "/health", "/livez", "/readyz", "/metrics"])
def test_a_defect_is_a_500_that_tells_nothing(
    block: Block, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log gets the error; whoever asks gets one fixed line."""

    def fail(*_arguments: object) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(app_module.Observer, "look", fail)
    client = create_app(block).test_client()
    answer = client.get(address)
    assert (answer.status_code, answer.data) == (500, b"internal error\n")
    assert SECURITY_HEADERS.items() <= dict(answer.headers).items()
    assert [record.getMessage() for record in caplog.records] == ["health_page_failed"]
    assert client.get(address).status_code == 500
    assert len(caplog.records) == 1


@dataclass
class Page:
    """A running process of the health page."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def get(self, address: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body); raises OSError when nobody answers."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{address}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=START_S) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def send(self, content: bytes) -> bytes:
        """Send raw bytes, give back the whole answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as connection:
            connection.sendall(content)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def events(self) -> list[dict[str, object]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def start(block_path: Path, log: Path, port: int = 0) -> subprocess.Popen[bytes]:
    """Start the process as the supervisor does, its stdin being a pipe."""
    with log.open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "healthcheck", "--block", str(block_path),
             "--host", "127.0.0.1", "--port", str(port), "--log-format", "json"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT)


@pytest.fixture
def page(block: Block, tmp_path: Path) -> Iterator[Page]:
    """Give a process that serves `block` on a free port."""
    log = tmp_path / "log"
    process = start(block.path, log)
    try:
        started = wait_until(
            lambda: [line for line in log.read_text().splitlines() if "health_page_open" in line],
            START_S, lambda: f"the page is open; it says {log.read_text()}")
        yield Page(process, json.loads(started[0])["port"], log)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def test_the_process_answers_as_the_application_does(block: Block, page: Page) -> None:
    """The same contract through the real server, which adds no banner of its own."""
    status, headers, body = page.get("/health")
    assert (status, json.loads(body)["status"]) == (200, "healthy")
    assert SECURITY_HEADERS.items() <= headers.items()
    assert "Server" not in headers
    block.slot(1).count(Report.ROWS, 77)
    assert b'bronze_rows_total{topic="payments"} 77.0' in page.get("/metrics")[2]
    assert page.get("/health", "HEAD")[0] == 200
    assert page.get("/health", "HEAD")[2] == b""
    assert page.get("/health", "POST")[0] == 405
    assert page.get("/nothing")[0] == 404


@pytest.mark.parametrize(("request_bytes", "status"), [
    (b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * 8192 + b"\r\n\r\n", b"431"),
    (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n\r\n", b"431"),
    (b"POST /health HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n", b"413"),
    (b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2000\r\n" + b"a" * 8192, b"413"),
    (b"secret-marker\r\n\r\n", b"400"),
    (b"GET /health HTTP/1.1\r\nbad header secret-marker\r\n\r\n", b"400"),
])
def test_what_is_no_fair_request_is_refused_with_the_same_manners(
    page: Page, request_bytes: bytes, status: bytes
) -> None:
    """These are answered by the server itself, before the application sees them."""
    head, _, body = page.send(request_bytes).partition(b"\r\n\r\n")
    assert head.split()[1] == status
    for name, value in SECURITY_HEADERS.items():
        assert f"{name}: {value}".lower().encode() in head.lower()
    assert b"server:" not in head.lower()
    assert b"secret-marker" not in head + body
    assert b"waitress" not in (head + body).lower()
    assert page.get("/livez")[0] == 200


def test_sockets_that_never_finish_their_request_cannot_take_the_page_away(page: Page) -> None:
    """Slow askers hold a bounded number of connections for a bounded time; then it answers."""
    memory = Path(f"/proc/{page.process.pid}/smaps_rollup")

    def private_kb() -> int:
        lines = (line.split() for line in memory.read_text().splitlines()[1:])
        return sum(int(fields[1]) for fields in lines if fields[0].startswith("Private_"))

    def connections() -> int:
        folder = Path(f"/proc/{page.process.pid}/fd")
        return sum(os.readlink(entry).startswith("socket:") for entry in folder.iterdir())

    page.get("/metrics")
    before_kb, own = private_kb(), connections()
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", page.port), START_S))
            for _ in range(60)
        ]
        for connection in slow:
            connection.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
        wait_until(lambda: connections() >= CONNECTIONS_MAX - 5, START_S, "the limit is reached")
        assert connections() <= own + CONNECTIONS_MAX
        assert private_kb() - before_kb < 4096

        def trickle_and_ask() -> bool:
            # A byte now and then: silence alone must not be what ends them.
            for connection in slow:
                try:
                    connection.sendall(b"x")
                except OSError:
                    pass
            try:
                asker = http.client.HTTPConnection("127.0.0.1", page.port, timeout=0.5)
                asker.request("GET", "/livez")
                return asker.getresponse().status == 200
            except OSError:
                return False
            finally:
                asker.close()

        wait_until(trickle_and_ask, 3 * REQUEST_SECONDS, "the page answers while they try")
    warnings = [event for event in page.events() if event["level"] == "warning"]
    assert len(warnings) < 5


def test_the_process_ends_with_its_stdin(page: Page) -> None:
    """The supervisor's death closes the pipe, and nobody else would end the page."""
    assert page.process.stdin is not None
    page.process.stdin.close()
    assert page.process.wait(END_S) == 0


def test_the_process_ends_when_its_block_is_no_longer_ours(block: Block, page: Page) -> None:
    """It looks by itself, asked or not: that is also how it knows for how long messages wait."""
    block._about.clear()
    assert page.process.wait(LOOK_INTERVAL_S + END_S) == 1
    assert (page.events()[-1]["event"], page.events()[-1]["error"]) == (
        "health_page_ends", "BlockError")


def test_the_process_ends_on_sigterm_and_not_on_sigint(page: Page) -> None:
    """Ctrl-C reaches the whole terminal; the page is to show how the service stops."""
    page.process.send_signal(signal.SIGINT)
    assert page.get("/livez")[0] == 200
    page.process.send_signal(signal.SIGTERM)
    assert page.process.wait(END_S) == 0


def test_the_process_writes_nothing_to_stdout(page: Page) -> None:
    """The service's stdout belongs to nobody; lines there would be lost or mixed."""
    page.get("/health")
    page.process.send_signal(signal.SIGTERM)
    stdout, _ = page.process.communicate(timeout=END_S)
    assert stdout == b""


def test_the_process_imports_none_of_the_heavy_libraries(page: Page) -> None:
    """It has a small share of a small budget, and no business with Kafka, Arrow or Delta."""
    maps = Path(f"/proc/{page.process.pid}/maps").read_text()
    for library in ("arrow", "rdkafka", "deltalake", "obstore", "confluent"):
        assert library not in maps


def ended(process: subprocess.Popen[bytes], log: Path) -> tuple[int, dict[str, object]]:
    """(exit code, last log line) of a process that should end at once."""
    try:
        process.communicate(timeout=START_S)
    finally:
        process.kill()
    return process.returncode, json.loads(log.read_text().splitlines()[-1])


def test_a_block_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """A traceback would say the same in forty lines."""
    code, event = ended(start(tmp_path / "missing", tmp_path / "log"), tmp_path / "log")
    assert (code, event["error"]) == (1, "BlockError")
    assert "missing" in str(event["message"])


@pytest.mark.parametrize("about", [b"{}", b"[]", b"no json", b'{"topics": ["a"]}'])
def test_a_block_without_its_facts_is_named(tmp_path: Path, about: bytes) -> None:
    """The supervisor of another release may have made it."""
    Block.create(tmp_path / "block", 2, about)
    code, event = ended(start(tmp_path / "block", tmp_path / "log"), tmp_path / "log")
    assert (code, event["error"]) == (1, "BlockError")
    assert "not understood" in str(event["message"])


def test_a_port_in_use_is_named(block: Block, page: Page, tmp_path: Path) -> None:
    """It is the one thing that goes wrong on the first day."""
    log = tmp_path / "second"
    code, event = ended(start(block.path, log, page.port), log)
    assert (code, event["error"]) == (1, "AddressNotAvailable")
    assert str(page.port) in str(event["message"])
    assert "HEALTH_PORT" in str(event["what_to_do"])


def test_the_forkserver_has_an_answer_made_before_the_page_is() -> None:
    """A preload that fails would end the forkserver, one that answers nothing would save nothing."""
    assert b"/health" in preload.answer()
