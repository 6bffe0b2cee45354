"""Pure: the headers of a Kafka record, as they stand in it.

The format is Kafka's record format v2: a count, then per header the length and bytes of its name
and of its value, lengths and count as zigzag varints; a value's length is -1 where it is null.
"""

from __future__ import annotations

from workers.batch import Header

VARINT_BYTES_MAX = 5
"""Lengths and counts are 32 bits wide."""


def parse_headers(block: bytes) -> list[Header]:
    """The headers in order, repeats too; ValueError when a name is not UTF-8 or bytes lack."""
    count, place = _varint(block, 0)
    headers: list[Header] = []
    for _ in range(count):
        name, place = _bytes(block, place)
        if name is None:
            raise ValueError("a header without a name")
        value, place = _bytes(block, place)
        headers.append((name.decode(), value))
    return headers


def _bytes(block: bytes, place: int) -> tuple[bytes | None, int]:
    length, place = _varint(block, place)
    if length < 0:
        return None, place
    end = place + length
    if end > len(block):
        raise ValueError(f"{length} bytes announced, {len(block) - place} there")
    return block[place:end], end


def _varint(block: bytes, place: int) -> tuple[int, int]:
    """A zigzag varint at `place`, and the place behind it."""
    number = 0
    for index in range(VARINT_BYTES_MAX):
        if place + index >= len(block):
            raise ValueError("the block ends within a number")
        byte = block[place + index]
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), place + index + 1
    raise ValueError("a number of more than 32 bits")
