"""Lineage: an OpenLineage event of each cycle, in order, none left out, whatever takes them."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource

import keeper.lineage as module
from keeper.ledger import Ledger
from keeper.ledger_schema import LEDGER_FILE
from keeper.lineage import Lineage
from keeper.lineage_event import Origin, encode, event, run_id
from keeper.lineage_sink import FileSink, HttpSink, open_sink
from shared.config import ConfigError, LineageConfig, Secret
from shared.errors import LineageGap, LineageUnavailable, TableUnavailable
from shared.naming import LEDGER, LINEAGE_POSITION, record_path
from shared.object_store import Store, open_store
from shared.record_log import RecordLog
from shared.records import CycleRecord, encode as encode_record
from tests.fakes.config import make_config
from tests.fakes.raw_server import RawServer, answer
from tests.services.certificates import make_certificates
from workers.delta_table import DeltaStore
from workers.log_entry import entry_path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SCHEMAS = HERE / "openlineage"
ORIGIN = Origin("bronze-ingestion", "kafka1:9092", "s3://lake/bronze")
MOMENT = datetime(2026, 1, 31, 12, 0, 1, 250_000, UTC)
DECIDED = "2026-01-31T12:00:00.250Z"
TIMEOUT_S = 0.5


def a_row(**more: Any) -> dict[str, Any]:
    """A row of the ledger as a reader gets it: every column is there."""
    given = {
        "record": 7, "cycle_id": 5, "instance": "0", "topic": "orders", "status": "committed",
        "decided_at": MOMENT, "completed_at": MOMENT, "committed_at": MOMENT,
        "valid_through": MOMENT, "table_version_before": 7, "table_version": 8,
        "dlq_table_version_before": 2, "dlq_table_version": 3, "rows": 9, "dead_letters": 1,
        "value_bytes": 1234, "file_bytes": 107,
        "ranges": [{"partition": 0, "start": 10, "end": 25, "rows": 9, "dead_letters": 1,
                    "skipped": 0, "absent": 2,
                    "lost": [{"start": 10, "end": 13, "cause": "retention"}]}],
        "files": [{"table": "bronze", "path": "b", "rows": 9, "bytes": 100},
                  {"table": "dlq", "path": "d", "rows": 1, "bytes": 7}], **more}
    return {name: given.get(name) for name in LEDGER_FILE.names}


# -- the event ----------------------------------------------------------------------------------


def schema(name: str) -> dict[str, Any]:
    """One of OpenLineage's own schemas, as it was published."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


def check(made: dict[str, Any]) -> None:
    """Raise ValidationError unless the event and each standard facet in it has its form."""
    known = {path.stem: schema(path.stem) for path in SCHEMAS.glob("*.json")}
    registry = Registry().with_resources(
        (content["$id"], Resource.from_contents(content)) for content in known.values())
    formats = Draft202012Validator.FORMAT_CHECKER

    def valid(reference: str, content: Any) -> None:
        Draft202012Validator(
            {"$ref": reference}, registry=registry, format_checker=formats).validate(content)

    valid(made["schemaURL"], made)
    for dataset in (*made["inputs"], *made["outputs"]):
        for group in ("facets", "inputFacets", "outputFacets"):
            for facet in dataset.get(group, {}).values():
                valid(facet["_schemaURL"], facet)
    for facet in made["run"]["facets"].values():
        valid(facet["_schemaURL"], facet)


def test_an_event_has_offsets_in_and_table_versions_out() -> None:
    """What a catalog needs to say which messages are in which version of which table."""
    made = event([a_row()], ORIGIN)
    assert (made["eventType"], made["eventTime"]) == ("COMPLETE", "2026-01-31T12:00:01.250Z")
    assert made["job"] == {"namespace": "bronze-ingestion", "name": "bronze-ingestion.0"}
    (source,) = made["inputs"]
    assert (source["namespace"], source["name"]) == ("kafka://kafka1:9092", "orders")
    assert source["inputFacets"]["bronze_offsets"]["ranges"] == a_row()["ranges"]
    statistics = source["inputFacets"]["inputStatistics"]
    assert (statistics["rowCount"], statistics["size"]) == (10, 1234)
    bronze, dlq = made["outputs"]
    assert (bronze["namespace"], bronze["name"]) == ("s3://lake", "bronze/bronze_orders")
    assert dlq["name"] == "bronze/dlq_bronze_orders"
    assert [out["facets"]["version"]["datasetVersion"] for out in (bronze, dlq)] == ["8", "3"]
    counted = [out["outputFacets"]["outputStatistics"] for out in (bronze, dlq)]
    assert [(c["rowCount"], c["size"], c["fileCount"]) for c in counted] == [
        (9, 100, 1), (1, 7, 1)]


