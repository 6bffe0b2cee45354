"""What can be wrong with a service, and what a diagnosis of it is made of.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.config_types import Config
from tools.findings import Finding, Key
from tools.health import Look
from tools.report import Status

CAUSES = {
    "doctor": "doctor itself failed: report it",
    "fenced": "another service with the same INSTANCE_ID has taken this one's place",
    "configuration": "the configuration cannot be used",
    "broker": "Kafka cannot be used",
    "store": "the object store cannot be used as it must be",
    "clock": "the clocks of this machine and the store differ",
    "topic": "a topic cannot be read",
    "group": "the consumer group cannot be used",
    "log": "the decision log cannot be read",
    "table": "a table cannot be used",
    "loss": "messages are, or will be, deleted before they are read",
    "retention": "a topic's retention could not be read",
    "memory": "the memory limit could not be looked at",
    "service": "no service answers",
    "other_service": "the service that answers is not the one of this configuration",
    "worker_dies": "a worker dies again and again",
    "memory_short": "a topic waits for memory",
    "halted": "the service must not go on, and ends",
    "supervisor_silent": "the supervisor hangs",
    "undecided": "the record of a cycle cannot be written",
    "stopped": "a topic is stopped until somebody acts",
    "isolated": "a topic failed too many cycles, and the others go on without it",
    "behind": "a topic has not committed a decided cycle",
    "not_started": "a topic's worker does not get ready",
    "missing": "a topic has no worker",
    "silent": "a topic's worker gives no sign of life",
    "failing": "a topic's last attempt failed",
    "held": "the supervisor holds something against a topic's worker",
    "backing_off": "a topic pauses after a failure",
    "no_progress": "messages wait, and nothing of theirs is committed",
    "starting": "the service has not finished its start",
    "stopping": "the service is stopping",
    "unhealthy": "the service is unhealthy for a reason this release does not know",
}
"""A diagnosis' name -> its cause, the most likely first."""
RANKS = {name: rank for rank, name in enumerate(CAUSES)}
CODES = frozenset({
    "fenced", "halted", "supervisor_silent", "undecided", "stopped", "isolated", "behind",
    "not_started", "missing", "silent", "failing", "held", "backing_off", "no_progress"})
"""The names among them that are the codes of reasons in /health."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known: the configuration, a look at the page, the probes' findings, the time."""

    config: Config
    look: Look
    findings: Mapping[Key, Finding]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that is wrong; the fields are keys of the JSON, which are an interface.

    name: of CAUSES.  subjects: topics, tables, operations or variables; none: all are concerned.
    evidence: lines and figures that led to it.
    """

    name: str
    subjects: tuple[str, ...]
    status: Status
    cause: str
    evidence: tuple[str, ...]
    what_to_do: str


def made(
    name: str, subjects: tuple[str, ...], evidence: tuple[str, ...], what_to_do: str,
    status: Status = Status.FAIL,
) -> Diagnosis:
    """A diagnosis of this name."""
    return Diagnosis(name, subjects, status, CAUSES[name], evidence, what_to_do)


