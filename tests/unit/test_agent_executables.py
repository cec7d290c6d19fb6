"""Patterns mean the same files as the shell's would, and what changes is seen at the next look."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quell.agent import executables
from quell.agent.executables import Executables


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def meant(patterns: list[str]) -> set[tuple[int, int]]:
    """As glob says, which lists everything each time."""
    return {identity(Path(path)) for pattern in patterns for path in glob.glob(pattern) if Path(path).exists()}  # noqa: PTH207


NAMES = st.sampled_from(["a", "ab", "b", ".c", "d-1"])
PARTS = st.sampled_from(["a", "ab", "b", "*", "a*", "?", "[ab]", ".*", "d-*", "nowhere"])


@settings(max_examples=100)
@given(
    st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=8),
    st.lists(st.lists(PARTS, min_size=1, max_size=3), min_size=1, max_size=5),
)
def test_patterns_mean_what_glob_says(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[str]], patterns: list[list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for parts in files:
        path = root.joinpath(*parts)
        if any(parent.is_file() for parent in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    globs = [f"{root}/{'/'.join(parts)}" for parts in patterns]
    found = Executables(globs)
    assert found.ids() == meant(globs)
    assert found.ids() == meant(globs)


def _added(folder: Path) -> Path:
    (folder / "x-2").write_bytes(b"")
    return folder / "x-2"


def _replaced(folder: Path) -> Path:
    (folder / "new").write_bytes(b"")
    return (folder / "new").replace(folder / "x-1")


def _linked(folder: Path) -> Path:
    (folder.parent / "far").mkdir()
    (folder.parent / "far" / "y").write_bytes(b"")
    (folder / "x-3").symlink_to("../far/y")
    return folder.parent / "far" / "y"


def _whole_folder_replaced(folder: Path) -> Path:
    folder.rename(folder.parent / "old")
    folder.mkdir()
    (folder / "x-1").write_bytes(b"")
    return folder / "x-1"


@pytest.mark.parametrize("change", [_added, _replaced, _linked, _whole_folder_replaced])
@pytest.mark.parametrize("pattern", ["bin/x-*", "b*/x-*"])
@pytest.mark.parametrize("old", [False, True])
def test_a_change_is_seen_at_the_next_look(
    tmp_path: Path, change: Callable[[Path], Path], pattern: str, *, old: bool
) -> None:
    """However soon it follows the look before, and whether that was kept or the directory was too young for it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "x-1").write_bytes(b"")
    before = identity(folder / "x-1")
    if old:
        time.sleep(executables._COARSE / 1e9 + 0.02)
    found = Executables([f"{tmp_path}/{pattern}"])
    assert found.ids() == found.ids() == {before}
    after = identity(change(folder))
    assert found.ids() == {before, after}, "what was found before stays"


def test_a_link_that_leads_elsewhere_is_seen_too(tmp_path: Path) -> None:
    """The directory in which it is named has not changed."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "daemon").write_bytes(b"")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "daemon-x").symlink_to("../current/daemon")
    (tmp_path / "current").symlink_to("1")
    time.sleep(executables._COARSE / 1e9 + 0.02)
    found = Executables([f"{tmp_path}/bin/daemon-*", f"{tmp_path}/bin/nowhere"])
    assert found.ids() == {identity(tmp_path / "1" / "daemon")}
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("2")
    assert found.ids() == {identity(tmp_path / version / "daemon") for version in ("1", "2")}


def test_a_directory_that_has_not_changed_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (listed.append(path), real(path))[1])
    (tmp_path / "x-1").write_bytes(b"")
    time.sleep(executables._COARSE / 1e9 + 0.02)
    found = Executables([f"{tmp_path}/x-*", f"{tmp_path}/y-*", f"{tmp_path}/absent/z*"])
    for _ in range(3):
        found.ids()
    assert listed == [str(tmp_path)]
