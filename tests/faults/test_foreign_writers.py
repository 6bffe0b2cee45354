"""Others write to our tables or damage them while the service runs.

Who may do what they do (add a column, compact, commit beside us) must not disturb. Who damages a
table costs that topic alone, under a name a person can act on, and nothing of it is lost: once the
damage is undone, everything lands.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from deltalake import DeltaTable, Field
from deltalake.exceptions import DeltaError
from deltalake.schema import PrimitiveType

from tests.conftest import TopicNames
from tests.faults.store_scenes import (
    FIRE_S, LANDING_S, MESSAGES, RECORD, UPLOAD, Objects, commit_beside, finish, judge,
    log_folder, open_bronze, settle, wait_recovered,
)
from tests.rig.checker import check, check_log
from tests.rig.evidence import Evidence, Strike
from tests.rig.lake import bronze_table
from tests.rig.s3_proxy import S3Proxy
from tests.rig.scene import START_S, Scene, kill, metric
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 3
PARTITIONS = 2
LOAD_PER_S = 1_500
CO_WRITERS = 4
CO_WRITES_MIN = 60
CONFLICTS_MIN = 5
COMPACTIONS_MIN = 4
COMMITS_WITHOUT_CHECKPOINT = 1_500
OPEN_S = 20
"""From start to healthy with one table of so many commits; about four seconds without it."""
QUICK_ISOLATION = {"ISOLATE_AFTER": "2"}
STOP_S = 30


@pytest.fixture
def scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> Scene:
    """Give a small scene whose service reaches the store through the proxy."""
    return Scene(
        kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
        store_endpoint=proxy.endpoint, settings=QUICK_ISOLATION)


@pytest.fixture
def objects(minio: MinioService, lake_prefix: str) -> Objects:
    """Give somebody else's hands in the scene's lake."""
    return Objects(minio, lake_prefix)


class Foreign(threading.Thread):
    """Repeats what another writer does until it is stopped; counts, and keeps what it lost by."""

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.done = self.refused = 0
        self.error: BaseException | None = None
        self._action = action
        self._stopped = threading.Event()

    def run(self) -> None:
        """Count each success, and each commit that lost against another writer."""
        try:
            while not self._stopped.is_set():
                try:
                    self._action()
                    self.done += 1
                except DeltaError:
                    self.refused += 1
        except BaseException as error:
            self.error = error
            raise

    def stop(self) -> None:
        """Return once it has ended."""
        self._stopped.set()
        self.join(STOP_S)
        assert not self.is_alive() and self.error is None, self.error


@contextmanager
def at_work(*writers: Foreign) -> Iterator[None]:
    """Have other writers at work in the block."""
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        for writer in writers:
            writer.stop()


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S17")
def test_everything_lands_once_beside_busy_writers_of_the_same_table(
    scene: Scene, evidence: Evidence
) -> None:
    """A commit that lost is looked at and repeated; the others of the cycle are not held up."""
    victim = scene.topics[0]
    with scene.service(ISOLATE_AFTER="0") as service, scene.producer() as producer:
        settle(scene, service, producer)
        writers = [
            Foreign(lambda name=f"writer-{number}": commit_beside(scene, victim, name))
            for number in range(CO_WRITERS)]
        producer.start_background(LOAD_PER_S)
        with at_work(*writers):
            wait_until(
                lambda: sum(writer.done for writer in writers) >= CO_WRITES_MIN
                and conflicts(service, victim) >= CONFLICTS_MIN, LANDING_S,
                lambda: f"conflicts, are {conflicts(service, victim)}")
            producer.stop_background()
            since_s = time.monotonic()
            wait_recovered(scene, service, evidence, "busy co-writers", since_s)
        evidence.struck(
            Strike.TABLE, "commit of another writer", sum(writer.done for writer in writers))
        evidence.struck(
            Strike.TABLE, "our commit lost to another", int(conflicts(service, victim)))
        finish(scene, service, producer, evidence)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S9")
def test_everything_lands_once_while_another_writer_compacts(
    scene: Scene, evidence: Evidence
) -> None:
    """Rewriting files changes no data, so neither rows nor positions may move by it."""
    victim = scene.topics[0]
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        compactor = Foreign(lambda: compact(scene, victim))
        producer.start_background(LOAD_PER_S)
        with at_work(compactor):
            wait_until(lambda: removed_files(scene, victim) >= COMPACTIONS_MIN, LANDING_S,
                       lambda: f"compacted, done {compactor.done} refused {compactor.refused}")
            producer.stop_background()
            since_s = time.monotonic()
            wait_recovered(scene, service, evidence, "compaction", since_s)
        evidence.struck(Strike.TABLE, "file compacted away", removed_files(scene, victim))
        finish(scene, service, producer, evidence)


def compact(scene: Scene, topic: str) -> None:
    """Rewrite the table's small files into one."""
    open_bronze(scene, topic).optimize.compact()


