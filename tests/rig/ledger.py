"""What was written to Kafka, offset by offset: the truth that the tables are held against.

A ledger keeps, per topic and partition, one byte (what kind of message lies at the offset) and
sixteen bytes (a digest of all its content) for every offset: 17 MB for a million messages.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum

DIGEST_BYTES = 16

_FIXED = struct.Struct("<qqqq")
_LENGTH = struct.Struct("<q")
_NULL = -1


class Kind(IntEnum):
    """What lies at an offset, as far as the judge is concerned."""

    ABSENT = 0
    """Nothing that anybody wrote: a control record, or beyond the end."""
    VALID = 1
    BROKEN = 2
    INVALID_UTF8 = 3
    TRUNCATED = 4
    NAN = 5
    EMPTY = 6
    ABORTED = 7
    """Part of an aborted transaction: must never land anywhere."""
    FORGIVEN = 8
    """Removed upstream by the test: may have landed before, and need not have."""


MALFORMED = (Kind.BROKEN, Kind.INVALID_UTF8, Kind.TRUNCATED, Kind.NAN, Kind.EMPTY)

ERROR_CLASSES: Mapping[Kind, str] = {
    Kind.BROKEN: "json",
    Kind.INVALID_UTF8: "encoding",
    Kind.TRUNCATED: "json",
    Kind.NAN: "json",
    Kind.EMPTY: "empty",
}
"""The error_class that the DLQ row of each malformed kind must have."""

ROW_KINDS = frozenset({Kind.VALID, *MALFORMED})
"""Kinds that must be a row in exactly one table."""


def digest_of(
    key: bytes | None, value: bytes | None, packed_headers: bytes, timestamp_ms: int
) -> bytes:
    """Sixteen bytes that change with any part of a message; null and empty differ.

    Args:
        packed_headers: from `pack_headers`.
        timestamp_ms: Kafka's, milliseconds since the epoch.
    """
    fixed = _FIXED.pack(
        timestamp_ms,
        _NULL if key is None else len(key),
        _NULL if value is None else len(value),
        len(packed_headers),
    )
    content = b"".join((fixed, key or b"", value or b"", packed_headers))
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def pack_headers(headers: Iterable[tuple[str | None, str | bytes | None]]) -> bytes:
    """The headers as bytes, in their order, with nothing that could be read in two ways.

    No headers at all and an empty list are the same to Kafka, so they are the same here: b"".
    """
    parts: list[bytes] = []
    for name, value in headers:
        for text in (name, value):
            item = text.encode() if isinstance(text, str) else text
            parts.append(_LENGTH.pack(_NULL if item is None else len(item)))
            parts.append(item or b"")
    return b"".join(parts)


class PartitionLedger:
    """One partition: two byte arrays, indexed by offset."""

    def __init__(self) -> None:
        self.kinds = bytearray()
        self.digests = bytearray()

    def __len__(self) -> int:
        """One more than the highest offset recorded."""
        return len(self.kinds)

    def record(self, offset: int, kind: Kind, digest: bytes) -> None:
        """Enter the message at an offset; two messages at one offset are a mistake of the rig."""
        missing = offset + 1 - len(self.kinds)
        if missing > 0:
            self.kinds.extend(bytes(missing))
            self.digests.extend(bytes(missing * DIGEST_BYTES))
        if self.kinds[offset]:
            raise ValueError(f"offset {offset} is in the ledger already")
        self.kinds[offset] = kind
        self.digests[offset * DIGEST_BYTES : (offset + 1) * DIGEST_BYTES] = digest

    def kind(self, offset: int) -> Kind:
        """What lies at an offset; ABSENT beyond the ends."""
        return Kind(self.kinds[offset]) if 0 <= offset < len(self.kinds) else Kind.ABSENT

    def digest(self, offset: int) -> bytes:
        """The digest at an offset below `len`."""
        return bytes(self.digests[offset * DIGEST_BYTES : (offset + 1) * DIGEST_BYTES])

    def forgive(self, start: int, end: int) -> None:
        """Let offsets [start, end) be missing from the tables, for instance after retention."""
        for offset in range(start, min(end, len(self.kinds))):
            if self.kinds[offset] in ROW_KINDS:
                self.kinds[offset] = Kind.FORGIVEN


class Ledger:
    """All partitions of all topics; written by one thread, read when that thread is done."""

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], PartitionLedger] = {}

    def partition(self, topic: str, partition: int) -> PartitionLedger:
        """The ledger of one partition, made when it is first asked for."""
        key = (topic, partition)
        found = self._partitions.get(key)
        if found is None:
            found = self._partitions[key] = PartitionLedger()
        return found

    def partitions(self, topic: str) -> Iterator[tuple[int, PartitionLedger]]:
        """The partitions of a topic that hold anything, by number."""
        for name, number in sorted(self._partitions):
            if name == topic:
                yield number, self._partitions[name, number]

    def record(
        self, topic: str, partition: int, offset: int, kind: Kind, digest: bytes
    ) -> None:
        """Enter one message; raises ValueError when its offset is taken."""
        self.partition(topic, partition).record(offset, kind, digest)

    def topics(self) -> list[str]:
        """Every topic with an entry."""
        return sorted({topic for topic, _ in self._partitions})

    def count(self, kind: Kind, topic: str | None = None) -> int:
        """How many messages of a kind were written, in one topic or in all."""
        return sum(
            ledger.kinds.count(kind)
            for (name, _), ledger in self._partitions.items()
            if topic is None or name == topic
        )

    def rows(self, topic: str | None = None) -> int:
        """How many messages must be a row somewhere."""
        return sum(self.count(kind, topic) for kind in ROW_KINDS)
