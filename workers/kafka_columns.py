"""Reading from a Kafka consumer in columns: no Python object per message.

The client's C library, librdkafka, delivers messages as an array of pointers.  Arrow gathers what
they point to, column by column, and the messages are given back to the library at once.  Beside the
public message structure this reads four fields that the library keeps behind it, so it is used only
with the release whose layout is known here, and each reading is compared with what the library's
own functions say of one of its messages.

    partition queues ──forward──> own queue ──> pointers ──take──> columns
    consumer's queue (rebalances, errors) ──> callbacks, as ever
"""

from __future__ import annotations

import ctypes
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import confluent_kafka
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, KafkaError, KafkaException

from shared.errors import ClientLayoutUnknown
from workers.batch import Batch, header_column
from workers.kafka_reader import Delivered, DeliveryError, errors_among
from workers.record_headers import parse_headers

CLIENT_VERSION, LIBRARY_VERSION = "2.16.1", "2.16.0"
"""The releases whose memory layout stands below."""

CONTROL_MAX = 100
"""Errors taken from the consumer's own queue in one reading."""

_HANDLE_OFFSET = 16
"""Where the client's Python object keeps its librdkafka handle: behind the object's head."""

# Offsets in bytes into a message of librdkafka.
_ERROR, _PARTITION, _VALUE, _VALUE_LENGTH, _KEY, _KEY_LENGTH, _OFFSET = 0, 16, 24, 32, 40, 48, 56
# Behind the public structure.
_TIMESTAMP_TYPE, _TIMESTAMP, _BROKER, _HEADERS_LENGTH, _HEADERS, _EPOCH = 92, 96, 116, 120, 128, 136

_ADDRESSES = 1 << 46
"""Size of a window onto all memory behind an address; nothing looks further than the pointers."""

_TWO, _THREE = pa.scalar(2, pa.int64()), pa.scalar(3, pa.int64())
_ZERO, _NULL = pa.scalar(0, pa.int64()), pa.scalar(None, pa.int64())
_NO_TIMESTAMP, _NO_ERROR = pa.scalar(0, pa.int32()), pa.scalar(0, pa.int32())


@dataclass(frozen=True, slots=True)
class _Library:
    """Functions of librdkafka; `destroy` keeps the interpreter's lock, for it takes no time."""

    name: Any
    queue_new: Any
    queue_of_partition: Any
    queue_forward: Any
    queue_destroy: Any
    consume: Any
    destroy: Any
    timestamp: Any
    broker: Any
    epoch: Any


def is_known_client() -> bool:
    """Whether the installed client is the one whose layout is known."""
    return (confluent_kafka.version(), confluent_kafka.libversion()[0]) == (
        CLIENT_VERSION, LIBRARY_VERSION)


def _load() -> _Library:
    path = confluent_kafka.cimpl.__file__
    free, locked, pointer = ctypes.CDLL(path), ctypes.PyDLL(path), ctypes.c_void_p

    def function(name: str, result: Any, *arguments: Any, library: Any = free) -> Any:
        found = getattr(library, f"rd_kafka_{name}")
        found.restype, found.argtypes = result, arguments
        return found

    return _Library(
        function("name", ctypes.c_char_p, pointer),
        function("queue_new", pointer, pointer),
        function("queue_get_partition", pointer, pointer, ctypes.c_char_p, ctypes.c_int32),
        function("queue_forward", None, pointer, pointer),
        function("queue_destroy", None, pointer),
        function("consume_batch_queue", ctypes.c_ssize_t, pointer, ctypes.c_int, pointer,
                 ctypes.c_size_t),
        function("message_destroy", None, pointer, library=locked),
        function("message_timestamp", ctypes.c_int64, pointer, ctypes.POINTER(ctypes.c_int)),
        function("message_broker_id", ctypes.c_int32, pointer),
        function("message_leader_epoch", ctypes.c_int32, pointer))