def removed_files(scene: Scene, topic: str) -> int:
    """Files that compaction has taken out of the table so far."""
    history = open_bronze(scene, topic).history()
    metrics = [entry.get("operationMetrics") or {} for entry in history]
    return sum(int(metric.get("numFilesRemoved", 0)) for metric in metrics)


@pytest.mark.fault("S8")
def test_everything_lands_once_when_another_writer_adds_a_column(
    scene: Scene, objects: Objects, evidence: Evidence
) -> None:
    """Our rows have null there; the commit under way loses once and is repeated."""
    victim = scene.topics[0]
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        producer.start_background(LOAD_PER_S)
        table = open_bronze(scene, victim)
        before = schema_action(objects, victim)
        table.alter.add_columns([Field("added", PrimitiveType("string"), nullable=True)])
        since_s = time.monotonic()
        producer.stop_background()
        wait_recovered(scene, service, evidence, "column added", since_s)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        assert conflicts(service, victim) >= 1
        found = open_bronze(scene, victim).to_pyarrow_table(columns=["added"])
        assert found.num_rows > 0 and found.column("added").null_count == found.num_rows
        assert service.terminate() == 0
    evidence.struck(Strike.TABLE, "column added by another writer")
    # The judge knows no columns but ours, so the change is undone by the same means.
    append_commit(objects, victim, before)
    judge(scene, evidence)


@pytest.mark.extended
@pytest.mark.fault("S11")
def test_everything_lands_once_when_another_writer_turns_deletion_vectors_on(
    scene: Scene, objects: Objects, evidence: Evidence
) -> None:
    """A newer protocol is no obstacle where the client library knows its features."""
    victim = scene.topics[0]
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        append_commit(objects, victim, {"protocol": {
            "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
            "writerFeatures": ["deletionVectors", "appendOnly", "invariants"]}})
        since_s = time.monotonic()
        producer.produce(MESSAGES)
        wait_recovered(scene, service, evidence, "protocol upgraded", since_s)
        assert conflicts(service, victim) >= 1
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        assert service.terminate() == 0
    evidence.struck(Strike.TABLE, "protocol upgraded by another writer")
    # deltalake writes such tables, and reads them only through an engine of its own.
    report = check(scene.ledger, scene.lake_uri, scene.options, scene.topics, ["duckdb"])
    report.merge(check_log(scene.lake_uri, scene.options, scene.topics, ledger=scene.ledger))
    # That the protocol is another is what was done to the table; nothing else may be wrong.
    assert report.counts == {"wrong_protocol": 1}, str(report)
    assert report.anomalies[0].where == bronze_table(victim)
    assert report.checked["rows by duckdb"] == scene.ledger.rows()
    evidence.judged(scene.ledger.rows(), len(scene.record_numbers()))


# Damage, which costs the topic and nobody else


@dataclass(frozen=True, slots=True)
class Damage:
    """What somebody does to a table's log, and what the topic must say and do then.

    undo: given the log as it was before.
    state: of the topic afterwards; a stopped one needs a restart, an isolated one comes back.
    name, text: of its last error.
    reopens: whether the topic's worker has to be killed, so that the table is opened anew.
    """

    do: Callable[[Objects, str], None]
    state: str
    name: str
    text: str
    reopens: bool = False


def append_commit(objects: Objects, topic: str, *actions: dict) -> None:
    """Write the next version of a table's log by hand, as another engine would."""
    write_next(objects, topic, "".join(json.dumps(action) + "\n" for action in actions).encode())


def write_next(objects: Objects, topic: str, data: bytes) -> None:
    """Put any bytes where the next version of the table's log belongs."""
    folder = log_folder(topic)
    versions = [int(name[-25:-5]) for name in objects.names(folder) if commit_name(name)]
    objects.put(f"{folder}/{max(versions) + 1:020d}.json", data)


def commit_name(name: str) -> bool:
    """Whether an object of a log is a version's JSON."""
    return name.endswith(".json") and name[-25:-5].isdigit()


def schema_action(objects: Objects, topic: str) -> dict:
    """The metadata that the table was made with."""
    first = objects.get(f"{log_folder(topic)}/{0:020d}.json")
    return next(action for action in map(json.loads, first.splitlines()) if "metaData" in action)


def poison_hint(objects: Objects, topic: str) -> None:
    """Have `_last_checkpoint` name a checkpoint that is not there."""
    objects.put(f"{log_folder(topic)}/_last_checkpoint", b'{"version":99999,"size":7}')


