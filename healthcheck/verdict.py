"""Judge a snapshot: is the service getting on, and if not, what is in its way?

Health tells of progress, not of existence.  A reason is unhealthy as long as it holds and is gone
by itself with its cause, so nobody has to reset anything.  Pure: time comes as an argument,
`now_ns` from CLOCK_MONOTONIC (ages), `now_ms` as Unix time (what the block keeps as a date).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from healthcheck.snapshot import ServiceSnapshot, TopicSnapshot
from shared.layout import Header, Order, Paused, Report
from shared.protocol import Phase, Standing
from shared.trouble import Trouble

SUPERVISOR_SILENCE_S = 10.0
"""The supervisor writes its heartbeat several times a second, whatever Kafka and the lake do."""
BEHIND_GRACE_S = 5.0
"""Every topic is behind between decision and commit; milliseconds, unless something is wrong."""
STALE_CYCLES = 3
"""Waiting messages may outlast this many intervals and deadlines before that is a reason."""
TOPICS_NAMED_MAX = 5
LOSS_IS_NEAR_S = 3600.0
"""Time enough to raise a topic's retention."""


class Status(StrEnum):
    """What /health says of the whole service; only `healthy` is answered with 200."""

    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"


class Code(StrEnum):
    """Why a service is not healthy: stable words to search for, and to alert on.

    Each member carries `meaning`, a sentence for docs/http.md.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Code:
        """Make a member that equals `value` and carries its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    SUPERVISOR_SILENT = (
        "supervisor_silent",
        f"The supervisor's loop gave no sign of life for {SUPERVISOR_SILENCE_S:g} s.")
    FENCED = ("fenced", "A newer service with the same INSTANCE_ID runs; this one ends.")
    HALTED = ("halted", "The service as a whole must not go on and ends.")
    UNDECIDED = (
        "undecided",
        "A cycle's record could not be written within CYCLE_DEADLINE_SECONDS; "
        "nothing can become visible until it is.")
    NO_PROGRESS = (
        "no_progress",
        f"Messages wait and nothing was committed for {STALE_CYCLES} times "
        "(BATCH_INTERVAL_SECONDS + CYCLE_DEADLINE_SECONDS).")
    STOPPED = ("stopped", "A named error stopped the topic until somebody acts.")
    ISOLATED = (
        "isolated",
        "The topic failed too many cycles in a row; the others go on without it while it retries.")
    BEHIND = (
        "behind",
        "The topic has not committed a decided cycle yet; nothing newer is decided until it has, "
        "or until it is isolated.")
    NOT_STARTED = (
        "not_started", "The topic's worker is not ready to read, long after it had to be.")
    FAILING = (
        "failing", "The worker's last attempt failed and no later one has succeeded.")
    HELD = ("held", "The supervisor holds something against the worker, such as a recent death.")
    MISSING = (
        "missing", "The topic has no running worker, for longer than HEARTBEAT_LIMIT_SECONDS.")
    SILENT = (
        "silent", "The worker's loop gave no sign of life for HEARTBEAT_LIMIT_SECONDS.")
    BACKING_OFF = ("backing_off", "The worker pauses reading after a failure.")


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing in the way; `topic` is None when it concerns the whole service."""

    code: Code
    sentence: str
    topic: str | None = None

    def __str__(self) -> str:
        return f"{self.topic or 'service'}: {self.code}: {self.sentence}"


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict: a word, why, and the status code of /health."""

    status: Status
    reasons: tuple[Reason, ...]

    @property
    def http_status(self) -> int:
        """200 or 503."""
        return 200 if self.status is Status.HEALTHY else 503


