"""Every metric of /metrics, declared once: name, kind, labels, what it tells, what to do, values.

The scrape, the HELP texts and the table in docs/http.md all come from `METRICS`.  Every label set
is there from the first scrape, with zero, so that a rate sees the first event.  Labels come from
the configuration and from enumerations only, never from a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from healthcheck.moment import Moment
from healthcheck.snapshot import Durations, TopicSnapshot
from healthcheck.verdict import (
    Status, deciding_s, is_live, is_ready, is_worker_up, keeper_wait_s, loan_wait_s, state_of,
    supervisor_silence_s, worker_silence_s,
)
from shared.layout import DEAD_LETTERS, Header, Histogram, Keeper, Order, Paused, Report
from shared.memory import MB
from shared.protocol import Phase, Standing


class Kind(StrEnum):
    """Prometheus' types of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Sample = tuple[tuple[str, ...], "float | Durations"]
"""(label values in the order of `Metric.labels`, value); `Durations` for a histogram."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `values` gives all its samples at one moment."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    tells: str
    action: str
    values: Callable[[Moment], Iterable[Sample]]

    @property
    def help(self) -> str:
        """The HELP text."""
        return f"{self.tells} {self.action}"


TopicValue = Callable[[Moment, TopicSnapshot], "float | Durations"]


def _service(
    name: str, kind: Kind, tells: str, action: str, value: Callable[[Moment], float | Durations]
) -> Metric:
    return Metric(name, kind, (), tells, action, lambda moment: [((), value(moment))])


def _header(
    name: str, kind: Kind, tells: str, action: str, word: Header, scale: float = 1
) -> Metric:
    return _service(name, kind, tells, action, lambda m: m.snapshot.header[word] * scale)


def _keeper(
    name: str, tells: str, action: str, word: Keeper, scale: float, kind: Kind = Kind.GAUGE
) -> Metric:
    return _service(name, kind, tells, action, lambda m: m.snapshot.keeper[word] * scale)


def _topic(name: str, kind: Kind, tells: str, action: str, value: TopicValue) -> Metric:
    return Metric(name, kind, ("topic",), tells, action, lambda moment: [
        ((topic.name,), value(moment, topic)) for topic in moment.snapshot.topics])


def _report(
    name: str, kind: Kind, tells: str, action: str, word: Report, scale: float = 1
) -> Metric:
    return _topic(name, kind, tells, action, lambda _moment, topic: topic.report[word] * scale)


def _order(
    name: str, kind: Kind, tells: str, action: str, word: Order, scale: float = 1
) -> Metric:
    return _topic(name, kind, tells, action, lambda _moment, topic: topic.order[word] * scale)


def _split(
    name: str, kind: Kind, label: str, tells: str, action: str,
    words: Iterable[tuple[str, Report]],
) -> Metric:
    """One series per topic and word."""
    pairs = tuple(words)
    return Metric(name, kind, ("topic", label), tells, action, lambda moment: [
        ((topic.name, value), topic.report[word])
        for topic in moment.snapshot.topics for value, word in pairs])


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _build(moment: Moment) -> Iterator[Sample]:
    yield (moment.snapshot.about.service_version, moment.snapshot.about.instance), 1


def _phases(moment: Moment) -> Iterator[Sample]:
    for phase in Phase:
        yield (phase.name.lower(),), phase is moment.snapshot.phase


def _phase_durations(moment: Moment) -> Iterator[Sample]:
    for phase, durations in moment.snapshot.phase_durations.items():
        yield (phase.name.lower(),), durations


def _outcomes(moment: Moment) -> Iterator[Sample]:
    for outcome, word in (
        ("completed", Header.CYCLES_COMPLETED),
        ("aborted", Header.CYCLES_ABORTED),
        ("empty", Header.CYCLES_EMPTY),
    ):
        yield (outcome,), moment.snapshot.header[word]


def _states(moment: Moment) -> Iterator[Sample]:
    for topic in moment.snapshot.topics:
        state = state_of(moment.snapshot, topic, moment.now_ms)
        for standing in Standing:
            yield (topic.name, standing.value), standing is state


def _pauses(moment: Moment) -> Iterator[Sample]:
    for topic in moment.snapshot.topics:
        for cause in Paused:
            if cause is not Paused.NO:
                yield (topic.name, cause.name.lower()), cause is topic.paused


_SERVICE = (
    Metric("bronze_build_info", Kind.GAUGE, ("version", "instance_id"),
           "Always 1; the labels name the running release and INSTANCE_ID.",
           "None; join with it to see a release in a graph.", _build),
    _service("bronze_up", Kind.GAUGE,
             "1 while the supervisor's loop runs, as /livez says.",
             "0: the service hangs; systemd restarts it, keep the journal.",
             lambda m: is_live(m.snapshot, m.now_ns)),
    _service("bronze_ready", Kind.GAUGE,
             "1 while the service takes part, as /readyz says.",
             "0 for long: it starts or stops; read the reasons in /health.",
             lambda m: is_ready(m.snapshot)),
    _service("bronze_healthy", Kind.GAUGE,
             "1 while messages get to their tables, as /health says.",
             "0: read the reasons in /health; alert on this one.",
             lambda m: m.health.status is Status.HEALTHY),
    _header("bronze_start_time_seconds", Kind.GAUGE,
            "Unix time of the supervisor's start.",
            "Changes with every start; often: look for the exit code in the journal.",
            Header.STARTED_AT_MS, 1e-3),
    _service("bronze_supervisor_heartbeat_age_seconds", Kind.GAUGE,
             "Seconds since the supervisor's loop last ran; 0 before its first turn.",
             "Above 10: the host is out of CPU, memory or disk, or it is a defect.",
             lambda m: supervisor_silence_s(m.snapshot, m.now_ns) or 0),
    _header("bronze_sidecar_restarts_total", Kind.COUNTER,
            "Restarts of the health page's own process.",
            "Rising: read its last log lines; the ingestion is not concerned.",
            Header.SIDECAR_RESTARTS),
    _service("bronze_batch_interval_seconds", Kind.GAUGE,
             "BATCH_INTERVAL_SECONDS.",
             "None; alerts measure against it.",
             lambda m: m.snapshot.about.batch_interval_seconds),
    _service("bronze_cycle_deadline_seconds", Kind.GAUGE,
             "CYCLE_DEADLINE_SECONDS.",
             "None; alerts measure against it.",
             lambda m: m.snapshot.about.cycle_deadline_seconds),
    _service("bronze_memory_limit_bytes", Kind.GAUGE,
             "MEMORY_LIMIT_MB in bytes.",
             "The memory of all processes nears it: see Memory in the runbook.",
             lambda m: m.snapshot.about.memory_limit_mb * MB),
    _service("bronze_memory_budget_bytes", Kind.GAUGE,
             "The part of the limit that all workers share for what varies with load.",
             "The sum of bronze_memory_borrowed_bytes stays near it: raise MEMORY_LIMIT_MB.",
             lambda m: m.snapshot.about.loan_budget_bytes),
    _service("bronze_cycle_id", Kind.GAUGE,
             "Number of the present cycle; grows for ever, also across restarts.",
             "Stands still only while the service starts or hangs.",
             lambda m: m.snapshot.cycle_id),
    Metric("bronze_phase", Kind.GAUGE, ("phase",),
           "1 for the phase the present cycle is in.",
           "Long in deciding: the object store refuses the record; see undecided in /health.",
           _phases),
    _service("bronze_deciding_seconds", Kind.GAUGE,
             "Seconds for which the record of the present cycle is being written; usually 0.",
             "Above CYCLE_DEADLINE_SECONDS: the object store refuses it; see undecided in /health.",
             lambda m: deciding_s(m.snapshot, m.now_ns)),
    Metric("bronze_cycles_total", Kind.COUNTER, ("outcome",),
           "Cycles by outcome; an empty one had nothing to write.",
           "Aborted ones rise: some topic could not prepare; /health names it.", _outcomes),
    _service("bronze_cycle_duration_seconds", Kind.HISTOGRAM,
             "Seconds from the start of the flush to the last commit of a cycle.",
             "Near CYCLE_DEADLINE_SECONDS: the object store is slow, or a topic is too big.",
             lambda m: m.snapshot.cycle_durations),
    Metric("bronze_phase_seconds", Kind.HISTOGRAM, ("phase",),
           "Seconds a phase of a cycle took, however it ended.",
           "Long flushing: uploads are slow, or a topic is too big; long deciding or committing: "
           "the object store is slow to answer.", _phase_durations),
    _header("bronze_last_cycle_completed_timestamp_seconds", Kind.GAUGE,
            "Unix time at which the last cycle with data was complete; 0 before the first.",
            "Old while lag rises: nothing becomes visible; see /health.",
            Header.LAST_COMPLETED_AT_MS, 1e-3),
    _header("bronze_log_last_record_number", Kind.GAUGE,
            "Number of the newest record in the lake's log that this service knows.",
            "None; it leads to the record below _bronze/log.", Header.LAST_RECORD),
    _header("bronze_log_records_written_total", Kind.COUNTER,
            "Records this service has written to the lake's log.",
            "None; one per cycle with data is usual.", Header.RECORDS_WRITTEN),
    _header("bronze_log_record_retries_total", Kind.COUNTER,
            "Attempts to write a record that had to be repeated.",
            "Rising: the object store fails, or many instances share the lake.",
            Header.RECORD_RETRIES),
)

_WORKERS = (
    _topic("bronze_worker_up", Kind.GAUGE,
           "1 while the topic's worker gives signs of life.",
           "0 for minutes: the worker does not come up; read its log lines.",
           lambda m, topic: is_worker_up(m.snapshot, topic, m.now_ns)),
    _topic("bronze_worker_heartbeat_age_seconds", Kind.GAUGE,
           "Seconds since the worker's loop last ran; 0 before its first turn.",
           "Above HEARTBEAT_LIMIT_SECONDS it is killed: look at CPU, swap and slow stores.",
           lambda m, topic: worker_silence_s(topic, m.now_ns) or 0),
    _order("bronze_worker_restarts_total", Kind.COUNTER,
           "Restarts of the topic's worker.",
           "Rising: see WorkerDied in the runbook.", Order.RESTARTS),
    _order("bronze_worker_recycled_total", Kind.COUNTER,
           "Times the worker gave its place to a new one because it had outgrown its share.",
           "Rising every minute: its share is too small, raise MEMORY_LIMIT_MB; else none.",
           Order.RECYCLED),
    _order("bronze_worker_stalls_total", Kind.COUNTER,
           "Times the worker was killed because its loop stood still.",
           "Rising: see WorkerStalled in the runbook.", Order.STALLS),
    Metric("bronze_topic_state", Kind.GAUGE, ("topic", "state"),
           "1 for the way the topic takes part.",
           "Behind, isolated, stopped: read the topic's reason in /health.", _states),
    _order("bronze_topic_failures", Kind.GAUGE,
           "Cycles the topic has failed since it was last part of a decided one.",
           "At ISOLATE_AFTER the others go on without it; see its last error.", Order.FAILURES),
    _topic("bronze_error_active", Kind.GAUGE,
           "1 while the worker's last error has not been followed by success.",
           "1: last_error in /health says what to do.",
           lambda _m, topic: bool(topic.report[Report.ERROR_ACTIVE])),
)

_READING = (
    _report("bronze_partitions", Kind.GAUGE,
            "Partitions this service reads of the topic.",
            "Unexpected: another member of the group, or another KAFKA_GROUP_ID.",
            Report.PARTITIONS),
    _report("bronze_lag_messages", Kind.GAUGE,
            "Messages in Kafka that are not read yet; meaningful while bronze_lag_known is 1.",
            "Rising for long: more arrives than is written, or nothing is; see paused and errors.",
            Report.LAG),
    _topic("bronze_lag_known", Kind.GAUGE,
           "1 once the broker has told how much the topic holds.",
           "0 for long: no broker answers.",
           lambda _m, topic: bool(topic.report[Report.LAG_KNOWN])),
    _topic("bronze_lag_seconds", Kind.GAUGE,
           "Seconds since the last moment, by Kafka's timestamps, up to which every partition is "
           "read; 0 while caught up, NaN while unknown.",
           "Rising: more arrives than is read, or nothing is; see paused and errors.",
           lambda m, topic: _or_nan(topic.lag_seconds(m.now_ms))),
    _topic("bronze_time_to_loss_seconds", Kind.GAUGE,
           "Seconds until Kafka may delete a message that is in no table, by retention.ms and at "
           "the earliest; +Inf where messages stay, NaN where that is not known.",
           "Below an hour: raise retention.ms of the topic, then mend what holds it up; doctor "
           "tells more.",
           lambda m, topic: _or_nan(topic.loss_seconds(m.now_ms))),
    _topic("bronze_retention_seconds", Kind.GAUGE,
           "retention.ms of the topic; +Inf where messages stay, NaN where it is not known or "
           "only the size counts.",
           "NaN for long: the user may not DescribeConfigs of the topic, or the broker cannot.",
           lambda _m, topic: _or_nan(topic.retention_seconds)),
    _report("bronze_messages_consumed_total", Kind.COUNTER,
            "Messages taken from Kafka; those read again after a restart count again.",
            "Far above rows and dead letters: restarts cost much reading.",
            Report.MESSAGES_CONSUMED),
    _report("bronze_rebalances_total", Kind.COUNTER,
            "Changes of the partitions this service reads.",
            "Rising: instances come and go, or the worker is too slow for the group.",
            Report.REBALANCES),
    _split("bronze_gap_offsets_total", Kind.COUNTER, "cause",
           "Offsets without a row: absent (compacted, aborted or markers), lost (deleted unread).",
           "Lost above 0: retention overtook the service, see OffsetGap in the runbook.",
           (("absent", Report.OFFSETS_ABSENT), ("lost", Report.OFFSETS_LOST))),
    Metric("bronze_paused", Kind.GAUGE, ("topic", "cause"),
           "1 while the worker does not read, and why.",
           "Long: cycle_full and carry_over_full mean that commits are slower than the topic; "
           "budget waits for memory, starting for other topics, backing_off follows a failure.",
           _pauses),
    _report("bronze_pauses_total", Kind.COUNTER,
            "Times the worker stopped reading at a limit or after a failure.",
            "Rising steadily: raise MEMORY_LIMIT_MB, or mend what makes commits slow.",
            Report.PAUSES),
)

_MEMORY = (
    _report("bronze_memory_borrowed_bytes", Kind.GAUGE,
            "What the worker holds of the common budget, for open files and batches.",
            "None; compare the sum with bronze_memory_budget_bytes.", Report.BORROWED),
    _topic("bronze_memory_wait_seconds", Kind.GAUGE,
           "Seconds for which the worker has waited for others to give memory back; usually 0.",
           "Above 0 for long: a large message waits, or MEMORY_LIMIT_MB is too small.",
           lambda m, topic: loan_wait_s(topic, m.now_ns)),
)

_WRITING = (
    _report("bronze_rows_total", Kind.COUNTER,
            "Rows committed to the bronze table.",
            "Flat while lag rises: nothing becomes visible; see /health.", Report.ROWS),
    _report("bronze_value_bytes_total", Kind.COUNTER,
            "Bytes of the values of committed rows, before compression.",
            "None; for capacity.", Report.VALUE_BYTES),
    _split("bronze_dead_letters_total", Kind.COUNTER, "error_class",
           "Malformed messages by what is wrong with them.",
           "Rising: look into dlq_bronze_<topic> and tell the producer.",
           DEAD_LETTERS.items()),
    _report("bronze_messages_skipped_total", Kind.COUNTER,
            "Malformed messages dropped, as ON_MALFORMED=skip says while the DLQ is off.",
            "Above 0: data is dropped on purpose; DLQ_ENABLED=true keeps it.", Report.SKIPPED),
    _report("bronze_open_file_bytes", Kind.GAUGE,
            "Bytes in files that are not part of a cycle yet.",
            "Stays high: no cycle takes them; see aborted cycles.", Report.OPEN_BYTES),
    _report("bronze_open_file_rows", Kind.GAUGE,
            "Rows in files that are not part of a cycle yet.",
            "Stays high: no cycle takes them; see aborted cycles.", Report.OPEN_ROWS),
    _report("bronze_carried_files", Kind.GAUGE,
            "Complete files that wait for a cycle that is decided.",
            "Near CARRY_OVER_FILES_MAX reading pauses; find out why cycles abort.",
            Report.CARRIED_FILES),
    _report("bronze_files_uploaded_total", Kind.COUNTER,
            "Data files uploaded, both tables together.",
            "Many small ones: raise BATCH_INTERVAL_SECONDS.", Report.FILES_UPLOADED),
    _report("bronze_uploaded_bytes_total", Kind.COUNTER,
            "Bytes of uploaded data files, after compression.",
            "None; for capacity and cost.", Report.BYTES_UPLOADED),
    _report("bronze_upload_failures_total", Kind.COUNTER,
            "Uploads that failed.",
            "Rising: see StorageUnavailable in the runbook.", Report.UPLOAD_FAILURES),
    _topic("bronze_upload_duration_seconds", Kind.HISTOGRAM,
           "Seconds an upload request took.",
           "Rising: the object store or the way to it is slow.",
           lambda _m, topic: topic.durations[Histogram.UPLOAD]),
)

_COMMITTING = (
    _report("bronze_commits_total", Kind.COUNTER,
            "Commits to the topic's tables.",
            "Flat while lag rises: nothing becomes visible; see /health.", Report.COMMITS),
    _report("bronze_commit_failures_total", Kind.COUNTER,
            "Commits that failed.",
            "Rising: see the topic's last error in /health.", Report.COMMIT_FAILURES),
    _report("bronze_commits_ambiguous_total", Kind.COUNTER,
            "Commits whose answer was an error and whose outcome was read back from the table.",
            "Rising: connections to the object store break; nothing is lost or doubled by it.",
            Report.COMMITS_AMBIGUOUS),
    _report("bronze_commit_conflicts_total", Kind.COUNTER,
            "Commits repeated because another writer moved the table on.",
            "Rising: make the other job (compaction, clean-up) rarer.", Report.COMMIT_CONFLICTS),
    _topic("bronze_commit_duration_seconds", Kind.HISTOGRAM,
           "Seconds a commit to a table took.",
           "Rising: the object store is slow, or the table's log has grown long.",
           lambda _m, topic: topic.durations[Histogram.COMMIT]),
    _report("bronze_last_commit_timestamp_seconds", Kind.GAUGE,
            "Unix time of the topic's last commit; 0 before the first.",
            "Old while the topic has lag: see its last error in /health.",
            Report.LAST_COMMIT_AT_MS, 1e-3),
    _topic("bronze_uncommitted_seconds", Kind.GAUGE,
           "Seconds for which messages have waited without any commit of the topic; 0: none wait.",
           "Above 3 times (BATCH_INTERVAL_SECONDS + CYCLE_DEADLINE_SECONDS) /health is 503: no "
           "message of this topic becomes visible; its last error says why.",
           lambda m, topic: m.waiting.seconds(topic.name, m.now_ns)),
    _split("bronze_table_version", Kind.GAUGE, "table",
           "Version of the topic's tables after the last commit.",
           "None; it leads to the commit in the table's history.",
           (("bronze", Report.TABLE_VERSION), ("dlq", Report.DLQ_TABLE_VERSION))),
    _report("bronze_kafka_offset_commit_failures_total", Kind.COUNTER,
            "Commits of offsets to Kafka that failed; only tools that show the group's lag mind.",
            "Rising: no broker answers, or the user may not commit for the group.",
            Report.OFFSET_COMMIT_FAILURES),
)

_KEEPING = (
    _service("bronze_ledger_behind_records", Kind.GAUGE,
             "Records of the log that are not in the ledger yet.",
             "Rising for long: the keeper fails, see keeper in /health; no record is trimmed "
             "before it is in the ledger.",
             lambda m: m.snapshot.ledger_behind),
    _header("bronze_keeper_turns_total", Kind.COUNTER,
            "Turns of the keeper that were begun.",
            "Flat while records are behind: there is no memory to borrow for it, or no cycle ends.",
            Header.KEEPER_TURNS),
    _header("bronze_keeper_failures_total", Kind.COUNTER,
            "Turns of the keeper that failed, or could not be begun.",
            "Rising: see keeper in /health; the ingestion is not concerned.",
            Header.KEEPER_FAILURES),
    _keeper("bronze_keeper_last_turn_timestamp_seconds",
            "Unix time at which the keeper's last good turn ended; 0 before the first.",
            "Old while records are behind: see keeper in /health.",
            Keeper.LAST_TURN_AT_MS, 1e-3),
    _keeper("bronze_keeper_last_turn_duration_seconds",
            "Seconds that turn took.",
            "Near 20 for long: it catches up, or the object store is slow.",
            Keeper.LAST_TURN_US, 1e-6),
    _keeper("bronze_keeper_checkpoints_total",
            "Checkpoints of tables' logs that the keeper has written.",
            "Flat for hours while commits go on: see keeper in /health; starts take longer.",
            Keeper.CHECKPOINTS, 1, Kind.COUNTER),
    _keeper("bronze_keeper_log_entries_deleted_total",
            "Entries of tables' logs deleted after their retention.",
            "None; they are deleted long after a checkpoint covers them.",
            Keeper.LOG_ENTRIES_DELETED, 1, Kind.COUNTER),
    _keeper("bronze_keeper_files_compacted_total",
            "Small files of days that are over which were replaced by larger ones.",
            "Flat for a day while rows come: see keeper in /health; queries over old days slow "
            "down.",
            Keeper.COMPACTED_FILES, 1, Kind.COUNTER),
    _keeper("bronze_keeper_files_made_total",
            "Files that replaced them.",
            "None; the files compacted for each of these are what readers are spared.",
            Keeper.COMPACTION_FILES, 1, Kind.COUNTER),
    _keeper("bronze_keeper_compactions_postponed_total",
            "Times that a table was not compacted because memory was short.",
            "Rising for hours: MEMORY_LIMIT_MB is too small for this load; 20 more will do.",
            Keeper.POSTPONED, 1, Kind.COUNTER),
    _keeper("bronze_keeper_files_vacuumed_total",
            "Files deleted from the store: no table has had them for VACUUM_RETENTION_DAYS.",
            "Flat for long while files are compacted: see keeper in /health; the bucket grows.",
            Keeper.VACUUMED_FILES, 1, Kind.COUNTER),
    _keeper("bronze_keeper_vacuumed_bytes_total",
            "Their size.", "None; that much the bucket is smaller.",
            Keeper.VACUUMED_BYTES, 1, Kind.COUNTER),
    _keeper("bronze_lineage_events_total",
            "Lineage events that were taken by what LINEAGE_URL names; some may be repetitions.",
            "Flat while bronze_lineage_behind_records is above 0: see keeper in /health.",
            Keeper.LINEAGE_EVENTS, 1, Kind.COUNTER),
    _keeper("bronze_lineage_behind_records",
            "Records in the ledger that no lineage event was taken of yet; 0 while it is off.",
            "Rising for long: what LINEAGE_URL names does not take events, see keeper in /health; "
            "ingestion does not wait for it.",
            Keeper.LINEAGE_BEHIND, 1),
    _header("bronze_keeper_borrowed_bytes", Kind.GAUGE,
            "What the keeper holds of the common budget while it works.",
            "None; compare it with bronze_memory_budget_bytes.", Header.KEEPER_BORROWED),
    _service("bronze_keeper_memory_wait_seconds", Kind.GAUGE,
             "Seconds for which the keeper has waited for others to give memory back; usually 0.",
             "Above 0 for long: MEMORY_LIMIT_MB is too small, see Memory in the runbook.",
             lambda m: keeper_wait_s(m.snapshot, m.now_ns)),
)

METRICS: tuple[Metric, ...] = (
    _SERVICE + _WORKERS + _READING + _MEMORY + _WRITING + _COMMITTING + _KEEPING)
