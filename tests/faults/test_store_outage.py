"""The object store is away, full, or does not let us in: the service waits, flat, and says why."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shared.exit_codes import ExitCode
from tests.conftest import TopicNames
from tests.faults.store_scenes import FIRE_S, MESSAGES, finish, settle, wait_recovered
from tests.rig.evidence import Evidence, Strike
from tests.rig.s3_proxy import Action, Request, S3Proxy, fail_before, hang
from tests.rig.scene import START_S, Scene
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 3
PARTITIONS = 2
LOAD_PER_S = 1_000
LOOKS_PER_S = 2
GROWTH_BYTES_MAX = 24 << 20
"""Of the whole service, from the outage's first third to its last."""
LINES_PER_S_MAX = 4
"""An aborted cycle is a line, and each cycle aborts; errors are told twice a minute each."""
HANG_S = 30
STOP_S = 2
STOPPED_S = 10
"""After a SIGTERM, with everything; far less than the answer that never comes."""
REFUSED_FOR_S = 8
GIVE_UP_S = 6
SKEW_S = 20 * 60
"""More than the quarter of an hour that S3 lets a signature be off."""


@pytest.fixture
def scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> Scene:
    """Give a small scene whose service reaches the store through the proxy."""
    return Scene(
        kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
        store_endpoint=proxy.endpoint)


