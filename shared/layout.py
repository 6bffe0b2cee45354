"""The byte layout of the shared block: names of words, and nothing else.

    | header words | histograms | about | keeper words and error |
    topic 0: order words | report words | histograms | texts | manifest | topic 1 …

Every word is an aligned, unsigned 64-bit integer with one writer, so a reader never sees half of
one.  What must change together is packed in one word (phase with cycle_id, vote with cycle_id) or
is written before the word that announces it (a manifest before its vote).

*Header* and *order* words are written by the supervisor, *report* words and histograms by the
topic's worker; so are its two longer fields, `error` (the worker's last error) and `manifest`; the
supervisor has an error field of its own per topic (`verdict`), for what a dead worker cannot say.
*Keeper* words and the keeper's `error` are written by its child, of which there is one at a time,
and by the supervisor for one that is dead.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum

MAGIC = int.from_bytes(b"BRONZE-1", "little")
LAYOUT_VERSION = 4
WORD_BYTES = 8

ABOUT_BYTES = 32 * 1024
"""Static facts (JSON) for the sidecar: topics, version, instance; 64 topics of 249 letters fit."""
TEXT_BYTES = 4096
"""An error: 500 characters at six bytes at worst, a name, a time and what to do."""
MANIFEST_BYTES = 128 * 1024
"""20 files of 600 bytes and 256 partitions of 100 bytes take 40 kB."""


class Header(IntEnum):
    """Words of the whole service; times named _NS are CLOCK_MONOTONIC, _AT_MS are Unix time.

    LAST_CONSUMING_US to LAST_COMMITTING_US: how long the last cycle that committed something was
    in each phase; all 0 before the first.
    """

    MAGIC = 0
    LAYOUT_VERSION = 1
    TOPIC_COUNT = 2
    PHASE = 3
    SUPERVISOR_PID = 4
    HEARTBEAT_NS = 5
    STARTED_AT_MS = 6
    READY = 7
    LAST_COMPLETED_AT_MS = 8
    LAST_CYCLE_US = 9
    CYCLES_COMPLETED = 10
    CYCLES_ABORTED = 11
    CYCLES_EMPTY = 12
    LAST_RECORD = 13
    RECORDS_WRITTEN = 14
    RECORD_RETRIES = 15
    SIDECAR_RESTARTS = 16
    LAST_COMPLETED_NS = 17
    DECIDING_SINCE_NS = 18
    KEEPER_BORROWED = 19
    KEEPER_LOAN_WAITED_NS = 20
    KEEPER_TURNS = 21
    KEEPER_FAILURES = 22
    LAST_CONSUMING_US = 40
    LAST_FLUSHING_US = 41
    LAST_DECIDING_US = 42
    LAST_COMMITTING_US = 43


class Keeper(IntEnum):
    """What the keeper's turns tell; counts (from CHECKPOINTS on) go on from turn to turn.

    NEXT_RECORD: the first one that is not in the ledger yet, 0 before the first turn; BEHIND: how
    many records there are from it on.  LAST_TURN_*: of the last one that went well to its end.
    COMPACTED_FILES became COMPACTION_FILES; VISITS: of a table whose files were looked after, one
    in a turn; UNFINISHED: the last one ended for want of time; POSTPONED: visits without a
    compaction for want of memory.  LINEAGE_EVENTS: how many were sent; LINEAGE_BEHIND: records in
    the ledger not yet told of.
    """

    NEXT_RECORD = 0
    BEHIND = 1
    LAST_TURN_AT_MS = 2
    LAST_TURN_US = 3
    ERROR_ACTIVE = 4
    CHECKPOINTS = 5
    LOG_ENTRIES_DELETED = 6
    COMPACTED_FILES = 7
    COMPACTION_FILES = 8
    VACUUMED_FILES = 9
    VACUUMED_BYTES = 10
    VISITS = 11
    UNFINISHED = 12
    POSTPONED = 13
    LINEAGE_EVENTS = 16
    LINEAGE_BEHIND = 17


class Order(IntEnum):
    """Per topic, written by the supervisor."""

    PID = 0
    INCARNATION = 1
    RESTARTS = 2
    STANDING = 3
    FAILURES = 4
    INCLUDED_CYCLE = 5
    INCLUDED_RECORD = 6
    RESET_CYCLE = 7
    SPAWNED_AT_MS = 8
    STALLS = 9
    STANDING_SINCE_MS = 10
    FOREIGN_RECORD = 11
    INCLUDED_CHECK = 12
    RECYCLED = 13


class Report(IntEnum):
    """Per topic, written by the worker; counters go on where a dead incarnation left them.

    BORROWED and LOAN_WAITED_NS bind other workers, so the supervisor clears them for a dead one.
    VALID_THROUGH_MS: up to when every partition the worker has was read, by Kafka's timestamps and
    what the client has heard of their ends; the present time for who has read all, 0 if unknown.
    COMMITTED_THROUGH_MS: up to when the tables have all of every partition that COMMITTED_OF, a
    check of their numbers, vouches for; it goes on where a dead incarnation of the same partitions
    left it.  RETENTION: how Kafka deletes the topic's messages, RETENTION_MS: after how long.
    """

    INCARNATION = 0
    HEARTBEAT_NS = 1
    BALLOT = 2
    DONE_RECORD = 3
    STARTED = 4
    FLUSH_WANTED = 5
    PARTITIONS = 6
    LAG = 7
    LAG_KNOWN = 8
    PAUSED = 9
    TABLE_VERSION = 10
    DLQ_TABLE_VERSION = 11
    LAST_COMMIT_AT_MS = 12
    ERROR_ACTIVE = 13
    OPEN_BYTES = 14
    OPEN_ROWS = 15
    CARRIED_FILES = 16
    ROWS = 17
    VALUE_BYTES = 18
    DEAD_LETTERS_ENCODING = 19
    DEAD_LETTERS_JSON = 20
    DEAD_LETTERS_EMPTY = 21
    DEAD_LETTERS_HEADERS = 22
    SKIPPED = 23
    COMMITS = 24
    COMMIT_FAILURES = 25
    COMMITS_AMBIGUOUS = 26
    COMMIT_CONFLICTS = 27
    OFFSETS_ABSENT = 28
    OFFSETS_LOST = 29
    REBALANCES = 30
    FILES_UPLOADED = 31
    BYTES_UPLOADED = 32
    UPLOAD_FAILURES = 33
    MESSAGES_CONSUMED = 34
    PAUSES = 35
    OFFSET_COMMIT_FAILURES = 36
    LAST_COMMIT_NS = 37
    FINISHED_CHECK = 38
    BORROWED = 39
    LOAN_WAITED_NS = 40
    VALID_THROUGH_MS = 41
    COMMITTED_THROUGH_MS = 42
    COMMITTED_OF = 43
    RETENTION = 44
    RETENTION_MS = 45


DEAD_LETTERS = {
    "encoding": Report.DEAD_LETTERS_ENCODING, "json": Report.DEAD_LETTERS_JSON,
    "empty": Report.DEAD_LETTERS_EMPTY, "headers": Report.DEAD_LETTERS_HEADERS,
}
"""error_class of a dead letter -> the word that counts it."""


class Paused(IntEnum):
    """Why a worker does not read; 0 means that it reads."""

    NO = 0
    CYCLE_FULL = 1
    CARRY_OVER_FULL = 2
    BACKING_OFF = 3
    BUDGET = 4
    STARTING = 5


class Retention(IntEnum):
    """When Kafka deletes a topic's messages, as far as the worker may know."""

    UNKNOWN = 0
    TIME = 1
    TIME_OR_SIZE = 2
    SIZE = 3
    FOREVER = 4


