"""`dlq` on a real Kafka and MinIO: beside the service, killed at each step, several at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TopicNames
from tests.integration.lakeside import (
    START_S, Lake, create_topics, send, send_messages, settings, store_lake, wait_for_position,
)
from tests.rig.environment import clean_environment
from tests.rig.lake import bronze_table, dlq_table, table_uri
from tests.rig.readers import reader_named
from tests.rig.s3_proxy import PASS, RESET_AFTER, RESET_BEFORE, Action, Request, S3Proxy
from tests.rig.service import ROOT, Service
from tests.rig.strict_service import MARK
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOOL_S = 150
STRICT = "tests.rig.strict_service"
COLUMNS = ["_kafka_partition", "_kafka_offset", "value", "headers"]
REPLAY_COLUMNS = ["_kafka_topic", "_kafka_partition", "_kafka_offset", "replay"]
HEADER = "_bronze_replay"
Place = tuple[int, int]
PATIENT = {"STORE_TIMEOUT_SECONDS": "60", "HEARTBEAT_LIMIT_SECONDS": "200",
           "CYCLE_DEADLINE_SECONDS": "200", "STOP_DEADLINE_SECONDS": "300"}
"""Of the tools: a request of one may wait for the whole run of another."""


def fit(number: int) -> bytes:
    """A value that the strict service refuses and today's checks take."""
    return b'{"n": %d, "why": "refused once"}' % number


def unfit(number: int) -> bytes:
    """A value that no release takes."""
    return b'{"n": %d, ' % number


def mixed(count: int, first: int = 0) -> list[bytes]:
    """Of eight values six are well formed, one is refused once and one for ever."""
    kinds: list[Callable[[int], bytes]] = [fit, unfit] + [lambda n: b'{"n": %d}' % n] * 6
    return [kinds[number % 8](number) for number in range(first, first + count)]


