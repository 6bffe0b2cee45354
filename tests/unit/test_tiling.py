"""What `verify` concludes: a whole topic passes, and every planted wrong is named with its offsets."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.records import BRONZE, DLQ, Lost, Range
from tools.lake_probe import runs_of, without
from tools.replays import Replayed, Replays
from tools.report import Status
from tools.tiling import (
    ADVICE, EXAMPLES_MAX, ActiveFile, Claim, Holding, Judgement, NamedFile, TableState, Wrong,
    as_lines, judge, judge_runs,
)


def claim(record: int, start: int, end: int, dead: int = 0, **more: int) -> Claim:
    """A record with one file per table of partition 0."""
    rows = end - start - dead - sum(more.values())
    files = [NamedFile(BRONZE, f"b{record}", rows, 100)]
    if dead:
        files.append(NamedFile(DLQ, f"d{record}", dead, 50))
    return Claim(record, (Range(0, start, end, rows, dead, more.get("skipped", 0)),), tuple(files))


def state(claims: list[Claim], table: str) -> TableState:
    """A table that holds what is claimed."""
    files = {file.path: ActiveFile(file.size, file.rows, one.ranges[0].end - 1)
             for one in claims for file in one.files if file.table == table}
    return TableState(files, {path: file.size for path, file in files.items()})


CLAIMS = [claim(1, 0, 10), claim(2, 10, 20, dead=2), claim(4, 20, 30)]
WHOLE = Holding({0: 30}, {BRONZE: state(CLAIMS, BRONZE), DLQ: state(CLAIMS, DLQ)}, {0: [(0, 30)]})


def sorts(claims: list[Claim], holding: Holding) -> set[str]:
    """The sorts of what is wrong."""
    return {wrong.sort for wrong in judge(claims, holding).wrongs}


def with_files(table: str, **changed: ActiveFile | None) -> Holding:
    """The whole holding with files of a table changed, added, or (None) taken out."""
    files = {path: file for path, file in {**WHOLE.tables[table].files, **changed}.items()
             if file is not None}
    objects = {**WHOLE.tables[table].objects,
               **{path: file.size for path, file in files.items()}}
    return replace(WHOLE, tables={**WHOLE.tables, table: TableState(files, objects)})


def test_a_whole_topic_passes_and_is_counted() -> None:
    """Each offset has one fate."""
    found = judge(CLAIMS, WHOLE)
    assert (found.wrongs, found.notes) == ([], [])
    (line,) = as_lines("orders", found, deep=True)
    assert line.status is Status.OK
    assert line.found == "30 offsets of 1 partitions, each with one fate: 28 rows, 2 dead letters"


def test_a_hole_between_two_records_is_named_with_its_offsets() -> None:
    """Nobody recorded what became of them."""
    found = judge([CLAIMS[0], CLAIMS[2]], WHOLE).wrongs
    assert Wrong("hole", "partition 0: offsets [10, 20) are in no record; record 4 begins behind "
                         "them") in found


def test_offsets_in_two_records_are_an_overlap() -> None:
    """They were decided twice."""
    doubled = [*CLAIMS[:2], claim(3, 15, 20), CLAIMS[2]]
    found = judge(doubled, WHOLE).wrongs
    assert any(w.sort == "overlap" and "[15, 20)" in w.what for w in found)


@pytest.mark.parametrize(("position", "offsets"), [(35, "[30, 35)"), (25, "25")])
def test_a_position_that_no_record_explains_is_wrong(position: int, offsets: str) -> None:
    """Somebody else moved it."""
    (found,) = [w for w in judge(CLAIMS, replace(WHOLE, positions={0: position})).wrongs
                if w.sort == "position"]
    assert offsets in found.what


def test_a_table_without_a_position_is_wrong() -> None:
    """The positions are in the table's log and nowhere else."""
    multi = [replace(CLAIMS[0], ranges=(*CLAIMS[0].ranges, Range(1, 0, 5, rows=5))), *CLAIMS[1:]]
    assert "position" in sorts(multi, WHOLE)


