"""What a batch says of its partitions is what its messages say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.batch import Batch, Extent

runs = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=12)


@given(runs)
def test_extents_hold_first_last_and_count_of_each_partition(drawn: list[tuple[int, int]]) -> None:
    """Positions move by them, so one message overlooked would be a row lost or doubled."""
    ends = {partition: 100 * partition for partition in range(4)}
    batch = Batch()
    for partition, length in drawn:
        for _ in range(length):
            batch.partitions.append(partition)
            batch.offsets.append(ends[partition])
            ends[partition] += 1
    expected = {
        Extent(partition, 100 * partition, ends[partition] - 1, ends[partition] - 100 * partition)
        for partition in range(4) if ends[partition] > 100 * partition}
    assert set(batch.extents) == expected
    assert len(batch.extents) == len(expected)