class ColumnReader:
    """`Reader` on librdkafka's own queues.

    The client's rebalance callbacks work only inside the client's own calls.  So the consumer's
    queue stays with the client, and only partitions' queues are led to one of ours.
    """

    def __init__(self, consumer: Consumer, client_id: str, topic: str, messages_max: int) -> None:
        """Raises `ClientLayoutUnknown` when the client's object holds no librdkafka handle."""
        self._library = _load()
        self._consumer, self._topic = consumer, topic.encode()
        self._handle = ctypes.c_void_p.from_address(id(consumer) + _HANDLE_OFFSET).value
        if not self._library.name(self._handle).startswith(client_id.encode()):
            raise ClientLayoutUnknown("the client's object does not hold its handle")
        self._queue = self._library.queue_new(self._handle)
        self._partition_queues: dict[int, int] = {}
        self._pointers = (ctypes.c_void_p * messages_max)()
        self._gatherer = _Gatherer(messages_max)

    def attach(self, partition: int) -> None:
        """See `Reader`."""
        if partition not in self._partition_queues:
            self._partition_queues[partition] = self._library.queue_of_partition(
                self._handle, self._topic, partition)
        self._forward()

    def detach(self, partition: int) -> None:
        """See `Reader`."""
        queue = self._partition_queues.pop(partition, None)
        if queue is not None:
            self._library.queue_destroy(queue)

    def _forward(self) -> None:
        """Lead the partitions' queues to ours; said again each time, for a partition that stops
        being fetched loses its way, at some moment in the library's own thread."""
        for queue in self._partition_queues.values():
            self._library.queue_forward(queue, self._queue)

    def read(self, messages_max: int, timeout_s: float) -> Delivered:
        """See `Reader`."""
        # Without partitions there is only the group to wait for.
        wait_s = 0.0 if self._partition_queues else timeout_s
        control = self._consumer.consume(CONTROL_MAX, wait_s)
        errors = errors_among(control)
        if len(errors) < len(control):
            # They cannot be put back in order; whoever calls reads again from its position.
            raise KafkaException(KafkaError(KafkaError._STATE, "messages came past their queue"))
        self._forward()
        count = self._library.consume(
            self._queue, int((timeout_s - wait_s) * 1000), self._pointers,
            min(messages_max, len(self._pointers)))
        if count <= 0:
            return Delivered(Batch.of(), errors)
        try:
            return self._collect(count, errors)
        finally:
            deque(map(self._library.destroy, self._pointers[:count]), 0)

    def _collect(self, count: int, errors: tuple[DeliveryError, ...]) -> Delivered:
        message = _Messages(pa.Array.from_buffers(
            pa.int64(), count,
            [None, pa.foreign_buffer(ctypes.addressof(self._pointers), 8 * count)]))
        codes = message.int32(_ERROR)
        if pc.min_max(codes).as_py() != {"min": 0, "max": 0}:
            failed = pc.not_equal(codes, _NO_ERROR)
            errors += _delivery_errors(_Messages(message.addresses.filter(failed)))
            message = _Messages(message.addresses.filter(pc.invert(failed)))
        if not len(message.addresses):
            return Delivered(Batch.of(), errors)
        self._check_layout(message)
        return Delivered(self._gatherer.batch(message), errors)

    def _check_layout(self, message: _Messages) -> None:
        """Compare what was read of the last message with what the library says of it."""
        last = message.addresses[-1].as_py()
        kind = ctypes.c_int()
        told = (self._library.timestamp(last, ctypes.byref(kind)), kind.value,
                self._library.broker(last), self._library.epoch(last))
        one = _Messages(message.addresses.slice(len(message.addresses) - 1))
        found = tuple(column[0].as_py() for column in (
            one.int64(_TIMESTAMP), one.int32(_TIMESTAMP_TYPE), one.int32(_BROKER),
            one.int32(_EPOCH)))
        if kind.value and told != found:
            raise ClientLayoutUnknown(f"the library says {told}, its memory {found}")

    def close(self) -> None:
        """See `Reader`."""
        for partition in tuple(self._partition_queues):
            self._library.queue_forward(self._partition_queues[partition], None)
            self.detach(partition)
        self._library.queue_destroy(self._queue)


