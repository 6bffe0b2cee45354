"""The plan adds up to its limit, for every limit and number of topics."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.config_parse import TOPICS_MAX
from shared.memory import (
    BATCH_COPIES, FILE_COPIES, FIXED_BYTES, FLOOR_BYTES, KEEPER_BYTES, KIB, LIMIT_MB_MAX, MB,
    MESSAGE_BYTES_UNKNOWN, MIB, ROW_GROUP_BEST_BYTES, SCALE_MIN, SEND_EARLY_BYTES,
    WORKER_BASE_BYTES, MemoryPlan,
    TooLittleMemory, least_limit_mb, need, plan,
)

topic_counts = st.integers(1, TOPICS_MAX)


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, MemoryPlan]:
    """A number of topics, and a plan for them."""
    topics = draw(topic_counts)
    least = least_limit_mb(topics)
    limit_mb = draw(st.one_of(st.integers(least, least + 500), st.integers(least, LIMIT_MB_MAX)))
    return topics, plan(limit_mb, topics)


def test_eight_topics_in_the_default_limit_get_the_best_sizes() -> None:
    """Those that everything was measured with."""
    found = plan(256, 8)
    assert (found.row_group_bytes, found.upload_bytes) == (512 * KIB, MIB)
    assert (found.kafka_queue_kilobytes, found.consume_batch_messages) == (512, 1000)
    assert found.worker_share_bytes == 27 * MB


@given(plans())
def test_the_parts_add_up_to_the_limit(planned: tuple[int, MemoryPlan]) -> None:
    """What is promised is a sum over all processes."""
    topics, found = planned
    per_worker = WORKER_BASE_BYTES + found.loan_floor_bytes + found.kafka_queue_kilobytes * KIB
    total = FIXED_BYTES + topics * per_worker + found.loan_budget_bytes
    limit = found.memory_limit_mb * MB
    assert limit - topics * (KIB + 1) <= total <= limit
    assert FIXED_BYTES + topics * found.worker_share_bytes <= limit


@given(plans())
def test_full_batches_fit_the_floor_beside_files_not_worth_sending(
    planned: tuple[int, MemoryPlan]
) -> None:
    """So a worker that is refused and has sent its files early owes nothing, and goes on."""
    _, found = planned
    two_files = (SEND_EARLY_BYTES - 1, 0)
    assert need(two_files, found.row_group_bytes, found.row_group_bytes) <= FLOOR_BYTES
    assert need((), MESSAGE_BYTES_UNKNOWN, found.row_group_bytes) <= FLOOR_BYTES
    assert SEND_EARLY_BYTES < found.upload_bytes


@given(plans())
def test_half_of_all_files_fits_the_budget(planned: tuple[int, MemoryPlan]) -> None:
    """Files fill one after the other."""
    topics, found = planned
    assert found.loan_budget_bytes >= topics * FILE_COPIES * found.upload_bytes // 2 - topics


@given(plans())
def test_the_budget_has_room_for_the_keeper(planned: tuple[int, MemoryPlan]) -> None:
    """It borrows what it takes before it is born; more than there is, only a large message may."""
    _, found = planned
    assert found.loan_budget_bytes >= KEEPER_BYTES


@given(topic_counts)
def test_the_least_limit_will_do_and_less_will_not(topics: int) -> None:
    """The fault names it, so it must be right."""
    least = least_limit_mb(topics)
    assert plan(least, topics).row_group_bytes >= SCALE_MIN * ROW_GROUP_BEST_BYTES - 1
    with pytest.raises(TooLittleMemory) as raised:
        plan(least - 1, topics)
    assert raised.value.least_mb == least


@given(plans(), st.integers(1, 100))
def test_more_memory_is_never_less_of_anything(
    planned: tuple[int, MemoryPlan], more_mb: int
) -> None:
    """Whoever raises the limit wants more."""
    topics, found = planned
    grown = asdict(plan(found.memory_limit_mb + more_mb, topics))
    assert all(grown[name] >= value for name, value in asdict(found).items())


def test_a_need_counts_every_copy() -> None:
    """An open file is held again while it is sent; a batch as messages, columns and encoded."""
    assert need((), 0, 100) == 0
    assert need((1000,), 0, 100) == FILE_COPIES * 1000 + 100
    assert need((1000, 10), 7, 100) == FILE_COPIES * 1010 + 200 + BATCH_COPIES * 7
