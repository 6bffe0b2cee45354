"""How many messages are asked for: many small ones, few large ones, never none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shared.memory import MESSAGE_BYTES_UNKNOWN
from workers.appetite import Appetite

KIB = 1024
MESSAGES_MAX, BYTES_MAX = 1000, 512 * KIB


def fed(*sizes: int) -> Appetite:
    """An appetite that has seen full batches of messages of these sizes."""
    appetite = Appetite(MESSAGES_MAX, BYTES_MAX)
    for size in sizes:
        count = appetite.messages()
        appetite.saw(count, count * size)
    return appetite


def test_first_batch_is_one_message_that_may_be_large() -> None:
    """Nothing is known of a topic yet: sixteen messages may be as many megabytes."""
    assert (fed().messages(), fed().bytes()) == (1, MESSAGE_BYTES_UNKNOWN)


def test_small_messages_soon_come_in_full_batches() -> None:
    """Each batch costs as much as a hundred messages do."""
    assert fed(*[250] * 13).messages() == MESSAGES_MAX


def test_one_batch_of_large_messages_is_enough_to_ask_for_few() -> None:
    """The next batch is the one that would hurt."""
    assert fed(*[250] * 13, 1024 * KIB).messages() == 1


def test_after_large_messages_batches_grow_by_doubling() -> None:
    """Large ones come in bursts; the next one may be near."""
    asked = [fed(1024 * KIB, *[250] * quiet).messages() for quiet in range(12)]
    assert asked[0] == 1
    assert all(after <= max(1, 2 * before) for before, after in zip(asked, asked[1:], strict=False))
    assert asked[-1] == MESSAGES_MAX


@given(st.lists(st.integers(0, 4 * KIB * KIB), max_size=30), st.integers(1, 5000),
       st.integers(1, KIB * KIB))
def test_a_batch_of_what_was_just_seen_stays_within_its_bytes(
    sizes: list[int], messages_max: int, bytes_max: int
) -> None:
    """Whatever came before; a single message may be larger than a batch, and is still taken."""
    appetite = Appetite(messages_max, bytes_max)
    for size in sizes:
        count = appetite.messages()
        assert 1 <= count <= messages_max
        appetite.saw(count, count * size)
        assert appetite.messages() == 1 or appetite.messages() * size <= bytes_max
        assert appetite.bytes() >= appetite.messages() * size
        assert appetite.messages() == 1 or appetite.bytes() <= bytes_max