def test_a_record_whose_commit_is_still_to_come_is_left_out() -> None:
    """Beside a running service: dead letters come first, and are no strangers."""
    to_come = claim(5, 30, 40, dead=1)
    holding = with_files(DLQ, d5=ActiveFile(50, 1, 39))
    assert sorts([*CLAIMS, to_come], replace(holding, runs=None)) == set()


def test_a_file_that_is_not_in_the_store_is_named() -> None:
    """The table's log still has it: every reader fails."""
    objects = {path: size for path, size in WHOLE.tables[BRONZE].objects.items() if path != "b2"}
    holding = replace(WHOLE, tables={
        **WHOLE.tables, BRONZE: replace(WHOLE.tables[BRONZE], objects=objects)})
    assert [w.what for w in judge(CLAIMS, holding).wrongs] == ["bronze file b2 is not in the store"]


def test_a_file_of_another_size_is_named() -> None:
    """It was overwritten or cut."""
    assert sorts(CLAIMS, replace(WHOLE, tables={**WHOLE.tables, BRONZE: replace(
        WHOLE.tables[BRONZE], objects={**WHOLE.tables[BRONZE].objects, "b2": 99})})) == {"file"}


def test_a_file_taken_out_of_the_table_is_named_with_its_offsets() -> None:
    """By a DELETE, a RESTORE, an overwrite."""
    (found,) = judge(CLAIMS, with_files(BRONZE, b2=None)).wrongs
    assert found.sort == "removed"
    assert "record 2: partition 0 [10, 20)" in found.what


def test_a_file_that_nobody_decided_is_foreign() -> None:
    """An append of another job, or the same rows once more."""
    assert sorts(CLAIMS, with_files(BRONZE, x=ActiveFile(10, 10, 19))) == {"foreign"}
    assert sorts(CLAIMS, with_files(DLQ, x=ActiveFile(10, 1, None))) == {"foreign"}


def test_a_file_with_another_number_of_rows_is_wrong() -> None:
    """The log says one thing and the record another."""
    assert sorts(CLAIMS, with_files(BRONZE, b2=ActiveFile(100, 7, 19))) == {"rows"}


def test_rewritten_files_with_the_same_rows_are_a_note() -> None:
    """A compaction of another job; whether the rows are the same, --deep tells."""
    found = judge(CLAIMS, with_files(
        BRONZE, b1=None, b2=None, big=ActiveFile(150, 18, 19)))
    assert found.wrongs == []
    assert found.notes == ["bronze: 2 files were rewritten as 1 others with the same number of rows"]
    assert {line.status for line in as_lines("orders", found, deep=False)} == {
        Status.OK, Status.WARN}


def test_a_compaction_of_the_keepers_is_a_fact() -> None:
    """Nothing for a person to look at."""
    found = judge(CLAIMS, with_files(
        BRONZE, b1=None, b2=None, **{"compacted-1.parquet": ActiveFile(150, 18, 19)}))
    assert (found.wrongs, found.notes) == ([], [])
    assert found.facts == ["bronze: 2 files were rewritten as 1 others with the same number of rows"]
    assert {line.status for line in as_lines("orders", found, deep=False)} == {Status.OK}


def test_a_removed_file_is_named_beside_days_that_were_rewritten() -> None:
    """And is not lost among thousands that are well."""
    claims = [Claim(number, (Range(0, 10 * number - 10, 10 * number, 10),), (
        NamedFile(BRONZE, f"day={number}/a", 6, 10), NamedFile(BRONZE, f"day={number}/b", 4, 10)))
        for number in (1, 2)]
    files = {"day=1/compacted-x": ActiveFile(15, 10, 9), "day=2/a": ActiveFile(10, 6, 19)}
    found = judge(claims, Holding({0: 20}, {BRONZE: TableState(
        files, {path: file.size for path, file in files.items()})}))
    assert [wrong.sort for wrong in found.wrongs] == ["removed"]
    assert "day=2/b with 4 rows" in found.wrongs[0].what
    assert len(found.facts) == 1


