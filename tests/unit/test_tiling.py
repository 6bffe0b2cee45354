"""What `verify` concludes: a whole topic passes, and every planted wrong is named with its offsets."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.records import BRONZE, DLQ, Lost, Range
from tools.lake_probe import runs_of
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
