"""The consumer group under attack: at the moments of its protocol, by outsiders, by slowness.

Kafka's offsets and memberships are conveniences: the table decides where reading goes on. So
whatever happens to them, the group's offsets are never ahead, and nothing is lost or doubled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from tests.conftest import TopicNames
from tests.rig.checker import group_offsets_not_ahead
from tests.rig.evidence import Evidence, Strike
from tests.rig.folder_store import FolderStore
from tests.rig.kafka_proxy import (
    DROP,
    LOSE_ANSWER,
    RESET_AFTER,
    Action,
    Api,
    KafkaProxy,
    Rule,
    refuse_offsets,
)
from tests.rig.s3_proxy import S3Proxy
from tests.rig.s3_proxy import delay as delay_request
from tests.rig.scene import ORPHANS_END_S, START_S, Scene, kill
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 2
PARTITIONS = 4
MESSAGES = 400
BACKGROUND_PER_S = 400
FIRE_S = 20
LANDING_S = 40
TOPIC_AUTHORIZATION_FAILED = 29


@pytest.fixture
def scene(kafka: KafkaService, topic_names: TopicNames, lake_prefix_of_folder: str,
          tmp_path: Path) -> Scene:
    """Give a scene in a local folder."""
    return Scene(
        kafka, FolderStore(tmp_path), topic_names(TOPICS, "t"), lake_prefix_of_folder,
        partitions=PARTITIONS)


@pytest.fixture
def lake_prefix_of_folder(request: pytest.FixtureRequest, topic_names: TopicNames) -> str:
    """Give a prefix of the test's own, without asking for a MinIO."""
    return topic_names(1, "lake")[0]


@pytest.fixture
def proxy(kafka: KafkaService) -> Iterator[KafkaProxy]:
    """Give a proxy where the broker sends the clients of its proxied listener."""
    if not kafka.is_managed:
        pytest.skip("a given Kafka has no listener for a proxy")
    with KafkaProxy(kafka.proxy_upstream, port_of(kafka.proxied_bootstrap)) as made:
        yield made
        assert made.errors == []


def port_of(address: str | None) -> int:
    """The port of ``host:port``."""
    return int(str(address).rpartition(":")[2])


# At the moments of the protocol


@dataclass(frozen=True, slots=True)
class Moment:
    """What the proxy does with a request, and whether the worker is killed then, and when."""

    action: Callable[[str], Action]
    kills: str = ""
    told: bool = True
    """Whether the broker has taken the offsets when it strikes."""


MOMENTS = {
    "killed before it was sent": Moment(lambda _: DROP, "before", told=False),
    "killed before its answer": Moment(lambda _: LOSE_ANSWER, "after"),
    "refused": Moment(lambda topic: refuse_offsets(TOPIC_AUTHORIZATION_FAILED, topic)),
    "cut off before its answer": Moment(lambda _: RESET_AFTER),
}


@pytest.mark.fault("P3", "P4", "K10")
@pytest.mark.slow
def test_death_and_refusal_around_an_offset_commit_lose_and_double_nothing(
    scene: Scene, kafka: KafkaService, proxy: KafkaProxy, evidence: Evidence
) -> None:
    """The table has the rows already; the group follows, however often it could not be told."""
    victim = scene.topics[0]
    settings = {"KAFKA_BOOTSTRAP_SERVERS": str(kafka.proxied_bootstrap)}
    with scene.service(**settings) as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        wait_told(scene, kafka)
        for name, moment in MOMENTS.items():
            before = kafka.committed_offsets(scene.group, victim)
            seen: list[bool] = []
            rule = arm(scene, service, proxy, moment, victim, lambda: seen.append(
                KafkaService(kafka.bootstrap).committed_offsets(scene.group, victim) == before))
            again = proxy.rule(Api.OFFSET_COMMIT, client=f"^bronze-{victim}$")
            producer.produce(MESSAGES)
            wait_until(lambda: rule.fired and seen, FIRE_S, f"it fired: {name}")
            struck = time.monotonic()
            assert seen == [not moment.told], name
            scene.wait_landed(service, LANDING_S)
            service.wait_healthy(LANDING_S)
            wait_told(scene, kafka)
            evidence.recovered(f"an offset commit {name}", time.monotonic() - struck)
            # The worker does not know that it was heard: its repetition must not be met next.
            wait_until(lambda again=again: again.answered, FIRE_S, f"it is told again: {name}")
            evidence.struck(Strike.KILL if moment.kills else Strike.KAFKA,
                            f"an offset commit {name}", rule.fired)
            proxy.clear()
        assert service.log_events("kafka_offsets_not_committed")
        assert service.topics()[scene.topics[1]]["restarts"] == 0
        assert service.topics()[victim]["restarts"] == 2
        assert service.terminate() == 0
    judge(scene, evidence)