def test_a_rewrite_that_lost_rows_is_wrong() -> None:
    """Both sides are named."""
    assert sorts(CLAIMS, with_files(
        BRONZE, b1=None, b2=None, big=ActiveFile(150, 17, 19))) == {"removed", "foreign"}


def test_strange_files_without_statistics_cannot_be_counted() -> None:
    """Nothing is concluded from what is not known."""
    assert sorts(CLAIMS, with_files(BRONZE, b1=None, x=ActiveFile(9, None, None))) == {"statistics"}


def test_rows_older_than_the_ledger_are_a_note() -> None:
    """A lake of an older release: what came before the first record nobody recorded."""
    late = CLAIMS[1:]
    found = judge(late, WHOLE)
    assert found.wrongs == []
    assert found.notes == ["bronze: 10 rows in 1 files are older than what is recorded"]


def test_more_fates_than_offsets_are_wrong() -> None:
    """A record that cannot be true."""
    wrong = replace(CLAIMS[0], ranges=(Range(0, 0, 10, rows=11),))
    assert "fates" in sorts([wrong, *CLAIMS[1:]], WHOLE)


@pytest.mark.parametrize(("runs", "sort", "offsets"), [
    ([(0, 30), (12, 14)], "double", "[12, 14)"),
    ([(0, 12), (13, 30)], "missing", "[12, 13)"),
    ([(0, 30), (30, 33)], "foreign", "[30, 33)"),
    ([(0, 10), (10, 20), (25, 30)], "missing", "[20, 25)"),
    ([], "missing", "[0, 10)"),
])
def test_deep_names_exactly_the_offsets(
    runs: list[tuple[int, int]], sort: str, offsets: str
) -> None:
    """Offset by offset."""
    found = judge(CLAIMS, replace(WHOLE, runs={0: runs})).wrongs
    assert any(w.sort == sort and offsets in w.what for w in found), found


def test_deep_wants_as_many_holes_as_have_a_reason() -> None:
    """Lost upstream, skipped by policy, or never delivered: two here, and no row for them."""
    ranges = [Range(0, 0, 10, rows=7, skipped=1, lost=(Lost(0, 2, "retention"),))]
    assert list(judge_runs(0, ranges, [(2, 5), (6, 10)])) == []
    (found,) = judge_runs(0, ranges, [(2, 10)])
    assert found.sort == "unexplained"
    (found,) = judge_runs(0, ranges, [(3, 5), (6, 10)])
    assert found.sort == "missing"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60))
def test_runs_tell_of_a_file_what_is_in_it(rows: list[tuple[int, int]]) -> None:
    """Every row is in exactly one run; a double begins a new one."""
    table = pa.table({"_kafka_partition": pa.array([p for p, _ in rows], pa.int32()),
                      "_kafka_offset": pa.array([o for _, o in rows], pa.int64())})
    found = [(partition, offset) for partition, (start, end) in runs_of(table)
             for offset in range(start, end)]
    assert sorted(found) == sorted(rows)


def test_many_wrongs_are_counted_and_some_are_shown() -> None:
    """A report of a thousand lines is read by nobody."""
    found = Judgement(wrongs=[Wrong("foreign", str(n)) for n in range(EXAMPLES_MAX + 5)])
    lines = list(as_lines("orders", found, deep=False))
    assert len(lines) == EXAMPLES_MAX + 1
    assert lines[-1].found == "and more: foreign 5"


def test_every_sort_has_advice() -> None:
    """A finding without a next step is half a finding."""
    text = __import__("pathlib").Path("tools/tiling.py").read_text()
    import re
    assert set(re.findall(r'Wrong\(\s*"(\w+)"', text)) <= ADVICE.keys()


DONE = Replays((Replayed(1, ((0, 11), (0, 12)), "r1", 2, 70),), 1, 1, {(0, 11): 1, (0, 12): 1})
REPLAYED = replace(with_files(BRONZE, r1=ActiveFile(70, 2, 12)), replayed=((0, 12), (0, 11)))


