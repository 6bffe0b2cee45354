"""What probes bring home, before anybody judges it.  Pure.

A finding is kept under what it is about; what is missing at the end was not reached in time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from shared.errors import IngestError, StorageUnavailable

TEXT_CHARS_MAX = 300
FINAL_STORE_CODES = (
    "NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed")
"""S3's answers that any other request would get as well."""

_STATUS = re.compile(r"\d{3} ")


class Key(NamedTuple):
    """What a finding is about: the kind of thing, and which one."""

    check: str
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe that did not get its answer: the error's name, its text, and advice, if it has."""

    name: str
    text: str
    what_to_do: str = ""


@dataclass(frozen=True, slots=True)
class NoRight:
    """The broker refused: `operation` on `resource` is not among our rights."""

    operation: str
    resource: str


@dataclass(frozen=True, slots=True)
class NotTold:
    """The broker does not know the request: whatever it is about, it is not to be had."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The service's own limit, and what its control group allows (None: no limit, or unknown)."""

    limit_mb: int
    group_bytes: int | None


@dataclass(frozen=True, slots=True)
class Brokers:
    """The cluster that answered."""

    count: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its partitions, those without a leader, and our rights (None: not told)."""

    partitions: int
    leaderless: tuple[int, ...]
    operations: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a topic keeps messages; a negative number is no limit."""

    retention_ms: int
    retention_bytes: int
    cleanup_policy: str


@dataclass(frozen=True, slots=True)
class Unread:
    """A partition with messages that the group has not committed.

    committed: the group's next_offset; low, high: Kafka holds [low, high).
    oldest_ms: Unix time of the oldest unread message that is still there, None where not known.
    """

    partition: int
    committed: int
    low: int
    high: int
    oldest_ms: int | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a topic holds unread, and in how many partitions that is not known: the group has no
    offset there, or the broker did not answer for them."""

    unread: tuple[Unread, ...]
    unknown: int


@dataclass(frozen=True, slots=True)
class Group:
    """The consumer group: our rights (None: not told), its members, those with names of ours."""

    operations: frozenset[str] | None
    members: int
    ours: int


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the store: whether it did what it should, and what it did instead."""

    works: bool = True
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Clocks:
    """When an object was written by the store's clock, and by ours between which moments."""

    store_s: float
    before_s: float
    after_s: float


@dataclass(frozen=True, slots=True)
class Table:
    """A table's version; None where there is none yet."""

    version: int | None


@dataclass(frozen=True, slots=True)
class Log:
    """The decision log: how many records, and the newest of our instance (None: none found)."""

    records: int
    newest_number: int | None
    newest_written_at: str
    newest_age_s: float | None


Finding = (Failure | NoRight | NotTold | Memory | Brokers | Topic | Retention | Backlog | Group
           | Operation | Clocks | Table | Log)


def failure(error: BaseException) -> Failure:
    """Any exception as a finding; one nobody expected keeps its class's name."""
    if isinstance(error, StorageUnavailable) and _STATUS.match(error.cause):
        # Behind what the store said, the client says the same again, with addresses.
        said = error.cause.partition("; ")[0]
        return Failure(error.name, f"{error.operation} {error.path}: {said}", error.what_to_do)
    if isinstance(error, IngestError):
        return Failure(error.name, str(error), error.what_to_do)
    lines = str(error).strip().splitlines() or ["no text"]
    return Failure(type(error).__name__, lines[0][:TEXT_CHARS_MAX])
