from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from quell.agent.containers.folders import Folders


class Watched:
    def __init__(self) -> None:
        self.folders = Folders()
        self.names: defaultdict[Path, list[str]] = defaultdict(list)

    def watch(self, path: Path) -> None:
        self.folders.watch(str(path), self.names[path].append)

    async def until(self, path: Path, name: str) -> None:
        deadline = time.monotonic() + 10
        while name not in self.names[path]:
            assert time.monotonic() < deadline, (name, self.names)
            await asyncio.sleep(0.005)
        self.names[path].clear()


def run(watched: Watched, scenario: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        watched.folders.start()
        try:
            await scenario
        finally:
            watched.folders.stop()

    asyncio.run(within())


def test_entries_that_are_made_written_renamed_and_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        watched.watch(tmp_path)
        (tmp_path / "made").mkdir()
        await watched.until(tmp_path, "made")
        (tmp_path / "file").write_text("a")
        await watched.until(tmp_path, "file")
        (tmp_path / "file").rename(tmp_path / "other")
        await watched.until(tmp_path, "other")
        (tmp_path / "other").unlink()
        await watched.until(tmp_path, "other")

    watched = Watched()
    run(watched, scenario())


def test_a_folder_that_comes_later_goes_and_comes_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        deep = tmp_path / "a" / "b" / "c"
        watched.watch(deep)
        for _ in range(3):
            deep.mkdir(parents=True)
            await watched.until(deep, "")
            (deep / "file").touch()
            await watched.until(deep, "file")
            (deep / "file").unlink()
            deep.rmdir()
            deep.parent.rmdir()
            deep.parent.parent.rmdir()
            await watched.until(deep, "")

    watched = Watched()
    run(watched, scenario())


def test_a_file_in_the_place_of_a_folder_is_waited_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        deep = tmp_path / "a" / "b"
        (tmp_path / "a").touch()
        watched.watch(deep)
        (tmp_path / "a").unlink()
        deep.mkdir(parents=True)
        await watched.until(deep, "")

    watched = Watched()
    run(watched, scenario())


def test_two_paths_to_one_folder(tmp_path: Path) -> None:
    async def scenario() -> None:
        real, link = tmp_path / "real", tmp_path / "link"
        real.mkdir()
        link.symlink_to(real)
        watched.watch(real)
        watched.watch(link)
        (real / "one").touch()
        await watched.until(real, "one")
        await watched.until(link, "one")
        watched.folders.unwatch(str(real))
        (real / "two").touch()
        await watched.until(link, "two")
        assert "two" not in watched.names[real]

    watched = Watched()
    run(watched, scenario())


def test_what_is_not_watched_any_more_is_silent(tmp_path: Path) -> None:
    async def scenario() -> None:
        inner, later = tmp_path / "inner", tmp_path / "later" / "deep"
        inner.mkdir()
        for path in (inner, later, tmp_path):
            watched.watch(path)
        for path in (inner, later):
            watched.folders.unwatch(str(path))
        watched.folders.unwatch("/never/watched")
        (inner / "file").touch()
        later.mkdir(parents=True)
        await watched.until(tmp_path, "later")
        assert not watched.names[inner]
        assert not watched.names[later]
        assert set(watched.folders._watches) == {str(tmp_path)}

    watched = Watched()
    run(watched, scenario())


def test_after_more_changes_than_the_kernel_keeps_everything_is_looked_at(tmp_path: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

    async def scenario() -> None:
        watched.watch(tmp_path)
        file = tmp_path / "file"
        # Equal changes in a row are one for the kernel, so the kinds take turns.
        for _ in range(most // 2 + 8):
            file.touch()
            file.unlink()
        await watched.until(tmp_path, "")

    watched = Watched()
    run(watched, scenario())
