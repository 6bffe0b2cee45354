"""Headers are read from a record exactly as a producer wrote them, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.batch import Header
from workers.record_headers import parse_headers


def varint(number: int) -> bytes:
    """A zigzag varint, by the format's own words: seven bits a byte, the lowest first."""
    zigzag = 2 * number if number >= 0 else -2 * number - 1
    found = bytearray()
    while zigzag > 0x7F:
        found.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes([*found, zigzag])


def block_of(headers: list[Header]) -> bytes:
    """The bytes a record holds for these headers."""
    parts = [varint(len(headers))]
    for name, value in headers:
        parts += [varint(len(name.encode())), name.encode()]
        parts += [varint(-1)] if value is None else [varint(len(value)), value]
    return b"".join(parts)


@given(st.lists(st.tuples(st.text(max_size=80), st.none() | st.binary(max_size=300)), max_size=70))
def test_headers_come_back_in_order_with_repeats_and_nulls(headers: list[Header]) -> None:
    """A mapping would lose a repeated name, a truth test an empty value."""
    assert parse_headers(block_of(headers)) == headers


@pytest.mark.parametrize("block", [
    b"", b"\x02", b"\x02\x01\x02x", b"\x02\x04a", b"\x02\x02\xff\x01", b"\x80" * 6,
    b"\x02\x02a\x0812",
], ids=["nothing", "no header", "null name", "short name", "name not UTF-8", "endless number",
        "short value"])
def test_a_block_that_is_not_headers_is_refused(block: bytes) -> None:
    """Whoever calls makes a dead letter of it; a guess would be a row that never was."""
    with pytest.raises(ValueError):
        parse_headers(block)


@given(st.binary(max_size=40))
def test_no_block_does_harm(block: bytes) -> None:
    """Bytes come from outside."""
    try:
        parse_headers(block)
    except ValueError:
        pass
