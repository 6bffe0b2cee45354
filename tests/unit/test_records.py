"""What the log holds survives the way through bytes, and nothing unknown is ever guessed at."""

from __future__ import annotations

import inspect
from typing import get_origin

import pytest
from hypothesis import given, strategies as st

from shared.errors import UnsupportedRecord
from shared.protocol import Span
from shared.records import (
    BRONZE, DLQ, CycleRecord, DataFile, Lost, Manifest, Range, Record, StartRecord, decode,
    decode_manifest, encode,
)

_VALUES = {str: "text", int: 7, tuple: (), dict: {}}


def _made(kind: type, **given_fields: object) -> object:
    """A struct with a value for every required field, so that new fields need no new test."""
    values = {
        name: _VALUES[get_origin(parameter.annotation) or parameter.annotation]
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is inspect.Parameter.empty and name not in given_fields
    }
    return kind(**values, **given_fields)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """A range whose fates fit into it."""
    rows, dead, skipped, lost, absent = draw(st.tuples(*[st.integers(0, 1000)] * 5))
    length = rows + dead + skipped + lost + absent
    start = draw(st.integers(0, 1 << 40))
    gap = (Lost(start, start + lost, "retention"),) if lost else ()
    if not length:
        return Range(draw(st.integers(0, 99)), start, start + 1, rows=1)
    return Range(draw(st.integers(0, 99)), start, start + length, rows, dead, skipped, gap)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A manifest with files of both tables."""
    files = draw(st.lists(st.builds(
        lambda table, path, rows: _made(DataFile, table=table, path=path, rows=rows),
        st.sampled_from([BRONZE, DLQ]), st.text(max_size=20), st.integers(0, 1 << 31)),
        max_size=3))
    return Manifest("orders", "an-id", 2, tuple(files),
                    tuple(draw(st.lists(ranges(), max_size=4))))


@given(st.lists(manifests(), max_size=3), st.integers(0, 1 << 40))
def test_cycle_record_survives_the_way_through_bytes(parts: list[Manifest], number: int) -> None:
    """Whoever rolls a record forward has nothing but its bytes."""
    record = _made(CycleRecord, manifests=tuple(parts), complete_through=number)
    assert decode(encode(record), number) == record


def test_start_record_survives_the_way_through_bytes() -> None:
    """A start record read as anything else would fence nobody."""
    record = _made(StartRecord, instance="a", uuid="u")
    assert decode(encode(record), 0) == record


@given(manifests())
def test_manifest_survives_the_way_through_a_slot(manifest: Manifest) -> None:
    """The supervisor decides what it reads from the slot."""
    assert decode_manifest(encode(manifest)) == manifest


@given(manifests())
def test_the_same_record_always_gives_the_same_bytes(manifest: Manifest) -> None:
    """Our own record is recognised by its bytes after an answer was lost."""
    first = _made(CycleRecord, manifests=(manifest,))
    again = decode(encode(first), 3)
    assert encode(first) == encode(again)


@pytest.mark.parametrize("kind", [StartRecord, CycleRecord])
def test_unknown_record_version_is_refused_by_number(kind: type[Record]) -> None:
    """An older release must not act on half of what a newer one decided."""
    data = encode(_made(kind, record_version=99))
    with pytest.raises(UnsupportedRecord, match="record 41 has record_version 99"):
        decode(data, 41)


@pytest.mark.parametrize("data", [
    b"", b"{}", b"[]", b"\xff", b'{"record_version": 1}',
    b'{"record_version": 1, "kind": "other"}', b'{"record_version": "1", "kind": "start"}',
])
def test_bytes_that_are_no_record_are_refused_by_number(data: bytes) -> None:
    """A damaged log stops the service instead of looking like an empty one."""
    with pytest.raises(UnsupportedRecord, match="record 5 "):
        decode(data, 5)


def test_truncated_record_is_refused() -> None:
    """Half a record is not a shorter record."""
    data = encode(_made(StartRecord))
    with pytest.raises(UnsupportedRecord):
        decode(data[:-1], 2)


@given(ranges())
def test_fates_of_a_range_add_up_to_its_length(part: Range) -> None:
    """Every offset has exactly one fate."""
    lost = sum(gap.end - gap.start for gap in part.lost)
    assert part.absent >= 0
    assert part.rows + part.dead_letters + part.skipped + part.absent + lost == (
        part.end - part.start)


def test_only_partitions_with_dead_letters_are_compared_with_the_dlq() -> None:
    """The DLQ's positions move with dead letters only."""
    manifest = Manifest("orders", "an-id", 1, (), (
        Range(0, 0, 5, rows=5), Range(1, 3, 9, rows=4, dead_letters=2)))
    assert manifest.spans == (Span(0, 0, 5), Span(1, 3, 9))
    assert manifest.dead_letter_spans == (Span(1, 3, 9),)


def test_files_are_told_apart_by_table() -> None:
    """A dead letter's file in the bronze table would be a row twice over."""
    good, bad = _made(DataFile, table=BRONZE), _made(DataFile, table=DLQ)
    manifest = Manifest("orders", "an-id", 1, (good, bad), ())
    assert manifest.files_of(BRONZE) == (good,)
    assert manifest.files_of(DLQ) == (bad,)
