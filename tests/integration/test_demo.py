"""The demo as a whole: a real process, its embedded Kafka, and a stand-in for the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from demo import events
from demo.broker import EmbeddedCluster
from demo.feeder import BACKLOG_LIMIT_MESSAGES, Feeder
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 30.0
# The promise to a newcomer, from the start of the demo.
FIRST_ROWS_SECONDS = 10.0

# Takes the service's place: reads the topics as a consumer group, appends rows to a Delta
# table per topic each interval, and serves the health page. Malformed messages are only
# counted. It keeps no promise about crashes.
STAND_IN = textwrap.dedent(
    """
    import json, os, signal, sys, threading, time
    from datetime import datetime, timezone
    from http.server import BaseHTTPRequestHandler, HTTPServer
    import pyarrow as pa
    from confluent_kafka import Consumer
    from deltalake import write_deltalake

    if os.environ.get("KAFKA_SASL_PASSWORD"):
        sys.exit("a real installation's secret was handed on")
    print(json.dumps({"message": "the stand-in starts"}), file=sys.stderr, flush=True)
    parent = os.getppid()
    topics = os.environ["KAFKA_TOPICS"].split(",")
    lake = os.environ["LAKE_URI"]
    state = {t: {"state": "active", "rows": 0, "dead_letters": 0, "lag": 0, "last_commit": None,
                 "table_version": None, "last_error": None} for t in topics}
    cycle = {"id": 0, "phase": "consuming"}

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"status": "healthy", "reasons": [], "cycle": cycle,
                               "topics": state}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", int(os.environ["HEALTH_PORT"])), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    mode = os.environ.get("STAND_IN", "")
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    consumer = Consumer({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"],
                         "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe(topics)
    open_rows = {t: [] for t in topics}
    flush_at = time.monotonic() + float(os.environ["BATCH_INTERVAL_SECONDS"])
    while True:
        for m in consumer.consume(5000, 0.1):
            if m.error():
                continue
            try:
                value = m.value()
                if value is not None:
                    value = value.decode()
                    json.loads(value, parse_constant=lambda c: 1 / 0)
                open_rows[m.topic()].append((m.offset(), value))
            except (ValueError, ZeroDivisionError):
                state[m.topic()]["dead_letters"] += 1
        if time.monotonic() >= flush_at or stopped:
            flush_at = time.monotonic() + float(os.environ["BATCH_INTERVAL_SECONDS"])
            cycle["id"] += 1
            for t, rows in open_rows.items():
                if rows:
                    write_deltalake(f"{lake}/bronze_{t}", pa.table({
                        "_kafka_offset": [r[0] for r in rows],
                        "value": pa.array([r[1] for r in rows], pa.string())}), mode="append")
                    state[t]["rows"] += len(rows)
                    now = datetime.now(timezone.utc).isoformat()
                    state[t].update(last_commit=now, table_version=cycle["id"])
                    rows.clear()
            if mode == "dying" and cycle["id"] == 2:
                print("the stand-in gives up", file=sys.stderr, flush=True)
                os._exit(3)
        # Not even a demo that was killed leaves it behind.
        if stopped or os.getppid() != parent:
            break
    consumer.close()
    """
)

DRIVER = textwrap.dedent(
    """
    import sys
    from demo.run import main
    sys.exit(main(sys.argv[2:], service_command=(sys.executable, sys.argv[1])))
    """
)


class Demo:
    """A running demo, with its output in a file."""

    def __init__(self, tmp_path: Path, mode: str = "") -> None:
        self.folder = tmp_path / "demo"
        stand_in = tmp_path / "stand_in.py"
        stand_in.write_text(STAND_IN)
        self._output = tmp_path / "output"
        env = os.environ | {
            "BATCH_INTERVAL_SECONDS": "1", "STAND_IN": mode, "KAFKA_SASL_PASSWORD": "secret",
        }
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DRIVER, str(stand_in), "--folder", str(self.folder)],
                cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    def rows(self) -> int:
        """The highest row count it has shown."""
        words = self.output().split()
        return max((int(words[at + 1]) for at, word in enumerate(words[:-1])
                    if word == "rows" and words[at + 1].isdigit()), default=0)

    def wait_for_rows(self) -> None:
        """Until a line shows rows."""
        wait_until(lambda: self.rows() > 0, START_TIMEOUT_SECONDS, self.output)

    def wait_for_end(self) -> int:
        """Its exit code."""
        wait_until(lambda: self.process.poll() is not None, STOP_TIMEOUT_SECONDS, self.output)
        return self.process.wait()


@pytest.fixture
def demos() -> Iterator[list[Demo]]:
    """Demos put in here do not outlive the test."""
    running: list[Demo] = []
    yield running
    for demo in running:
        if demo.process.poll() is None:
            # Twice means at once: the service is killed with its group.
            demo.process.terminate()
            demo.process.terminate()
            try:
                demo.process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                demo.process.kill()


def test_demo_lands_rows_and_stops_cleanly(tmp_path: Path, demos: list[Demo]) -> None:
    """A newcomer's whole visit: rows within seconds, Ctrl-C, a summary that adds up, exit 0."""
    demo = Demo(tmp_path)
    demos.append(demo)
    demo.wait_for_rows()
    stop_and_look(demo, signal.SIGINT)


def stop_and_look(demo: Demo, number: signal.Signals) -> None:
    """Stop a demo that has shown rows, and hold all that it said against what there is."""
    first = next(line for line in demo.output().splitlines()
                 if " rows " in line and " rows 0" not in line)
    assert float(first.split()[0]) < FIRST_ROWS_SECONDS
    demo.process.send_signal(number)
    assert demo.wait_for_end() == 0, demo.output()
    total = next(line for line in demo.output().splitlines() if line.startswith("total"))
    _, sent, landed, _ = total.split()
    # The stand-in drops the malformed ones and whatever came after its last cycle.
    assert 0 < int(landed) <= int(sent)
    assert str(demo.folder / "lake") in demo.output()
    assert "delta_scan(" in demo.output()
    assert "Traceback" not in demo.output()
    query = next(line for line in demo.output().splitlines() if "QueryBuilder" in line)
    shown = subprocess.run(["bash", "-c", query], capture_output=True, text=True, timeout=60)
    assert "order_id" in shown.stdout, shown.stderr


def test_demo_names_the_end_of_its_service(tmp_path: Path, demos: list[Demo]) -> None:
    """A service that died must not look like a quiet one."""
    demo = Demo(tmp_path, "dying")
    demos.append(demo)
    assert demo.wait_for_end() == 1
    assert "ended by itself with exit code 3" in demo.output()
    assert "the stand-in gives up" in demo.output()


def test_demo_kills_a_service_that_ignores_it_when_asked_twice(
    tmp_path: Path, demos: list[Demo]
) -> None:
    """Nobody should need a second terminal to get rid of the demo."""
    demo = Demo(tmp_path, "stubborn")
    demos.append(demo)
    demo.wait_for_rows()
    demo.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Stopping" in demo.output(), STOP_TIMEOUT_SECONDS, demo.output)
    demo.process.send_signal(signal.SIGINT)
    assert demo.wait_for_end() == 1
    assert "did not stop cleanly: exit code -9" in demo.output()


def test_demo_begins_with_an_empty_lake_and_alone(tmp_path: Path, demos: list[Demo]) -> None:
    """Old tables would claim offsets of a Kafka that is gone; two demos would mix theirs."""
    first = Demo(tmp_path)
    demos.append(first)
    first.wait_for_rows()
    (first.folder / "lake" / "left_over").write_text("of this run")
    other = subprocess.run(
        [sys.executable, "-m", "demo", "--folder", str(first.folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )
    assert other.returncode == 1
    assert "another demo" in other.stderr
    service_pid = int((first.folder / "demo.lock").read_text())
    assert f"process {service_pid}" in other.stderr
    assert (first.folder / "lake" / "left_over").exists()
    stop_and_look(first, signal.SIGTERM)
    again = Demo(tmp_path)
    demos.append(again)
    again.wait_for_rows()
    assert not (again.folder / "lake" / "left_over").exists()


def test_feeder_stops_before_the_cluster_would_drop_anything() -> None:
    """Nobody reads here, so every message sent has to be there still, from offset 0 on."""
    cluster = EmbeddedCluster(events.TOPICS, partitions=1)
    feeder = Feeder(cluster.address, rate=100_000, total=10**9, seed=1)
    consumer = Consumer({"bootstrap.servers": cluster.address, "group.id": "g"})
    try:
        feeder.start()
        wait_until(lambda: feeder.state().held, START_TIMEOUT_SECONDS, "the feeder waits")
        feeder.stop()
        sent = feeder.state().sent
        assert max(sent.values()) == BACKLOG_LIMIT_MESSAGES
        for topic in events.TOPICS:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
            assert (low, high) == (0, sent[topic])
    finally:
        consumer.close()
        cluster.close()


def test_feeder_goes_on_when_the_service_has_caught_up() -> None:
    """The limit is on what waits, not on the total."""
    cluster = EmbeddedCluster(events.TOPICS, partitions=4)
    feeder = Feeder(cluster.address, rate=100_000, total=10**9, seed=1)
    try:
        feeder.start()
        wait_until(lambda: feeder.state().held, START_TIMEOUT_SECONDS, "the feeder waits")
        before = feeder.state().sent
        feeder.observe(landed=before, lag={})
        wait_until(
            lambda: sum(feeder.state().sent.values()) > sum(before.values()),
            START_TIMEOUT_SECONDS, "the feeder goes on",
        )
    finally:
        feeder.stop()
        cluster.close()


def test_embedded_cluster_tells_topic_ids() -> None:
    """The service finds re-created topics by their id; the demo's Kafka has to have them."""
    cluster = EmbeddedCluster(("orders", "clicks"), partitions=4)
    try:
        admin = AdminClient({"bootstrap.servers": cluster.address})
        answers = admin.describe_topics(TopicCollection(["orders", "clicks"]))
        found = {name: answer.result(10) for name, answer in answers.items()}
        assert {len(description.partitions) for description in found.values()} == {4}
        assert len({str(description.topic_id) for description in found.values()}) == 2
    finally:
        cluster.close()
