"""Lineage of a running service: an endpoint that is down, fails, and sees keepers die."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import TopicNames
from tests.integration.test_ledger import keeper_pids, wait_entered
from tests.rig.cycles_checker import TABLE, check_cycles
from tests.rig.lake import table_uri
from tests.rig.readers import DuckdbReader
from tests.rig.scene import START_S, Scene, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.services.ports import free_ports
from tests.waiting import wait_until

TOPICS, PARTITIONS = 2, 2
BACKGROUND_PER_S = 300
LANDING_S, TOLD_S = 60, 60
KEY = "a-key-of-this-test"
KILLED_AT = (3, 6, 9, 12)
"""Requests at which the keeper dies: in turn before it has an answer, and just after it."""


class Endpoint:
    """Takes events over HTTP; `on_event` is called with the number of the request, before the
    answer is sent, and gives what is to be done after it."""

    def __init__(self, port: int) -> None:
        self.events: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.on_event: Callable[[int], Callable[[], None] | None] = lambda number: None
        self.status = 201
        kept = self

        class Handler(BaseHTTPRequestHandler):
            """Keeps what it is given."""

            def do_POST(self) -> None:
                """Take an event."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept.keys.add(self.headers["Authorization"])
                if kept.status == 201:
                    kept.events.append(json.loads(body))
                after = kept.on_event(len(kept.events))
                try:
                    self.send_response(kept.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass
                if after is not None:
                    after()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Endpoint:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def records(self) -> list[int]:
        """The cycles that were told of, in the order they came."""
        return [event["run"]["facets"]["bronze_cycle"]["record"] for event in self.events]


def told_rightly(scene: Scene, events: list[dict[str, Any]]) -> None:
    """Each cycle of the ledger has an event, in order, with its ranges and versions."""
    rows = DuckdbReader(scene.options)._connection.execute(
        "select record, topic, table_version, rows, to_json(ranges) from delta_scan($uri) "
        "where status = 'committed' order by record",
        {"uri": table_uri(scene.lake_uri, TABLE)}).fetchall()
    first = {event["run"]["runId"]: event for event in reversed(events)}
    assert len({json.dumps(event) for event in events}) == len(first)
    ordered = list(dict.fromkeys(
        event["run"]["facets"]["bronze_cycle"]["record"] for event in events))
    assert ordered == sorted({row[0] for row in rows})
    told = {}
    for event in first.values():
        record = event["run"]["facets"]["bronze_cycle"]["record"]
        for source in event["inputs"]:
            (out,) = [out for out in event["outputs"]
                      if out["name"].endswith(f"/bronze_{source['name']}")
                      and "/dlq_" not in out["name"]]
            told[record, source["name"]] = (
                int(out["facets"]["version"]["datasetVersion"]),
                out["outputFacets"]["outputStatistics"]["rowCount"],
                source["inputFacets"]["bronze_offsets"]["ranges"])
    assert told == {(row[0], row[1]): (row[2], row[3], json.loads(row[4])) for row in rows}


def kill_keepers(service: Service) -> None:
    """SIGKILL to the one that has just sent."""
    for pid in keeper_pids(service):
        try:
            psutil.Process(pid).kill()
        except psutil.NoSuchProcess:
            continue


@pytest.mark.slow
def test_each_cycle_is_told_of_though_the_endpoint_fails_and_keepers_die(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """Down at first, then failing, then up while keepers are killed between event and position."""
    (port,) = free_ports(1)
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS, settings={
        "KEEPER_INTERVAL_SECONDS": "1", "LINEAGE_URL": f"http://127.0.0.1:{port}/api/v1/lineage",
        "LINEAGE_API_KEY": KEY, "LINEAGE_TIMEOUT_SECONDS": "2"})
    kills: list[int] = []
    with scene.producer() as producer, scene.service() as service:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        page = service.wait_for(
            lambda page: metric(service, "bronze_lineage_behind_records") >= 4, TOLD_S,
            "cycles wait to be told of")
        # Nothing but lineage waits for it: the ledger goes on, and the service is healthy.
        assert page["http_status"] == 200
        assert page["keeper"]["ledger_behind"] <= 3
        assert page["keeper"]["last_error"]["name"] == "LineageUnavailable"

        def on_event(number: int) -> Callable[[], None] | None:
            if number not in KILLED_AT or number in kills:
                return None
            kills.append(number)
            if len(kills) % 2:
                kill_keepers(service)
                return None
            return lambda: kill_keepers(service)

        with Endpoint(port) as endpoint:
            endpoint.status = 500
            wait_until(lambda: endpoint.keys, TOLD_S, "it is asked, and fails")
            endpoint.on_event, endpoint.status = on_event, 201
            wait_until(lambda: len(kills) == len(KILLED_AT), TOLD_S, "the keepers were killed")
            producer.stop_background()
            scene.wait_landed(service, LANDING_S)
            wait_entered(service)
            wait_until(lambda: metric(service, "bronze_lineage_behind_records") == 0, TOLD_S,
                       "everything is told")
            service.wait_for(lambda page: page["keeper"]["last_error"] is None, TOLD_S,
                             "the error is over")
            assert service.terminate() == 0
        assert KEY not in service.log_path.read_text()
        assert service.log_strays() == []
    assert endpoint.keys == {f"Bearer {KEY}"}
    assert len(endpoint.events) > len(set(endpoint.records)), "no kill made a repetition"
    told_rightly(scene, endpoint.events)
    scene.judge()
    check_cycles(scene.lake_uri, scene.options).assert_ok()


def test_a_file_holds_an_event_of_each_cycle_across_a_restart(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    tmp_path: Path,
) -> None:
    """Without a fault each is there exactly once."""
    path = tmp_path / "lineage.jsonl"
    scene = Scene(kafka, minio, topic_names(TOPICS), lake_prefix, partitions=PARTITIONS, settings={
        "KEEPER_INTERVAL_SECONDS": "1", "LINEAGE_URL": str(path)})
    with scene.producer() as producer, scene.service() as service:
        for start in range(2):
            service.wait_healthy(START_S)
            producer.produce(500)
            scene.wait_landed(service, LANDING_S)
            wait_entered(service)
            wait_until(lambda: metric(service, "bronze_lineage_behind_records") == 0
                       and metric(service, "bronze_lineage_events_total") > 0, TOLD_S,
                       "everything is told")
            assert service.terminate() == 0
            if not start:
                service.restart()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(events) == len({event["run"]["runId"] for event in events})
    told_rightly(scene, events)
