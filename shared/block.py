"""The shared block: one mapped file through which supervisor, workers and sidecar see each other.

The supervisor makes it (`create`), everybody else maps it by path (`attach`).  No lock, condition
or queue is in it: a process killed inside one would block the others for ever.  A plain mapped
file needs no tracker process either, and lies in the runtime folder, where systemd removes it.
"""

from __future__ import annotations

import mmap
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from shared import layout
from shared.errors import BlockError
from shared.layout import (
    BUCKET_BOUNDS_S, Header, Histogram, Keeper, Order, PhaseHistogram, Report, check_of, pack,
    topic_offset, unpack,
)
from shared.protocol import Ballot, Phase, Vote

_WORD_MAX = (1 << 64) - 1


_FINISHED = (Report.DONE_RECORD, Report.TABLE_VERSION, Report.DLQ_TABLE_VERSION)


@dataclass(frozen=True, slots=True)
class Finished:
    """Up to which record a topic's tables hold everything, and their versions then (0: none)."""

    record: int = 0
    table_version: int = 0
    dlq_table_version: int = 0


class Block:
    """A mapped block; make one with `create` or `attach`."""

    def __init__(self, path: Path, mapping: mmap.mmap, topic_count: int) -> None:
        self.path = path
        self._mapping = mapping
        self._bytes = memoryview(mapping)
        self._words = self._bytes.cast("Q")
        self.topic_count = topic_count
        self.cycle_seconds = _HistogramView(
            self._words, layout.CYCLE_HISTOGRAM_OFFSET // layout.WORD_BYTES)
        phases = layout.PHASE_HISTOGRAMS_OFFSET // layout.WORD_BYTES
        self.phase_seconds = {
            Phase[kind.name]: _HistogramView(self._words, phases + kind * layout.HISTOGRAM_WORDS)
            for kind in PhaseHistogram}
        self._about = _Blob(self._bytes, self._words, layout.ABOUT_OFFSET, layout.ABOUT_BYTES)
        self.keeper_error = _Blob(
            self._bytes, self._words, layout.KEEPER_ERROR_OFFSET, layout.TEXT_BYTES)

    @classmethod
    def create(cls, path: Path, topic_count: int, about: bytes) -> Block:
        """Make a block of zeros, every page of it reserved; raises `BlockError`."""
        size = layout.block_bytes(topic_count)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise BlockError(f"cannot make {path}: {error.strerror}") from error
        try:
            # Reserving now turns a full file system into this error, not into a SIGBUS later.
            os.posix_fallocate(descriptor, 0, size)
            block = cls(path, mmap.mmap(descriptor, size), topic_count)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BlockError(f"cannot reserve {size} bytes for {path}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        block._begin(about)
        return block

    @classmethod
    def unshared(cls, topic_count: int, about: bytes) -> Block:
        """Make a block in no file, which nobody else sees."""
        mapping = mmap.mmap(-1, layout.block_bytes(topic_count))
        block = cls(Path(os.devnull), mapping, topic_count)
        block._begin(about)
        return block

    def _begin(self, about: bytes) -> None:
        self._about.write(about)
        self.set(Header.TOPIC_COUNT, self.topic_count)
        self.set(Header.LAYOUT_VERSION, layout.LAYOUT_VERSION)
        self.set(Header.MAGIC, layout.MAGIC)

    @classmethod
    def attach(cls, path: Path, *, writable: bool = True) -> Block:
        """Map an existing block; raises `BlockError` when it is not one of this layout.

        Who only looks on maps it read-only: no defect of theirs can then change a word.
        """
        flags, access = ((os.O_RDWR, mmap.ACCESS_WRITE) if writable
                         else (os.O_RDONLY, mmap.ACCESS_READ))
        try:
            descriptor = os.open(path, flags | os.O_NOFOLLOW)
        except OSError as error:
            raise BlockError(f"cannot open {path}: {error.strerror}") from error
        try:
            size = os.fstat(descriptor).st_size
            if size < layout.block_bytes(1):
                raise BlockError(f"{path} has {size} bytes, too few for a block")
            if size % layout.WORD_BYTES:
                raise BlockError(f"{path} has {size} bytes, which is no whole number of words")
            block = cls(path, mmap.mmap(descriptor, size, access=access), 0)
        except OSError as error:
            raise BlockError(f"cannot map {path}: {error.strerror}") from error
        finally:
            os.close(descriptor)
        block._check(size)
        block.topic_count = block.get(Header.TOPIC_COUNT)
        return block

    def _check(self, size: int) -> None:
        if self.get(Header.MAGIC) != layout.MAGIC:
            raise BlockError(f"{self.path} is not a block of this service")
        version = self.get(Header.LAYOUT_VERSION)
        if version != layout.LAYOUT_VERSION:
            raise BlockError(
                f"{self.path} has layout_version {version}, this release knows "
                f"{layout.LAYOUT_VERSION}")
        if size != layout.block_bytes(self.get(Header.TOPIC_COUNT)):
            raise BlockError(f"{self.path} has {size} bytes, which fits no number of topics")

    def unlink(self) -> None:
        """Remove the file; mappings stay usable."""
        self.path.unlink(missing_ok=True)

    def get(self, word: Header) -> int:
        """Read a header word."""
        return self._words[word]

    def header(self) -> list[int]:
        """All header words, to be indexed by `Header`, whose numbers have gaps."""
        return self._words[:layout.HEADER_WORDS].tolist()

    def set(self, word: Header, value: int) -> None:
        """Write a header word; the supervisor's alone."""
        self._words[word] = value & _WORD_MAX

    def add(self, word: Header, amount: int = 1) -> None:
        """Raise a header counter; the supervisor's alone."""
        self.set(word, self.get(word) + amount)

    def keeper(self, word: int) -> int:
        """Read a word of the keeper's."""
        return self._words[layout.KEEPER_OFFSET // layout.WORD_BYTES + word]

    def set_keeper(self, word: Keeper, value: int) -> None:
        """Write a word of the keeper's; its child's alone, and the supervisor's when that is
        gone."""
        self._words[layout.KEEPER_OFFSET // layout.WORD_BYTES + word] = value & _WORD_MAX

    def phase(self) -> tuple[int, Phase]:
        """(cycle_id, phase), of one moment; raises `BlockError` for a phase that does not exist."""
        cycle_id, tag = unpack(self.get(Header.PHASE))
        try:
            return cycle_id, Phase(tag)
        except ValueError as error:
            raise BlockError(f"the shared block is damaged: phase {tag}") from error

    def set_phase(self, cycle_id: int, phase: Phase) -> None:
        """Publish cycle_id and phase at once."""
        self.set(Header.PHASE, pack(cycle_id, phase))

    def about(self) -> bytes:
        """The static facts the supervisor wrote when it made the block."""
        return self._about.read() or b"{}"

    def reports(self, word: Report) -> list[int]:
        """One report word of every topic."""
        offsets = (topic_offset(index) + layout.REPORT_OFFSET for index in range(self.topic_count))
        return [self._words[offset // layout.WORD_BYTES + word] for offset in offsets]

    def slot(self, index: int) -> Slot:
        """The slot of topic `index`, in the order of KAFKA_TOPICS."""
        return Slot(self._bytes, self._words, index)


class Slot:
    """One topic's part of the block: orders (supervisor), reports (worker)."""

    def __init__(self, data: memoryview, words: memoryview, index: int) -> None:
        base = topic_offset(index)
        self._words = words
        self.index = index
        self._orders = (base + layout.ORDER_OFFSET) // layout.WORD_BYTES
        self._reports = (base + layout.REPORT_OFFSET) // layout.WORD_BYTES
        histograms = (base + layout.HISTOGRAMS_OFFSET) // layout.WORD_BYTES
        self.histograms = {
            kind: _HistogramView(words, histograms + kind * layout.HISTOGRAM_WORDS)
            for kind in Histogram
        }
        self.verdict = _Blob(data, words, base + layout.VERDICT_OFFSET, layout.TEXT_BYTES)
        self.error = _Blob(data, words, base + layout.ERROR_OFFSET, layout.TEXT_BYTES)
        self.manifest = _Blob(data, words, base + layout.MANIFEST_OFFSET, layout.MANIFEST_BYTES)

    def order(self, word: Order) -> int:
        """Read a word of the supervisor's."""
        return self._words[self._orders + word]

    def set_order(self, word: Order, value: int) -> None:
        """Write a word of the supervisor's."""
        self._words[self._orders + word] = value & _WORD_MAX

    def report(self, word: Report) -> int:
        """Read a word of the worker's."""
        return self._words[self._reports + word]

    def set_report(self, word: Report, value: int) -> None:
        """Write a word of the worker's."""
        self._words[self._reports + word] = value & _WORD_MAX

    def finish(self, finished: Finished) -> None:
        """Tell the supervisor how far the tables are."""
        words = (finished.record, finished.table_version, finished.dlq_table_version)
        for word, value in zip(_FINISHED, words, strict=True):
            self.set_report(word, value)
        self.set_report(Report.FINISHED_CHECK, check_of(*words))

    def finished(self) -> Finished | None:
        """The same for reading; None before the first, in the middle of one, and when damaged."""
        words = tuple(self.report(word) for word in _FINISHED)
        fits = self.report(Report.FINISHED_CHECK) == check_of(*words)
        return Finished(*words) if fits else None

    def count(self, word: Report, amount: int = 1) -> None:
        """Raise a counter of the worker's."""
        self._words[self._reports + word] += amount

    def include(self, cycle_id: int, record: int) -> None:
        """Tell the worker that `record` names its vote on `cycle_id`; the supervisor's alone."""
        self.set_order(Order.INCLUDED_RECORD, record)
        self.set_order(Order.INCLUDED_CHECK, check_of(cycle_id, record))
        # Last: it is the word that announces the others.
        self.set_order(Order.INCLUDED_CYCLE, cycle_id)

    def included_record(self, cycle_id: int) -> int | None:
        """The record that names the vote on `cycle_id`, None while there is none.

        What it says cannot be taken back, so no single damaged word may say it: raises
        `BlockError` when the words do not fit each other.
        """
        if self.order(Order.INCLUDED_CYCLE) != cycle_id:
            return None
        record = self.order(Order.INCLUDED_RECORD)
        if self.order(Order.INCLUDED_CHECK) != check_of(cycle_id, record):
            raise BlockError(f"the shared block is damaged: cycle {cycle_id}, record {record}")
        return record

    def ballot(self) -> Ballot:
        """The worker's vote, of one moment; raises `BlockError` for a vote that does not exist."""
        cycle_id, tag = unpack(self.report(Report.BALLOT))
        try:
            return Ballot(cycle_id, Vote(tag))
        except ValueError as error:
            raise BlockError(f"the shared block is damaged: vote {tag}") from error

    def cast(self, ballot: Ballot) -> None:
        """Vote; whatever the vote announces must have been written before."""
        self.set_report(Report.BALLOT, pack(ballot.cycle_id, ballot.vote))


class _Blob:
    """A length, a CRC and bytes; a reader that meets a half-written one sees the CRC fail."""

    def __init__(self, data: memoryview, words: memoryview, offset: int, capacity: int) -> None:
        self._words = words
        self._head = offset // layout.WORD_BYTES
        start = offset + 2 * layout.WORD_BYTES
        self._data = data[start:start + capacity]
        self.capacity = capacity

    def write(self, content: bytes) -> None:
        """Replace the content; raises ValueError when it is longer than the capacity."""
        if len(content) > self.capacity:
            raise ValueError(f"{len(content)} bytes do not fit into {self.capacity}")
        self._words[self._head] = 0
        self._data[:len(content)] = content
        self._words[self._head + 1] = zlib.crc32(content)
        self._words[self._head] = len(content)

    def read(self) -> bytes | None:
        """The content; None when there is none or a writer is (or died) in the middle of it."""
        length = self._words[self._head]
        if not 0 < length <= self.capacity:
            return None
        content = bytes(self._data[:length])
        return content if zlib.crc32(content) == self._words[self._head + 1] else None

    def clear(self) -> None:
        """Remove the content."""
        self._words[self._head] = 0


class _HistogramView:
    """Buckets (not cumulative), then count, then the sum in microseconds."""

    def __init__(self, words: memoryview, start: int) -> None:
        self._words = words
        self._start = start
        self._buckets = len(BUCKET_BOUNDS_S) + 1

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        index = next(
            (i for i, bound in enumerate(BUCKET_BOUNDS_S) if seconds <= bound), self._buckets - 1)
        self._words[self._start + index] += 1
        self._words[self._start + self._buckets] += 1
        self._words[self._start + self._buckets + 1] += int(seconds * 1e6)

    def snapshot(self) -> tuple[tuple[int, ...], float]:
        """(bucket counts, last one for "longer than all bounds"; sum in seconds)."""
        counts = tuple(self._words[self._start + i] for i in range(self._buckets))
        return counts, self._words[self._start + self._buckets + 1] / 1e6
