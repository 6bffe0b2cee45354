"""Pure: which files of a table's log nobody needs any more.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md#metadata-cleanup has the rules: what lies
below a checkpoint that is itself older than the retention may go.  That checkpoint, the entry of
its version and all behind it stay, so every version of the retention can still be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workers.log_entry import VERSION_MAX, checkpoint_part, entry_version

_CHECKSUM = re.compile(r"([0-9]{20})\.crc")
_COMPACTED = re.compile(r"[0-9]{20}\.([0-9]{20})\.compacted\.json")

_READER_MAX, _WRITER_MAX = 3, 7
_ABOUT_ROWS = frozenset({
    "allowColumnDefaults", "appendOnly", "changeDataFeed", "checkConstraints", "clustering",
    "columnMapping", "deletionVectors", "domainMetadata", "generatedColumns", "icebergCompatV1",
    "icebergCompatV2", "identityColumns", "invariants", "rowTracking", "timestampNtz",
    "typeWidening", "variantType"})
"""Features that ask nothing of who deletes entries.  Others do: a checkpoint may be protected, may
lie in parts elsewhere, an entry's age may be in the entry, or a catalog alone may delete."""


def may_clean_up(protocol: Mapping[str, Any]) -> bool:
    """Whether a log may be cleaned up by the rules above.  protocol: the table's."""
    listed = {*(protocol.get("readerFeatures") or ()), *(protocol.get("writerFeatures") or ())}
    return (protocol["minReaderVersion"] <= _READER_MAX
            and protocol["minWriterVersion"] <= _WRITER_MAX and listed <= _ABOUT_ROWS)


class OldFiles:
    """The old files of a log, taken in as a listing has them, in any order.

    covering: the names of the newest whole checkpoint among them; none where there is none.
    """

    def __init__(self, cutoff_s: float, count_max: int) -> None:
        """cutoff_s: old is what was written until then, in Unix seconds.  count_max: so many are
        deleted in one go."""
        self._cutoff_s, self._count_max = cutoff_s, count_max
        self._lowest: list[tuple[int, str]] = []
        self._parts: dict[tuple[int, int], set[str]] = {}
        self._covered = -1
        self._is_young_seen = False
        self.covering: tuple[str, ...] = ()

    def take(self, name: str, modified_s: float) -> None:
        """Take in a file; name: below the log's folder.  What lies deeper is not the log's."""
        if "/" in name:
            return
        if modified_s > self._cutoff_s:
            self._is_young_seen = self._is_young_seen or entry_version(name) is not None
            return
        version = _last_version(name)
        if version is None:
            return
        self._lowest.append((version, name))
        if len(self._lowest) >= 2 * self._count_max:
            self._lowest = sorted(self._lowest)[:self._count_max]
        checkpoint = checkpoint_part(name)
        if checkpoint is not None and version > self._covered:
            _, part, parts = checkpoint
            self._cover(version, name, part, parts or 1)

    def _cover(self, version: int, name: str, part: int, part_count: int) -> None:
        if not 1 <= part <= part_count:
            return
        parts = self._parts.setdefault((version, part_count), set())
        parts.add(name)
        if len(parts) == part_count:
            self._covered, self.covering = version, tuple(sorted(parts))
            self._parts = {key: found for key, found in self._parts.items() if key[0] > version}

    @property
    def is_settled(self) -> bool:
        """Whether nothing behind it in the order of names makes a difference: it is younger, or
        there is enough to delete."""
        return self._is_young_seen or len(self.doomed()) == self._count_max

    def doomed(self) -> list[str]:
        """Names of what is to be deleted, the oldest versions first."""
        return [name for version, name in sorted(self._lowest)[:self._count_max]
                if version < self._covered]


def _last_version(name: str) -> int | None:
    """The last version that a file of the log tells of; None where it is not ours to judge."""
    checkpoint = checkpoint_part(name)
    if checkpoint is not None:
        return checkpoint[0]
    for form in (_CHECKSUM, _COMPACTED):
        match = form.fullmatch(name)
        if match is not None:
            return int(match[1]) if int(match[1]) <= VERSION_MAX else None
    return entry_version(name)
