"""What a rewind reads again, and what it refuses, out of numbers alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.naming import (
    NAME_CHARACTERS_MAX, birth_certificate, dlq_table, is_rewind_name, rewind_name_characters_max,
    rewind_prefix,
)
from shared.records import Lost, Range
from tools import rewind_command
from tools.report import Status
from tools.rewind_plan import (
    Bound, Estimate, Part, Plan, Refused, Request, beyond, decode_plan, done_lines, encode_plan,
    estimate, gaps_of, parts_of, plan_lines, refuse_gaps, starts_behind,
)
from tools.rewind_run import MEMORY_BYTES, clipped, left_of
from tools.tiling import Claim
from workers.batch import Batch

TO_START = Request("orders", Bound(offsets={0: 10, 1: 0}))
OFFSETS = st.integers(min_value=0, max_value=50)
PLACES = st.dictionaries(st.integers(min_value=0, max_value=3), OFFSETS, max_size=4)


def plan(*parts: Part) -> Plan:
    """A plan with these parts."""
    return Plan("r1", "orders", "id-1", TO_START.words(), parts, "2026-01-31T00:00:00.000Z", "1")


@given(PLACES, PLACES, PLACES)
def test_no_part_ever_reaches_beyond_bronze_or_outside_what_was_asked_for(
    starts: dict[int, int], untils: dict[int, int], positions: dict[int, int]
) -> None:
    """What bronze has not read is the service's to read, or it would be read twice over."""
    request = Request("orders", Bound(time_ms=0))
    parts = parts_of(request, starts, untils, positions)
    assert all(part.end <= positions[part.partition] for part in parts)
    wanted = {(part, offset) for part, start in starts.items()
              for offset in range(start, min(positions.get(part, 0), untils.get(part, 99)))}
    assert {(part.partition, offset) for part in parts
            for offset in range(part.start, part.end)} == wanted


@pytest.mark.parametrize("request_", [
    Request("orders", Bound(offsets={7: 0})),
    Request("orders", Bound(offsets={0: 0}), Bound(offsets={7: 5})),
])
def test_a_partition_that_bronze_does_not_know_is_refused(request_: Request) -> None:
    """It is a slip of the pen, and silence would look like success."""
    with pytest.raises(Refused, match="no position for 1 partition: 7"):
        parts_of(request_, {0: 0}, {}, {0: 10})


def test_behind_bronze_there_is_nothing_to_read() -> None:
    """At its position and beyond it."""
    assert parts_of(TO_START, {0: 10, 1: 11}, {}, {0: 10, 1: 5}) == ()


def test_a_cycle_is_behind_what_it_brought() -> None:
    """The first offset of each partition that a later record has; ranges of older ones count not.
    """
    claims = [Claim(3, (Range(0, 0, 10), Range(1, 0, 5)), ()), Claim(5, (Range(0, 10, 20),), ()),
              Claim(9, (Range(0, 20, 30), Range(2, 0, 4)), ())]
    assert starts_behind(claims, 3) == {0: 10, 2: 0}
    assert starts_behind(claims, 4) == {0: 10, 2: 0}
    assert starts_behind(claims, 9) == {}


@given(PLACES, PLACES, PLACES)
def test_gaps_are_exactly_what_is_wanted_and_deleted(
    positions: dict[int, int], ends: dict[int, int], lows: dict[int, int]
) -> None:
    """No offset more, none less."""
    ends = {part: ends.get(part, 20) for part in positions}
    lows = {part: lows.get(part, 0) for part in positions}
    gaps = gaps_of(positions, ends, lows)
    assert all(gap.start < gap.end for gap in gaps)
    found = {(gap.partition, offset) for gap in gaps for offset in range(gap.start, gap.end)}
    assert found == {(part, offset) for part, start in positions.items()
                     for offset in range(start, ends[part]) if offset < lows[part]}


def test_a_refused_gap_names_partition_and_offsets() -> None:
    """Whoever decides must know what would be missing."""
    error = refuse_gaps([Part(0, 3, 8), Part(2, 0, 1)])
    assert error.found == ("Kafka no longer has 6 offsets of it: partition 0: [3, 8), "
                           "partition 2: [0, 1)")
    assert "--allow-gaps" in error.what_to_do


def test_a_log_that_ends_before_bronze_is_seen() -> None:
    """Its messages are others than those bronze has."""
    assert beyond({0: 10, 1: 10}, {0: 10, 1: 7}) == (Part(1, 7, 10),)


def test_an_estimate_counts_records_by_the_share_that_is_meant() -> None:
    """Whole records exactly; none where nothing is recorded."""
    claims = [Claim(1, (Range(0, 0, 100, rows=80, dead_letters=20),), ()),
              Claim(2, (Range(0, 100, 200, rows=100),), ())]
    assert estimate(Part(0, 0, 200), claims) == Estimate(180, 20)
    assert estimate(Part(0, 50, 150), claims) == Estimate(90, 10)
    assert estimate(Part(1, 0, 10), claims) is None


