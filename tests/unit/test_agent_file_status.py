"""Which file it is, is told as stat(2) tells it, with statx and without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quell.agent import file_status as module
from quell.agent.file_status import file_status


@pytest.fixture(params=["statx", "stat"], autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "stat":
        monkeypatch.setattr(module, "_statx", None)
    elif not module.ASKS_NOBODY:
        pytest.skip("this kernel or C library has no statx")


def by_stat(path: str) -> tuple[int, ...]:
    found = Path(path).stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_ctime_ns


def test_it_is_told_of_every_kind_of_file_as_stat_tells_it(tmp_path: Path) -> None:
    file, link = tmp_path / "grüße \udcff", tmp_path / "link"
    file.write_bytes(b"x" * 12_345)
    link.symlink_to(file)
    for path in (str(file), str(link), str(tmp_path), "/proc/self/exe", "/proc/self/ns/net", "/dev/null", "/bin/sh"):
        assert file_status(path) == by_stat(path), path
    assert file_status(str(link)).size == 12_345


def test_a_relative_path_begins_in_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert file_status("file", directory) == by_stat(str(tmp_path / "file"))
        with pytest.raises(FileNotFoundError):
            file_status("other", directory)
    finally:
        os.close(directory)


def test_what_stands_against_it_is_raised_as_stat_raises_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        file_status(str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError):
        file_status(str(tmp_path / "file" / "below"))
