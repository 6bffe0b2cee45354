"""Reading from a Kafka consumer message by message: works with every release of the client.

`kafka_columns` does the same without an object per message, and is used where it can be.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, Message

from workers.batch import Batch


@dataclass(frozen=True, slots=True)
class DeliveryError:
    """What came in the place of a message; partition and offset are -1 where it is of neither."""

    error: KafkaError
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one reading brought; messages stand in the order of each partition."""

    batch: Batch
    errors: tuple[DeliveryError, ...] = ()


class Reader(Protocol):
    """Takes messages out of one consumer.  All calls from the thread that polls it."""

    def attach(self, partition: int) -> None:
        """A partition is about to be assigned."""

    def detach(self, partition: int) -> None:
        """A partition was taken away."""

    def read(self, messages_max: int, timeout_s: float) -> Delivered:
        """Up to `messages_max` messages; serves the consumer's callbacks.

        Raises `KafkaException` when what was delivered is unknown.
        """

    def close(self) -> None:
        """Let go of the consumer, before it is closed."""


class MessageReader:
    """`Reader` through the client's own objects."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def attach(self, partition: int) -> None:
        """See `Reader`; the client does it."""

    def detach(self, partition: int) -> None:
        """See `Reader`; the client does it."""

    def read(self, messages_max: int, timeout_s: float) -> Delivered:
        """See `Reader`."""
        messages = self._consumer.consume(messages_max, timeout_s)
        errors = errors_among(messages)
        if errors:
            messages = [message for message in messages if message.error() is None]
        return Delivered(_batch(messages), errors)

    def close(self) -> None:
        """See `Reader`; nothing is held."""


def errors_among(messages: Iterable[Message]) -> tuple[DeliveryError, ...]:
    """The errors that came in the place of messages."""
    return tuple(
        DeliveryError(message.error(), -1 if message.partition() is None else message.partition(),
                      -1 if message.offset() is None else message.offset())
        for message in messages if message.error() is not None)


def _batch(messages: list[Message]) -> Batch:
    unreadable = frozenset()
    try:
        # Through `map`, which looks whether a call left an error behind: where the interpreter
        # has specialised a call of this method, it does not, and the error comes up anywhere.
        headers = list(map(Message.headers, messages))
    except SystemError:
        headers, unreadable = _headers_one_by_one(messages)
    # `map` of a method costs half of a comprehension, and every message pays for six of them.
    return Batch.of(
        list(map(Message.partition, messages)), list(map(Message.offset, messages)),
        [None if kind == TIMESTAMP_NOT_AVAILABLE else milliseconds
         for kind, milliseconds in map(Message.timestamp, messages)],
        list(map(Message.key, messages)), list(map(Message.value, messages)), headers, unreadable)


def _headers_one_by_one(messages: list[Message]) -> tuple[list, frozenset[int]]:
    headers = [_readable_headers(message) for message in messages]
    unreadable = frozenset(
        index for index, found in enumerate(headers) if found is _UNREADABLE)
    return [None if found is _UNREADABLE else found for found in headers], unreadable


_UNREADABLE = object()


def _readable_headers(message: Message) -> Any:
    """A message's headers, or _UNREADABLE when one of the names is not UTF-8.

    The client then gives an error the first time and, every further time, a list with holes:
    tuples whose first place is NULL, which end the process when they are touched.  Asking the
    garbage collector what a tuple refers to leaves holes out, and touches none.
    """
    try:
        found = next(map(Message.headers, [message]))
    except SystemError:
        return _UNREADABLE
    if found and len(gc.get_referents(*found)) != 2 * len(found):
        return _UNREADABLE
    return found
