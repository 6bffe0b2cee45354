"""The demo's pure parts: the shop's events, the pace and the backlog, the page, the view."""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from demo import events, health, run, service, view
from demo.broker import PARTITION_LIMIT_BYTES, PARTITION_LIMIT_MESSAGES
from demo.feeder import BACKLOG_LIMIT_MESSAGES, FeederState, Pace, backlog

SAMPLE = 60_000
# A record's framing in Kafka's format, generously.
RECORD_OVERHEAD_BYTES = 70
NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def shop(seed: int, count: int) -> Iterator[tuple[str, events.Event]]:
    """The first messages of a shop with this seed, with their topics."""
    rng = random.Random(seed)
    for n in range(count):
        topic = events.pick_topic(rng)
        yield topic, events.event(rng, topic, n)


@pytest.fixture(scope="module")
def sample() -> list[tuple[str, events.Event]]:
    """A sample large enough for shares of one in a thousand."""
    return list(shop(seed=1, count=SAMPLE))


def is_strict_json(value: bytes) -> bool:
    """Whether a strict reader takes it: UTF-8, one document, no NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(value.decode("utf-8"), parse_constant=refuse)
    except ValueError:
        return False
    return True


def test_events_are_the_same_for_the_same_seed() -> None:
    """A fault seen in a demo has to be seen again."""
    assert list(shop(7, 500)) == list(shop(7, 500))
    assert list(shop(7, 500)) != list(shop(8, 500))


def test_events_have_every_topic_and_every_kind(sample: list[tuple[str, events.Event]]) -> None:
    """A kind that never comes shows nobody what the service does with it."""
    assert {topic for topic, _ in sample} == set(events.TOPICS)
    kinds = {message[3] for _, message in sample}
    assert kinds == {events.VALID, events.TOMBSTONE, *events.MALFORMED_KINDS}


def test_events_are_malformed_once_in_a_thousand(sample: list[tuple[str, events.Event]]) -> None:
    """Rare as in life, but often enough to be seen within the first seconds."""
    kinds = Counter(message[3] for _, message in sample)
    share = sum(kinds[kind] for kind in events.MALFORMED_KINDS) / SAMPLE
    assert 0.0005 < share < 0.002
    assert 0 < kinds[events.TOMBSTONE] / SAMPLE < 0.01


def test_events_values_are_what_their_kind_says(sample: list[tuple[str, events.Event]]) -> None:
    """The demo must not call a good message bad, nor a bad one good."""
    for _, (_, value, _, kind) in sample:
        if kind == events.TOMBSTONE:
            assert value is None
        else:
            assert value is not None
            assert is_strict_json(value) == (kind == events.VALID), (kind, value)
            is_utf8 = value == value.decode(errors="ignore").encode()
            # A cut may fall inside a character, so truncation may break UTF-8 as well.
            assert is_utf8 or kind in ("invalid_utf8", "truncated")
            assert (value == b"") == (kind == "empty")


def test_events_carry_keys_and_headers(sample: list[tuple[str, events.Event]]) -> None:
    """Only visitors without a session have no key; every message names its schema."""
    keyless = {topic for topic, (key, _, _, _) in sample if key is None}
    assert keyless == {"clicks"}
    for topic, (_, _, headers, _) in sample:
        assert ("schema", f"{topic}/1".encode()) in headers


def test_events_time_grows_with_their_number() -> None:
    """The shop's clock is a function of the number alone."""
    rng = random.Random(3)
    _, value, _, kind = events.event(rng, "orders", 1_000)
    assert kind == events.VALID and value is not None
    moment = datetime.fromisoformat(json.loads(value)["occurred_at"])
    assert moment == events.SHOP_OPENED + timedelta(seconds=40)


def test_backlog_limit_fits_one_partition_of_the_embedded_cluster(
    sample: list[tuple[str, events.Event]],
) -> None:
    """The cluster drops the oldest messages silently; the limit is what prevents it."""
    largest = max(
        len(key or b"") + len(value or b"")
        + sum(len(name) + len(content or b"") for name, content in headers)
        for _, (key, value, headers, _) in sample
    )
    wire_bytes = BACKLOG_LIMIT_MESSAGES * (largest + RECORD_OVERHEAD_BYTES)
    assert wire_bytes < PARTITION_LIMIT_BYTES
    assert BACKLOG_LIMIT_MESSAGES < PARTITION_LIMIT_MESSAGES


