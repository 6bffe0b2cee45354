"""Pure: what each part of the service may hold in memory, derived from the one limit there is.

    limit = fixed + topics x (worker base + Kafka queue + floor) + common budget
    common budget >= keeper

The *fixed* part and the *worker base* are what the processes take with nothing to do.  The *floor*
is each worker's own, so that every topic always makes progress.  What varies with load beyond it
(open files, batches in work, large messages) is borrowed from the *common budget*; workers/loan.py
has the rules.  Bytes are bytes, MB are 10^6 of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MB = 1_000_000
KIB = 1024
MIB = 1024 * KIB

LIMIT_MB_MAX = 65_536
"""A larger limit is a slip of the pen: no part grows beyond its best size anyway."""

FIXED_BYTES = 40 * MB
"""Supervisor, forkserver and health page, which load does not change.  Measured beside eight
workers that drain: 38 MB with their part of the pages that all share."""
WORKER_BASE_BYTES = 18 * MB
"""A worker that has read and committed, beside what it borrows and its floor.  Measured at the
peak of a drain: 22 MB with floor, queue and its part of the pages that all share."""
KEEPER_BYTES = 18 * MB
"""The keeper's process while it works; borrowed from the common budget before it is born.
Measured while it writes checkpoints in a drain: 16 to 19 MB."""
COMPACTION_BYTES = 16 * MB
"""What the keeper takes beyond that while it compacts; it is not lent but found: compaction waits
until all processes together leave it free.  Measured: two parts of 5 MiB on their way (the least
that S3 takes), and 7 MB for a source file, a row group and the footer."""

ROW_GROUP_BEST_BYTES = 512 * KIB
"""Measured, with the batch: half of it takes 3 MB off eight draining workers and costs an eighth
more CPU per message; twice as much saves a twentieth of it, for 16 MB."""
UPLOAD_BEST_BYTES = MIB
"""About 17,000 messages of 200 bytes.  Measured: the drain is no faster with twice as much."""
QUEUE_BEST_KILOBYTES = 512
"""Measured: enough for the fetcher to stay ahead of a worker that drains."""
BATCH_BEST_MESSAGES = 1000
"""See the row group."""
SCALE_MIN = 0.25
"""Smallest share of their best sizes that the parts are cut down to when the limit is tight."""

FILE_COPIES = 2
"""Measured: 1.1 times its encoded bytes while it grows, and up to 0.6 more while it is sent to a
folder; a request to a store holds it once more."""
BATCH_COPIES = 4
"""Measured: 3.5 to 4.8 times its values at the peak: as messages, as columns, and twice while it is
encoded."""
MESSAGE_BYTES_UNKNOWN = MIB
"""What a message of unknown size is taken for: the brokers' own limit, unless it was raised."""
FLOOR_BYTES = BATCH_COPIES * MESSAGE_BYTES_UNKNOWN
"""A worker's own: a message of unknown size, or full batches of small ones."""
SEND_EARLY_BYTES = 256 * KIB
"""Encoded size at which an open file may be sent before it is full; with less, it would cost more
requests than it gives memory.  What an open file below it holds stays within the floor."""
RECYCLE_AGE_S = 60.0
"""A worker that outgrows its share sooner has not leaked: a successor would do the same."""
LOAN_SHARE_MIN = 0.5
"""Of what all full files take beyond the floors, this share must fit into the common budget: files
fill one after the other, and half of it is what they hold on average."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The limit of each part, for one service with one worker per topic.

    memory_limit_mb: of all processes together, as the operator gave it.
    worker_share_bytes: private memory above which, beside its loans, a worker is recycled.
    loan_floor_bytes: what each worker may hold unasked, beside its base and its Kafka queue.
    loan_budget_bytes: what all workers together may borrow beyond their floors.
    consume_batch_messages: taken from the Kafka client at once.
    kafka_queue_kilobytes: KiB the Kafka client holds ready.
    row_group_bytes: raw bytes after which a row group is cut; also about a batch.
    upload_bytes: encoded bytes at which an open file is sent.
    """

    memory_limit_mb: int
    worker_share_bytes: int
    loan_floor_bytes: int
    loan_budget_bytes: int
    consume_batch_messages: int
    kafka_queue_kilobytes: int
    row_group_bytes: int
    upload_bytes: int


class TooLittleMemory(ValueError):
    """The limit is too small for so many topics; `least_mb` would do."""

    def __init__(self, limit_mb: int, topic_count: int) -> None:
        self.least_mb = least_limit_mb(topic_count)
        super().__init__(f"{limit_mb} MB are too little for {topic_count} topics")


def least_limit_mb(topic_count: int) -> int:
    """The smallest limit with which so many topics can be served, and the keeper works."""
    least = FIXED_BYTES + topic_count * (WORKER_BASE_BYTES + _room_at(SCALE_MIN))
    limit_mb = math.ceil(least / MB)
    while _budget(_share(limit_mb, topic_count), topic_count) < KEEPER_BYTES:
        limit_mb += 1
    return limit_mb


def plan(limit_mb: int, topic_count: int) -> MemoryPlan:
    """What each part gets of `limit_mb`; raises `TooLittleMemory`."""
    if limit_mb < least_limit_mb(topic_count):
        raise TooLittleMemory(limit_mb, topic_count)
    share = _share(limit_mb, topic_count)
    scale = _scale(share)
    return MemoryPlan(
        memory_limit_mb=limit_mb,
        worker_share_bytes=share,
        loan_floor_bytes=FLOOR_BYTES,
        loan_budget_bytes=_budget(share, topic_count),
        consume_batch_messages=int(BATCH_BEST_MESSAGES * scale),
        kafka_queue_kilobytes=int(QUEUE_BEST_KILOBYTES * scale),
        row_group_bytes=int(ROW_GROUP_BEST_BYTES * scale),
        upload_bytes=int(UPLOAD_BEST_BYTES * scale))


def _share(limit_mb: int, topic_count: int) -> int:
    return (limit_mb * MB - FIXED_BYTES) // topic_count


def _scale(share: int) -> float:
    """How much of their best sizes the parts of a worker with this share get."""
    room = share - WORKER_BASE_BYTES - FLOOR_BYTES
    return min(1.0, room / (_room_at(1.0) - FLOOR_BYTES))


def _budget(share: int, topic_count: int) -> int:
    room = share - WORKER_BASE_BYTES - FLOOR_BYTES
    return topic_count * (room - _queue_bytes(_scale(share)))


def _room_at(scale: float) -> int:
    """Bytes beside its base that a worker needs when the parts have `scale` of their best sizes."""
    loans = LOAN_SHARE_MIN * FILE_COPIES * UPLOAD_BEST_BYTES * scale
    return math.ceil(FLOOR_BYTES + _queue_bytes(scale) + loans)


def _queue_bytes(scale: float) -> int:
    return math.ceil(QUEUE_BEST_KILOBYTES * KIB * scale)


def need(open_files: tuple[int, ...], batch_bytes: int, row_group_bytes: int) -> int:
    """Bytes a worker holds at most with files of these encoded sizes and such a batch in work.

    Beside what is encoded, each open file gathers up to a row group.
    """
    files = sum(FILE_COPIES * encoded + row_group_bytes for encoded in open_files)
    return files + BATCH_COPIES * batch_bytes
