"""Pure: which files of closed days are worth being one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

from keeper.checkpoint import LiveFile

CLOSED_AFTER = timedelta(hours=1)
"""After its day's end a date is closed: a message that was read before midnight may land later."""
BATCH_FILES_MAX = 1000
"""Files that become one: each is read with a request, and named in the entry of the log."""
SMALL_SHARE = 0.5
"""A file below this share of the wanted size is small.  So a row is rewritten a few times at most:
what it lands in soon is large."""


def closed_before(now_ms: int) -> str:
    """The first ISO date that is not closed yet."""
    return (datetime.fromtimestamp(now_ms / 1000, UTC) - CLOSED_AFTER).date().isoformat()


def batches(files: Iterable[LiveFile], target_bytes: int) -> Iterator[Sequence[LiveFile]]:
    """Which files become one, each time: of one date, in their order, and more than one.

    files: small ones (SMALL_SHARE), by date.
    """
    for _, of_date in groupby(files, key=lambda file: file.date):
        batch: list[LiveFile] = []
        size = 0
        for file in of_date:
            batch.append(file)
            size += file.size
            if size >= target_bytes or len(batch) == BATCH_FILES_MAX:
                yield batch
                batch, size = [], 0
        if len(batch) > 1:
            yield batch
