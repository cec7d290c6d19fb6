"""Names of users: the machine's, a container's, and what is made of one that names its users anew."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quell.agent import proc
from quell.agent.users import Users, inner, names_of, parse_users, user_name

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
root = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root to change its root folder")]
IDENTITY = b"         0          0 4294967295\n"


@contextmanager
def rooted(folder: Path, *, flags: int = 0, mapping: str = "") -> Iterator[int]:
    """A process with this root folder, in namespaces of its own as the flags say."""
    ready, told = os.pipe()
    go_on, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None)
            libc.unshare(flags)
            os.write(told, b"1")
            os.read(go_on, 1)
            os.chroot(folder)
            os.write(told, b"2")
            libc.pause()
        finally:
            os._exit(1)  # never on into pytest
    try:
        assert os.read(ready, 1) == b"1"
        if mapping:
            Path(f"/proc/{child}/uid_map").write_text(mapping)
        os.write(go, b"1")
        assert os.read(ready, 1) == b"2"
        yield child
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        for file in (ready, told, go_on, go):
            os.close(file)


def listed(folder: Path, text: str) -> Path:
    (folder / "etc").mkdir(parents=True, exist_ok=True)
    (folder / "etc/passwd").write_text(text)
    return folder


def test_a_list_of_users() -> None:
    assert parse_users(b"root:x:0:0::/:\nbroken\nb\xff:x:7:7\ntoor:x:0:0::/:\nx:y:-1:\n") == {0: "root", 7: "b\\xff"}


@pytest.mark.parametrize(
    ("mapping", "uid", "number"),
    [(IDENTITY, 33, 33), (b"0 100000 65536\n70000 5 1\n", 100033, 33), (b"0 100000 65536\n70000 5 1\n", 5, 70000)],
)
def test_the_number_of_a_user_in_its_namespace(mapping: bytes, uid: int, number: int) -> None:
    assert inner(uid, mapping) == number


@pytest.mark.parametrize(("mapping", "uid"), [(b"0 100000 65536\n", 33), (b"0 100000 65536\n", 165536), (b"", 0)])
def test_a_user_who_has_none(mapping: bytes, uid: int) -> None:
    assert inner(uid, mapping) is None


def test_a_user_without_a_name_has_none() -> None:
    assert names_of(os.getuid(), os.getpid()) >= {user_name(os.getuid())} - {None}
    assert names_of(4_000_000_000, os.getpid()) == frozenset()


def test_outside_of_containers_the_machine_s_name_or_the_number_counts() -> None:
    users = Users()
    assert users.name(0, os.getpid(), None) == user_name(0) == "root"
    assert users.name(4_000_000_000, os.getpid(), None) == "4000000000"


class TestContainers:
    pytestmark = root

    def test_every_name_counts_and_a_pipe_holds_nothing_up(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        (pipe / "etc").mkdir(parents=True)
        os.mkfifo(pipe / "etc/passwd")
        listed(tmp_path, "root:x:0:0::/:\napp:x:4123:4123::/:/bin/sh\nbroken\n")
        for folder, names in ((tmp_path, {"app"}), (pipe, set())):
            with rooted(folder) as pid:
                assert names_of(4123, pid) == names

    def test_the_container_s_own_name_is_preferred(self, tmp_path: Path) -> None:
        machines = user_name(1)
        listed(tmp_path, "app:x:4123:4123::/:\nother:x:1:1::/:\n")
        with rooted(tmp_path, flags=_CLONE_NEWNS) as pid:
            users = Users()
            assert users.name(4123, pid, "c") == "app"
            assert users.name(1, pid, "c") == "other"
            assert users.name(1, pid, None) == machines
            assert users.name(0, pid, "c") == "root"  # by the machine's list
            assert users.name(4124, pid, "c") == "4124"

    def test_a_name_once_given_stays_and_one_that_was_not_may_come(self, tmp_path: Path) -> None:
        listed(tmp_path, "root:x:0:0::/:\napp:x:4123:4123::/:\n")
        with rooted(tmp_path, flags=_CLONE_NEWNS) as pid:
            users = Users()
            assert users.name(4123, pid, "c") == "app"
            deadline = time.monotonic() + 5
            while users.name(4124, pid, "c") != "late":  # a change within one tick of the clock may not be seen
                listed(tmp_path, "evil:x:0:0::/:\nroot:x:4123:4123::/:\nlate:x:4124:4124::/:\n")
                assert time.monotonic() < deadline
            assert users.name(4123, pid, "c") == "app"
            assert users.name(0, pid, "c") == "root"
            # What was told stays known, also to whoever proves that a process is the one told of.
            assert users.given(4123, "c") == {"app"}
            assert users.given(4123, "d") == users.given(77, "c") == frozenset()
            # Another container is another list.
            assert users.name(4123, pid, "d") == "root"

    def test_the_user_of_a_user_namespace_is_named_by_its_number_there(self, tmp_path: Path) -> None:
        listed(tmp_path, "boss:x:0:0::/:\napp:x:33:33::/:\n")
        with rooted(tmp_path, flags=_CLONE_NEWUSER | _CLONE_NEWNS, mapping="0 100000 65536") as pid:
            users = Users()
            assert users.name(100033, pid, "c") == "app"
            assert users.name(100000, pid, "c") == "boss"
            assert users.name(5, pid, "c") == user_name(5)
            assert names_of(100033, pid) == {"app"}

    def test_while_a_container_is_made_its_files_are_the_machine_s(self, tmp_path: Path) -> None:
        listed(tmp_path, "evil:x:0:0::/:\n")
        users = Users()
        with rooted(tmp_path) as pid:
            assert proc.mounts(pid) == proc.host_mounts() == proc.mounts(os.getpid())
            assert users.name(0, pid, "c") == "root"

    def test_lists_are_bounded(self, tmp_path: Path) -> None:
        listed(tmp_path, "".join(f"u{number}:x:{number}:0::/:\n" for number in range(5000, 6000)))
        with rooted(tmp_path, flags=_CLONE_NEWNS) as pid:
            users = Users()
            names = [users.name(number, pid, "c") for number in range(5000, 6000)]
            assert 200 < sum(name.startswith("u") for name in names) < 300
            for number in range(300):
                users.name(5000, pid, f"c{number}")
            assert len(users._lists) <= 256
