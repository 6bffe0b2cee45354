"""Everything that can go wrong, split by what the caller does next.

    IngestError
      RecoverableError      try again, with back-off; the process stays
        StorageUnavailable    the object store did not answer, or refused
        KafkaUnavailable      no broker answers
        KafkaAuthenticationFailed   the brokers refuse our credentials
        TopicMissing          the topic does not exist (yet)
        CommitConflict        another writer took the table version; read back, then retry
        TableUnavailable      a table's log cannot be read, or takes no commit of ours
        LineageUnavailable    an event of lineage was not taken; the next turn sends it again
        LineageGap            cycles that are due as events are no longer in the ledger's log
      TopicStopped          no retry can help: the topic stops until a person has acted
        TopicRecreated  OffsetGap  TableMismatch  TableVanished  TornRecord  MissingFile
        MalformedMessage  ManifestTooLarge  FrontierBroken
      ServiceHalted         no retry can help, and the whole service is concerned
        UnsupportedRecord     a record of an unknown version
        LogDamaged            records are missing in the middle of the log
        LogOvertaken          the log was trimmed past us while we were frozen
      Fenced                a newer service of the same identity runs
      AssignmentFailed      the worker ends, is started again and joins anew
      BlockError            the shared block is not ours, too small, or of another layout

Every error carries `what_to_do`, a sentence for the person on call.  Messages never hold secrets
or payloads: they name topics, partitions, offsets, paths and causes.
"""

from __future__ import annotations


class IngestError(Exception):
    """Base of all named errors; `name` is what /health, logs and the runbook call it."""

    what_to_do = "Look at the log line of this error and at the runbook."

    @property
    def name(self) -> str:
        """The name used in /health, in logs and in the runbook."""
        return type(self).__name__


class RecoverableError(IngestError):
    """The same operation may succeed later without anybody's hand."""


class StorageUnavailable(RecoverableError):
    """The object store did not do `operation` on `path`."""

    what_to_do = (
        "Check that the object store answers and that the credentials may read and write the "
        "lake; the service retries by itself."
    )

    def __init__(self, operation: str, path: str, cause: str) -> None:
        super().__init__(f"{operation} {path}: {cause}")
        self.operation, self.path, self.cause = operation, path, cause


class KafkaUnavailable(RecoverableError):
    """No broker answered `operation`."""

    what_to_do = "Check that the brokers are up and reachable; the service retries by itself."

    def __init__(self, operation: str, cause: str) -> None:
        super().__init__(f"{operation}: {cause}")


class KafkaAuthenticationFailed(RecoverableError):
    """The brokers refused the credentials, or their certificate was refused."""

    what_to_do = (
        "Check KAFKA_SECURITY_PROTOCOL, KAFKA_SASL_MECHANISM, user name, password and CA; "
        "the service retries by itself."
    )


class TopicMissing(RecoverableError):
    """The topic does not exist on these brokers, or may not be seen."""

    what_to_do = "Create the topic, or take it out of KAFKA_TOPICS; the service retries by itself."

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} does not exist or may not be described")


class CommitConflict(RecoverableError):
    """The table moved on since our snapshot; nothing of ours was written by this attempt."""

    what_to_do = "None: the commit is repeated on a fresh snapshot."


class TableUnavailable(RecoverableError):
    """The store answers, and yet a table cannot be opened or does not take our commits."""

    what_to_do = (
        "Look at the table's _delta_log: another writer has damaged it, turned on a feature this "
        "release cannot write, or commits without a pause; the service retries by itself."
    )


class LineageUnavailable(RecoverableError):
    """The endpoint or file that LINEAGE_URL names did not take an event."""

    what_to_do = (
        "Check that what LINEAGE_URL names is up, takes OpenLineage events, and accepts the key; "
        "ingestion does not wait for it, and every event is sent later, in order."
    )