def remove_log(objects: Objects, topic: str) -> None:
    """Delete all of the table's log, its newest version first."""
    objects.delete(reversed(objects.names(log_folder(topic))))


def roll_back(objects: Objects, topic: str) -> None:
    """Delete the newest version, which holds the topic's last rows and positions."""
    objects.delete([max(filter(commit_name, objects.names(log_folder(topic))))])


def change_type(objects: Objects, topic: str) -> None:
    """Have the column `value` hold numbers from now on."""
    action = schema_action(objects, topic)
    schema = json.loads(action["metaData"]["schemaString"])
    for field in schema["fields"]:
        if field["name"] == "value":
            field["type"] = "integer"
    action["metaData"]["schemaString"] = json.dumps(schema)
    append_commit(objects, topic, action)


def demand_unknown_feature(objects: Objects, topic: str) -> None:
    """Have the table demand of its writers what no client library of ours knows."""
    append_commit(objects, topic, {"protocol": {
        "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["someFutureFeature"]}})


DAMAGES = {
    "hint to an absent checkpoint": Damage(
        poison_hint, "isolated", "TableUnavailable", "_last_checkpoint", reopens=True),
    "torn commit": Damage(
        lambda objects, topic: write_next(objects, topic, b'{"commitInfo":{"time'),
        "isolated", "TableUnavailable", "cannot be read"),
    "unknown writer feature": Damage(
        demand_unknown_feature, "isolated", "TableUnavailable", "someFutureFeature"),
    "log removed": Damage(remove_log, "stopped", "TableVanished", "no table"),
    "newest version removed": Damage(roll_back, "stopped", "TornRecord", "positions are"),
    "type of a column changed": Damage(
        change_type, "stopped", "TableMismatch", "value is"),
}

ROWS_OF_DAMAGES = {
    "hint to an absent checkpoint": "S12", "torn commit": "S13", "unknown writer feature": "S11",
    "log removed": "S14", "newest version removed": "S14", "type of a column changed": "S8",
}


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """The marks of one damage."""
    return [pytest.mark.fault(ROWS_OF_DAMAGES[name]), pytest.mark.extended]


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in DAMAGES])
def test_damaged_table_costs_its_topic_alone_and_everything_lands_once_it_is_mended(
    name: str, scene: Scene, objects: Objects, evidence: Evidence
) -> None:
    """Never made anew, never read past: the topic waits or stops under the name of its trouble."""
    damage = DAMAGES[name]
    victim, *others = scene.topics
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        kept = objects.copy(log_folder(victim))
        damage.do(objects, victim)
        damaged = objects.names(log_folder(victim))
        if damage.reopens:
            kill(service.worker_pids()[victim])
        producer.produce(MESSAGES)
        wait_named(service, victim, damage)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S, others)
        for topic in others:
            assert service.topics()[topic]["state"] == "active"
        assert objects.names(log_folder(victim)) == damaged, "the damaged log was written to"
        since_s = mend(objects, victim, kept)
        if damage.state == "stopped":
            assert service.terminate() == 0
            since_s = time.monotonic()
            service.start()
        wait_recovered(scene, service, evidence, f"{name} is mended", since_s)
        evidence.struck(Strike.TABLE, name)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(LANDING_S)
        assert service.terminate() == 0
    judge(scene, evidence)


def wait_named(service: Service, topic: str, damage: Damage) -> None:
    """Wait until the topic is out of the quorum, under the right name, with advice, at 503."""

    def is_named(page: dict) -> bool:
        entry = page["topics"][topic]
        error = entry["last_error"] or {}
        return (entry["state"] == damage.state and error.get("name") == damage.name
                and damage.text in error["message"] and bool(error["what_to_do"])
                and page["http_status"] == 503)

    service.wait_for(is_named, LANDING_S, f"{topic} is {damage.state} by {damage.name}")


def mend(objects: Objects, topic: str, kept: dict[str, bytes]) -> float:
    """Make the log what it was before the damage; the moment at which it is."""
    objects.delete(name for name in objects.names(log_folder(topic)) if name not in kept)
    for name, data in sorted(kept.items()):
        objects.put(name, data)
    return time.monotonic()


@pytest.mark.extended
@pytest.mark.parametrize("how", [
    pytest.param("garbage in the hint", marks=pytest.mark.fault("S12")),
    pytest.param("empty commit", marks=pytest.mark.fault("S13")),
    pytest.param("log cleaned up", marks=pytest.mark.fault("S14"))])