@pytest.mark.parametrize(
    ("sent", "landed", "lag", "expected"),
    [(100, 40, 0, 60), (100, 100, 0, 0), (100, 90, 30, 30), (10, 12, 0, 0)],
)
def test_backlog_is_what_may_be_read_again(
    sent: int, landed: int, lag: int, expected: int
) -> None:
    """Read is not enough: a worker that dies reads its undecided messages again."""
    assert backlog(sent, landed, lag) == expected


def test_pace_keeps_its_rate_and_its_total() -> None:
    """A bounded rate and a bounded number, whatever the length of a tick."""
    pace = Pace(rate=1000, total=150, started=0.0)
    assert pace.due(0.05) == 50
    pace.sent += 50
    assert pace.due(0.05) == 0
    assert pace.due(0.10) == 50
    pace.sent += 50
    assert pace.due(10.0) == 50
    pace.sent += 50
    assert pace.due(20.0) == 0


def test_pace_does_not_make_up_for_a_long_pause() -> None:
    """After a laptop's sleep there is no burst, and the rate goes on from there."""
    pace = Pace(rate=1000, total=10**9, started=0.0)
    burst = pace.due(3600.0)
    assert burst == 500
    pace.sent += burst
    assert pace.due(3600.0) == 0
    # What is due is whole messages, so a rounding error may move one to the next tick.
    assert pace.due(3600.1) == pytest.approx(100, abs=1)


HEALTH_PAGE = {
    "status": "unhealthy",
    "reasons": ["orders: the store refused a write"],
    "service": {"instance": "0", "pid": 1},
    "cycle": {"id": 12, "phase": "consuming", "last_completed_at": None},
    "topics": {
        "orders": {
            "state": "active", "pid": 1, "incarnation": 1, "restarts": 2, "lag": 7, "rows": 1234,
            "dead_letters": 3, "partitions": 4, "paused": None,
            "last_commit": "2026-03-01T11:59:57Z", "table_version": 12,
            "last_error": {
                "at": "2026-03-01T11:59:50Z", "name": "store_refused", "message": "disk full",
                "what_to_do": "free some space",
            },
        },
        "payments": {"state": "starting", "lag": None, "rows": 0, "dead_letters": 0,
                     "last_commit": None, "table_version": None, "last_error": None},
    },
}


def test_health_page_is_read_whole() -> None:
    """Every field that the view shows comes through, present or null."""
    report = health.parse(json.dumps(HEALTH_PAGE).encode())
    orders = report.topics["orders"]
    assert (report.status, report.cycle_id, report.phase) == ("unhealthy", 12, "consuming")
    assert (orders.rows, orders.dead_letters, orders.lag, orders.restarts) == (1234, 3, 7, 2)
    assert orders.last_commit == NOW - timedelta(seconds=3)
    assert orders.error == "store_refused: disk full"
    assert report.landed() == {"orders": 1237, "payments": 0}
    assert report.lag() == {"orders": 7}


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"status":"healthy","topics":[1]}', b"\xff"]
)
def test_health_page_that_makes_no_sense_is_a_report_too(body: bytes) -> None:
    """A broken page must not end the demo, which would end the service."""
    report = health.parse(body)
    assert report.status == health.UNREACHABLE
    assert "not understood" in report.reasons[0]


def test_health_page_that_nobody_serves_is_a_report_too() -> None:
    """The service needs a moment before it listens."""
    assert health.fetch("127.0.0.1", service.free_port()).status == health.UNREACHABLE


def place(lake: str = "/data/lake") -> view.Place:
    """Where things are in these tests."""
    return view.Place("http://127.0.0.1:8123/", Path(lake), Path("/data/log"),
                      Path(sys.executable))


def snapshot(report: health.Report, *, held: bool = False) -> view.Snapshot:
    """A frame a minute after the start."""
    feeder = FeederState({"orders": 1300, "clicks": 10}, 4, 0, held, False)
    return view.Snapshot(NOW, 60.0, report, {"orders": 21.0}, feeder, place())


