"""What the control group allows is read where it can be, and never guessed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from supervisor.cgroup import memory_max, warn_if_tight

GIB = 1 << 30


def groups(folder: Path, own: str, **limits: str) -> tuple[Path, Path]:
    """A tree of groups; names with `__` for the slashes, `top` for the root's own."""
    root = folder / "root"
    for name, limit in limits.items():
        group = root if name == "top" else root / name.replace("__", "/")
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.max").write_text(f"{limit}\n")
    (folder / "own").write_text(own)
    return folder / "own", root


@pytest.mark.parametrize(("own", "limits", "expected"), [
    ("0::/a/b\n", {"a": "max", "a__b": str(GIB)}, GIB),
    ("0::/a/b\n", {"a": str(GIB), "a__b": str(2 * GIB)}, GIB),
    ("0::/a/b\n", {"a": "max", "a__b": "max"}, None),
    ("0::/\n", {"top": str(GIB)}, GIB),
    ("4:memory:/a\n0::/\n", {"a": str(GIB)}, None),
    ("4:memory:/a\n", {"a": str(GIB)}, None),
    ("0::/gone\n", {"a": str(GIB)}, None),
    ("0::/../other\n", {"a": str(GIB)}, None),
])
def test_the_least_limit_of_the_own_group_and_those_above_it_counts(
    tmp_path: Path, own: str, limits: dict[str, str], expected: int | None
) -> None:
    """A limit further up binds as well."""
    assert memory_max(*groups(tmp_path, own, **limits)) == expected


def test_where_the_kernel_does_not_tell_nothing_is_known(tmp_path: Path) -> None:
    """Some containers hide /proc."""
    assert memory_max(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("allowed", "warns"), [
    (256_000_000, False), (255_999_999, True), (320 << 20, False)])
def test_a_group_that_allows_less_than_the_limit_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, allowed: int, warns: bool
) -> None:
    """Workers would be killed that keep to their limit."""
    with caplog.at_level(logging.WARNING, "supervisor"):
        warn_if_tight(256, *groups(tmp_path, "0::/a\n", a=str(allowed)))
    assert [record.message for record in caplog.records] == ["memory_limit_above_cgroup"] * warns