def test_harmless_damage_disturbs_nobody(
    how: str, scene: Scene, objects: Objects, evidence: Evidence
) -> None:
    """A hint is a hint, a version without content is none, and a checkpoint replaces the log."""
    victim = scene.topics[0]
    kept: dict[str, bytes] = {}
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        if how == "empty commit":
            write_next(objects, victim, b"")
        elif how == "log cleaned up":
            kept = clean_up(scene, objects, victim)
        else:
            objects.put(f"{log_folder(victim)}/_last_checkpoint", b"{not JSON")
        since_s = time.monotonic()
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        assert service.terminate() == 0
        service.start()
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        wait_recovered(scene, service, evidence, how, since_s)
        evidence.struck(Strike.TABLE, how)
        # The judge reads every version's JSON, also what a checkpoint made needless.
        objects.restore(kept)
        finish(scene, service, producer, evidence)


def clean_up(scene: Scene, objects: Objects, topic: str) -> dict[str, bytes]:
    """Checkpoint the log and delete the versions below, as engines do; what was deleted."""
    table = open_bronze(scene, topic)
    table.create_checkpoint()
    newest = f"{log_folder(topic)}/{table.version():020d}.json"
    old = [name for name in objects.names(log_folder(topic))
           if commit_name(name) and name < newest]
    kept = {name: objects.get(name) for name in old}
    assert kept
    objects.delete(old)
    return kept


VACUUM_POINTS = {"uploaded, undecided": UPLOAD, "decided, uncommitted": RECORD}


@pytest.mark.extended
@pytest.mark.fault("S10")
@pytest.mark.parametrize("point", VACUUM_POINTS)
def test_file_vacuumed_before_its_commit_stops_its_topic_and_lands_once_it_is_restored(
    point: str, scene: Scene, proxy: S3Proxy, objects: Objects, evidence: Evidence
) -> None:
    """A table must never name a file that is not there, whatever a vacuum without retention did."""
    victim, *others = scene.topics
    kept: dict[str, bytes] = {}
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        before = scene.positions(victim)

        def vacuum(_: object) -> None:
            kept.update(objects.copy(bronze_table(victim)))
            empty(open_bronze(scene, victim))

        path = UPLOAD.replace("(dlq_)?bronze_[^/]+", bronze_table(victim))
        path = path if point == "uploaded, undecided" else RECORD
        rule = proxy.rule(method="PUT", path_regex=path, times=1, on_effect=vacuum)
        producer.produce(MESSAGES)
        wait_until(lambda: rule.fired, FIRE_S, "it fired")
        wait_named(service, victim, Damage(
            lambda objects, topic: None, "stopped", "MissingFile", bronze_table(victim)))
        assert scene.positions(victim) == before
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S, others)
        assert service.terminate() == 0
        gone = objects.restore(kept)
        assert gone, "the vacuum took nothing"
        since_s = time.monotonic()
        service.start()
        wait_recovered(scene, service, evidence, f"vacuum, {point}", since_s)
        evidence.struck(Strike.TABLE, "file vacuumed before its commit", len(gone))
        finish(scene, service, producer, evidence)


def empty(table: DeltaTable) -> list[str]:
    """Vacuum without any retention, unknown files included: what nobody should do."""
    return table.vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S15")
def test_table_of_many_commits_without_checkpoint_opens_in_bounded_time(
    scene: Scene, minio: MinioService, objects: Objects, evidence: Evidence
) -> None:
    """What others left undone may cost seconds at a start, but no worker and no topic."""
    victim = scene.topics[0]
    # Every version is one request, many at once: past the proxy, which would be what is measured.
    direct = {"AWS_ENDPOINT_URL": minio.endpoint}
    with scene.service(**direct) as service, scene.producer() as producer:
        settle(scene, service, producer)
        assert service.terminate() == 0
        first = open_bronze(scene, victim).version() + 1
        for version in range(first, first + COMMITS_WITHOUT_CHECKPOINT):
            action = {"txn": {"appId": "somebody/else", "version": version}}
            objects.put(f"{log_folder(victim)}/{version:020d}.json", json.dumps(action).encode())
        assert all(map(commit_name, objects.names(log_folder(victim)))), "there is a checkpoint"
        since_s = time.monotonic()
        service.start()
        service.wait_healthy(START_S)
        opened_s = time.monotonic() - since_s
        assert opened_s < OPEN_S
        evidence.recovered("start with a log without checkpoint", opened_s)
        evidence.struck(
            Strike.TABLE, "commit without checkpoint", COMMITS_WITHOUT_CHECKPOINT)
        finish(scene, service, producer, evidence)


def conflicts(service: Service, topic: str) -> float:
    """Commits of the topic that lost against another writer."""
    return metric(service, "bronze_commit_conflicts_total", topic=topic)
