"""Messages as columns, the form in which they leave the Kafka client."""

from __future__ import annotations

from dataclasses import dataclass, field

Header = tuple[str, bytes | None]


@dataclass(slots=True)
class Batch:
    """Messages of one topic, column by column, in the order they were read.

    timestamps_ms: milliseconds since 1970 as the broker gives them, None where there is none.
    headers: None where a message has none.  unreadable_headers: offsets by partition of messages
    whose headers the client could not decode (their `headers` entry is None).
    """

    partitions: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    timestamps_ms: list[int | None] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    headers: list[list[Header] | None] = field(default_factory=list)
    unreadable_headers: frozenset[tuple[int, int]] = frozenset()

    def __len__(self) -> int:
        return len(self.offsets)
