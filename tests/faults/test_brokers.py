"""Brokers that restart, stay away, answer slowly or not at all, refuse us, or give leaders away.

None of it is a reason to die: the service says what is wrong, waits, and goes on by itself.
"""

from __future__ import annotations

import socket
import struct
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.folder_store import FolderStore
from tests.rig.kafka_proxy import Api, KafkaProxy, Request, alter
from tests.rig.producer import LoadProducer
from tests.rig.scene import START_S, Scene
from tests.rig.service import Service
from tests.rig.tcp_proxy import TcpProxy
from tests.services import KafkaService, ServiceUnavailable
from tests.services.kafka_pair import SECOND, KafkaPair
from tests.waiting import wait_until

TOPICS = 2
PARTITIONS = 2
MESSAGES = 400
BACKGROUND_PER_S = 300
FIRE_S = 30
LANDING_S = 60
INTERVAL_S = 1
RECOVERY_S = INTERVAL_S + 15
"""From healed to a commit: the promise of the runbook."""


def make_scene(
    kafka: KafkaService, tmp_path: Path, topic_names: TopicNames, **settings: str
) -> Scene:
    """A scene in a local folder; the store does not matter here."""
    return Scene(
        kafka, FolderStore(tmp_path), topic_names(TOPICS, "t"), topic_names(1, "lake")[0],
        partitions=PARTITIONS, settings=settings)


def pause(seconds: float) -> None:
    """Let time pass: here the outage's length is what is tested."""
    time.sleep(seconds)


def settle(scene: Scene, service: Service, producer: LoadProducer) -> None:
    """Have a first part land while everything is well."""
    service.wait_healthy(START_S)
    producer.produce(MESSAGES)
    scene.wait_landed(service, LANDING_S)


def recover(scene: Scene, healed: float, numbers: list[int]) -> float:
    """Wait for the first record since `numbers`; seconds since `healed`."""
    wait_until(lambda: scene.record_numbers() != numbers, LANDING_S, "something is committed", 0.1)
    return time.monotonic() - healed


def finish(
    scene: Scene, service: Service, producer: LoadProducer, evidence: Evidence,
    restarts_max: int = 0,
) -> None:
    """Everything lands, hardly anybody was restarted, and the judge finds nothing.

    restarts_max: of a worker; only Kafka's fencing is a reason. A coordinator that is killed may
    have forgotten who joined last, and then fences whoever comes with the newer name.
    """
    producer.stop_background()
    scene.wait_landed(service, LANDING_S)
    service.wait_healthy(LANDING_S)
    restarts = {topic: entry["restarts"] for topic, entry in service.topics().items()}
    fenced = [line["topic"] for line in service.log_events("worker_error")
              if line["error"] == "Fenced"]
    assert restarts == {topic: fenced.count(topic) for topic in restarts}
    assert max(restarts.values()) <= restarts_max, restarts
    assert service.log_strays() == []
    assert service.terminate() == 0
    report = scene.judge()
    evidence.judged(scene.ledger.rows(), report.checked["records"])


def errors_of(page: Mapping[str, Any]) -> set[str]:
    """Names of the topics' last errors."""
    entries = page["topics"].values()
    return {entry["last_error"]["name"] for entry in entries if entry["last_error"]}


def port_of(address: str | None) -> int:
    """The port of ``host:port``."""
    return int(str(address).rpartition(":")[2])


# The broker is away


