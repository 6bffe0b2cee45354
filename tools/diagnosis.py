"""Evidence in, diagnoses out: what is wrong with a service, most likely first.  Pure.

What the probes found to be broken is a cause; what /health gives as a reason is mostly its
consequence, and then evidence for it.  A reason that nothing explains is a diagnosis of its own:
none is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from shared.naming import bronze_table, dlq_table
from tools.causes import CODES, RANKS, Diagnosis, Evidence, made
from tools.check import judge
from tools.findings import Failure
from tools.health import Figures, Health, Look, Reason
from tools.loss import judge_loss
from tools.report import Line, Status, worst
from tools.rules import RULES

ASK_AGAIN = "Ask again in a minute; if it stays so, read the last lines of the service's log."
EVIDENCE_MAX = 20
"""Pieces told of one diagnosis; 64 topics may all say the same."""

WARNINGS_THAT_COUNT = ("clock", "loss")
"""Lines of which a warning explains something, or soon will.  Not that on memory: doctor's control
group may be another than the service's."""
EXPLAINED_ERRORS: Mapping[str, tuple[str, ...]] = {
    "broker": ("KafkaUnavailable", "KafkaAuthenticationFailed", "TopicMissing"),
    "store": ("StorageUnavailable", "TableUnavailable"),
    "topic": ("TopicMissing", "KafkaUnavailable"),
    "group": ("KafkaUnavailable", "AssignmentFailed"),
    "table": ("TableMismatch", "TableVanished", "TableUnavailable"),
    "loss": ("OffsetGap",),
    "worker_dies": ("WorkerDied", "WorkerStalled"),
}
"""Diagnosis -> the errors of topics it is the cause of."""
EXPLAINED_CODES: Mapping[str, tuple[str, ...]] = {
    "fenced": ("fenced",), "store": ("undecided",), "worker_dies": ("held", "missing", "silent"),
}
OF_ONE_TOPIC = ("topic", "table", "loss", "worker_dies")
"""Diagnoses that explain what happens to the topics they name, and to no other."""
CONSEQUENCES = ("no_progress",)
"""Codes of reasons that any other failure may lead to."""


def looked_at(evidence: Evidence) -> tuple[Line, ...]:
    """A line for everything that was looked at, the service itself first."""
    config, findings = evidence.config, evidence.findings
    checked = [line for line in judge(config, findings).lines if line.check != "instance"]
    return (_service(evidence.look), *checked,
            *(judge_loss(config, topic, findings, evidence.now_ms) for topic in config.topics))


def diagnose(evidence: Evidence, lines: Sequence[Line]) -> tuple[Diagnosis, ...]:
    """What is wrong, failures before warnings, the most likely cause first; () when all is well."""
    look = evidence.look
    found = [*_of_lines(line for line in lines if line.check != "service"),
             *(each for rule in RULES for each in rule(evidence))]
    found = [_with_doubts(each, look.figures) for each in _ranked(found)]
    if isinstance(look.health, Health):
        found = _with_reasons(found, look.health)
        if look.health.status != "healthy" and not _has_failure(found):
            found.append(made(look.health.status, (), ("/health gives no reason",), ASK_AGAIN))
    return tuple(replace(each, evidence=_few(each.evidence)) for each in _ranked(found))


def of_faults(lines: Iterable[Line]) -> tuple[Diagnosis, ...]:
    """A configuration that cannot be used: one diagnosis for each fault."""
    return tuple(_of_lines(lines))


def _ranked(found: Iterable[Diagnosis]) -> list[Diagnosis]:
    return sorted(found, key=lambda each: (each.status is not Status.FAIL, RANKS[each.name]))


def _has_failure(found: Iterable[Diagnosis]) -> bool:
    return any(each.status is Status.FAIL for each in found)


def _service(look: Look) -> Line:
    if isinstance(look.health, Failure):
        return Line("service", "", Status.FAIL, f"{look.health.name}: {look.health.text}",
                    look.health.what_to_do)
    text = (f"{look.health.status}, instance {look.health.instance}, version "
            f"{look.health.version} at {look.address}")
    is_well = look.health.status == "healthy"
    return Line("service", "", Status.OK if is_well else Status.FAIL, text)


def _of_lines(lines: Iterable[Line]) -> Iterator[Diagnosis]:
    """One for all lines of a kind with the same advice: the cause is the same."""
    groups: dict[tuple[str, str], list[Line]] = {}
    missing = set()
    for line in lines:
        counts = line.status is Status.FAIL or (
            line.status is Status.WARN and line.what_to_do and line.check in WARNINGS_THAT_COUNT)
        # Of a topic that cannot be described, nothing else can be told either.
        if counts and not (line.check == "retention" and line.subject in missing):
            groups.setdefault((line.check, line.what_to_do), []).append(line)
            if line.check == "topic":
                missing.add(line.subject)
    for (check, advice), group in groups.items():
        subjects = tuple(line.subject for line in group if line.subject)
        told = tuple(f"{line.check} {line.subject}".strip() + f": {line.found}" for line in group)
        yield made(check, subjects, told, advice, worst(line.status for line in group))


def _with_doubts(found: Diagnosis, figures: Figures | Failure) -> Diagnosis:
    """Old offsets of the group show a loss where there is none: the table decides."""
    if found.name != "loss" or isinstance(figures, Failure):
        return found
    told = tuple(
        f"/metrics: {failures:.0f} commits of offsets to Kafka failed, so less may be unread than "
        "it seems: see BronzeOffsetsNotCommitted in the runbook"
        for topic in found.subjects
        if (failures := figures.get(("bronze_kafka_offset_commit_failures_total", topic), 0)))
    return replace(found, evidence=(*found.evidence, *told))


def _with_reasons(found: list[Diagnosis], health: Health) -> list[Diagnosis]:
    """Each reason goes to what explains it; the others become diagnoses."""
    for reason in sorted(health.reasons, key=lambda each: each.code in CONSEQUENCES):
        told = f"/health: {reason}"
        own = made(reason.code if reason.code in CODES else "unhealthy",
                   (reason.topic,) if reason.topic else (), (told,),
                   reason.what_to_do or ASK_AGAIN)
        for at, each in enumerate(found):
            if _explains(each, reason, health):
                found[at] = replace(each, evidence=(*each.evidence, told))
                break
            if (each.name, each.what_to_do) == (own.name, own.what_to_do):
                found[at] = replace(each, subjects=(*each.subjects, *own.subjects),
                                    evidence=(*each.evidence, told))
                break
        else:
            found.append(own)
    return found


def _explains(diagnosis: Diagnosis, reason: Reason, health: Health) -> bool:
    if diagnosis.status is not Status.FAIL:
        return False
    if reason.code in CONSEQUENCES:
        return True
    if diagnosis.name in OF_ONE_TOPIC and not _names(diagnosis, reason.topic):
        return False
    topic = health.topics.get(reason.topic)
    error = topic.last_error.name if topic is not None and topic.last_error else ""
    return (reason.code in EXPLAINED_CODES.get(diagnosis.name, ())
            or error in EXPLAINED_ERRORS.get(diagnosis.name, ()))


def _names(diagnosis: Diagnosis, topic: str) -> bool:
    return bool({topic, bronze_table(topic), dlq_table(topic)} & set(diagnosis.subjects))


def _few(told: tuple[str, ...]) -> tuple[str, ...]:
    if len(told) <= EVIDENCE_MAX:
        return told
    return (*told[:EVIDENCE_MAX], f"and {len(told) - EVIDENCE_MAX} more")
