"""The answers of a service's own page, read with no trust in whoever answered.  Pure.

A later release may say more than is asked for here; less, or something else, is `NotOurs`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from shared.text import cut
from supervisor.arguments import WORKERS_MAX
from tools.address import Address
from tools.findings import Failure

TEXT_CHARS_MAX = 2000
"""Longer texts are cut: the longest of ours, an error's, are of this order."""
REASONS_MAX = 16 * WORKERS_MAX
"""A topic has a handful."""
COUNT_MAX = 2**63
STATUSES = ("starting", "healthy", "unhealthy", "stopping")
METRICS = frozenset({
    "bronze_up", "bronze_error_active", "bronze_memory_wait_seconds",
    "bronze_worker_stalls_total", "bronze_kafka_offset_commit_failures_total"})
"""What is read of /metrics; the first proves that it is ours."""

_REASON = re.compile(r"(?P<subject>[^ :]+): (?P<code>[a-z_]+): (?P<text>.*)", flags=re.DOTALL)
_SAMPLE = re.compile(r"(?P<name>\w+)(\{(?P<labels>[^}]*)\})? (?P<value>\S+)")
_TOPIC = re.compile(r'(?:^|,)topic="([^"\\]*)"')


class NotOurs(Exception):
    """The answer is none of this service's; the text says where it differs."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a service is not healthy; `topic` is "" where it concerns all.

    One that is not written as ours are has no code, and is its text.
    """

    topic: str
    code: str
    text: str
    what_to_do: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.topic or "service", self.code, self.text) if part)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A topic's last error."""

    name: str
    message: str
    what_to_do: str


@dataclass(frozen=True, slots=True)
class TopicHealth:
    """A topic as /health tells it; moments are Unix seconds, None where there was none.

    time_to_loss_s: until Kafka may delete a message that is in no table; None where that is not
    known, or never, which `retention` tells apart.
    """

    state: str
    lag: int | None
    retention: str
    time_to_loss_s: float | None
    rows: int
    dead_letters: int
    restarts: int
    failures: int
    paused: str | None
    last_commit_s: float | None
    last_error: Trouble | None


@dataclass(frozen=True, slots=True)
class Health:
    """A service as /health tells it."""

    status: str
    reasons: tuple[Reason, ...]
    instance: str
    version: str
    lake: str
    started_at_s: float | None
    uptime_s: float
    cycle_id: int
    phase: str | None
    last_completed_s: float | None
    topics: Mapping[str, TopicHealth]


Figures = Mapping[tuple[str, str], float]
"""(metric, topic or "") -> value, of METRICS."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the page: what it said, or how it failed, and when /health was answered.

    at_s: of a clock that only goes forward, for rates; unix_s: of the wall, for ages.
    """

    address: Address
    health: Health | Failure
    figures: Figures | Failure
    at_s: float
    unix_s: float


def read_health(body: bytes) -> Health:
    """What /health says.  Raises `NotOurs`."""
    page = _Object(_json(body), "the answer")
    service, cycle, topics = page.part("service"), page.part("cycle"), page.part("topics")
    if page.text("status") not in STATUSES:
        raise NotOurs("`status` is none of ours")
    reasons = page.value("reasons")
    if not isinstance(reasons, list) or not all(isinstance(each, str) for each in reasons):
        raise NotOurs("`reasons` is no list of texts")
    if len(topics.fields) > WORKERS_MAX or len(reasons) > REASONS_MAX:
        raise NotOurs(f"it has {len(topics.fields)} topics and {len(reasons)} reasons")
    return Health(
        status=page.text("status"),
        reasons=tuple(_reason(_cut(each)) for each in reasons),
        instance=service.text("instance"),
        version=service.text("version"),
        lake=service.text("lake"),
        started_at_s=service.moment("started_at"),
        uptime_s=service.number("uptime_seconds"),
        cycle_id=cycle.count("id"),
        phase=cycle.text_or_none("phase"),
        last_completed_s=cycle.moment("last_completed_at"),
        topics={_cut(name): _topic(topics.part(name)) for name in topics.fields},
    )


def read_figures(body: bytes) -> Figures:
    """The samples of METRICS that /metrics has.  Raises `NotOurs`."""
    found: dict[tuple[str, str], float] = {}
    for line in body.decode("utf-8", "replace").splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is None or sample["name"] not in METRICS:
            continue
        topic = _TOPIC.search(sample["labels"] or "")
        found[sample["name"], _cut(topic[1]) if topic else ""] = _number(sample["value"])
    if ("bronze_up", "") not in found:
        raise NotOurs("it has no sample of bronze_up")
    if len(found) > len(METRICS) * WORKERS_MAX:
        raise NotOurs(f"it has {len(found)} samples of {len(METRICS)} metrics")
    return found


def _topic(topic: _Object) -> TopicHealth:
    return TopicHealth(
        state=topic.text("state"),
        lag=None if topic.value("lag") is None else topic.count("lag"),
        retention=topic.text("retention"),
        time_to_loss_s=(None if topic.value("time_to_loss_seconds") is None
                        else topic.number("time_to_loss_seconds")),
        rows=topic.count("rows"),
        dead_letters=topic.count("dead_letters"),
        restarts=topic.count("restarts"),
        failures=topic.count("failures"),
        paused=topic.text_or_none("paused"),
        last_commit_s=topic.moment("last_commit"),
        last_error=None if topic.value("last_error") is None else _trouble(
            topic.part("last_error")),
    )


def _trouble(error: _Object) -> Trouble:
    return Trouble(error.text("name"), error.text("message"), error.text("what_to_do"))


def _reason(line: str) -> Reason:
    found = _REASON.fullmatch(line)
    if found is None:
        return Reason("", "", line, "")
    text, mark, advice = found["text"].rpartition("; what to do: ")
    subject = "" if found["subject"] == "service" else found["subject"]
    return Reason(subject, found["code"], text if mark else advice, advice if mark else "")


class _Object:
    """A JSON object whose fields have the types that are asked for, or it is not ours."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise NotOurs(f"{where} is no object")
        self.fields: dict[str, Any] = value
        self._where = where

    def value(self, key: str) -> Any:
        if key not in self.fields:
            raise NotOurs(f"{self._where} has no `{_cut(key)}`")
        return self.fields[key]

    def part(self, key: str) -> _Object:
        return _Object(self.value(key), f"`{_cut(key)}`")

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str):
            raise self._wrong(key, "text")
        return _cut(value)

    def text_or_none(self, key: str) -> str | None:
        return None if self.value(key) is None else self.text(key)

    def count(self, key: str) -> int:
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < COUNT_MAX:
            raise self._wrong(key, "count")
        return value

    def number(self, key: str) -> float:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (
                0 <= value < COUNT_MAX):
            raise self._wrong(key, "number")
        return float(value)

    def moment(self, key: str) -> float | None:
        if self.value(key) is None:
            return None
        try:
            found = datetime.fromisoformat(self.text(key))
        except ValueError as error:
            raise self._wrong(key, "moment") from error
        if found.tzinfo is None:
            raise self._wrong(key, "moment with its time zone")
        return found.timestamp()

    def _wrong(self, key: str, wanted: str) -> NotOurs:
        return NotOurs(f"`{key}` of {self._where} is no {wanted}")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotOurs("it is no JSON") from error


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("JSON has no such number")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise NotOurs("a sample's value is no number") from error
    if not math.isfinite(value):
        raise NotOurs("a sample's value is not finite")
    return value


def _cut(text: str) -> str:
    return cut(text, TEXT_CHARS_MAX)