@dataclass(frozen=True, slots=True)
class Waiting:
    """Since when messages have waited without any commit, per topic, as seen by looking often.

    The block alone cannot tell this: after an idle hour the last commit is an hour old, and a
    message that has just arrived has not waited at all.
    """

    since: Mapping[str, tuple[int, int]]
    """topic -> (commits at that moment, CLOCK_MONOTONIC ns)."""

    def follow(self, snapshot: ServiceSnapshot, now_ns: int) -> Waiting:
        """What is known after one more look; a commit or an empty queue starts the time anew."""
        since = {}
        for topic in snapshot.topics:
            if topic.waiting:
                commits = topic.report[Report.COMMITS]
                seen_commits, began_ns = self.since.get(topic.name, (commits, now_ns))
                since[topic.name] = (commits, began_ns if commits == seen_commits else now_ns)
        return Waiting(since)

    def seconds(self, topic: str, now_ns: int) -> float:
        """For how long messages of the topic have waited without a commit; 0 when none wait."""
        return (now_ns - self.since[topic][1]) / 1e9 if topic in self.since else 0.0


NOTHING_WAITS = Waiting({})


def judge(
    snapshot: ServiceSnapshot, now_ns: int, now_ms: int, waiting: Waiting = NOTHING_WAITS
) -> Health:
    """Say how the service is."""
    reasons = tuple(_reasons(snapshot, now_ns, now_ms, waiting))
    return Health(_status(snapshot, bool(reasons)), reasons)


def _status(snapshot: ServiceSnapshot, has_reasons: bool) -> Status:
    if snapshot.phase is Phase.STOPPING:
        return Status.STOPPING
    if snapshot.phase in (Phase.FENCED, Phase.HALTED):
        return Status.UNHEALTHY
    if not snapshot.header[Header.READY]:
        return Status.STARTING
    return Status.UNHEALTHY if has_reasons else Status.HEALTHY


def is_live(snapshot: ServiceSnapshot, now_ns: int) -> bool:
    """Whether the supervisor's loop runs, whatever it thinks of Kafka and the lake."""
    age_s = supervisor_silence_s(snapshot, now_ns)
    return age_s is not None and age_s <= SUPERVISOR_SILENCE_S


def is_ready(snapshot: ServiceSnapshot) -> bool:
    """Whether the service has started and takes part."""
    is_ending = snapshot.phase in (Phase.STOPPING, Phase.FENCED, Phase.HALTED)
    return bool(snapshot.header[Header.READY]) and not is_ending


def supervisor_silence_s(snapshot: ServiceSnapshot, now_ns: int) -> float | None:
    """Age of the supervisor's heartbeat in seconds; None before the first."""
    return _age_s(snapshot.header[Header.HEARTBEAT_NS], now_ns)


def worker_silence_s(topic: TopicSnapshot, now_ns: int) -> float | None:
    """Age of the worker's heartbeat in seconds; None when the present worker has given none."""
    return _age_s(topic.report[Report.HEARTBEAT_NS], now_ns) if topic.answers else None


def loan_wait_s(topic: TopicSnapshot, now_ns: int) -> float:
    """For how many seconds the worker has waited for memory; 0 when it does not wait."""
    return _age_s(topic.report[Report.LOAN_WAITED_NS], now_ns) or 0.0


def keeper_wait_s(snapshot: ServiceSnapshot, now_ns: int) -> float:
    """For how many seconds the keeper has waited for memory; 0 when it does not wait."""
    return _age_s(snapshot.header[Header.KEEPER_LOAN_WAITED_NS], now_ns) or 0.0


def deciding_s(snapshot: ServiceSnapshot, now_ns: int) -> float:
    """For how many seconds the present cycle's record is being written; 0 outside of that."""
    if snapshot.phase is not Phase.DECIDING:
        return 0.0
    return _age_s(snapshot.header[Header.DECIDING_SINCE_NS], now_ns) or 0.0


def is_worker_up(snapshot: ServiceSnapshot, topic: TopicSnapshot, now_ns: int) -> bool:
    """Whether the topic's present worker has given a sign of life within the limit."""
    age_s = worker_silence_s(topic, now_ns)
    return (topic.order[Order.PID] > 0 and age_s is not None
            and age_s <= snapshot.about.heartbeat_limit_seconds)