class LineageGap(RecoverableError):
    """The part of the ledger's log that the next events come from is gone."""

    what_to_do = (
        "Lineage was held up for longer than the ledger's log is kept. Accept that the named "
        "cycles have no event: delete _bronze/lineage.json, and it begins behind them."
    )


class TopicStopped(IngestError):
    """A topic must not go on by itself: going on would lose, double or mix data."""


class TopicRecreated(TopicStopped):
    """The topic was deleted and created again; its offsets mean other messages now."""

    what_to_do = (
        "Move the old table away or rename the new topic, then restart; "
        "see the runbook on TopicRecreated."
    )

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic} was deleted and created again since its table was begun")


class OffsetGap(TopicStopped):
    """Kafka no longer holds offsets the table is waiting for, and GAP_POLICY is `fail`."""

    what_to_do = (
        "Retention overtook the service. Restore the data, or accept the loss by "
        "GAP_POLICY=continue (the gap is then recorded), and restart."
    )

    def __init__(self, topic: str, partition: int, wanted: int, low: int, high: int) -> None:
        super().__init__(
            f"{topic}[{partition}]: offset {wanted} is wanted, Kafka holds [{low}, {high})"
        )


class TableMismatch(TopicStopped):
    """An existing table has other columns, types or another partition column than ours."""

    what_to_do = "Move the table away or mend its schema, then restart."


class TableVanished(TopicStopped):
    """A table that existed is gone; it is never made anew, for its positions are gone too."""

    what_to_do = "Restore the table from its bucket's versions or a copy, then restart."


class TornRecord(TopicStopped):
    """A table holds a part of a decided manifest: somebody else writes our positions."""

    what_to_do = (
        "Find out who else writes this table's positions (the txn actions bronze/...); "
        "see the runbook on TornRecord."
    )


class MissingFile(TopicStopped):
    """A file named by a decided record is no longer in the store."""

    what_to_do = (
        "Restore the named file from the bucket's versions; a VACUUM with a short retention "
        "is the usual cause. Then restart."
    )


class MalformedMessage(TopicStopped):
    """A malformed message arrived, the dead letter queue is off and ON_MALFORMED is `stop`."""

    what_to_do = "Set DLQ_ENABLED=true (nothing is lost), or ON_MALFORMED=skip; then restart."


class ManifestTooLarge(TopicStopped):
    """A cycle's manifest does not fit its place in the shared block."""

    what_to_do = "Lower CARRY_OVER_FILES_MAX or spread the topic over several instances."


class FrontierBroken(TopicStopped):
    """A worker asks for a range that does not begin where the last decided one ended."""

    what_to_do = "This is a defect of the service: keep the log and report it."


class ServiceHalted(IngestError):
    """The service as a whole must not go on; `restart_helps` says whether a new start may."""

    restart_helps = False


class UnsupportedRecord(ServiceHalted):
    """The log holds a record of a version this release does not know."""

    what_to_do = "A newer release wrote to this lake: run that release or a later one."


class LogDamaged(ServiceHalted):
    """A record that may still have to be committed is not in the log."""

    what_to_do = (
        "Restore the missing object under _bronze/log/ from the bucket's versions; nothing is "
        "written until then."
    )


class LogOvertaken(ServiceHalted):
    """The log was trimmed past the number this service wanted to write: it was frozen for long."""

    restart_helps = True
    what_to_do = "None: the service restarts and reads the log anew."


class Fenced(IngestError):
    """A newer service with our INSTANCE_ID has started; this one must not write any more."""

    what_to_do = (
        "Two services run with one INSTANCE_ID: stop one, or give them different ones on purpose."
    )


class AssignmentFailed(IngestError):
    """A rebalance could not be followed; the worker must end and join anew."""

    what_to_do = "None: the worker is started again; the message names the cause."


class BlockError(IngestError):
    """The shared block cannot be made, or is not one of ours."""

    what_to_do = "Check the free space and the owner of the runtime folder ($RUNTIME_DIRECTORY)."
