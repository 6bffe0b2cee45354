"""What the page of a service, and its silence, tell by themselves.  Pure.

Each rule takes all evidence and gives the diagnoses it comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tools.causes import Diagnosis, Evidence, made
from tools.check import RECENT_S
from tools.findings import Failure, Group, Key, Log
from tools.health import Health
from tools.report import Status
from tools.words import duration, many

RESTARTS_MIN = 3
RESTART_EVERY_S = 600.0
"""A worker that is restarted more often than this, on average, dies again and again."""

Rule = Callable[[Evidence], Iterator[Diagnosis]]


def _no_service(evidence: Evidence) -> Iterator[Diagnosis]:
    """Nobody answers; what was found elsewhere may tell that a service runs all the same."""
    failure = evidence.look.health
    if not isinstance(failure, Failure):
        return
    told, advice = [f"{failure.name}: {failure.text}"], failure.what_to_do
    group, log = evidence.findings.get(Key("group")), evidence.findings.get(Key("log"))
    if isinstance(group, Group) and group.ours:
        told.append(f"{many(group.ours, 'member')} of the group with names of "
                    f"INSTANCE_ID={evidence.config.instance_id}")
    if isinstance(log, Log) and log.newest_age_s is not None and log.newest_age_s < RECENT_S:
        told.append(f"record {log.newest_number} of this INSTANCE_ID, of {log.newest_written_at}")
    if len(told) > 1:
        advice = ("A service of this INSTANCE_ID has worked within the last minutes: with another "
                  "HEALTH_PORT, on another host (this one has then ended with exit code 76), or it "
                  f"has just ended. {advice}")
    yield made("service", (), tuple(told), advice)


def _fenced(evidence: Evidence) -> Iterator[Diagnosis]:
    health = evidence.look.health
    if isinstance(health, Health) and health.phase == "fenced":
        yield made("fenced", (), (f"/health: phase {health.phase}",),
                    "Stop one of the two, or give them different INSTANCE_IDs; see exit code 76 "
                    "in the runbook.")


def _other_service(evidence: Evidence) -> Iterator[Diagnosis]:
    """All other evidence is about another service than the one that answers."""
    health, config = evidence.look.health, evidence.config
    if not isinstance(health, Health):
        return
    told = []
    if health.instance != config.instance_id:
        told.append(f"INSTANCE_ID is {config.instance_id} here and {health.instance} there")
    if health.lake != config.lake.uri:
        told.append(f"LAKE_URI is {config.lake.uri} here and {health.lake} there")
    for topic in sorted(set(config.topics) ^ set(health.topics)):
        told.append(f"topic {topic} is {'here' if topic in config.topics else 'there'} only")
    if told:
        yield made("other_service", (), tuple(told),
                    "Run doctor with the environment of the service, or restart the service if "
                    "its configuration was changed; HEALTH_PORT or --url may name another one.",
                    Status.WARN)


def _worker_dies(evidence: Evidence) -> Iterator[Diagnosis]:
    health, figures = evidence.look.health, evidence.look.figures
    if not isinstance(health, Health):
        return
    for name, topic in health.topics.items():
        every_s = health.uptime_s / max(topic.restarts, 1)
        if topic.restarts < RESTARTS_MIN or every_s > RESTART_EVERY_S:
            continue
        told = [f"/health: {name} was restarted {topic.restarts} times in "
                f"{duration(health.uptime_s)}"]
        if topic.last_error is not None:
            told.append(f"/health: last error {topic.last_error.name}: {topic.last_error.message}")
        stalls = 0 if isinstance(figures, Failure) else figures.get(
            ("bronze_worker_stalls_total", name), 0)
        if stalls:
            told.append(f"/metrics: {stalls:.0f} of them were killed for standing still")
        yield made("worker_dies", (name,), tuple(told),
                    "See WorkerStalled in the runbook: a slow store, or a host without CPU."
                    if stalls else
                    "See WorkerDied in the runbook: `journalctl -k | grep -i oom`, and "
                    "worker_died in the service's log.")


def _memory_short(evidence: Evidence) -> Iterator[Diagnosis]:
    health, figures, config = evidence.look.health, evidence.look.figures, evidence.config
    if not isinstance(health, Health) or isinstance(figures, Failure):
        return
    usual_s = config.cycle.batch_interval_seconds + config.cycle.cycle_deadline_seconds
    for name, topic in health.topics.items():
        waited_s = figures.get(("bronze_memory_wait_seconds", name), 0.0)
        if topic.paused == "budget" and waited_s > usual_s:
            yield made("memory_short", (name,),
                        (f"/health: {name} is paused: budget",
                         f"/metrics: it has waited for {duration(waited_s)}, longer than a cycle "
                         f"takes ({duration(usual_s)})"),
                        "If commits succeed, MEMORY_LIMIT_MB "
                        f"({config.limits.memory_limit_mb}) is too small for messages of this "
                        "size: raise it and MemoryMax together; see BronzeMemoryShort in the "
                        "runbook.", Status.WARN)


RULES: tuple[Rule, ...] = (_no_service, _fenced, _other_service, _worker_dies, _memory_short)