def state_of(snapshot: ServiceSnapshot, topic: TopicSnapshot, now_ms: int) -> Standing:
    """How the topic takes part; one that is only between decision and commit counts as active."""
    if topic.standing is None:
        return Standing.STARTING
    if topic.standing is not Standing.BEHIND:
        return topic.standing
    for_s = _since_s(topic.order[Order.STANDING_SINCE_MS], now_ms)
    is_committing = snapshot.phase in (Phase.DECIDING, Phase.COMMITTING)
    grace_s = snapshot.about.cycle_deadline_seconds if is_committing else BEHIND_GRACE_S
    return Standing.BEHIND if for_s > grace_s else Standing.ACTIVE


def loss_is_near(snapshot: ServiceSnapshot, topic: TopicSnapshot, now_ms: int) -> bool:
    """Whether something that has waited longer than it should is deleted within an hour.

    However short the retention, what waits no longer than a few cycles is on its way.
    """
    left_s, kept_s = topic.loss_seconds(now_ms), topic.retention_seconds
    if left_s is None or kept_s is None or left_s >= LOSS_IS_NEAR_S:
        return False
    about = snapshot.about
    usual_s = STALE_CYCLES * (about.batch_interval_seconds + about.cycle_deadline_seconds)
    return kept_s - left_s > usual_s


def shown_trouble(topic: TopicSnapshot) -> Trouble | None:
    """The error that explains the topic best: the worker's own cause before its consequences."""
    if topic.report[Report.ERROR_ACTIVE] and topic.error:
        return topic.error
    return topic.verdict or topic.error


def _reasons(
    snapshot: ServiceSnapshot, now_ns: int, now_ms: int, waiting: Waiting
) -> Iterator[Reason]:
    yield from _service_reasons(snapshot, now_ns)
    for topic in snapshot.topics:
        yield from _topic_reasons(snapshot, topic, now_ns, now_ms)
    yield from _progress_reasons(snapshot, now_ns, waiting)


def _service_reasons(snapshot: ServiceSnapshot, now_ns: int) -> Iterator[Reason]:
    silence_s = supervisor_silence_s(snapshot, now_ns)
    if silence_s is not None and silence_s > SUPERVISOR_SILENCE_S:
        yield Reason(Code.SUPERVISOR_SILENT, _with_advice(
            f"the supervisor gave no sign of life for {silence_s:.0f} s",
            "look at the host's CPU, memory and disk; systemd restarts a hanging service by itself"
        ))
    if snapshot.phase is Phase.FENCED:
        yield Reason(Code.FENCED, _with_advice(
            "a newer service with the same INSTANCE_ID has started",
            "stop one of the two, or give them different identities"))
    if snapshot.phase is Phase.HALTED:
        yield Reason(Code.HALTED, _with_advice(
            "the service must not go on", "read the last lines of its log"))
    undecided_s = deciding_s(snapshot, now_ns)
    if undecided_s > snapshot.about.cycle_deadline_seconds:
        yield Reason(Code.UNDECIDED, _with_advice(
            f"the record of cycle {snapshot.cycle_id} could not be written "
            f"for {undecided_s:.0f} s",
            "check that the object store answers and lets the service write below "
            "_bronze/log; the service retries by itself"))


def _progress_reasons(
    snapshot: ServiceSnapshot, now_ns: int, waiting: Waiting
) -> Iterator[Reason]:
    about = snapshot.about
    limit_s = STALE_CYCLES * (about.batch_interval_seconds + about.cycle_deadline_seconds)
    waits_s = {topic.name: waiting.seconds(topic.name, now_ns) for topic in snapshot.topics}
    stale = [topic for topic, seconds in waits_s.items() if seconds > limit_s]
    if stale:
        longest_s = max(waits_s[topic] for topic in stale)
        yield Reason(Code.NO_PROGRESS, _with_advice(
            f"messages wait in {_some(stale)}, and nothing of theirs was committed "
            f"for {longest_s:.0f} s",
            "see the other reasons; if there are none, read the log for the cycles' outcomes"))