def arm(
    scene: Scene, service: Service, proxy: KafkaProxy, moment: Moment, victim: str,
    look: Callable[[], None],
) -> Rule:
    """Make the rule that strikes at the victim's next OffsetCommit."""
    pid = service.worker_pids()[victim]

    def strike(_: object) -> None:
        assert_not_ahead(scene)
        if moment.kills:
            kill(pid)
        look()

    before = moment.kills == "before"
    return proxy.rule(
        Api.OFFSET_COMMIT, client=f"^bronze-{victim}$", action=moment.action(victim), times=1,
        on_match=strike if before else None, on_effect=None if before else strike)


def wait_told(scene: Scene, kafka: KafkaService) -> None:
    """Wait until the group's offsets are the tables' positions."""
    for topic in scene.topics:
        wait_until(
            lambda topic=topic: kafka.committed_offsets(scene.group, topic)
            == scene.positions(topic), LANDING_S, f"the group is told about {topic}")


def assert_not_ahead(scene: Scene) -> None:
    """At this very moment the group is nowhere ahead of the table."""
    bootstrap = scene.environ["KAFKA_BOOTSTRAP_SERVERS"]
    group_offsets_not_ahead(
        bootstrap, scene.group, scene.lake_uri, scene.options, scene.topics).assert_ok()


def judge(scene: Scene, evidence: Evidence) -> None:
    """The final word, kept as evidence."""
    report = scene.judge()
    evidence.judged(scene.ledger.rows(), report.checked["records"])




@pytest.mark.extended
@pytest.mark.fault("P1", "K10")
@pytest.mark.parametrize("when", ["before", "after"])
def test_worker_killed_at_each_step_of_joining_and_reading_is_replaced(
    when: str, scene: Scene, kafka: KafkaService, proxy: KafkaProxy, evidence: Evidence
) -> None:
    """A member that dies half joined must not leave its partitions with nobody."""
    victim, other = scene.topics
    settings = {"KAFKA_BOOTSTRAP_SERVERS": str(kafka.proxied_bootstrap)}
    with scene.service(**settings) as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        for api in (Api.JOIN_GROUP, Api.SYNC_GROUP, Api.FETCH, Api.HEARTBEAT):
            struck: list[int] = []

            def strike(_: object, struck: list[int] = struck) -> None:
                pids = service.worker_pids()
                kill(pids[victim])
                struck.append(pids[victim])

            rule = proxy.rule(
                api, client=f"^bronze-{victim}$", times=1,
                action=DROP if when == "before" else LOSE_ANSWER,
                on_match=strike if when == "before" else None,
                on_effect=strike if when == "after" else None)
            if api in (Api.JOIN_GROUP, Api.SYNC_GROUP):
                kill(service.worker_pids()[victim])
            producer.produce(MESSAGES)
            wait_until(lambda: struck, FIRE_S, lambda api=api: f"it fired at {api.name}")
            began = time.monotonic()
            scene.wait_landed(service, LANDING_S)
            service.wait_healthy(LANDING_S)
            what = f"a worker killed {when} {api.name}"
            evidence.recovered(what, time.monotonic() - began)
            evidence.struck(Strike.KILL, what, rule.fired)
        assert service.topics()[other]["restarts"] == 0
        assert service.terminate() == 0
    judge(scene, evidence)


# Members that come and go

ROUNDS = 4
JOINED_S = 20
STAY_S = 1.0