class Tool:
    """`python -m supervisor dlq …` and `verify` as an operator runs them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = {**clean_environment(), **environ, **PATIENT}

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Begin a run."""
        return subprocess.Popen([sys.executable, "-m", "supervisor", *argv], cwd=ROOT,
                                env=self.environ, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)

    def run(self, *argv: str) -> dict[str, Any]:
        """Run it to its end: the JSON it printed, and the exit code as `code`."""
        return self.end_of(self.start(*argv, "--json"))

    def replay_all(self, topic: str) -> dict[str, Any]:
        """Replay all of a topic's dead letters, which must go well."""
        done = self.run("dlq", "replay", topic, "--all")
        assert done["code"] == 0, done
        return done

    def end_of(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The same of one that was begun."""
        out, err = process.communicate(timeout=TOOL_S)
        assert out, err
        return {**json.loads(out), "code": process.returncode}


@dataclass
class Held:
    """What a reader finds of a topic: how often each offset is a row, is a dead letter, and is in
    the table of replays; values of rows, and the replay in their headers."""

    rows: Counter[Place] = field(default_factory=Counter)
    dead: Counter[Place] = field(default_factory=Counter)
    replays: dict[Place, list[int]] = field(default_factory=dict)
    values: dict[Place, str] = field(default_factory=dict)
    marks: dict[Place, int] = field(default_factory=dict)


def held(name: str, lake: Lake, topic: str) -> Held:
    """Read a topic's tables with one of the two readers."""
    reader, found = reader_named(name, lake.options), Held()
    for row in _rows(reader, lake, bronze_table(topic), COLUMNS):
        place = row["_kafka_partition"], row["_kafka_offset"]
        found.rows[place] += 1
        found.values[place] = row["value"]
        last = (row["headers"] or [{"key": None}])[-1]
        if last["key"] == HEADER:
            found.marks[place] = int(last["value"])
    for row in _rows(reader, lake, dlq_table(topic), COLUMNS[:2]):
        found.dead[row["_kafka_partition"], row["_kafka_offset"]] += 1
    for row in _rows(reader, lake, "dlq_replays", REPLAY_COLUMNS):
        if row["_kafka_topic"] == topic:
            place = row["_kafka_partition"], row["_kafka_offset"]
            found.replays.setdefault(place, []).append(row["replay"])
    return found


def _rows(reader: Any, lake: Lake, table: str, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in reader.batches(table_uri(lake.uri, table), columns):
        yield from batch.to_pylist()


def judge(lake: Lake, topic: str, sent: Sequence[bytes], replayed: set[int] | None = None) -> None:
    """Each offset of partition 0 is a row or a dead letter, once; what was refused once (or
    `replayed`) is both, has its number in header and table, and the value as it was sent."""
    if replayed is None:
        replayed = {offset for offset, value in enumerate(sent) if MARK in value}
    dead = {offset for offset, value in enumerate(sent)
            if MARK in value or not value.endswith(b"}")}
    good = set(range(len(sent))) - dead
    for name in ("deltalake", "duckdb"):
        found = held(name, lake, topic)
        assert found.rows == Counter((0, offset) for offset in good | replayed), name
        assert found.dead == Counter((0, offset) for offset in dead), name
        assert found.replays.keys() == {(0, offset) for offset in replayed}, name
        assert {place: [number] for place, number in found.marks.items()} == found.replays, name
        assert {place: value for place, value in found.values.items() if MARK in value.encode()} \
            == {(0, offset): sent[offset].decode() for offset in replayed
                if MARK in sent[offset]}, name


def assert_verified(tool: Tool, topic: str, replayed: int) -> None:
    """The service's own proof, from files and row by row."""
    for options in ((), ("--deep",)):
        report = tool.run("verify", *options, topic)
        assert (report["code"], report["status"]) == (0, "ok"), report
        assert f"{replayed} of them replayed" in report["lines"][-1]["found"]


def test_dead_letters_are_replayed_once_beside_the_service_while_its_workers_are_killed(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str
) -> None:
    """New messages land, workers die, and replays run all the while; the service is not disturbed
    by the commits it loses, and its positions and ledger stay what they were."""
    (topic,) = topic_names()
    lake = store_lake(minio, lake_prefix)
    create_topics(kafka, [topic])
    environ = settings(kafka.bootstrap, lake, [topic], KEEPER_INTERVAL_SECONDS=1)
    tool, sent = Tool(environ), list[bytes]()
    with Service(environ, 1, module=STRICT) as service:
        service.wait_healthy(START_S)
        for turn in range(6):
            sent += mixed(400, len(sent))
            send(kafka.bootstrap, topic, sent[-400:])
            if turn % 2:
                os.kill(service.worker_pids()[topic], signal.SIGKILL)
            wait_for_position(service, lake, topic, len(sent) - 200)
            tool.replay_all(topic)
        wait_for_position(service, lake, topic, len(sent))
        service.wait_healthy(START_S)
        tool.replay_all(topic)
        again = tool.replay_all(topic)
        assert (again["replays"], again["already_replayed"]) == ([], len(sent) // 8)
        assert_verified(tool, topic, len(sent) // 8)
        send(kafka.bootstrap, topic, sent[-8:])
        sent += sent[-8:]
        wait_for_position(service, lake, topic, len(sent))
        service.wait_for(lambda page: page["keeper"]["ledger_behind"] == 0, START_S, "ledger")
        assert service.terminate() == 0
    replayed = {offset for offset, value in enumerate(sent[:-8]) if MARK in value}
    judge(lake, topic, sent, replayed)


STEPS = {
    "replays file": r"/dlq_replays/_ingestion_date",
    "rows file": r"/bronze_[^/]+/_ingestion_date",
    "plan": r"/_bronze/replays/",
    "replays commit": r"/dlq_replays/_delta_log/0*[1-9]\d*\.json",
    "rows commit": r"/bronze_[^/]+/_delta_log/\d+\.json",
}
"""What a replay puts into the store, in its order; the first two are seen by nobody."""


@dataclass
class World:
    """A running service of several topics, each with the same dead letters."""

    lake: Lake
    tool: Tool
    proxied: Tool
    topics: list[str]
    sent: list[bytes]
    bootstrap: str


@pytest.fixture
def proxy(minio: MinioService) -> Iterator[S3Proxy]:
    """Give a proxy before the store; the service does not go through it."""
    with S3Proxy(minio.endpoint) as made:
        yield made
        assert made.errors == []


def world_of(
    kafka: KafkaService, minio: MinioService, proxy: S3Proxy, topics: list[str], prefix: str
) -> tuple[World, Service]:
    """Make it; the service is to be entered."""
    lake = store_lake(minio, prefix)
    create_topics(kafka, topics)
    environ = settings(kafka.bootstrap, lake, topics, MEMORY_LIMIT_MB=512)
    sent = mixed(80)
    for topic in topics:
        send(kafka.bootstrap, topic, sent)
    world = World(lake, Tool(environ), Tool({**environ, "AWS_ENDPOINT_URL": proxy.endpoint}),
                  topics, sent, kafka.bootstrap)
    return world, Service(environ, len(topics), module=STRICT)


def wait_landed(world: World, service: Service) -> None:
    """Wait until every topic's messages are in the tables."""
    for topic in world.topics:
        wait_for_position(service, world.lake, topic, len(world.sent))


@pytest.mark.slow
def test_a_replay_killed_at_any_step_is_brought_to_its_end_by_the_next_one(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> None:
    """Before and after each thing it puts into the store, beside the running service."""
    cases = [(step, effect) for step in STEPS for effect in ("before", "after")]
    world, made = world_of(kafka, minio, proxy, topic_names(len(cases)), lake_prefix)
    with made as service:
        service.wait_healthy(START_S)
        wait_landed(world, service)
        for topic, (step, effect) in zip(world.topics, cases, strict=True):
            strike(world, proxy, topic, step, effect)
            decided = cases.index((step, effect)) > cases.index(("plan", "before"))
            seen = world.tool.run("verify", topic)
            assert seen["code"] == 0, (step, effect, seen)
            done = world.tool.run("dlq", "replay", topic, "--all")
            unfinished = decided and (step, effect) != ("rows commit", "after")
            assert done["code"] == 0 and done["finished"] == [1] * unfinished, (step, effect, done)
            assert done["replays"] == ([] if decided else [{"replay": 1, "letters": 10}])
            judge(world.lake, topic, world.sent)
        assert_verified(world.tool, world.topics[-1], 10)
        page = service.health()
        assert page["http_status"] == 200
        assert {entry["restarts"] for entry in page["topics"].values()} == {0}
        assert service.terminate() == 0


def strike(world: World, proxy: S3Proxy, topic: str, step: str, effect: str) -> None:
    """Run a replay, and kill it at a step."""
    process: list[subprocess.Popen[str]] = []
    begun = threading.Event()

    def kill(_: Request) -> None:
        begun.wait(TOOL_S)
        process[0].kill()
        process[0].wait(TOOL_S)

    is_before = effect == "before"
    rule = proxy.rule(
        method="PUT", path_regex=STEPS[step], times=1, action=RESET_BEFORE if is_before else PASS,
        on_match=kill if is_before else None, on_effect=None if is_before else kill)
    process.append(world.proxied.start("dlq", "replay", topic, "--all"))
    begun.set()
    assert process[0].wait(TOOL_S) == -signal.SIGKILL, process[0].communicate()
    process[0].communicate()
    assert rule.fired == 1


@pytest.mark.parametrize("action", [RESET_AFTER, RESET_BEFORE], ids=["answer lost", "request lost"])
def test_a_lost_answer_at_any_step_neither_loses_nor_doubles(
    action: Action, kafka: KafkaService, minio: MinioService, topic_names: TopicNames,
    lake_prefix: str, proxy: S3Proxy,
) -> None:
    """An error is a question: the store is read back, and an untold outcome ends the run."""
    world, made = world_of(kafka, minio, proxy, topic_names(len(STEPS)), lake_prefix)
    with made as service:
        service.wait_healthy(START_S)
        wait_landed(world, service)
        for topic, path in zip(world.topics, STEPS.values(), strict=True):
            rule = proxy.rule(method="PUT", path_regex=path, times=1, action=action)
            world.proxied.run("dlq", "replay", topic, "--all")
            assert rule.fired == 1
            world.tool.replay_all(topic)
            judge(world.lake, topic, world.sent)
        assert service.terminate() == 0


def test_several_replays_at_once_make_each_dead_letter_a_row_once(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> None:
    """One that finds its number taken looks again; so does one whose plan another has finished.

    Both happen on purpose: the second replay runs to its end inside the first one's request.
    """
    world, made = world_of(kafka, minio, proxy, topic_names(len(STEPS) + 1), lake_prefix)
    with made as service:
        service.wait_healthy(START_S)
        wait_landed(world, service)
        for topic, path in zip(world.topics, STEPS.values(), strict=False):
            inner: list[dict[str, Any]] = []

            def run(_: Request, topic: str = topic, inner: list[dict[str, Any]] = inner) -> None:
                inner.append(world.tool.run("dlq", "replay", topic, "--all"))

            rule = proxy.rule(method="PUT", path_regex=path, times=1, on_match=run)
            outer = world.proxied.run("dlq", "replay", topic, "--all")
            assert rule.fired == 1 and len(inner) == 1
            assert (outer["code"], inner[0]["code"]) == (0, 0), (outer, inner)
            made_by = outer["replays"], inner[0]["replays"]
            assert sorted(map(len, made_by)) == [0, 1], (path, made_by)
            judge(world.lake, topic, world.sent)
        last = world.topics[-1]
        runs = [world.tool.start("dlq", "replay", last, "--all", "--json") for _ in range(4)]
        assert [world.tool.end_of(run)["code"] for run in runs] == [0] * 4
        judge(world.lake, last, world.sent)
        assert_verified(world.tool, last, 10)
        assert service.terminate() == 0
    files = [path for path in names(minio, lake_prefix) if "/dlq_replays/_ing" in f"/{path}"]
    assert len(files) == len(world.topics), "a replay that lost its number left its files"


def names(minio: MinioService, prefix: str) -> list[str]:
    """All objects of the lake."""
    from tests.faults.store_scenes import Objects

    return Objects(minio, prefix).names("")


HOSTILE = b'\xff{"\x1b]0;gone\x07": "\x1b[2J", "\xe2\x80\xae": 1}'


def test_hostile_dead_letters_are_shown_safely_mended_and_replayed(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    tmp_path: Path,
) -> None:
    """Terminal sequences in key, value and headers, a forged mark of provenance, a megabyte; and
    from `show --save` to `replay --value-file`, which takes no value that is malformed still."""
    (topic,) = topic_names()
    lake = store_lake(minio, lake_prefix)
    create_topics(kafka, [topic])
    environ = settings(kafka.bootstrap, lake, [topic])
    tool = Tool(environ)
    headers = [("\x1b[31mred", b"\x1b[0m"), (HEADER, b"999"), ("none", None)]
    send_messages(kafka.bootstrap, topic, [
        {"value": HOSTILE, "key": b"\x1b[2Jkey", "headers": headers},
        {"value": b'["' + b"x" * 900_000, "key": None}, {"value": b"", "key": b"k"}])
    with Service(environ, 1) as service:
        service.wait_healthy(START_S)
        wait_for_position(service, lake, topic, 3)
        assert service.terminate() == 0
    for argv in (("list", topic), ("stats",), ("show", topic, "0", "0"), ("show", topic, "0", "1"),
                 ("show", topic, "0", "2"), ("replay", topic, "--all")):
        out, err = tool.start("dlq", *argv).communicate(timeout=TOOL_S)
        assert all(char.isprintable() or char == "\n" for char in out + err), (argv, out[:500])
    saved, mended = tmp_path / "saved", tmp_path / "mended"
    assert tool.run("dlq", "show", topic, "0", "0", "--save", str(saved))["code"] == 0
    assert saved.read_bytes() == HOSTILE
    order = ("dlq", "replay", topic, "--partition", "0", "--offset", "0", "--value-file")
    refused = tool.run(*order, str(saved))
    assert (refused["code"], refused["replays"]) == (1, [])
    mended.write_bytes(HOSTILE.replace(b"\xff", b"").replace(b"\x1b", b"").replace(b"\x07", b""))
    assert tool.run(*order, str(mended))["replays"] == [{"replay": 1, "letters": 1}]
    assert tool.run(*order, str(mended))["replays"] == []
    for name in ("deltalake", "duckdb"):
        found = held(name, lake, topic)
        assert found.values == {(0, 0): mended.read_text()}
        assert found.marks == {(0, 0): 1}
    (row,) = _rows(reader_named("duckdb", lake.options), lake, bronze_table(topic),
                   ["key", "headers"])
    assert row["key"] == b"\x1b[2Jkey"
    assert [(part["key"], part["value"]) for part in row["headers"]] == [*headers, (HEADER, b"1")]
    assert_verified(tool, topic, 1)
