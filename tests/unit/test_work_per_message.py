"""A guard against falling back: what is done in Python is done per batch, not per message.

Seconds depend on the machine; calls do not.  The interpreter tells every call that it makes itself;
those that `map` makes inside are not told, and cost a tenth.
"""

from __future__ import annotations

import gc
import sys
from types import FrameType
from typing import Any

from tests.fakes.store import MemoryStore
from workers.batch import Batch
from workers.decoder import decode
from workers.draft import Draft, FileLimits

NOW_MS = 1_769_860_800_000
SMALL, LARGE = 100, 1_000
CALLS_MAX = 170
"""Of one batch without dead letters, whatever its size; 161 when this was written."""
BATCHES = 30
BLOCKS_MAX = 300
"""Objects that may be left after thirty batches: the libraries' caches, not ten of each batch."""


def batch(first: int, count: int) -> Batch:
    """Messages of four partitions, in runs as the client gives them."""
    places = [(place * 4 // count, first + place % (count // 4)) for place in range(count)]
    return Batch(
        [partition for partition, _ in places], [offset for _, offset in places],
        [NOW_MS] * count, [b"key"] * count,
        [b'{"id": %d, "name": "a value of some length"}' % place for place in range(count)],
        [None] * count)


def make() -> Draft:
    """A draft that keeps its row group open, so that only taking is counted."""
    limits = FileLimits(row_group_bytes=1 << 30, upload_bytes=1 << 30)
    return Draft(MemoryStore(), "orders", limits, dict.fromkeys(range(4), 0), dlq_enabled=True)


def calls(count: int) -> int:
    """Calls that the interpreter makes to check, convert and take one batch."""
    draft, messages, made = make(), batch(0, count), 0
    take(draft, batch(0, count))

    def count_call(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    draft = make()
    # A collection calls whoever has asked to be told of it, and comes when it comes.
    gc.disable()
    sys.setprofile(count_call)
    try:
        take(draft, messages)
    finally:
        sys.setprofile(None)
        gc.enable()
    return made


def take(draft: Draft, messages: Batch) -> None:
    """What the worker does with a batch."""
    draft.book.check(messages.extents)
    draft.take(messages, decode(messages, NOW_MS, "orders", "1"), NOW_MS)


def test_a_larger_batch_takes_no_more_calls() -> None:
    """A loop over messages in the hot path costs more than everything else in it."""
    small, large = calls(SMALL), calls(LARGE)
    assert large == small
    assert large <= CALLS_MAX


def test_nothing_is_left_of_a_batch_once_it_is_written() -> None:
    """What a batch leaves behind adds up to the memory of a whole day."""
    def play(turns: range) -> None:
        for turn in turns:
            draft = make()
            take(draft, batch(turn * LARGE, LARGE))
            draft.close(NOW_MS)
        gc.collect()

    play(range(10))
    before = sys.getallocatedblocks()
    play(range(BATCHES))
    assert sys.getallocatedblocks() - before <= BLOCKS_MAX
