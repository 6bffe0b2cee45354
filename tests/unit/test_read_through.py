"""Up to which moment a topic has been read: never later than what its slowest partition shows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.batch import Extent
from workers.read_through import UNKNOWN, ReadThrough

AT = 1_000_000


def seen(**stamps: int) -> ReadThrough:
    """One that has read a message of each of these partitions (p0, p1 …)."""
    made = ReadThrough()
    made.saw(Extent(int(name[1:]), 0, 0, 1, stamp) for name, stamp in stamps.items())
    return made


def test_the_slowest_partition_decides() -> None:
    """Another one's later messages prove nothing about it."""
    assert seen(p0=500, p1=900).moment((0, 1), {0: 1, 1: 1}, {0: 9, 1: 9}, AT) == 500


def test_a_partition_read_to_its_end_is_read_up_to_now() -> None:
    """It may have been silent for hours."""
    assert seen(p0=500, p1=900).moment((0, 1), {0: 9, 1: 1}, {0: 9, 1: 9}, AT) == 900
    assert seen().moment((0, 1), {0: 9, 1: 9}, {0: 9, 1: 9}, AT) == AT


def test_an_end_that_is_not_known_is_not_reached() -> None:
    """A broker that does not answer proves nothing."""
    assert seen(p0=500).moment((0,), {0: 9}, {}, AT) == 500


def test_nothing_is_known_of_a_partition_without_messages_that_is_behind() -> None:
    """And so nothing of the topic."""
    assert seen(p0=500).moment((0, 1), {0: 1, 1: 0}, {0: 9, 1: 9}, AT) == UNKNOWN
    assert seen().moment((), {}, {}, AT) == UNKNOWN


def test_messages_without_a_timestamp_prove_nothing() -> None:
    """What was known before stays known."""
    one = seen(p0=500)
    one.saw([Extent(0, 1, 1, 1, None)])
    assert one.moment((0,), {0: 2}, {0: 9}, AT) == 500


def test_a_producer_ahead_of_time_does_not_take_us_along() -> None:
    """Nothing can have been read that is yet to come."""
    assert seen(p0=AT + 5_000).moment((0,), {0: 1}, {0: 9}, AT) == AT


def test_after_a_step_back_nothing_is_known_until_it_is_read_again() -> None:
    """What was read behind the position is not in any file."""
    one = seen(p0=500)
    one.forget()
    assert one.moment((0,), {0: 0}, {0: 9}, AT) == UNKNOWN
    one.saw([Extent(0, 0, 0, 1, 400)])
    assert one.moment((0,), {0: 1}, {0: 9}, AT) == 400


@given(st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 20), st.integers(0, 20),
                                                    st.none() | st.integers(1, 2 * AT))))
def test_it_is_never_later_than_any_partition_allows(
    parts: dict[int, tuple[int, int, int | None]]
) -> None:
    """parts: partition -> (next_offset, end, timestamp of the last message)."""
    one = ReadThrough()
    one.saw(Extent(index, 0, 0, 1, stamp) for index, (_, _, stamp) in parts.items())
    found = one.moment(parts, {index: read for index, (read, _, _) in parts.items()},
                       {index: end for index, (_, end, _) in parts.items()}, AT)
    for read, end, stamp in parts.values():
        assert found <= (AT if read >= end else stamp or UNKNOWN)
    assert found <= AT
