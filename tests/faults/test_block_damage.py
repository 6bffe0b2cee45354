"""Bits of the shared block flip while the service runs, as a stray write or bad memory makes them.

The block is not trusted with any truth, so the worst that may come of it is a process that ends
and is started again. No flipped bit may make a row visible that no record has decided.
"""

from __future__ import annotations

import mmap
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared import layout
from shared.layout import Header, Order, Report
from tests.conftest import TopicNames
from tests.rig.evidence import Evidence, Strike
from tests.rig.recovery import judged
from tests.rig.s3_proxy import RESET_BEFORE, S3Proxy
from tests.rig.scene import START_S, Scene
from tests.rig.service import Service
from tests.services import KafkaService, MinioService
from tests.waiting import wait_until

TOPICS = 3
PARTITIONS = 2
MESSAGES = 600
BACKGROUND_PER_S = 300
FIRE_S = 30
LANDING_S = 60
EFFECT_S = 3
"""Longer than a worker takes to see a word of the block."""
FLIPS = 150
FLIP_GAP_S = (0.05, 0.4)
SEED = 20261124
RECORD = r"/_bronze/log/\d+\.json$"

pytestmark = [pytest.mark.slow, pytest.mark.extended, pytest.mark.fault("P13")]


class Words:
    """The block's words by their place, for reading and for flipping; one topic's, or all."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data

    def at(self, offset: int) -> int:
        """The word at a byte offset."""
        (word,) = struct.unpack_from("Q", self._data, offset)
        return int(word)

    def flip(self, offset: int, bit: int) -> None:
        """Flip one bit of the word at a byte offset."""
        struct.pack_into("Q", self._data, offset, self.at(offset) ^ (1 << bit))


def order_at(index: int, word: Order) -> int:
    """Byte offset of a word that the supervisor writes for topic `index`."""
    return layout.topic_offset(index) + layout.ORDER_OFFSET + word * layout.WORD_BYTES


def report_at(index: int, word: Report) -> int:
    """Byte offset of a word that the worker of topic `index` writes."""
    return layout.topic_offset(index) + layout.REPORT_OFFSET + word * layout.WORD_BYTES


@contextmanager
def words_of(service: Service) -> Iterator[Words]:
    """The block of a running service."""
    path = service.block_path()
    assert path is not None
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        yield Words(data)


@pytest.fixture
def scene(
    kafka: KafkaService, minio: MinioService, topic_names: TopicNames, lake_prefix: str,
    proxy: S3Proxy,
) -> Scene:
    """Give a scene whose service reaches the store through the proxy."""
    return Scene(kafka, minio, topic_names(TOPICS, "t"), lake_prefix, partitions=PARTITIONS,
                 store_endpoint=proxy.endpoint)


def test_flipped_bit_does_not_make_a_worker_commit_what_is_not_decided(
    scene: Scene, proxy: S3Proxy, evidence: Evidence
) -> None:
    """One bit away from "your cycle is decided" stands every second cycle before it is."""
    victim = scene.topics[0]
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        with words_of(service) as words:
            included = order_at(0, Order.INCLUDED_CYCLE)
            phase = Header.PHASE * layout.WORD_BYTES

            def is_one_bit_away() -> bool:
                cycle_id = layout.unpack(words.at(phase))[0]
                return cycle_id > 0 and not cycle_id % 2 and words.at(included) == cycle_id

            wait_until(is_one_bit_away, FIRE_S, "an even cycle is in", 0.01)
            rule = proxy.rule(method="PUT", path_regex=RECORD, action=RESET_BEFORE)
            wait_until(lambda: rule.fired, FIRE_S, "the decision is held")
            producer.stop_background()
            assert layout.unpack(words.at(phase))[0] == words.at(included) + 1
            records, before = scene.record_numbers(), scene.positions(victim)
            words.flip(included, 0)
            pause(EFFECT_S)
            assert scene.record_numbers() == records
            assert scene.positions(victim) == before, "rows are visible that no record decided"
            scene.judge_halfway()
            evidence.struck(Strike.HOST, "bit flipped in the shared block: included cycle")
        proxy.clear()
        service.restart()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
    judged(scene, evidence)


@pytest.mark.timeout(600)
def test_bits_flipped_at_random_cost_processes_and_no_rows(
    scene: Scene, evidence: Evidence
) -> None:
    """Whatever ends is started again, by the supervisor or by who watches over it."""
    generator = random.Random(SEED)
    ends: list[int] = []
    with scene.service() as service, scene.producer() as producer:
        service.wait_healthy(START_S)
        producer.start_background(BACKGROUND_PER_S)
        for _ in range(FLIPS):
            pause(generator.uniform(*FLIP_GAP_S))
            if not service.is_running():
                ends.append(int(service.exit_code or 0))
                service.restart()
                service.wait_healthy(START_S)
            flip_somewhere(service, generator)
        died = len(service.log_events("worker_died"))
        producer.stop_background()
        # A block that is damaged for good is left behind with its service.
        service.restart()
        scene.wait_landed(service, LANDING_S)
        service.wait_healthy(START_S)
        assert service.terminate() == 0
        strays = service.log_strays()
    print(f"seed {SEED}, supervisor ended {ends}, workers died {died}")
    evidence.notes.update(supervisor_ended=ends, workers_died=died)
    judged(scene, evidence)
    evidence.struck(Strike.HOST, "bit flipped in the shared block", FLIPS)
    assert not [line for line in strays if line.startswith("Traceback")], "an end without a name"


def flip_somewhere(service: Service, generator: random.Random) -> None:
    """Flip one bit of a word that somebody reads, or of a manifest; low bits more often."""
    index = generator.randrange(TOPICS)
    manifest = layout.topic_offset(index) + layout.MANIFEST_OFFSET
    offset = generator.choice([
        Header.PHASE * layout.WORD_BYTES,
        order_at(index, generator.choice(list(Order))),
        report_at(index, generator.choice(list(Report))),
        report_at(index, generator.choice((Report.BALLOT, Report.DONE_RECORD, Report.STARTED))),
        manifest + generator.randrange(64) * layout.WORD_BYTES,
    ])
    bit = generator.choice((generator.randrange(12), generator.randrange(64)))
    if service.block_path() is None:
        return
    with words_of(service) as words:
        words.flip(offset, bit)


def pause(seconds: float) -> None:
    """Let time pass: here the moment is the point, so there is no condition to wait for."""
    time.sleep(seconds)