def outsider(kafka: KafkaService, scene: Scene, **settings: str | int) -> Consumer:
    """Another program's member of the group, with the service's way to share partitions."""
    made = Consumer({
        "bootstrap.servers": kafka.bootstrap, "group.id": scene.group,
        "partition.assignment.strategy": "cooperative-sticky", "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "log_level": 0, **settings})
    made.subscribe(scene.topics)
    return made


def poll_for(consumer: Consumer, seconds: float) -> None:
    """Be a member for so long: here the time is the point."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        consumer.poll(0.1)


@pytest.mark.extended
@pytest.mark.fault("K10")
@pytest.mark.slow
def test_member_that_joins_and_leaves_during_flushes_costs_nothing(
    scene: Scene, kafka: KafkaService, evidence: Evidence
) -> None:
    """With three cycles a second every rebalance meets one; open ranges are read again."""
    with (scene.service(BATCH_INTERVAL_SECONDS="0.3") as service, scene.producer() as producer):
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        producer.start_background(BACKGROUND_PER_S)
        for number in range(1, ROUNDS + 1):
            guest = outsider(kafka, scene)
            try:
                def has_joined(guest: Consumer = guest) -> bool:
                    guest.poll(0.1)
                    return {part.topic for part in guest.assignment()} == set(scene.topics)

                wait_until(has_joined, JOINED_S, "it has partitions of each topic")
                poll_for(guest, STAY_S)
            finally:
                guest.close()
            wait_until(lambda: partitions_of(service) == {PARTITIONS}, JOINED_S, "all are back")
            revoked = service.log_events("partitions_revoked")
            assert len({line["topic"] for line in revoked}) == TOPICS
            assert len(revoked) >= number * TOPICS
            assert_not_ahead(scene)
        left = time.monotonic()
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        evidence.recovered("a member that left", time.monotonic() - left)
        service.wait_healthy(LANDING_S)
        assert {entry["restarts"] for entry in service.topics().values()} == {0}
        assert service.terminate() == 0
    judge(scene, evidence)
    evidence.struck(Strike.KAFKA, "a rebalance by a member that joined or left", 2 * ROUNDS)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K10", "P10")
def test_second_instance_that_starts_and_ends_again_and_again_costs_nothing(
    scene: Scene, evidence: Evidence
) -> None:
    """It writes to the same tables while it lives, and dies or stops in any phase."""
    settings = {"KAFKA_PROPERTY_SESSION_TIMEOUT_MS": "6000", "BATCH_INTERVAL_SECONDS": "0.5"}
    with scene.service(INSTANCE_ID="one", **settings) as one, scene.producer() as producer:
        one.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        for how in ("stopped", "killed", "stopped"):
            with scene.service(INSTANCE_ID="two", **settings) as two:
                wait_until(
                    lambda two=two: partitions_of(one) == partitions_of(two)
                    == {PARTITIONS // 2}, START_S, "each has half of the partitions")
                if how == "killed":
                    two.kill_supervisor()
                    two.wait_gone(ORPHANS_END_S)
                else:
                    assert two.terminate() == 0
                left = time.monotonic()
            wait_until(lambda: partitions_of(one) == {PARTITIONS}, START_S, "one has them all")
            evidence.recovered(f"an instance {how}", time.monotonic() - left)
            evidence.struck(Strike.KILL if how == "killed" else Strike.KAFKA,
                            f"an instance {how}")
        producer.stop_background()
        scene.wait_landed(one, LANDING_S)
        one.wait_healthy(LANDING_S)
        assert one.terminate() == 0
    judge(scene, evidence)


def partitions_of(service: Service) -> set[int]:
    """How many partitions each of its topics has."""
    return {entry["partitions"] for entry in service.topics().values()}


# Members that are too slow

SHORT_POLL = {
    "KAFKA_PROPERTY_SESSION_TIMEOUT_MS": "3000", "KAFKA_PROPERTY_MAX_POLL_INTERVAL_MS": "4000"}
FROZEN_S = 7.0


def pause(seconds: float) -> None:
    """Let time pass: here the time is the point."""
    time.sleep(seconds)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K11", "P8")
def test_worker_frozen_beyond_its_session_and_poll_interval_reads_on(
    scene: Scene, evidence: Evidence
) -> None:
    """Kafka has given its membership up; what it held open then is dropped and read again."""
    victim = scene.topics[0]
    with scene.service(**SHORT_POLL) as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        producer.start_background(BACKGROUND_PER_S)
        pid = service.worker_pids()[victim]
        os.kill(pid, signal.SIGSTOP)
        try:
            pause(FROZEN_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        woken = time.monotonic()
        wait_until(
            lambda: victim in [line["topic"] for line in service.log_events("partitions_revoked")],
            FIRE_S, "it noticed that it had lost its partitions")
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(LANDING_S)
        evidence.recovered("a worker frozen beyond its session", time.monotonic() - woken)
        assert service.topics()[victim]["restarts"] == 0
        assert service.worker_pids()[victim] == pid
        assert service.terminate() == 0
    judge(scene, evidence)
    evidence.struck(Strike.FREEZE, "a worker frozen beyond its session")


SLOW_UPLOADS = 2
UPLOAD_S = 6.0


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K11", "S3")
def test_upload_slower_than_the_poll_interval_is_dropped_and_read_again(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    evidence: Evidence,
) -> None:
    """The worker waits for the store and does not poll, so Kafka takes its partitions away."""
    with S3Proxy(minio.endpoint) as store:
        scene = Scene(
            kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
            store_endpoint=store.endpoint,
            settings={**SHORT_POLL, "STORE_TIMEOUT_SECONDS": "10", "CYCLE_DEADLINE_SECONDS": "20"})
        victim = scene.topics[0]
        with scene.service() as service, scene.producer() as producer:
            service.wait_healthy(START_S)
            producer.produce(MESSAGES)
            scene.wait_landed(service, LANDING_S)
            rule = store.rule(
                method="PUT", path_regex=rf"/bronze_{victim}/.*\.parquet$",
                action=delay_request(UPLOAD_S), times=SLOW_UPLOADS)
            producer.produce(MESSAGES)
            wait_until(
                lambda: victim in [
                    line["topic"] for line in service.log_events("partitions_revoked")],
                FIRE_S, "it lost its partitions while it uploaded")
            scene.wait_landed(service, 2 * LANDING_S)
            service.wait_healthy(LANDING_S)
            assert {entry["restarts"] for entry in service.topics().values()} == {0}
            assert service.terminate() == 0
        assert store.errors == []
    judge(scene, evidence)
    evidence.struck(Strike.STORE, "an upload slower than the poll interval", rule.fired)


# Members under our name

USURPED_S = 15
RESTARTS_MAX = 8
"""Of one topic in that time; without a limit there would be one a second or more."""


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K12")
def test_outsider_under_our_members_name_is_named_and_causes_no_storm(
    scene: Scene, kafka: KafkaService, evidence: Evidence
) -> None:
    """Kafka lets the last comer have a static member's name; we take it back, at a bounded rate."""
    victim, other = scene.topics
    name = f"bronze-0-{victim}"
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.produce(MESSAGES)
        scene.wait_landed(service, LANDING_S)
        producer.start_background(BACKGROUND_PER_S)
        until, usurpers, named = time.monotonic() + USURPED_S, 0, set()
        while time.monotonic() < until:
            # One that was fenced itself is of no more use.
            usurper = outsider(kafka, scene, **{"group.instance.id": name})
            usurpers += 1
            with contextlib.suppress(Exception):
                poll_for(usurper, 2.0)
            error = service.topics().get(victim, {}).get("last_error") or {}
            named.add(error.get("name"))
            usurper.close()
        ended = time.monotonic()
        producer.stop_background()
        assert {line["error"] for line in service.log_events("worker_error")
                if line["topic"] == victim} >= {"Fenced"}
        assert named & {"Fenced", "WorkerDied"}, named
        restarts = service.topics()[victim]["restarts"]
        assert 1 <= restarts <= RESTARTS_MAX
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(LANDING_S)
        evidence.recovered("an outsider under our member's name", time.monotonic() - ended)
        assert service.topics()[other]["restarts"] == 0
        assert service.terminate() == 0
    judge(scene, evidence)
    evidence.struck(Strike.KAFKA, "an outsider under our member's name", usurpers)