def rendered(frame: RenderableType, width: int = 100) -> str:
    """What a terminal of this width shows."""
    console = Console(file=StringIO(), width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(frame)
    return capture.get()


def test_view_shows_topics_status_and_errors() -> None:
    """All that the newcomer is promised to see is on the screen, at 80 columns too."""
    report = health.parse(json.dumps(HEALTH_PAGE).encode())
    text = rendered(view.live(snapshot(report), events.TOPICS), width=80)
    for expected in ("unhealthy", "cycle 12", "consuming", "http://127.0.0.1:8123/", "1,234",
                     "3 s ago", "disk full", "free some space", "1,310 sent",
                     "the store refused a write", "delta_scan('/data/lake/bronze_orders')"):
        assert expected in text
    row = next(line for line in text.splitlines() if "orders" in line and "active" in line)
    assert [cell.strip() for cell in row.strip("\u2502| ").split("\u2502")] == [
        "orders", "active", "1,234", "21", "7", "3", "3 s ago", "12"
    ]
    for topic in events.TOPICS:
        assert topic in text


def test_view_says_when_the_generator_waits() -> None:
    """A rate that falls to zero on purpose must not look like a fault."""
    frame = view.live(snapshot(health.Report("healthy"), held=True), events.TOPICS)
    assert "waiting for the service" in rendered(frame)


def test_view_line_is_one_line_with_the_totals() -> None:
    """Piped into a file, each reading is one line that can be searched."""
    report = health.parse(json.dumps(HEALTH_PAGE).encode())
    text = view.line(snapshot(report))
    assert "\n" not in text
    for expected in ("60.0 s", "unhealthy", "sent 1310", "rows 1234", "lag 7", "dead letters 3"):
        assert expected in text


def test_view_summary_counts_what_did_not_land() -> None:
    """Nothing that was sent may go unmentioned."""
    counts = [view.TableCount("orders", 1290, 3), view.TableCount("clicks", None, None)]
    text = "\n".join(view.summary(counts, snapshot(health.Report("x")).feeder, place()))
    assert "17 messages were sent but are in no table" in text
    assert "/data/lake" in text and "delta_scan" in text


@pytest.mark.parametrize("folder", ["plain", "with space", "it's", "a$HOME`b"])
def test_view_python_query_can_be_pasted(tmp_path: Path, folder: str) -> None:
    """The command is printed to be pasted into a shell, wherever the checkout lies."""
    from deltalake import write_deltalake
    import pyarrow as pa

    lake = tmp_path / folder
    rows = pa.table({"_kafka_offset": [5], "value": ["what the shop said"]})
    write_deltalake(str(lake / "bronze_orders"), rows)
    command = view.python_query(place(str(lake)), "orders")
    assert "\n" not in command
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert "what the shop said" in done.stdout, done.stderr


def test_rates_are_over_the_window() -> None:
    """Rows land in steps, once per cycle; the rate is over several of them."""
    rates = run.Rates(window_seconds=10)
    assert rates.per_second() == {}
    rates.add(0.0, {"orders": 0})
    rates.add(5.0, {"orders": 500})
    assert rates.per_second() == {"orders": 100.0}
    for second in range(6, 31):
        rates.add(float(second), {"orders": 500})
    assert rates.per_second() == {"orders": 0.0}


def test_service_environment_holds_nothing_of_a_real_installation() -> None:
    """Neither real credentials may reach the demo, nor the demo's events a real lake."""
    base = {
        "PATH": "/bin", "KAFKA_SASL_PASSWORD": "secret", "AWS_SECRET_ACCESS_KEY": "secret",
        "LAKE_URI": "s3://real/lake", "INSTANCE_ID": "7", "HEALTH_HOST": "0.0.0.0",
        "KAFKA_BOOTSTRAP_SERVERS": "real:9092", "BATCH_INTERVAL_SECONDS": "2",
    }
    env = service.environment(
        base, broker="127.0.0.1:1", topics=("a", "b"), lake=Path("/demo/lake"), port=81
    )
    assert env == {
        "KAFKA_PROPERTY_SESSION_TIMEOUT_MS": "6000",
        "PATH": "/bin", "BATCH_INTERVAL_SECONDS": "2", "LOG_FORMAT": "json",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_TOPICS": "a,b",
        "LAKE_URI": "/demo/lake", "HEALTH_HOST": "127.0.0.1", "HEALTH_PORT": "81",
    }
    bare = service.environment({}, broker="b", topics=("a",), lake=Path("/l"), port=1)
    assert bare["BATCH_INTERVAL_SECONDS"] == "5"


def test_demo_refuses_a_folder_that_it_did_not_make(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It empties its lake at start; somebody's real lake must survive a mistyped option."""
    monkeypatch.setattr(run.StopRequest, "install", lambda _self: None)
    precious = tmp_path / "lake" / "rows.parquet"
    precious.parent.mkdir()
    precious.write_text("precious")
    assert run.main(["--folder", str(tmp_path)]) == 1
    assert "no demo has made" in capsys.readouterr().err
    assert precious.read_text() == "precious"


def test_view_python_query_quotes_the_interpreter() -> None:
    """A checkout under a folder with a space is common enough."""
    spaced = view.Place("", Path("/lake"), Path("/log"), Path("/my files/.venv/bin/python"))
    assert shlex.split(view.python_query(spaced, "orders"))[0] == "/my files/.venv/bin/python"