def test_a_plan_comes_back_as_it_was_put_and_others_are_refused() -> None:
    """It decides what a run that goes on reads."""
    made = plan(Part(0, 10, 20))
    assert decode_plan(encode_plan(made)) == made
    newer = encode_plan(made).replace(b'"plan_version":1', b'"plan_version":2')
    for data, words in ((newer, "has version 2"), (b"{}", "cannot be read"), (b"", "cannot")):
        with pytest.raises(Refused, match=words):
            decode_plan(data)


def test_what_is_told_before_and_after() -> None:
    """Offsets, rows and the tables' names; what is lost is a warning."""
    made = plan(Part(0, 10, 20))
    claims = [Claim(1, (Range(0, 0, 20, rows=18, dead_letters=2),), ())]
    assert [line.found for line in plan_lines(made, claims)] == [
        "offsets [10, 20), 10 of them: about 9 rows and 1 dead letter",
        "into rewind_r1_bronze_orders and rewind_r1_dlq_bronze_orders"]
    held = [Range(0, 10, 20, rows=5, lost=(Lost(10, 12, "retention"),))]
    told = [(line.status, line.found) for line in done_lines(made, held, "s3://lake/bronze")]
    assert told == [
        (Status.OK, "offsets [10, 20): 5 rows, 0 dead letters, 3 never delivered"),
        (Status.WARN, "offsets [10, 12) are in none: retention"),
        (Status.OK, "in s3://lake/bronze/rewind_r1_bronze_orders and rewind_r1_dlq_bronze_orders")]


def test_the_same_request_has_the_same_name_however_it_is_written() -> None:
    """So the same command goes on, and another one begins anew."""
    turned = Request("orders", Bound(offsets={1: 0, 0: 10}))
    assert turned.name() == TO_START.name() and is_rewind_name(turned.name())
    others = (Request("orders", Bound(offsets={0: 10})), Request("payments", TO_START.to),
              Request("orders", TO_START.to, Bound(cycle=3)), Request("orders", Bound(cycle=10)))
    assert len({request.name() for request in (TO_START, *others)}) == 1 + len(others)
    assert Request("o", Bound(time_ms=0), Bound(cycle=1), "x").words() == (
        "to time 1970-01-01T00:00:00.000Z until cycle 1 of instance x")


@pytest.mark.parametrize(("name", "expected"), [
    ("a", True), ("2026-11-29", True), ("a" * 40, True), ("", False), ("-a", False),
    ("a_b", False), ("A", False), ("a/b", False), ("a" * 41, False), ("\u0668", False),
    ("a\n", False)])
def test_names_keep_tables_apart(name: str, expected: bool) -> None:
    """Without an underscore a table's name can be taken apart again."""
    assert is_rewind_name(name) is expected


def test_the_longest_name_beside_the_longest_topic_fits_a_path() -> None:
    """Its dead letter table's certificate is the longest name made of it."""
    topic = "t" * 200
    name = "n" * rewind_name_characters_max(topic)
    longest = birth_certificate(rewind_prefix(name) + dlq_table(topic)).rsplit("/", 1)[-1]
    assert len(longest) == 255
    assert rewind_name_characters_max("t" * NAME_CHARACTERS_MAX) < 1


def test_a_batch_is_cut_at_its_partitions_ends() -> None:
    """What is behind them is not this rewind's; a partition that was let go has no end."""
    batch = Batch([0, 0, 1, 2], [8, 9, 5, 0], [None] * 4, [b"a", b"b", b"c", b"d"], [None] * 4,
                  [None] * 4, frozenset({(0, 8)}))
    found = clipped(batch, {0: 9, 1: 9})
    assert (found.partitions, found.offsets, found.keys) == ([0, 1], [8, 5], [b"a", b"c"])
    assert found.unreadable_headers == {(0, 8)}
    assert clipped(found, {0: 9, 1: 9}) is found


def test_what_is_left_goes_by_the_tables_positions() -> None:
    """None is a table that has not been begun."""
    made = plan(Part(0, 10, 20), Part(1, 0, 5), Part(2, 3, 9))
    assert left_of(made, {0: 15, 1: 5, 2: None}) == (Part(0, 15, 20), Part(2, 3, 9))


def test_reading_again_takes_less_memory_than_a_worker_and_its_files_may() -> None:
    """The bound that docs/tools.md names."""
    assert MEMORY_BYTES <= 32 * 1024 * 1024


@pytest.mark.parametrize("argv", [
    [], ["orders"], ["orders", "--to-offset", "0"], ["orders", "--to-offset", "0:x"],
    ["orders", "--to-offset", "0:1,0:2"], ["orders", "--to-offset", "-1:0"],
    ["orders", "--to-time", "noon"], ["orders", "--to-time", "2026-11-28T12:00:00"],
    ["orders", "--to-cycle", "1", "--to-offset", "0:1"], ["orders", "--to-cycle", "\u0661"],
    ["orders", "--to-cycle", "1", "--into", "../x"],
    ["orders", "--to-cycle", "1", "--until-cycle", "2", "--until-time", "2026-11-28T12:00:00Z"]])
def test_arguments_that_name_no_range_are_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the code of bad configuration, in one line."""
    with pytest.raises(SystemExit) as left:
        rewind_command.main(argv)
    assert left.value.code == 78
    assert capsys.readouterr().err.count("\n") == 1
