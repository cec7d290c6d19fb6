"""Ancestry of real processes: while they change, end, and give their numbers to others."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quell.agent import proc
from quell.agent.lineage import Lineage
from quell.agent.users import Users, user_name
from quell.model.subject import Ancestor

_PR_SET_NAME = 15
_libc = ctypes.CDLL(None)


@pytest.fixture
def lineage() -> Iterator[Lineage]:
    lineage = Lineage(Users())
    yield lineage
    lineage.close()


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.002)


class Family:
    """A child of this process that has a child, and does what it is told."""

    def __init__(self) -> None:
        self._orders, mine = os.pipe()
        told, self._tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(mine)
                grandchild = os.fork()
                if grandchild == 0:
                    _libc.pause()
                    os._exit(0)
                os.write(self._tell, b"%d\n" % grandchild)
                self._obey()
            finally:
                os._exit(1)  # never on into pytest
        os.close(self._orders)
        os.close(self._tell)
        self._mine, self._told = mine, told
        self.child = int(os.read(told, 64))

    def _obey(self) -> None:
        while order := os.read(self._orders, 64).decode():
            word, _, rest = order.strip().partition(" ")
            if word == "name":
                _libc.prctl(_PR_SET_NAME, rest.encode(), 0, 0, 0)
            elif word == "user":
                os.seteuid(0)
                os.seteuid(int(rest))
            elif word == "exec":
                os.execv(rest, [rest, "60"])  # noqa: S606 - that is the point
            os.write(self._tell, b"ok")

    def order(self, text: str, *, answers: bool = True) -> None:
        os.write(self._mine, text.encode())
        if answers:
            assert os.read(self._told, 8) == b"ok"

    def end(self) -> None:
        os.close(self._mine)
        os.close(self._told)
        for pid in (self.pid, self.child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


@pytest.fixture
def family() -> Iterator[Family]:
    family = Family()
    yield family
    family.end()


def of(lineage: Lineage, pid: int) -> tuple[Ancestor, ...]:
    stat = proc.read_stat(pid)
    assert stat is not None
    return lineage.of(pid, stat.ppid, None)[0]


def test_from_the_parent_up_to_the_machine_s_first_process(lineage: Lineage, family: Family) -> None:
    chain = of(lineage, family.child)
    parent, own = proc.read_stat(family.pid), proc.read_stat(os.getpid())
    assert parent is not None
    assert own is not None
    exe, user = str(Path(sys.executable).resolve()), user_name(os.geteuid())
    assert chain[0] == Ancestor(parent.name, exe, user, family.pid, parent.start_ticks)
    assert chain[1] == Ancestor(own.name, exe, user, os.getpid(), own.start_ticks)
    assert chain[-1].pid == 1
    assert of(lineage, family.child) == chain
    assert of(lineage, family.pid) == chain[1:]


def test_a_new_name_of_an_ancestor_is_seen(lineage: Lineage, family: Family) -> None:
    of(lineage, family.child)
    for name in ("first", "a b", "back\\slash", "new\nline", "\\n", "x) R 1"):
        family.order(f"name {name}")
        assert of(lineage, family.child)[0].name == name


def test_another_program_of_an_ancestor_is_seen(lineage: Lineage, family: Family) -> None:
    before = of(lineage, family.child)[0]
    family.order("exec /bin/sleep", answers=False)
    until(lambda: of(lineage, family.child)[0].name == "sleep")
    after = of(lineage, family.child)[0]
    assert after.exe == str(Path("/bin/sleep").resolve())
    assert (after.pid, after.start_ticks) == (before.pid, before.start_ticks)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_of_an_ancestor_is_seen(lineage: Lineage, family: Family) -> None:
    assert of(lineage, family.child)[0].user == "root"
    family.order("user 1")
    assert of(lineage, family.child)[0].user == user_name(1)
    family.order("user 4000000")
    assert of(lineage, family.child)[0].user == "4000000"


def test_whoever_is_left_alone_has_another_parent(lineage: Lineage, family: Family) -> None:
    asked = proc.read_stat(family.child)
    assert asked is not None
    before = lineage.of(family.child, asked.ppid, None)[0]
    os.kill(family.pid, signal.SIGKILL)
    os.waitpid(family.pid, 0)
    until(lambda: (stat := proc.read_stat(family.child)) is not None and stat.ppid != family.pid)
    # Also for one who asks with what it read before.
    after = lineage.of(family.child, asked.ppid, None)[0]
    assert family.pid not in [each.pid for each in after]
    assert after == of(lineage, family.child) != before
    assert after[-1].pid == 1


def test_a_process_that_is_gone_has_what_is_left_of_its_ancestors(lineage: Lineage) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert lineage.of(process.pid, process.pid, None) == ((), 0)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to choose the next number")
def test_a_number_that_went_to_another_process(lineage: Lineage) -> None:
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(200):
        with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as first:
            until(lambda first=first: bool(children(first.pid)))  # type: ignore[misc]
            before = of(lineage, children(first.pid)[0])[0]
            os.kill(children(first.pid)[0], signal.SIGKILL)
            first.kill()
        # Others may take the number in between.
        last.write_text(str(first.pid - 1))
        with subprocess.Popen([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '60'])"]) as second:
            try:
                if second.pid != first.pid:
                    continue
                until(lambda second=second: bool(children(second.pid)))  # type: ignore[misc]
                child = children(second.pid)[0]
                after = of(lineage, child)[0]
                assert after.pid == before.pid
                assert (before.name, Path(after.exe or "").name) == ("sh", Path(sys.executable).resolve().name)
                # Both may have started in the same hundredth of a second.
                os.kill(child, signal.SIGKILL)
                return
            finally:
                second.kill()
    pytest.skip("others always took the number")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_files_are_kept_of_so_many_only(family: Family) -> None:
    lineage = Lineage(Users())
    before = len(list(Path("/proc/self/fd").iterdir()))
    lineage._most = 2
    for _ in range(3):
        of(lineage, family.child)
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 6
    lineage.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