def test_a_topic_without_dead_letters_has_one_output() -> None:
    """Its DLQ table was not touched."""
    made = event([a_row(dead_letters=0, dlq_table_version=None)], ORIGIN)
    assert [out["name"] for out in made["outputs"]] == ["bronze/bronze_orders"]


def test_a_folder_is_named_as_openlineage_names_files() -> None:
    """And a bucket without a prefix has no slash in front."""
    made = event([a_row()], Origin("n", "k:1", "/srv/lake"))
    assert [(out["namespace"], out["name"]) for out in made["outputs"]][0] == (
        "file", "/srv/lake/bronze_orders")
    made = event([a_row()], Origin("n", "k:1", "s3://lake"))
    assert made["outputs"][0]["name"] == "bronze_orders"


EXCLUDED = a_row(topic="payments", status="excluded", reason="isolated", table_version=None,
                 completed_at=None, valid_through=None, ranges=None, files=None, rows=None,
                 dead_letters=None, value_bytes=None)
MISSING = a_row(record=6, status="missing", reason="records 2 to 6 were deleted", topic=None,
                cycle_id=None, instance=None, completed_at=None, ranges=None, files=None)


def test_a_left_out_topic_and_unknown_cycles_are_told() -> None:
    """Silence would look as if nothing had been there."""
    made = event([a_row(), EXCLUDED], ORIGIN)
    assert [source["name"] for source in made["inputs"]] == ["orders"]
    assert made["run"]["facets"]["bronze_cycle"]["excluded"] == [
        {"topic": "payments", "reason": "isolated"}]
    made = event([MISSING], ORIGIN)
    assert (made["eventType"], made["inputs"], made["outputs"]) == ("OTHER", [], [])
    assert "2 to 6" in made["run"]["facets"]["bronze_cycle"]["missing"]


@pytest.mark.parametrize("rows", [
    [a_row()], [a_row(), EXCLUDED], [EXCLUDED], [MISSING],
    [a_row(table_version=None, dlq_table_version=None, completed_at=None, valid_through=None)],
], ids=["committed", "with excluded", "excluded alone", "missing", "versions unknown"])
def test_every_event_has_the_form_of_the_official_schema(rows: list[dict[str, Any]]) -> None:
    """Also its standard facets, each by the schema it names."""
    check(json.loads(encode(event(rows, ORIGIN))))


@pytest.mark.parametrize("spoil", [
    lambda made: made["run"].update(runId="no uuid"),
    lambda made: made["inputs"][0]["inputFacets"]["inputStatistics"].update(rowCount="9"),
    lambda made: made["outputs"][0]["facets"]["version"].pop("datasetVersion"),
    lambda made: made["run"]["facets"]["bronze_cycle"].pop("_producer"),
    lambda made: made.update(eventType="DONE"),
])
def test_the_schema_would_find_a_wrong_event(spoil: Callable[[dict[str, Any]], Any]) -> None:
    """A check that takes everything proves nothing."""
    made = json.loads(encode(event([a_row()], ORIGIN)))
    spoil(made)
    with pytest.raises(ValidationError):
        check(made)


