"""Where the block lies: by systemd's word, or in a folder that never outlives its service for long."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shared.errors import BlockError
from supervisor.place import LEFT_BEHIND_AGE_S, find_place, remove_left_behind


def age(folder: Path) -> None:
    """Let a folder be as old as one that was left behind."""
    then = time.time() - LEFT_BEHIND_AGE_S - 1
    os.utime(folder, (then, then))


def test_the_units_runtime_folder_is_used_and_left_to_systemd(tmp_path: Path) -> None:
    """It is private to the unit and emptied at every stop."""
    place = find_place({"RUNTIME_DIRECTORY": f"{tmp_path}:/second"})
    assert place.path.parent == tmp_path
    place.remove()
    assert tmp_path.exists()


def test_a_folder_of_our_own_goes_with_us(tmp_path: Path) -> None:
    """Nothing of a stopped service stays in memory."""
    place = find_place({}, tmp_path)
    place.path.write_bytes(b"block")
    place.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_service_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """A lock ends with its process; a folder that is held is in use, however old it is."""
    living = find_place({}, tmp_path)
    killed = tmp_path / "bronze-ingestion-killed"
    young = tmp_path / "bronze-ingestion-young"
    foreign = tmp_path / "something-else"
    for folder in (killed, young, foreign):
        folder.mkdir()
        (folder / "block").write_bytes(b"block")
    assert living.folder is not None
    for folder in (living.folder, killed, foreign):
        age(folder)
    assert remove_left_behind(tmp_path) == [killed]
    assert sorted(tmp_path.iterdir()) == sorted([living.folder, young, foreign])
    living.remove()


def test_a_link_in_a_world_writable_folder_is_not_followed(tmp_path: Path) -> None:
    """Anybody may make one in /dev/shm."""
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "block").write_bytes(b"precious")
    base = tmp_path / "shm"
    base.mkdir()
    (base / "bronze-ingestion-link").symlink_to(treasure)
    age(treasure)
    assert remove_left_behind(base) == []
    assert (treasure / "block").exists()


def test_a_full_file_system_is_told_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback would not say that /dev/shm is full."""
    def refuse(*arguments: object, **settings: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(BlockError, match=f"cannot make a folder in {tmp_path}: No space left"):
        find_place({}, tmp_path)