@dataclass
class Watch:
    """What a service looks like during an outage, look by look."""

    service: Service
    pids: list[frozenset[int]] = field(default_factory=list)
    pss: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def look(self, seconds: float) -> None:
        """Look at it for a while."""
        ends_s = time.monotonic() + seconds
        while time.monotonic() < ends_s:
            self.pids.append(frozenset(self.service.all_pids()))
            self.pss.append(self.service.pss_bytes())
            self.lines.append(len(self.service.log_events()))
            pause(1 / LOOKS_PER_S)

    def assert_flat(self, seconds: float) -> None:
        """The same processes from beginning to end, no growth, and few lines."""
        assert set(self.pids) == {self.pids[0]}, "processes came or went"
        third = len(self.pss) // 3
        assert third, "there was not enough to look at"
        growth = max(self.pss[-third:]) - max(self.pss[:third])
        assert growth <= GROWTH_BYTES_MAX, f"grew by {growth} bytes: {self.pss}"
        written = self.lines[-1] - self.lines[0]
        assert written <= LINES_PER_S_MAX * seconds, f"{written} lines in {seconds} s"


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S7")
@pytest.mark.parametrize("outage_s", [6, 25])
def test_service_waits_flat_while_the_store_is_dead_and_everything_lands_once_it_is_back(
    outage_s: int, kafka: KafkaService, own_minio: MinioService, topic_names: TopicNames,
    lake_prefix: str, evidence: Evidence,
) -> None:
    """An outage costs time alone: no process, no memory, no flood of lines, no hand."""
    scene = Scene(
        kafka, own_minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS)
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        producer.start_background(LOAD_PER_S)
        own_minio.kill()
        page = service.wait_unhealthy(FIRE_S)
        assert any("StorageUnavailable" in reason for reason in page["reasons"]), page["reasons"]
        watch = Watch(service)
        watch.look(outage_s)
        own_minio.start()
        since_s = time.monotonic()
        watch.assert_flat(outage_s)
        producer.stop_background()
        wait_recovered(scene, service, evidence, "store killed", since_s)
        evidence.struck(Strike.STORE, "store killed")
        evidence.notes["pss_bytes"] = [watch.pss[0], watch.pss[-1]]
        finish(scene, service, producer, evidence)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a store says for a while, to which methods, and what a person must read then."""

    row: str
    action: Action
    methods: tuple[str, ...] = ("PUT", "POST", "GET", "HEAD")
    text: str = ""


REFUSALS = {
    "store is full": Refusal(
        "S7", fail_before(507, "XMinioStorageFull"), ("PUT", "POST"), "XMinioStorageFull"),
    "bucket is missing": Refusal("S4", fail_before(404, "NoSuchBucket"), text="NoSuchBucket"),
    "access is denied": Refusal("S4", fail_before(403, "AccessDenied"), text="AccessDenied"),
    "clocks differ": Refusal(
        "S6", fail_before(403, "RequestTimeTooSkewed"), text="RequestTimeTooSkewed"),
}


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.fault(refusal.row)) for name, refusal in REFUSALS.items()])
def test_refusal_is_told_in_the_stores_own_words_and_everything_lands_once_it_ends(
    name: str, scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """What a person has to mend is in /health, and mending it is all there is to do."""
    refusal = REFUSALS[name]
    with scene.service() as service, scene.producer() as producer:
        settle(scene, service, producer)
        pids = service.worker_pids()
        rules = [proxy.rule(method=method, action=refusal.action) for method in refusal.methods]
        producer.produce(MESSAGES)
        watch = Watch(service)
        wait_told(service, refusal.text)
        watch.look(REFUSED_FOR_S)
        watch.assert_flat(REFUSED_FOR_S)
        proxy.clear()
        since_s = time.monotonic()
        wait_recovered(scene, service, evidence, name, since_s)
        evidence.struck(Strike.STORE, name, sum(rule.fired for rule in rules))
        assert service.worker_pids() == pids
        finish(scene, service, producer, evidence)


def wait_told(service: Service, text: str) -> None:
    """Wait until every topic's last error, and a reason, hold the store's own word."""

    def is_told(page: dict) -> bool:
        errors = [entry["last_error"] or {} for entry in page["topics"].values()]
        return (all(text in error.get("message", "") for error in errors)
                and any(text in reason for reason in page["reasons"])
                and page["http_status"] == 503)

    service.wait_for(is_told, FIRE_S, f"{text} is told")


@pytest.mark.extended
@pytest.mark.fault("S4")
def test_start_on_a_missing_bucket_ends_with_75_and_makes_none(
    scene: Scene, minio: MinioService, evidence: Evidence
) -> None:
    """A misspelt bucket must not become a new one; the store may also just not be there yet."""
    bucket = f"missing-{uuid.uuid4().hex[:8]}"
    settings = {
        "LAKE_URI": f"s3://{bucket}/lake", "START_DEADLINE_SECONDS": str(GIVE_UP_S)}
    with scene.service(**settings) as service:
        assert service.wait(GIVE_UP_S + START_S) == ExitCode.UNAVAILABLE
        told = [line for line in service.log_events() if "NoSuchBucket" in str(line)]
        assert told, service.log_tail()
        assert service.log_events("dependency_never_came")
    assert not minio.client().bucket_exists(bucket)
    evidence.struck(Strike.STORE, "bucket missing at start")


READ_ONLY = ["s3:GetObject", "s3:ListBucket"]
NOTHING = ["s3:GetBucketLocation"]


def policy(actions: list[str]) -> dict:
    """An IAM policy that allows some actions on everything."""
    return {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": actions, "Resource": ["arn:aws:s3:::*"]}]}


@dataclass(frozen=True, slots=True)
class Revocation:
    """How access is taken away, and given back by `put_user` with everything allowed."""

    row: str
    take: Callable[[MinioService, str, str], None]


REVOCATIONS = {
    "policy allows reading only": Revocation(
        "S4", lambda minio, key, secret: minio.put_user(key, secret, policy(READ_ONLY))),
    "policy allows nothing": Revocation(
        "S4", lambda minio, key, secret: minio.put_user(key, secret, policy(NOTHING))),
    "secret changed": Revocation(
        "S5", lambda minio, key, secret: minio.put_user(key, f"{secret}-new", policy(["s3:*"]))),
    "user disabled": Revocation("S5", lambda minio, key, secret: minio.admin().user_disable(key)),
    "user removed": Revocation("S5", lambda minio, key, secret: minio.admin().user_remove(key)),
}


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S4", "S5")
def test_everything_lands_once_after_access_was_taken_away_and_given_back(
    scene: Scene, minio: MinioService, proxy: S3Proxy, evidence: Evidence
) -> None:
    """The person on call mends the user at the store, not the service."""
    key, secret = f"key{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    minio.put_user(key, secret, policy(["s3:*"]))
    refused: list[Request] = []
    proxy.rule(on_effect=lambda done: refused.append(done) if done.status == 403 else None)
    settings = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    with scene.service(**settings) as service, scene.producer() as producer:
        settle(scene, service, producer)
        pids = service.worker_pids()
        for name, revocation in REVOCATIONS.items():
            refused.clear()
            revocation.take(minio, key, secret)
            producer.produce(MESSAGES)
            wait_told(service, "403")
            watch = Watch(service)
            watch.look(REFUSED_FOR_S / 2)
            watch.assert_flat(REFUSED_FOR_S / 2)
            minio.put_user(key, secret, policy(["s3:*"]))
            minio.admin().user_enable(key)
            since_s = time.monotonic()
            wait_recovered(scene, service, evidence, name, since_s)
            evidence.struck(Strike.STORE, name, len(refused))
        assert service.worker_pids() == pids
        finish(scene, service, producer, evidence)


SKEWED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
/* Wall clock of a process, off by the seconds that a shared file holds; monotonic time is true. */
static long skew(void) {
    static const long *offset;
    if (!offset) {
        int file = open(getenv("SKEW_FILE"), O_RDONLY);
        void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        if (page == MAP_FAILED) abort();
        offset = page;
    }
    return *offset;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(which, now);
    if (!result && which == CLOCK_REALTIME) now->tv_sec += skew();
    return result;
}
"""


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("S6")
def test_everything_lands_once_after_the_hosts_clock_was_off(
    scene: Scene, evidence: Evidence, tmp_path: Path
) -> None:
    """The store refuses signatures of another time by its own clock; positions know no time."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a skewed clock has to be compiled")
    source, library, offset = (tmp_path / name for name in ("skew.c", "skew.so", "offset"))
    source.write_text(SKEWED_CLOCK)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True,
        timeout=60)
    offset.write_bytes(struct.pack("l", 0))
    settings = {"LD_PRELOAD": str(library), "SKEW_FILE": str(offset)}
    with scene.service(**settings) as service, scene.producer() as producer:
        settle(scene, service, producer)
        for seconds in (SKEW_S, -SKEW_S):
            set_skew(offset, seconds)
            producer.produce(MESSAGES)
            wait_told(service, "RequestTimeTooSkewed")
            set_skew(offset, 0)
            since_s = time.monotonic()
            wait_recovered(scene, service, evidence, "clock off", since_s)
            evidence.struck(Strike.STORE, "signature refused for a clock that is off")
        finish(scene, service, producer, evidence)


def set_skew(offset: Path, seconds: int) -> None:
    """Set the service's wall clock off by so much, in place: the file is mapped."""
    with offset.open("r+b") as file:
        file.write(struct.pack("l", seconds))


def pause(seconds: float) -> None:
    """Let time pass with the fault on: its length is what is being tried."""
    time.sleep(seconds)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.fault("P14", "S3")
def test_stop_does_not_wait_for_an_answer_that_does_not_come(
    scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """systemd would kill what does not end in time, and call the stop a failure."""
    settings = {"STOP_DEADLINE_SECONDS": str(STOP_S), "STORE_TIMEOUT_SECONDS": str(HANG_S),
                "HEARTBEAT_LIMIT_SECONDS": str(3 * HANG_S), "CYCLE_DEADLINE_SECONDS": str(HANG_S)}
    with scene.service(**settings) as service, scene.producer() as producer:
        settle(scene, service, producer)
        rule = proxy.rule(method="PUT", path_regex=r"/_bronze/log/", action=hang(HANG_S, after=True))
        producer.produce(MESSAGES)
        wait_until(lambda: rule.fired, FIRE_S, "the record was sent")
        assert service.terminate(STOPPED_S) == ExitCode.OK
        proxy.clear()
        service.start()
        service.wait_healthy(START_S)
        finish(scene, service, producer, evidence)
    evidence.struck(Strike.STORE, "no answer while stopping", rule.fired)