def test_the_example_in_the_docs_is_a_real_event() -> None:
    """It is what the code makes of the row in these tests."""
    page = (ROOT / "docs" / "lineage.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    example = json.loads(shown)
    check(example)
    assert example == json.loads(encode(event([a_row(), EXCLUDED], ORIGIN)))


def test_a_runs_id_is_that_of_the_cycle_on_the_lake() -> None:
    """A repeated event is recognised; another lake's, or the next cycle's, is another run."""
    ids = {run_id("s3://lake/a", 1), run_id("s3://lake/a", 2), run_id("s3://lake/b", 1)}
    assert len(ids) == 3
    assert run_id("s3://lake/a", 1) == "46fc1878-1488-5910-bb20-1f3a12a7537d"


# -- where it has got to ------------------------------------------------------------------------


class ListSink:
    """Keeps what it is given; fails before or after taking an event where told to."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.fail_before: int | None = None
        self.fail_after: int | None = None

    def send(self, event: bytes) -> None:
        """See `Sink`."""
        if len(self.taken) == self.fail_before:
            raise LineageUnavailable("refused")
        self.taken.append(json.loads(event))
        if len(self.taken) == self.fail_after:
            self.fail_after = None
            raise LineageUnavailable("no answer, and yet taken")

    @property
    def records(self) -> list[int]:
        """The cycles that were told of, in order."""
        return [made["run"]["facets"]["bronze_cycle"]["record"] for made in self.taken]


class Lake:
    """A lake in a folder, with real tables and a real ledger of it."""

    def __init__(self, folder: Path) -> None:
        self.uri = str(folder)
        config = make_config(environ={"LAKE_URI": self.uri}).lake
        self.store: Store = open_store(config)
        self.tables = DeltaStore(self.uri, {}, self.store)
        self.sink = ListSink()
        self.next = 0

    def ledger(self) -> Ledger:
        """As a new keeper has it."""
        return Ledger(self.store, self.tables, RecordLog(self.store), lambda: 1_770_000_000_000)

    def enter(self, count: int = 1, written_at: str = DECIDED) -> None:
        """Decide cycles that bring nothing, one commit of the ledger for all of them."""
        for _ in range(count):
            record = CycleRecord("0", "u", self.next, written_at, (), {"orders": "idle"},
                                 self.next - 1, {})
            self.store.put(record_path(self.next), encode_record(record))
            self.next += 1
        self.ledger().advance()

    def lineage(self) -> Lineage:
        """As a new keeper has it."""
        return Lineage(self.store, self.tables, self.sink, Origin("n", "k:1", self.uri))

    def turn(self) -> Lineage:
        """Find the position, and send."""
        made = self.lineage()
        made.begin()
        made.send(lambda: True)
        return made


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Give a lake on which lineage was turned on before its first cycle."""
    made = Lake(tmp_path)
    made.turn()
    return made


def test_each_cycle_is_told_of_once_and_in_order(lake: Lake) -> None:
    """By a new process each time: the position is in the lake."""
    lake.enter(3)
    assert lake.turn().events_sent == 3
    lake.enter()
    lake.enter(2)
    assert lake.turn().next_record == 6
    assert lake.turn().events_sent == 0
    assert lake.sink.records == list(range(6))


def test_it_begins_behind_what_the_ledger_holds_when_it_is_turned_on(tmp_path: Path) -> None:
    """Months of history would flood whoever listens; from then on nothing is left out."""
    lake = Lake(tmp_path)
    lake.enter(3)
    lake.lineage().begin()
    lake.enter(2)
    lake.turn()
    assert lake.sink.records == [3, 4]


@pytest.mark.parametrize("failing", range(5))
def test_who_does_not_take_an_event_gets_it_again_and_nothing_after_it(
    lake: Lake, failing: int
) -> None:
    """In order: an event that is refused holds those behind it up, and no more."""
    lake.enter(3)
    lake.enter(2)
    lake.sink.fail_before = failing
    with pytest.raises(LineageUnavailable):
        lake.turn()
    assert lake.sink.records == list(range(failing))
    lake.sink.fail_before = None
    lake.turn()
    assert lake.sink.records == list(range(5))


def test_an_event_without_an_answer_is_repeated_with_the_same_run(lake: Lake) -> None:
    """It may have been taken; the receiver sees that it is the same."""
    lake.enter(3)
    lake.sink.fail_after = 2
    with pytest.raises(LineageUnavailable):
        lake.turn()
    lake.turn()
    assert lake.sink.records == [0, 1, 1, 2]
    assert lake.sink.taken[1] == lake.sink.taken[2]


def test_a_keeper_killed_before_its_position_is_kept_leaves_nothing_out(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one sends the same events again."""
    lake.enter(2)
    with monkeypatch.context() as patch:
        patch.setattr(Lineage, "_keep", lambda self, position: None)
        lake.turn()
    lake.turn()
    assert lake.sink.records == [0, 1, 0, 1]


def test_a_turn_sends_a_bounded_number_and_ends_in_time(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of a commit of the ledger."""
    lake.enter(5)
    monkeypatch.setattr(module, "EVENTS_MAX", 2)
    assert [lake.turn().events_sent for _ in range(4)] == [2, 2, 1, 0]
    lake.enter()
    late = lake.lineage()
    late.begin()
    late.send(lambda: False)
    assert (late.events_sent, late.next_record) == (0, 5)
    assert lake.sink.records == list(range(5))


def test_records_around_midnight_keep_their_order(lake: Lake) -> None:
    """Two instances whose clocks differ: the ledger's commit has a file for each day."""
    for moment in ("2026-02-01T00:00:00.000Z", DECIDED, "2026-02-01T00:00:01.000Z"):
        record = CycleRecord("0", "u", 1, moment, (), {"orders": "idle"}, lake.next - 1, {})
        lake.store.put(record_path(lake.next), encode_record(record))
        lake.next += 1
    lake.enter()
    lake.turn()
    assert lake.sink.records == [0, 1, 2, 3]


def test_commits_of_others_to_the_ledger_are_no_cycles(lake: Lake) -> None:
    """Compaction rewrites rows that have been told of, into a file too large to be read here."""
    lake.enter(2)
    lake.turn()
    newest = lake.tables.newest(LEDGER)
    assert newest is not None
    entry = (lake.store.get(entry_path(LEDGER, newest.version)) or b"").replace(
        b'"dataChange":true', b'"dataChange":false').replace(b".parquet", b".not-to-be-read")
    assert b'"dataChange":false' in entry
    lake.store.put(entry_path(LEDGER, newest.version + 1), entry)
    assert lake.turn().events_sent == 0
    lake.enter()
    lake.turn()
    assert lake.sink.records == [0, 1, 2]


def test_a_ledger_that_was_begun_anew_goes_on(lake: Lake, tmp_path: Path) -> None:
    """As the runbook has it for a vanished one: what it enters again was told of already."""
    for _ in range(3):
        lake.enter()
    lake.turn()
    for path in lake.store.list_after(f"{LEDGER}/") + [f"_bronze/tables/{LEDGER}.json"]:
        lake.store.delete(path)
    lake.enter()
    lake.turn()
    assert lake.sink.records == [0, 1, 2, 3]


@pytest.mark.parametrize("gone", ["entry", "file", "position"])
def test_what_can_no_longer_be_told_is_named(lake: Lake, gone: str) -> None:
    """Nothing is skipped without a person."""
    lake.enter(2)
    newest = lake.tables.newest(LEDGER)
    assert newest is not None
    if gone == "entry":
        lake.enter()
        lake.store.delete(entry_path(LEDGER, newest.version))
    elif gone == "file":
        (path,) = [path for path in lake.store.list_after(f"{LEDGER}/") if "parquet" in path]
        lake.store.delete(path)
    else:
        lake.store.put(LINEAGE_POSITION, b"{}")
    with pytest.raises(LineageGap):
        lake.turn()
    assert lake.sink.taken == []


@pytest.mark.parametrize("content", [
    b"{", b"5", b'{"add": {"size": 1}}', b'{"txn": {"appId": "bronze/cycles"}}'])
def test_a_damaged_entry_of_the_ledger_is_named(lake: Lake, content: bytes) -> None:
    """The keeper's turn ends with an error that says where to look, and is no crash."""
    lake.enter(2)
    newest = lake.tables.newest(LEDGER)
    assert newest is not None
    lake.store.put(entry_path(LEDGER, newest.version), content)
    lineage = lake.lineage()
    lineage.begin()
    with pytest.raises(TableUnavailable, match=f"entry {newest.version} cannot be read"):
        lineage._send_through(newest.version, lambda: True)
    assert lake.sink.taken == []


@pytest.mark.parametrize("damage", ["torn", "row"])
def test_a_damaged_file_of_the_ledger_is_named(lake: Lake, damage: str) -> None:
    """The same; a row without a record's number is another writer's."""
    lake.enter(2)
    (path,) = [path for path in lake.store.list_after(f"{LEDGER}/") if "parquet" in path]
    content = lake.store.get(path) or b""
    if damage == "row":
        table = pq.read_table(io.BytesIO(content))
        index = table.schema.get_field_index("record")
        sink = io.BytesIO()
        pq.write_table(table.set_column(index, "record", pa.nulls(len(table), pa.int64())), sink)
        content = sink.getvalue()
    else:
        content = content[:len(content) // 2]
    lake.store.put(path, content)
    with pytest.raises(TableUnavailable, match=f"table {LEDGER}: .* cannot be read"):
        lake.turn()
    assert lake.sink.taken == []


# -- where events go ----------------------------------------------------------------------------


def to_file(path: Path) -> FileSink:
    """The sink that LINEAGE_URL=/path gives."""
    made = open_sink(LineageConfig(str(path), None, "n", TIMEOUT_S))
    assert isinstance(made, FileSink)
    return made


def test_a_file_gets_one_event_a_line(tmp_path: Path) -> None:
    """Also after it was rotated away, and readable for its owner and group only."""
    path = tmp_path / "events.jsonl"
    sink = to_file(path)
    sink.send(b'{"a":1}')
    sink.send(b'{"a":2}')
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n'
    assert path.stat().st_mode & 0o137 == 0
    path.rename(tmp_path / "events.1")
    sink.send(b'{"a":3}')
    assert path.read_bytes() == b'{"a":3}\n'


def test_a_line_torn_by_a_crash_does_not_spoil_the_next(tmp_path: Path) -> None:
    """The event that was torn is sent again by the next turn, whole."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"a":1}\n{"a"')
    to_file(path).send(b'{"a":2}')
    assert path.read_bytes() == b'{"a":1}\n{"a"\n{"a":2}\n'


@pytest.mark.parametrize("kind", ["pipe", "folder", "no folder", "full"])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    """A pipe without a reader would hold the keeper for ever."""
    path = tmp_path / "events"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "no folder":
        path = tmp_path / "gone" / "events"
    else:
        path = Path("/dev/full")
    with pytest.raises(LineageUnavailable, match=re.escape(str(path))):
        to_file(path).send(b"{}")


def test_a_disk_that_fills_up_in_a_line_leaves_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the file finds whole lines."""
    path = tmp_path / "events"
    sink = to_file(path)
    sink.send(b"{}")
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    with pytest.raises(LineageUnavailable, match="full"):
        sink.send(b'{"a":1}')
    assert path.read_bytes() == b"{}\n"


def to_http(url: str, key: str | None = "the-secret-key") -> HttpSink:
    """The sink that LINEAGE_URL=http://… gives."""
    made = open_sink(LineageConfig(url, None if key is None else Secret(key), "n", TIMEOUT_S))
    assert isinstance(made, HttpSink)
    return made


class Endpoint(RawServer):
    """Keeps whole requests; answers each with the same bytes."""

    def __init__(self, reply: bytes | Callable[[], Iterator[bytes]]) -> None:
        super().__init__({"/api/v1/lineage": reply})
        self.requests: list[bytes] = []

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        request = b""
        while b"\r\n\r\n" not in request:
            request += connection.recv(4096)
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(re.findall(rb"Content-Length: (\d+)", head)[0])
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        page = self.pages["/api/v1/lineage"]
        for piece in page() if callable(page) else [page]:
            connection.sendall(piece)

    @property
    def address(self) -> str:
        """Where events go."""
        return f"{self.url}/api/v1/lineage"


@pytest.mark.parametrize("reply", [
    answer(b"", "201 Created"), answer(b"{}"), b"HTTP/1.1 204\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 200 OK\r\n\r\n",
])
def test_an_event_is_posted_with_its_key(reply: bytes) -> None:
    """As OpenLineage's own clients do it; any 2xx is a yes."""
    big = json.dumps({"text": "x" * 300_000}).encode()
    with Endpoint(reply) as endpoint:
        to_http(endpoint.address).send(big)
    head, _, body = endpoint.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/v1/lineage HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Authorization: Bearer the-secret-key" in head.split(b"\r\n")
    assert b"Content-Type: application/json" in head.split(b"\r\n")
    assert body == big


def test_without_a_key_none_is_sent() -> None:
    """Marquez as shipped asks for none."""
    with Endpoint(answer(b"")) as endpoint:
        to_http(endpoint.address, None).send(b"{}")
    assert b"Authorization" not in endpoint.requests[0]


def dripping() -> Iterator[bytes]:
    """An answer that never ends, a byte at a time, each well within a socket's timeout."""
    for byte in b"HTTP/1.1 200" + b"x" * 1000:
        time.sleep(TIMEOUT_S / 20)
        yield bytes([byte])


HOSTILE: dict[str, tuple[Any, str]] = {
    "error": (answer(b"the-secret-key", "500 Internal Server Error"), "answers 500"),
    "refused": (answer(b"", "403 Forbidden"), "answers 403"),
    "too large": (answer(b"", "413 Content Too Large"), "answers 413"),
    "silent end": (b"", "ended the connection"),
    "half a status": (b"HTTP/1.1 20", "ended the connection"),
    "no http": (b"SSH-2.0-OpenSSH_9\r\n", "does not speak HTTP"),
    "huge head": (b"HTTP/1.1 100 Continue\r\n" + b"x" * 100_000, "has no end"),
    "interim without end": (b"HTTP/1.1 100 C\r\n\r\n" * 5_000, "has no end"),
    "dripping": (dripping, "no answer within 0.5 s"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_or_failing_endpoint_is_an_error_in_bounded_time(kind: str) -> None:
    """What it says is not repeated: it may be the key."""
    reply, words = HOSTILE[kind]
    with Endpoint(reply) as endpoint:
        began = time.monotonic()
        with pytest.raises(LineageUnavailable, match=words) as caught:
            to_http(endpoint.address).send(b"{}")
        assert time.monotonic() - began < 3 * TIMEOUT_S
    assert "the-secret-key" not in str(caught.value)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect"])
def test_a_redirect_is_not_followed(status: str) -> None:
    """The key would go wherever the answer says."""
    with Endpoint(answer(b"")) as elsewhere:
        reply = (f"HTTP/1.1 {status}\r\nLocation: {elsewhere.address}\r\n\r\n").encode()
        with Endpoint(reply) as endpoint, pytest.raises(
                LineageUnavailable, match="redirects are not followed"):
            to_http(endpoint.address).send(b"{}")
    assert elsewhere.requests == []


def test_nobody_there_is_an_error() -> None:
    """An endpoint that is down delays lineage only."""
    with pytest.raises(LineageUnavailable, match="refused"):
        to_http("http://127.0.0.1:9/x/tenant-token").send(b"{}")


def test_the_path_of_an_endpoint_is_in_no_message() -> None:
    """People put tokens there."""
    with pytest.raises(LineageUnavailable) as caught:
        to_http("http://127.0.0.1:9/tenant-token").send(b"{}")
    assert "tenant-token" not in str(caught.value)


class TlsEndpoint(Endpoint):
    """The same behind a certificate."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(answer(b""))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        with self._context.wrap_socket(connection, server_side=True) as secured:
            super()._answer(secured)


def test_a_certificate_nobody_vouches_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is not sent to whoever stands in the way; with its authority trusted it is."""
    files = make_certificates(tmp_path)
    with TlsEndpoint(files.server) as endpoint:
        sink = to_http(endpoint.address.replace("http://", "https://"))
        with pytest.raises(LineageUnavailable, match="certificate|self-signed"):
            sink.send(b"{}")
        assert endpoint.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
        sink.send(b"{}")
    assert b"Bearer the-secret-key" in endpoint.requests[0]


def test_an_endpoint_that_is_silent_in_its_handshake_is_left(tmp_path: Path) -> None:
    """TLS begins before the request does, and has the same limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(LineageUnavailable, match="no answer within"):
            to_http(f"https://127.0.0.1:{silent.getsockname()[1]}/").send(b"{}")
        assert time.monotonic() - began < 3 * TIMEOUT_S


def configured(**variables: str) -> LineageConfig:
    """Lineage as those variables have it."""
    return make_config(environ=variables).lineage


@pytest.mark.parametrize("url", ["/var/log/lineage.jsonl", "file:///var/log/lineage.jsonl"])
def test_a_file_is_named_by_its_path(url: str) -> None:
    """Both ways that LAKE_URI takes."""
    made = configured(LINEAGE_URL=url)
    assert (made.url, made.is_http) == ("/var/log/lineage.jsonl", False)


@pytest.mark.parametrize(("variables", "words"), [
    ({"LINEAGE_URL": "ftp://host/x"}, "neither the address"),
    ({"LINEAGE_URL": "https://user:pass-word@host/x"}, "user name"),
    ({"LINEAGE_URL": "https://host/a b"}, "blank"),
    ({"LINEAGE_URL": "https://host/a?b=c"}, "neither the address"),
    ({"LINEAGE_URL": "/var/log/"}, "folder"),
    ({"LINEAGE_URL": "http://lineage:5000/x", "LINEAGE_API_KEY": "k"}, "no TLS"),
    ({"LINEAGE_URL": "http://127.0.0.1.example.org/x", "LINEAGE_API_KEY": "k"}, "no TLS"),
    ({"LINEAGE_URL": "/a/file", "LINEAGE_API_KEY": "k"}, "is a file"),
    ({"LINEAGE_URL": "https://h/x", "LINEAGE_TIMEOUT_SECONDS": "0"}, "too small"),
])
def test_a_wrong_setting_is_refused_at_the_start(variables: dict[str, str], words: str) -> None:
    """And a key never travels in clear."""
    with pytest.raises(ConfigError) as caught:
        configured(**variables)
    assert words in str(caught.value)
    assert "pass-word" not in str(caught.value)
