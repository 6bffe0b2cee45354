"""Which files of a log may go, whatever the order in which a listing has them."""

from __future__ import annotations

import random

import pytest

from keeper.log_cleanup import OldFiles

CUTOFF_S = 1000.0


def entry(version: int) -> str:
    """An entry's name."""
    return f"{version:020d}.json"


def checkpoint(version: int, part: int = 0, parts: int = 0) -> str:
    """A checkpoint's name, or that of a part of one."""
    number = f".{part:010d}.{parts:010d}" if parts else ""
    return f"{version:020d}.checkpoint{number}.parquet"


def doomed(files: dict[str, float], count_max: int = 100) -> list[str]:
    """What goes of files: name -> when it was written."""
    old = OldFiles(CUTOFF_S, count_max)
    for name, modified_s in files.items():
        old.take(name, modified_s)
    return old.doomed()


def test_what_goes_is_the_same_in_every_order() -> None:
    """A store lists by name, a folder in any order; the oldest versions go first."""
    files = {entry(version): float(version) for version in range(2000)} | {
        checkpoint(version): float(version) for version in range(0, 2000, 20)}
    names = list(files)
    chance = random.Random(1)
    for _ in range(5):
        chance.shuffle(names)
        found = doomed({name: files[name] for name in names}, 50)
        assert found == sorted(
            [*map(entry, range(48)), *map(checkpoint, range(0, 48, 20))])[:50]


@pytest.mark.parametrize(("files", "gone"), [
    ({entry(1): 1, checkpoint(2): 1}, [entry(1)]),
    ({entry(1): 1, checkpoint(2): 1001}, []),
    ({entry(1): 1001, checkpoint(2): 1}, []),
    ({entry(2): 1, checkpoint(2): 1}, []),
    ({entry(1): 1, checkpoint(2, 1, 2): 1, checkpoint(2, 2, 2): 1}, [entry(1)]),
    ({entry(1): 1, checkpoint(2, 1, 2): 1, checkpoint(2, 2, 2): 1001}, []),
    ({entry(1): 1, checkpoint(2, 1, 2): 1, checkpoint(2, 3, 2): 1}, []),
    ({entry(1): 1, checkpoint(2, 1, 2): 1, checkpoint(2, 2, 3): 1}, []),
    ({entry(1): 1, checkpoint(2).replace("parquet", "0a-b.parquet"): 1}, []),
    ({entry(1): 1, f"{2:020d}.checkpoint.0000000000.0000000000.parquet": 1}, []),
    ({entry(1): 1, f"copy/{checkpoint(2)}": 1}, []),
    ({entry(1): 1, "20260131120000000000.checkpoint.parquet": 1}, []),
    ({f"copy/{entry(1)}": 1, checkpoint(2): 1}, []),
    ({f"{1:020d}.{2:020d}.compacted.json": 1, checkpoint(2): 1}, []),
    ({f"{0:020d}.{1:020d}.compacted.json": 1, checkpoint(2): 1},
     [f"{0:020d}.{1:020d}.compacted.json"]),
    ({checkpoint(1, 1, 2): 1, checkpoint(2): 1}, [checkpoint(1, 1, 2)]),
])
def test_only_what_an_old_whole_checkpoint_covers_goes(
    files: dict[str, float], gone: list[str]
) -> None:
    """And only what is old itself."""
    assert doomed(files) == gone


def test_names_that_never_go_take_no_place() -> None:
    """However many there are, and wherever they stand."""
    files = {f".{number}": 1.0 for number in range(500)} | {
        f"{9:020d}.{number:020d}.compacted.json": 1.0 for number in range(100, 600)}
    assert doomed(files | {entry(1): 1.0, checkpoint(2): 1.0}, 5) == [entry(1)]


def test_a_walk_by_name_is_settled_by_a_young_entry_or_by_enough() -> None:
    """What comes behind is younger, or has its turn later."""
    old = OldFiles(CUTOFF_S, 3)
    for version in range(5):
        old.take(entry(version), 1.0)
    assert not old.is_settled
    old.take(checkpoint(2), 1.0)
    assert not old.is_settled
    old.take(checkpoint(4), 1.0)
    assert old.is_settled and old.covering == (checkpoint(4),)
    young = OldFiles(CUTOFF_S, 3)
    young.take(checkpoint(7), 1001.0)
    assert not young.is_settled
    young.take(entry(8), 1001.0)
    assert young.is_settled and young.doomed() == []