def test_replayed_dead_letters_are_in_both_tables_and_counted() -> None:
    """Their file is no stranger, and the offsets have one fate as before."""
    found = judge(CLAIMS, REPLAYED, DONE)
    assert (found.wrongs, found.notes) == ([], [])
    (line,) = as_lines("orders", found, deep=True)
    assert line.found.endswith("28 rows, 2 dead letters; 2 of them replayed, and rows, too")


def test_a_replay_that_is_not_in_the_table_yet_is_a_note() -> None:
    """It may be under way, or was killed; the next one brings it to its end."""
    (note,) = judge(CLAIMS, replace(WHOLE, runs=None), replace(DONE, reached=0)).notes
    assert "1 decided replays are not in the bronze table yet (1)" in note
    ahead = replace(REPLAYED, replayed=(), runs=None)
    assert sorts_of(ahead, replace(DONE, reached=0)) == set()


def test_old_numbers_of_a_topic_that_was_created_again_are_no_fault() -> None:
    """The table of replays is of all topics, and keeps them; the first new plan is undone here."""
    again = Replays((Replayed(6, ((0, 11),), "r6", 1, 7),), 0, 5, {})
    assert sorts_of(replace(WHOLE, runs=None), again) == set()
    assert sorts_of(replace(WHOLE, runs=None), Replays((), 0, 5, {})) == set()


def sorts_of(holding: Holding, replays: Replays) -> set[str]:
    """The sorts of what is wrong with replays."""
    return {wrong.sort for wrong in judge(CLAIMS, holding, replays).wrongs}


@pytest.mark.parametrize(("replays", "sort"), [
    (replace(DONE, plans=()), "replay"),
    (replace(DONE, recorded={(0, 11): 1}), "replay"),
    (replace(DONE, recorded={**DONE.recorded, (0, 12): 0}), "replay"),
    (replace(DONE, recorded={**DONE.recorded, (0, 3): 1}), "replay"),
    (replace(DONE, recorded=None), "replay"),
    (replace(DONE, recorded_through=0, recorded={}), "replay"),
    (replace(DONE, recorded_through=2), "replay"),
    (replace(DONE, reached=2), "replay"),
    (replace(DONE, plans=(*DONE.plans, Replayed(2, ((0, 11),), "r2", 1, 1))), "double"),
    (replace(DONE, plans=(Replayed(1, ((0, 11), (0, 30)), "r1", 2, 70),)), "foreign"),
])
def test_replays_that_contradict_each_other_are_wrong(replays: Replays, sort: str) -> None:
    """Plans, the table of replays and both tables' numbers are held against each other."""
    assert sort in sorts_of(replace(REPLAYED, runs=None), replays)


@pytest.mark.parametrize(("rows", "sort"), [
    (((0, 11), (0, 12), (0, 12)), "double"), (((0, 11),), "missing"),
    (((0, 11), (0, 12), (0, 13)), "foreign")])
def test_deep_counts_each_replayed_row(rows: tuple[tuple[int, int], ...], sort: str) -> None:
    """Once, no more and no less."""
    assert sorts_of(replace(REPLAYED, replayed=rows), DONE) == {sort}


def test_the_file_of_a_replay_must_be_in_the_table() -> None:
    """A DELETE took it out, or its size is another."""
    assert sorts_of(with_files(BRONZE, r1=None), DONE) == {"removed", "missing"}
    assert sorts_of(with_files(BRONZE, r1=ActiveFile(70, 3, 12)), DONE) == {"rows", "missing"}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=30),
       st.sets(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=9))
def test_replayed_rows_are_told_from_the_others_one_by_one(
    rows: list[tuple[int, int]], replayed: set[tuple[int, int]]
) -> None:
    """By partition and offset together, doubles included."""
    table = pa.table({"_kafka_partition": pa.array([p for p, _ in rows], pa.int32()),
                      "_kafka_offset": pa.array([o for _, o in rows], pa.int64())})
    kept, again = without(table, replayed)
    assert sorted(again) == sorted(place for place in rows if place in replayed)
    assert sorted(zip(*(kept[name].to_pylist() for name in kept.column_names), strict=True)) == (
        sorted(place for place in rows if place not in replayed))