class _Messages:
    """Fields of messages by their addresses, gathered with one `take` each."""

    def __init__(self, addresses: pa.Array) -> None:
        self.addresses = addresses
        self._base = pc.min(addresses)
        self._from_base = pc.subtract(addresses, self._base)

    @cached_property
    def _eights(self) -> pa.Array:
        return pc.shift_right(self._from_base, _THREE)

    @cached_property
    def _fours(self) -> pa.Array:
        return pc.shift_right(self._from_base, _TWO)

    def int64(self, offset: int) -> pa.Array:
        """The eight bytes at `offset` of each message."""
        return self._window(pa.int64(), offset).take(self._eights)

    def int32(self, offset: int) -> pa.Array:
        """The four bytes at `offset` of each message."""
        return self._window(pa.int32(), offset).take(self._fours)

    def _window(self, kind: pa.DataType, offset: int) -> pa.Array:
        memory = pa.foreign_buffer(self._base.as_py() + offset, _ADDRESSES)
        return pa.Array.from_buffers(kind, _ADDRESSES // (kind.bit_width // 8), [None, memory])


class _Gatherer:
    """Makes a batch of messages; `messages_max` bounds its index columns."""

    def __init__(self, messages_max: int) -> None:
        self._max = messages_max
        self._zeros = pa.array([0] * messages_max, pa.int64())
        self._evens = pa.array(range(0, 2 * messages_max, 2), pa.int64())
        self._interleaved = pa.array(
            [place for index in range(messages_max) for place in (index, messages_max + index)],
            pa.int64())

    def batch(self, message: _Messages) -> Batch:
        """All columns; nothing of it refers to the messages' memory."""
        headers, unreadable = self._headers(message)
        return Batch(
            message.int32(_PARTITION), message.int64(_OFFSET), _timestamps(message),
            self._texts(message.int64(_KEY), message.int64(_KEY_LENGTH)),
            self._texts(message.int64(_VALUE), message.int64(_VALUE_LENGTH)), headers, unreadable)

    def _headers(self, message: _Messages) -> tuple[pa.Array, frozenset[int]]:
        """The header column, and the indexes of messages whose headers cannot be read.

        A record without headers still holds their count, one byte of zero.
        """
        lengths = message.int32(_HEADERS_LENGTH)
        if pc.max(lengths).as_py() <= 1:
            return header_column([None] * len(lengths)), frozenset()
        rows, unreadable = [], set()
        blocks = self._texts(message.int64(_HEADERS), lengths.cast(pa.int64()))
        for index, block in enumerate(blocks.to_pylist()):
            try:
                rows.append(parse_headers(block) if block and len(block) > 1 else None)
            except ValueError:
                rows.append(None)
                unreadable.add(index)
        return header_column(rows), frozenset(unreadable)

    def _texts(self, starts: pa.Array, lengths: pa.Array) -> pa.Array:
        """Copies of the bytes at `starts`, null where that is a null pointer.

        The pointers make a column of binaries, in which every second element begins and ends
        where a text does; what lies between two texts is an element too, which is never looked
        at.  `take` of the first kind copies the texts, one behind the other.
        """
        count = len(starts)
        present = pc.not_equal(starts, _ZERO)
        if not pc.any(present).as_py():
            return pa.nulls(count, pa.binary())
        wanted = self._evens.slice(0, count)
        if pc.all(present).as_py():
            base = pc.min(starts)
        else:
            wanted = pc.if_else(present, wanted, _NULL)
            base = pc.min(starts.filter(present))
            starts = pc.if_else(present, starts, base)
        begins = pc.subtract(starts, base)
        ends = pc.add(begins, lengths)
        pairs = pa.concat_arrays([begins, self._zeros.slice(0, self._max - count), ends]).take(
            self._interleaved.slice(0, 2 * count))
        # What the whole column seems to span is what `take` makes room for.
        span_end = pc.add(begins[0], pc.sum(lengths))
        places = pa.concat_arrays([pairs, pa.array([span_end.as_py()], pa.int64())])
        memory = pa.foreign_buffer(base.as_py(), _ADDRESSES)
        texts = pa.Array.from_buffers(
            pa.large_binary(), 2 * count, [None, places.buffers()[1], memory])
        return texts.take(wanted).cast(pa.binary())


def _timestamps(message: _Messages) -> pa.Array:
    """Milliseconds, null where the broker gives none."""
    kinds, found = message.int32(_TIMESTAMP_TYPE), message.int64(_TIMESTAMP)
    if pc.min(kinds).as_py():
        return found
    return pc.if_else(pc.equal(kinds, _NO_TIMESTAMP), _NULL, found)


def _delivery_errors(message: _Messages) -> tuple[DeliveryError, ...]:
    """In the place of a value an error has its text."""
    columns = (message.int32(_ERROR), message.int32(_PARTITION), message.int64(_OFFSET),
               message.int64(_VALUE), message.int64(_VALUE_LENGTH))
    return tuple(
        DeliveryError(KafkaError(code, ctypes.string_at(text, length).decode(errors="replace")
                                 if text else None), partition, offset)
        for code, partition, offset, text, length in zip(
            *(column.to_pylist() for column in columns), strict=True))