class Histogram(IntEnum):
    """Per topic, written by the worker: buckets, count, and sum in microseconds."""

    COMMIT = 0
    UPLOAD = 1


class PhaseHistogram(IntEnum):
    """Of the whole service, written by the supervisor: seconds in the phase of that name."""

    FLUSHING = 0
    DECIDING = 1
    COMMITTING = 2


BUCKET_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds; one more bucket holds the rest."""
HISTOGRAM_WORDS = len(BUCKET_BOUNDS_S) + 3

HEADER_WORDS = 64
KEEPER_WORDS = 32
ORDER_WORDS = 32
REPORT_WORDS = 64

CYCLE_HISTOGRAM_OFFSET = HEADER_WORDS * WORD_BYTES
PHASE_HISTOGRAMS_OFFSET = CYCLE_HISTOGRAM_OFFSET + HISTOGRAM_WORDS * WORD_BYTES
ABOUT_OFFSET = PHASE_HISTOGRAMS_OFFSET + len(PhaseHistogram) * HISTOGRAM_WORDS * WORD_BYTES
KEEPER_OFFSET = ABOUT_OFFSET + 2 * WORD_BYTES + ABOUT_BYTES
KEEPER_ERROR_OFFSET = KEEPER_OFFSET + KEEPER_WORDS * WORD_BYTES
TOPICS_OFFSET = KEEPER_ERROR_OFFSET + 2 * WORD_BYTES + TEXT_BYTES

ORDER_OFFSET = 0
REPORT_OFFSET = ORDER_OFFSET + ORDER_WORDS * WORD_BYTES
HISTOGRAMS_OFFSET = REPORT_OFFSET + REPORT_WORDS * WORD_BYTES
VERDICT_OFFSET = HISTOGRAMS_OFFSET + len(Histogram) * HISTOGRAM_WORDS * WORD_BYTES
ERROR_OFFSET = VERDICT_OFFSET + 2 * WORD_BYTES + TEXT_BYTES
MANIFEST_OFFSET = ERROR_OFFSET + 2 * WORD_BYTES + TEXT_BYTES
TOPIC_BYTES = MANIFEST_OFFSET + 2 * WORD_BYTES + MANIFEST_BYTES

_TAG_BITS = 8


def block_bytes(topic_count: int) -> int:
    """Size of a block for `topic_count` topics."""
    return TOPICS_OFFSET + topic_count * TOPIC_BYTES


def topic_offset(index: int) -> int:
    """Where topic `index` begins."""
    return TOPICS_OFFSET + index * TOPIC_BYTES


def check_of(*words: int) -> int:
    """What a check word holds for the words it vouches for: no single damaged word fits it."""
    return zlib.crc32(struct.pack(f"<{len(words)}Q", *words))


def pack(cycle_id: int, tag: int) -> int:
    """A cycle_id and a phase or vote as one word, so that both change at once."""
    return cycle_id << _TAG_BITS | tag


def unpack(word: int) -> tuple[int, int]:
    """(cycle_id, tag) of a packed word."""
    return word >> _TAG_BITS, word & ((1 << _TAG_BITS) - 1)
