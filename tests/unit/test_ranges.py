"""Ranges tile the offset axis: their fates add up, and they join without a hole or an overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.records import Lost, Range
from workers.batch import Batch
from workers.ranges import OffsetRegression, RangeBook, join

# One step of reading a partition: rows, dead letters, skipped, absent before them, lost before.
steps = st.lists(st.tuples(*[st.integers(0, 4)] * 5), max_size=8)


def play(start: int, drawn: list[tuple[int, int, int, int, int]]) -> RangeBook:
    """Read partition 0 from `start` on as the steps say."""
    book = RangeBook({0: start})
    for rows, dead, skipped, absent, lost in drawn:
        if lost:
            book.lose(0, book.ends[0] + lost, "retention")
        end = book.ends[0] + absent + rows + dead + skipped
        book.advance({0: end}, {0: rows}, {0: dead}, {0: skipped})
    return book


@given(st.integers(0, 1 << 60), steps)
def test_every_offset_of_a_range_has_exactly_one_fate(
    start: int, drawn: list[tuple[int, int, int, int, int]]
) -> None:
    """Rows, dead letters, skipped, absent and lost together are the length of the range."""
    book = play(start, drawn)
    rows, dead, skipped, absent, lost = (sum(column) for column in zip(*drawn, strict=True)) \
        if drawn else (0, 0, 0, 0, 0)
    total = rows + dead + skipped + absent + lost
    if not total:
        assert book.ranges() == ()
        assert not book.moved
        return
    (found,) = book.ranges()
    assert (found.start, found.end) == (start, start + total)
    assert (found.rows, found.dead_letters, found.skipped) == (rows, dead, skipped)
    assert found.absent == absent
    assert sum(gap.end - gap.start for gap in found.lost) == lost
    assert all(found.start <= gap.start < gap.end <= found.end for gap in found.lost)


@given(st.integers(0, 1000), st.lists(steps, min_size=1, max_size=5), st.integers(0, 5))
def test_joining_files_gives_the_range_of_one_file(
    start: int, files: list[list[tuple[int, int, int, int, int]]], cut: int
) -> None:
    """Files closed early and carried over tell the same as one that was never closed."""
    parts, position = [], start
    for drawn in files:
        book = play(position, drawn)
        parts.append(book.ranges())
        position = book.ends[0]
    whole = play(start, [step for drawn in files for step in drawn]).ranges()
    assert join(parts) == whole
    assert join([join(parts[:cut]), join(parts[cut:])]) == whole


@given(st.lists(st.dictionaries(st.integers(0, 3), st.integers(1, 5)), max_size=5))
def test_joining_keeps_partitions_apart(growth: list[dict[int, int]]) -> None:
    """A file covers any subset of the partitions."""
    ends = dict.fromkeys(range(4), 10)
    parts = []
    for grown in growth:
        book = RangeBook(ends)
        book.advance({p: ends[p] + n for p, n in grown.items()}, grown, {}, {})
        parts.append(book.ranges())
        ends = book.ends
    assert join(parts) == tuple(
        Range(p, 10, end, rows=end - 10) for p, end in sorted(ends.items()) if end > 10)


def test_joining_refuses_a_hole_and_an_overlap() -> None:
    """Either would be a loss or a doubling, so it must not get as far as a vote."""
    for start in (19, 21):
        with pytest.raises(ValueError, match=f"20 is not {start}"):
            join([(Range(0, 10, 20),), (Range(0, start, 30),)])


def test_a_batch_at_or_behind_the_position_is_taken_in_any_mix_of_partitions() -> None:
    """Kafka may leave offsets out; it may not go back."""
    book = RangeBook({0: 5, 1: 7})
    book.check(Batch([1, 0, 1, 0], [9, 5, 10, 6]).extents)
    book.advance({0: 7, 1: 11}, {0: 2, 1: 2}, {}, {})
    assert book.ends == {0: 7, 1: 11}


@pytest.mark.parametrize(("partitions", "offsets"), [
    ([0], [4]), ([1, 0], [7, 4]), ([0, 1, 1], [5, 6, 9]),
    ([0, 0], [5, 5]), ([0, 1, 0], [6, 7, 5]), ([0, 0, 0], [5, 7, 6])])
def test_an_offset_before_the_position_or_given_twice_is_refused(
    partitions: list[int], offsets: list[int]
) -> None:
    """A message delivered twice must never become two rows."""
    book = RangeBook({0: 5, 1: 7})
    with pytest.raises(OffsetRegression, match="expected .* or later"):
        book.check(Batch(partitions, offsets).extents)


def test_a_position_never_moves_back() -> None:
    """Neither by a batch, nor by a report of the client, nor by a loss."""
    book = RangeBook({0: 5})
    for move in (lambda: book.reach(0, 4), lambda: book.lose(0, 4, "retention"),
                 lambda: book.advance({0: 4}, {}, {}, {})):
        with pytest.raises(OffsetRegression, match="partition 0: expected 5 or later, got 4"):
            move()
    assert book.ranges() == ()


def test_what_was_passed_over_in_silence_is_counted_as_absent() -> None:
    """Control records move the position at the end of a batch, without a message."""
    book = RangeBook({0: 5})
    book.advance({0: 8}, {0: 2}, {0: 1}, {})
    book.reach(0, 9)
    (found,) = book.ranges()
    assert (found.end, found.rows, found.dead_letters, found.absent) == (9, 2, 1, 1)


def test_a_loss_is_named_with_its_cause_and_place() -> None:
    """Somebody will ask which offsets are gone."""
    book = RangeBook({0: 5})
    book.lose(0, 9, "retention")
    assert book.moved
    assert book.ranges() == (Range(0, 5, 9, lost=(Lost(5, 9, "retention"),)),)


def test_a_partition_added_later_begins_where_it_was_told() -> None:
    """A rebalance brings partitions into an open draft."""
    book = RangeBook({0: 5})
    book.add({1: 70})
    assert not book.moved
    book.advance({1: 71}, {1: 1}, {}, {})
    assert book.ranges() == (Range(1, 70, 71, rows=1),)
