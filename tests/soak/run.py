"""The periods of a soak: strike, heal, wait until all is well and landed, look."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.checker import check_log, group_offsets_not_ahead
from tests.rig.lake import Kept
from tests.rig.producer import LoadProducer
from tests.rig.scene import Scene
from tests.rig.service import Service
from tests.services import KafkaService
from tests.soak.plan import PERIOD_S, Period, Planner
from tests.soak.strikes import World

TICK_S = 0.05
MEMORY_EVERY_S = 5.0
RECOVERY_S = 240
"""How long all may take to be well after a period; longer is an anomaly."""
LANDED_POLL_S = 0.3
LOOK_EVERY = 8
"""Periods between two looks at the log while the service runs."""
QUIET = "quiet"


@dataclass(slots=True)
class Course:
    """What a soak has seen so far.

    recoveries_s: fault, or "quiet" -> seconds from the end of striking until all was well and
        landed, of each period in which it struck; other faults of the period are in it.
    memory: (seconds since the start, bytes) highest of each period, all processes of the service.
    """

    periods: int = 0
    quiet: int = 0
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    memory: list[tuple[int, int]] = field(default_factory=list)
    looks: int = 0
    kept: Kept = field(default_factory=lambda: Kept(commits={}, files=set()))


class Soak:
    """One run until its time is over or `stop` is set.

    Args:
        rate: messages a second of the background.
        say: takes one line per period.
    """

    def __init__(
        self,
        scene: Scene,
        world: World,
        kafka: KafkaService,
        producer: LoadProducer,
        planner: Planner,
        rate: float,
        say: Callable[[str], None],
    ) -> None:
        self.course = Course()
        self.stop = threading.Event()
        self._scene, self._world, self._kafka = scene, world, kafka
        self._producer, self._planner, self._rate, self._say = producer, planner, rate, say
        self._started_s = time.monotonic()

    def run(self, seconds: float) -> None:
        """Go through periods; ends after the one in which the time ran out.

        Every rarer fault is dealt at least once, however short the time, unless it is stopped.

        Raises:
            AssertionError: something is wrong, and the rest was not tried.
        """
        while not self.stop.is_set():
            is_over = time.monotonic() - self._started_s >= seconds
            if is_over and self._planner.is_round:
                return
            self._period(self._planner.next())

    def end_load(self) -> None:
        """Produce no more, whatever came before; raises UnknownFate as the producer does."""
        self._producer.stop_background()

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started_s

    def _period(self, period: Period) -> None:
        world = self._world
        before = sum(world.fired.values())
        self._producer.start_background(self._rate)
        most = self._strike(period)
        world.heal()
        healed_s = time.monotonic()
        self._producer.stop_background()
        self._wait_well()
        recovered_s = time.monotonic() - healed_s
        self.course.periods += 1
        self.course.quiet += not period.blows
        for name in period.faults or [QUIET]:
            self.course.recoveries_s.setdefault(str(name), []).append(round(recovered_s, 2))
        self.course.memory.append((round(self.seconds()), most))
        self._look()
        assert not world.failures, world.failures
        names = ", ".join(str(fault) for fault in period.faults) or QUIET
        self._say(
            f"{time.strftime('%H:%M:%S')}  period {period.number:4}  "
            f"{sum(world.fired.values()) - before:4} strikes  well after {recovered_s:5.1f} s  "
            f"{self._scene.ledger.rows():,} messages  {most >> 20} MiB  {names}"
        )

    def _strike(self, period: Period) -> int:
        """Strike through the period's time; gives the most memory that was seen."""
        started_s = time.monotonic()
        blows = list(period.blows)
        memory_s, most = started_s, 0
        while not self.stop.is_set() and time.monotonic() - started_s < PERIOD_S:
            self._world.end_what_is_due()
            self._world.revive()
            if blows and time.monotonic() - started_s >= blows[0].at_s:
                self._world.strike(blows.pop(0))
                continue
            if time.monotonic() >= memory_s:
                most = max(most, self._world.service.pss_bytes())
                memory_s = time.monotonic() + MEMORY_EVERY_S
            time.sleep(TICK_S)
        return most

    def _wait_well(self) -> None:
        """Wait until /health is 200 and every message is in its table, reviving as needed."""
        service = self._world.service
        missing = list(self._scene.topics)
        deadline_s = time.monotonic() + RECOVERY_S
        while True:
            self._world.revive()
            missing = [topic for topic in missing if not self._scene.is_landed(topic)]
            page = service.health()
            if not missing and page.get("http_status") == 200:
                return
            assert time.monotonic() < deadline_s, (
                f"not well {RECOVERY_S} s after healing; missing {missing}, /health {page}\n"
                f"{service.log_tail()}"
            )
            time.sleep(LANDED_POLL_S)

    def _look(self) -> None:
        """Now and then, at the log and the group; often enough that no record is trimmed unread."""
        scene, course = self._scene, self.course
        if course.periods % LOOK_EVERY:
            return
        # Asked this way first, it waits while a broker that has just started loads its groups.
        for topic in scene.topics:
            self._kafka.committed_offsets(scene.group, topic)
        report = group_offsets_not_ahead(
            self._kafka.bootstrap, scene.group, scene.lake_uri, scene.options,
            dict.fromkeys(scene.topics, scene.partitions),
        )
        report.merge(check_log(
            scene.lake_uri, scene.options, scene.topics, settled=False, ledger=scene.ledger,
            kept=course.kept,
        ))
        report.assert_ok()
        course.looks += 1


_PLACES = re.compile(r"/\S*/(?=site-packages/|python3|workers/|supervisor/|shared/|healthcheck/)")
"""Where the machine keeps its files, which is nobody's business in a kept run."""


def log_lines(service: Service) -> tuple[int, list[str]]:
    """How many lines the service wrote, and those that are no JSON."""
    count = 0
    strays: list[str] = []
    path: Path = service.log_path
    with path.open(errors="replace") as lines:
        for line in lines:
            count += 1
            if line.strip() and not line.startswith("{"):
                strays.append(_PLACES.sub("", line.rstrip()))
    return count, strays