def _topic_reasons(
    snapshot: ServiceSnapshot, topic: TopicSnapshot, now_ns: int, now_ms: int
) -> Iterator[Reason]:
    """What is in the topic's way: how it stands first, then its worker."""
    is_told = False
    standing = _standing_reason(snapshot, topic, now_ms)
    if standing is not None:
        yield standing
        is_told = True
    if topic.report[Report.ERROR_ACTIVE] and not is_told:
        yield Reason(Code.FAILING, _told(topic.error), topic.name)
        is_told = True
    if topic.verdict is not None and not is_told:
        yield Reason(Code.HELD, _told(topic.verdict), topic.name)
        is_told = True
    if topic.paused is Paused.BACKING_OFF and not is_told:
        yield Reason(Code.BACKING_OFF, _told(topic.error), topic.name)
    # A stopped topic needs no worker; how long its last one is gone tells nothing.
    if topic.standing is not Standing.STOPPED:
        yield from _worker_reasons(snapshot, topic, now_ns, now_ms)


def _standing_reason(
    snapshot: ServiceSnapshot, topic: TopicSnapshot, now_ms: int
) -> Reason | None:
    state = state_of(snapshot, topic, now_ms)
    trouble = shown_trouble(topic)
    last_error = f"; last error {_told(trouble)}" if trouble else ""
    for_s = _since_s(topic.order[Order.STANDING_SINCE_MS], now_ms)
    if state is Standing.STOPPED:
        return Reason(Code.STOPPED, _told(trouble), topic.name)
    if state is Standing.ISOLATED:
        return Reason(
            Code.ISOLATED, f"it failed {topic.order[Order.FAILURES]} cycles{last_error}",
            topic.name)
    if state is Standing.BEHIND:
        return Reason(
            Code.BEHIND, f"a decided cycle is not committed since {for_s:.0f} s{last_error}",
            topic.name)
    about = snapshot.about
    if for_s > about.heartbeat_limit_seconds + about.cycle_deadline_seconds and (
            state is Standing.STARTING):
        return Reason(
            Code.NOT_STARTED, f"its worker is not ready since {for_s:.0f} s{last_error}",
            topic.name)
    return None


def _worker_reasons(
    snapshot: ServiceSnapshot, topic: TopicSnapshot, now_ns: int, now_ms: int
) -> Iterator[Reason]:
    limit_s = snapshot.about.heartbeat_limit_seconds
    spawned_s = _since_s(topic.order[Order.SPAWNED_AT_MS], now_ms)
    silence_s = _age_s(topic.report[Report.HEARTBEAT_NS], now_ns) or 0.0
    is_running = topic.answers and topic.order[Order.PID] > 0
    # A worker that died long after its start was heard a moment ago; one that never came up was
    # started long ago: only both together mean that it is gone and stays so.
    gone_s = min(spawned_s, silence_s or spawned_s)
    if not is_running and gone_s > limit_s:
        yield Reason(Code.MISSING, _with_advice(
            f"no worker of this topic runs since {gone_s:.0f} s",
            "read the log for why it ends; the service starts it again by itself"), topic.name)
    if is_running and silence_s > limit_s:
        yield Reason(Code.SILENT, _with_advice(
            f"its worker gave no sign of life for {silence_s:.0f} s",
            "the service kills and restarts it; look at the host's CPU and swap"), topic.name)


def _told(trouble: Trouble | None) -> str:
    if trouble is None:
        return _with_advice("the error's text is not known", "read the log of this topic")
    return _with_advice(f"{trouble.name}: {trouble.message}", trouble.what_to_do)


def _with_advice(what: str, what_to_do: str) -> str:
    return f"{what}; what to do: {what_to_do}"


def _some(topics: list[str]) -> str:
    named = ", ".join(topics[:TOPICS_NAMED_MAX])
    more = len(topics) - TOPICS_NAMED_MAX
    return f"{named} and {more} more" if more > 0 else named


def _age_s(moment_ns: int, now_ns: int) -> float | None:
    return max(0, now_ns - moment_ns) / 1e9 if moment_ns else None


def _since_s(moment_ms: int, now_ms: int) -> float:
    """Seconds since a wall-clock moment; 0 when there is none or the clock was set back."""
    return max(0, now_ms - moment_ms) / 1e3 if moment_ms else 0.0
