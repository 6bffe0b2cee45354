"""The byte layout of the shared block: no two fields share a byte, and every word has its place."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared import layout
from shared.block import Block
from shared.layout import Header, Histogram, Order, Paused, PhaseHistogram, Report, pack, unpack
from shared.protocol import Phase, Standing, Vote

TOPICS_MAX = 64
WORD_MAX = (1 << 64) - 1

# What `Block.create` writes itself, and what the tests therefore leave alone.
IDENTITY = (Header.MAGIC, Header.LAYOUT_VERSION, Header.TOPIC_COUNT)


def areas(topic_count: int) -> list[tuple[int, int]]:
    """[start, end) in bytes of every area of a block, from the layout's constants."""
    word = layout.WORD_BYTES
    found = [
        (0, layout.HEADER_WORDS * word),
        (layout.CYCLE_HISTOGRAM_OFFSET,
         layout.CYCLE_HISTOGRAM_OFFSET + layout.HISTOGRAM_WORDS * word),
        (layout.PHASE_HISTOGRAMS_OFFSET, layout.PHASE_HISTOGRAMS_OFFSET
         + len(PhaseHistogram) * layout.HISTOGRAM_WORDS * word),
        (layout.ABOUT_OFFSET, layout.ABOUT_OFFSET + 2 * word + layout.ABOUT_BYTES),
    ]
    for index in range(topic_count):
        base = layout.topic_offset(index)
        found += [
            (base + start, base + start + size) for start, size in (
                (layout.ORDER_OFFSET, layout.ORDER_WORDS * word),
                (layout.REPORT_OFFSET, layout.REPORT_WORDS * word),
                (layout.HISTOGRAMS_OFFSET, len(Histogram) * layout.HISTOGRAM_WORDS * word),
                (layout.VERDICT_OFFSET, 2 * word + layout.TEXT_BYTES),
                (layout.ERROR_OFFSET, 2 * word + layout.TEXT_BYTES),
                (layout.MANIFEST_OFFSET, 2 * word + layout.MANIFEST_BYTES),
            )
        ]
    return found


@given(st.integers(min_value=1, max_value=TOPICS_MAX))
def test_areas_never_overlap_and_fill_the_block(topic_count: int) -> None:
    """Two writers of one byte would break the promise that every word has one writer."""
    found = sorted(areas(topic_count))
    assert all(end <= start for (_start, end), (start, _end) in pairwise(found))
    assert found[0][0] == 0
    assert found[-1][1] == layout.block_bytes(topic_count)


@given(st.integers(min_value=1, max_value=TOPICS_MAX))
def test_areas_are_aligned_to_words(topic_count: int) -> None:
    """Only an aligned word is read and written in one piece."""
    assert all(start % layout.WORD_BYTES == 0 for start, _end in areas(topic_count))
    assert layout.block_bytes(topic_count) % layout.WORD_BYTES == 0


@pytest.mark.parametrize(("words", "room"), [
    (Header, layout.HEADER_WORDS), (Order, layout.ORDER_WORDS), (Report, layout.REPORT_WORDS),
])
def test_every_word_fits_its_area(words: type[IntEnum], room: int) -> None:
    """A word past its area's end would be the first word of the next one."""
    assert all(0 <= word < room for word in words)


@pytest.mark.parametrize("words", [Header, Order, Report, Paused, Histogram, PhaseHistogram])
def test_no_two_names_share_a_word(words: type[IntEnum]) -> None:
    """An enumeration takes a repeated number silently as a second name for the same word."""
    assert len(words.__members__) == len(list(words))
    if words is not Header:
        assert sorted(words) == list(range(len(words)))


def test_a_histogram_of_phases_has_the_names_of_phases() -> None:
    """The block finds a phase's histogram by its name."""
    assert {kind.name for kind in PhaseHistogram} <= {phase.name for phase in Phase}


@given(st.integers(min_value=0, max_value=(1 << 56) - 1),
       st.sampled_from([*Phase, *Vote]))
def test_a_packed_word_gives_back_what_was_packed(cycle_id: int, tag: IntEnum) -> None:
    """Phase and vote share a word with their cycle, so that both change at once."""
    word = pack(cycle_id, tag)
    assert 0 <= word <= WORD_MAX
    assert unpack(word) == (cycle_id, tag)


def test_tags_and_standings_fit_where_they_are_kept() -> None:
    """A tag that needs more bits than it has would change the cycle's number."""
    assert max(*Phase, *Vote) < 1 << layout._TAG_BITS
    assert len(Standing) <= WORD_MAX


Field = tuple[str, int, Callable[[Any], None], Callable[[], Any]]
"""Name, bytes (0 for a word), write, read."""


def fields(block: Block) -> list[Field]:
    """Every field of `block` that a test may write."""
    found: list[Field] = [
        (word.name, 0, partial(block.set, word), partial(block.get, word))
        for word in Header if word not in IDENTITY
    ]
    for index in range(block.topic_count):
        slot = block.slot(index)
        found += [(f"{index} {word.name}", 0, partial(slot.set_order, word),
                   partial(slot.order, word)) for word in Order]
        found += [(f"{index} {word.name}", 0, partial(slot.set_report, word),
                   partial(slot.report, word)) for word in Report]
        found += [(f"{index} {name}", blob.capacity, blob.write, blob.read) for name, blob in (
            ("verdict", slot.verdict), ("error", slot.error), ("manifest", slot.manifest))]
    return found


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fields_keep_what_was_written_whatever_else_is_written(
    tmp_path: Path, data: st.DataObject
) -> None:
    """The same through the block itself: all fields, in any order, each filled to its end."""
    path = tmp_path / "block"
    path.unlink(missing_ok=True)
    block = Block.create(path, data.draw(st.integers(1, 3)), b"about")
    everything = fields(block)
    # Distinct values, so that a field that took another one's place is seen.
    first = data.draw(st.integers(1, WORD_MAX - len(everything)))
    values = {
        name: bytes([number % 256]) * size if size else first + number
        for number, (name, size, _write, _read) in enumerate(everything)
    }
    for name, _size, write, _read in data.draw(st.permutations(everything)):
        write(values[name])
    assert {name: read() for name, _size, _write, read in everything} == values
    assert block.about() == b"about"
    assert block.get(Header.TOPIC_COUNT) == block.topic_count
    assert all(
        view.snapshot() == ((0,) * (len(layout.BUCKET_BOUNDS_S) + 1), 0.0)
        for view in (block.cycle_seconds, *block.phase_seconds.values(), *(
            view for index in range(block.topic_count)
            for view in block.slot(index).histograms.values()))
    )