@pytest.mark.fault("K1")
@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [pytest.param("stopped", marks=pytest.mark.extended), "killed"])
def test_broker_restarted_under_load_costs_nothing(
    how: str, own_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Positions are in the tables: what the client knew of the old broker does not matter."""
    scene = make_scene(own_kafka, tmp_path, topic_names)
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        producer.start_background(BACKGROUND_PER_S)
        pids = service.worker_pids()
        (own_kafka.kill if how == "killed" else own_kafka.stop)()
        numbers = scene.record_numbers()
        own_kafka.start()
        seconds = recover(scene, time.monotonic(), numbers)
        assert seconds <= RECOVERY_S
        # A broker killed in the middle of a join fences the client that asked: it is replaced.
        finish(scene, service, producer, evidence, restarts_max=how == "killed")
        assert len(pids) == TOPICS
    evidence.struck(Strike.KAFKA, f"a broker {how} under load and started again")
    evidence.recovered(f"a broker {how} and started again", seconds)


OUTAGE_S = 40.0
SETTLED_S = 12.0
"""By then the outage has been noticed, and everything about it said for the first time."""
LINES_MAX = 12
"""Of the log in the rest of the outage; two topics, and an error of each may change once."""
GROWTH_MAX = 1.10


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K2")
def test_long_outage_of_the_broker_costs_no_processes_memory_or_log_lines(
    own_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """A night without Kafka must look like its first minute."""
    scene = make_scene(own_kafka, tmp_path, topic_names)
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        own_kafka.kill()
        pause(SETTLED_S)
        page = service.wait_for(lambda page: page["http_status"] == 503, 60, "it is told")
        pids, size, lines = set(service.all_pids()), service.pss_bytes(), count_lines(service)
        pause(OUTAGE_S - SETTLED_S)
        page = service.health()
        assert page["http_status"] == 503
        assert errors_of(page) == {"KafkaUnavailable"}
        assert set(service.all_pids()) == pids
        assert service.pss_bytes() <= size * GROWTH_MAX
        assert count_lines(service) - lines <= LINES_MAX, service.log_tail()
        numbers = scene.record_numbers()
        own_kafka.start()
        healed = time.monotonic()
        producer.start_background(BACKGROUND_PER_S)
        seconds = recover(scene, healed, numbers)
        assert seconds <= RECOVERY_S
        finish(scene, service, producer, evidence)
    evidence.struck(Strike.KAFKA, "a broker away for 40 s")
    evidence.recovered("a broker away for 40 s", seconds)


def count_lines(service: Service) -> int:
    """Lines of the service's log so far."""
    return len(service.log_path.read_text().splitlines())


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K2")
def test_service_that_starts_before_its_broker_begins_when_it_comes(
    own_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """After a power cut everything starts at once, in any order."""
    scene = make_scene(own_kafka, tmp_path, topic_names)
    with scene.producer() as producer:
        producer.produce(MESSAGES)
        own_kafka.stop()
        with scene.service() as service:
            service.wait_for(
                lambda page: errors_of(page) == {"KafkaUnavailable"}
                and page["http_status"] == 503, START_S, "the outage is named")
            assert service.get("/readyz")[0] == 503
            numbers = scene.record_numbers()
            own_kafka.start()
            seconds = recover(scene, time.monotonic(), numbers)
            assert seconds <= RECOVERY_S
            finish(scene, service, producer, evidence)
    evidence.struck(Strike.KAFKA, "a broker away at the start")
    evidence.recovered("a broker away at the start", seconds)


# The network is bad


@contextmanager
def cable(kafka: KafkaService) -> Iterator[TcpProxy]:
    """A proxy where the broker sends the clients of its proxied listener."""
    if not kafka.is_managed:
        pytest.skip("a given Kafka has no listener for a proxy")
    with TcpProxy(str(kafka.proxy_upstream), port_of(kafka.proxied_bootstrap)) as made:
        yield made


BLACK_HOLE_S = 20.0
HALF_OPEN_S = 30
"""A connection whose other side vanished without a word must be given up within this."""


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K3")
def test_black_hole_before_the_broker_is_named_and_heals(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Packets vanish both ways, and nobody is told; afterwards everything is as before."""
    scene = make_scene(kafka, tmp_path, topic_names)
    with (
        cable(kafka) as proxy,
        scene.service(KAFKA_BOOTSTRAP_SERVERS=str(kafka.proxied_bootstrap)) as service,
        scene.producer() as producer,
    ):
        settle(scene, service, producer)
        proxy.black_hole()
        producer.start_background(BACKGROUND_PER_S)
        pause(BLACK_HOLE_S)
        page = service.health()
        assert page["http_status"] == 503
        assert errors_of(page) == {"KafkaUnavailable"}
        numbers = scene.record_numbers()
        proxy.heal()
        seconds = recover(scene, time.monotonic(), numbers)
        assert seconds <= RECOVERY_S
        finish(scene, service, producer, evidence)
    evidence.struck(Strike.KAFKA, "a black hole before the broker")
    evidence.recovered("a black hole before the broker", seconds)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K3")
def test_half_open_connections_are_given_up(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """A firewall forgot them: nothing comes and nothing is refused, while new ones would work."""
    scene = make_scene(kafka, tmp_path, topic_names)
    with (
        cable(kafka) as proxy,
        scene.service(KAFKA_BOOTSTRAP_SERVERS=str(kafka.proxied_bootstrap)) as service,
        scene.producer() as producer,
    ):
        settle(scene, service, producer)
        before = proxy.connections
        assert before
        proxy.strand()
        struck = time.monotonic()
        producer.produce(MESSAGES)
        wait_until(
            lambda: all(scene.is_landed(topic) for topic in scene.topics), 2 * LANDING_S,
            lambda: f"all has landed\n{service.log_tail()}", 0.2)
        seconds = time.monotonic() - struck
        assert proxy.connections > before
        assert seconds <= HALF_OPEN_S
        finish(scene, service, producer, evidence)
    evidence.struck(Strike.KAFKA, "connections left half-open", before)
    evidence.recovered("connections left half-open", seconds)


BAD_LINES = {
    "500 ms of latency": {"latency_s": 0.25},
    "32 kB/s": {"bytes_per_s": 32_000},
    "pieces of 7 bytes": {"piece_bytes": 7},
}


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K5")
def test_slow_and_sliced_connections_cost_time_only(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Each from the middle of a run on, so that joining, reading and committing all meet it."""
    scene = make_scene(kafka, tmp_path, topic_names, CYCLE_DEADLINE_SECONDS="20")
    with (
        cable(kafka) as proxy,
        scene.service(KAFKA_BOOTSTRAP_SERVERS=str(kafka.proxied_bootstrap)) as service,
        scene.producer() as producer,
    ):
        settle(scene, service, producer)
        for what, limits in BAD_LINES.items():
            carried = proxy.bytes_forwarded
            proxy.shape(**limits)
            began = time.monotonic()
            producer.produce(3 * MESSAGES)
            scene.wait_landed(service, LANDING_S)
            seconds = time.monotonic() - began
            evidence.recovered(f"through a line of {what}", seconds)
            evidence.struck(Strike.KAFKA, f"a line of {what}")
            # Half of it through each topic's own connection.
            carried = proxy.bytes_forwarded - carried
            assert carried > 200_000
            if "bytes_per_s" in limits:
                assert seconds >= carried / 2 / limits["bytes_per_s"] * 0.8
            proxy.shape()
        finish(scene, service, producer, evidence)


# Leaders move


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K4", "K1")
def test_leaders_and_coordinator_that_move_to_another_broker_cost_nothing(
    topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Half of the partitions and the group itself lose their broker, and get it back."""
    try:
        pair = KafkaPair(progress=print)
    except ServiceUnavailable as error:
        pytest.skip(f"no pair of brokers: {error}")
    with pair:
        group = next(name for name in topic_names(50, "g") if pair.coordinator(name) == SECOND)
        scene = make_scene(pair, tmp_path, topic_names, KAFKA_GROUP_ID=group)
        scene.group = group
        with scene.service() as service, scene.producer() as producer:
            settle(scene, service, producer)
            producer.start_background(BACKGROUND_PER_S)
            for how, strike in (("stopped", pair.second.stop), ("killed", pair.second.kill)):
                led = [n for t in scene.topics for n in pair.leaders(t).values()]
                assert SECOND in led and pair.coordinator(group) == SECOND
                strike()
                numbers = scene.record_numbers()
                began = time.monotonic()
                wait_until(lambda: SECOND not in {
                    n for t in scene.topics for n in pair.leaders(t).values()}, FIRE_S, "moved")
                seconds = recover(scene, began, numbers)
                evidence.recovered(f"a leader {how}", seconds)
                evidence.struck(Strike.KAFKA, f"a leader and coordinator {how}", led.count(SECOND))
                assert seconds <= RECOVERY_S
                pair.second.start()
                pair.wait_for_brokers(2)
                wait_until(lambda: all(map(pair.in_sync, scene.topics)), FIRE_S, "in sync")
                pair.prefer()
                wait_until(
                    lambda: pair.coordinator(group) == SECOND and all(
                        SECOND in pair.leaders(t).values() for t in scene.topics), FIRE_S,
                    "the leaders have moved back")
            finish(scene, service, producer, evidence, restarts_max=1)


# The broker refuses us

REFUSED_S = 10.0
ERROR_LINES_MAX = 6
"""Log lines about errors of one topic in that time: each new text, and a repeat or two."""


@contextmanager
def bounded_lines(service: Service, topics: list[str]) -> Iterator[None]:
    """Whatever goes wrong in the block: no topic says more than so much about it."""
    before = len(service.log_events("worker_error"))
    yield
    told = service.log_events("worker_error")[before:]
    for topic in topics:
        lines = [line for line in told if line["topic"] == topic]
        assert len(lines) <= ERROR_LINES_MAX, lines


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K13")
def test_password_changed_at_the_broker_while_running_is_named_and_heals(
    own_kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Connections that there are go on; the broker's next restart shows the mistake."""
    user, password = f"user-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    set_password(own_kafka, user, password)
    scene = make_scene(
        own_kafka, tmp_path, topic_names,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT", KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME=user, KAFKA_SASL_PASSWORD=password)
    with (
        scene.service(KAFKA_BOOTSTRAP_SERVERS=str(own_kafka.sasl_bootstrap)) as service,
        scene.producer() as producer,
    ):
        settle(scene, service, producer)
        set_password(own_kafka, user, "another")
        own_kafka.stop()
        own_kafka.start()
        producer.start_background(BACKGROUND_PER_S)
        service.wait_for(
            lambda page: errors_of(page) == {"KafkaAuthenticationFailed"}
            and page["http_status"] == 503, FIRE_S, "the refused log-in is named")
        with bounded_lines(service, scene.topics):
            pause(REFUSED_S)
        numbers = scene.record_numbers()
        set_password(own_kafka, user, password)
        seconds = recover(scene, time.monotonic(), numbers)
        assert seconds <= RECOVERY_S
        finish(scene, service, producer, evidence)
        assert password not in service.log_path.read_text()
    evidence.struck(Strike.KAFKA, "a password changed at the broker")
    evidence.recovered("a password changed at the broker", seconds)


def set_password(kafka: KafkaService, user: str, password: str) -> None:
    """Create the user, or change it."""
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    answers = kafka.admin().alter_user_scram_credentials(
        [UserScramCredentialUpsertion(user, how, password.encode())])
    for future in answers.values():
        future.result(timeout=20)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K13")
@pytest.mark.parametrize("what", ["topic", "group"])
def test_right_taken_away_while_running_is_named_and_heals(
    what: str, kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """Reading one topic, or taking part in the group, is denied and granted again."""
    if not kafka.is_managed:
        pytest.skip("a given broker's rights are its own affair")
    scene = make_scene(
        kafka, tmp_path, topic_names,
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT", KAFKA_SASL_MECHANISM="PLAIN",
        KAFKA_SASL_USERNAME="alice", KAFKA_SASL_PASSWORD=kafka.users["alice"])
    victim = scene.topics[0]
    kind, name = {"topic": (ResourceType.TOPIC, victim),
                  "group": (ResourceType.GROUP, scene.group)}[what]
    denial = AclBinding(
        kind, name, ResourcePatternType.LITERAL, "User:alice", "*", AclOperation.READ,
        AclPermissionType.DENY)
    with (
        scene.service(KAFKA_BOOTSTRAP_SERVERS=str(kafka.sasl_bootstrap)) as service,
        scene.producer() as producer,
    ):
        settle(scene, service, producer)
        producer.start_background(BACKGROUND_PER_S)
        for future in kafka.admin().create_acls([denial]).values():
            future.result(timeout=20)
        try:
            service.wait_for(
                lambda page: page["http_status"] == 503
                and (page["topics"][victim]["last_error"] or {}).get("what_to_do"), FIRE_S,
                "it is named")
            with bounded_lines(service, scene.topics):
                pause(REFUSED_S)
            assert service.health()["http_status"] == 503
        finally:
            lift(kafka.admin(), denial)
        healed = time.monotonic()
        producer.stop_background()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(LANDING_S)
        seconds = time.monotonic() - healed
        finish(scene, service, producer, evidence)
    evidence.struck(Strike.KAFKA, f"the right to read the {what} taken away")
    evidence.recovered(f"the right to read the {what} taken away", seconds)


def lift(admin: AdminClient, denial: AclBinding) -> None:
    """Take a denial back."""
    asked = AclBindingFilter(
        denial.restype, denial.name, denial.resource_pattern_type, denial.principal, denial.host,
        denial.operation, denial.permission_type)
    for future in admin.delete_acls([asked]).values():
        assert future.result(timeout=20)


# The broker slows us down

QUOTA_BYTES_PER_S = 40_000.0
THROTTLED_MESSAGES = 4_000
FLEXIBLE_FETCH = 12
"""From this version on, an answer's header ends with a count of tags, here none."""


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("K20")
def test_client_under_a_quota_is_slower_and_nothing_else(
    kafka: KafkaService, topic_names: TopicNames, tmp_path: Path, evidence: Evidence
) -> None:
    """The broker tells how long it holds each answer back, and does so."""
    if not kafka.is_managed:
        pytest.skip("a given broker's quotas are its own affair")
    scene = make_scene(kafka, tmp_path, topic_names)
    victim = scene.topics[0]
    held_ms: list[int] = []

    def look(request: Request, frame: bytes) -> bytes:
        at = 5 if request.version >= FLEXIBLE_FETCH else 4
        held_ms.append(struct.unpack_from(">i", frame, at)[0])
        return frame

    with (
        KafkaProxy(str(kafka.proxy_upstream), port_of(kafka.proxied_bootstrap)) as proxy,
        scene.service(KAFKA_BOOTSTRAP_SERVERS=str(kafka.proxied_bootstrap)) as service,
        scene.producer() as producer,
    ):
        settle(scene, service, producer)
        rule = proxy.rule(Api.FETCH, client=f"^bronze-{victim}$", action=alter(look))
        set_quota(kafka.bootstrap, f"bronze-{victim}", QUOTA_BYTES_PER_S)
        try:
            began = time.monotonic()
            producer.produce(THROTTLED_MESSAGES)
            scene.wait_landed(service, LANDING_S)
            seconds = time.monotonic() - began
        finally:
            set_quota(kafka.bootstrap, f"bronze-{victim}", None)
        throttled = [held for held in held_ms if held]
        assert rule.fired and throttled and min(held_ms) >= 0
        assert sum(throttled) > 2_000
        assert service.health()["topics"][victim]["last_error"] is None
        assert service.log_events("worker_error") == []
        finish(scene, service, producer, evidence)
        assert proxy.errors == []
    evidence.struck(Strike.KAFKA, "an answer held back by a quota", len(throttled))
    evidence.recovered("4,000 messages under a quota", seconds)


ALTER_CLIENT_QUOTAS = 49


def set_quota(bootstrap: str, client: str, bytes_per_s: float | None) -> None:
    """Limit what a client of this name may read; None takes the limit away.

    In Kafka's own words, because the client library has no call for it: version 0 of the request.
    """
    def text(value: str) -> bytes:
        return struct.pack(">h", len(value)) + value.encode()

    one = struct.pack(">i", 1)
    entity = one + text("client-id") + text(client)
    change = one + text("consumer_byte_rate") + struct.pack(
        ">d?", bytes_per_s or 0.0, bytes_per_s is None)
    body = one + entity + change + b"\x00"
    frame = struct.pack(">hhi", ALTER_CLIENT_QUOTAS, 0, 1) + text("tests") + body
    host, _, port = bootstrap.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(frame)) + frame)
        answer = connection.makefile("rb")
        (length,) = struct.unpack(">i", answer.read(4))
        # Correlation id, throttle time, number of entries, and the first one's error.
        *_, error = struct.unpack_from(">iiih", answer.read(length))
    assert error == 0, f"the broker refused the quota: error {error}"
