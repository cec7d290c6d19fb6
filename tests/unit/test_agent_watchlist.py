"""What of an execution meets the watch list. The files are real; nothing is executed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from quell.agent.contents import Executable
from quell.agent.watchlist import Circumstances, Execution, WatchList
from quell.errors import DocumentError

ROOT = Circumstances(uid=0, user="root", parent_name="bash", parent_exe="/usr/bin/bash")
SHIPPED = WatchList.load()


def running(*arguments: str, exe: str = "/opt/x", name: str = "", content: str | None = None) -> Execution:
    return Execution(
        exe=exe,
        name=name,
        arguments=arguments,
        content=content,
        file=Executable.at(shutil.which("true") or sys.executable),
    )


def why(watch_list: WatchList, execution: Execution) -> list[str]:
    return [f"{hit.watch.name}: {hit.why}" for hit in watch_list.find(execution)]


@pytest.mark.parametrize(
    ("execution", "expected"),
    [
        (running(exe="/usr/bin/nc.openbsd"), ["netcat: name nc.openbsd"]),
        (running(name="nc"), ["netcat: name nc"]),
        (running("/tmp/ncat", "-l"), ["netcat: name ncat"]),
        (running("-nc"), ["netcat: name nc"]),
        (running(exe="/tmp/xmrig-6.21"), ["miner: name xmrig-6.21"]),
        (running(exe="/dev/shm/a"), ["shared-memory-program: executable /dev/shm/a"]),
        (running(content="memfd", exe="/memfd:a"), ["memory-program: runs from memory"]),
        (running(content="memfd", exe="/memfd:nmap"), ["scanner: name nmap", "memory-program: runs from memory"]),
        (running(content="deleted", exe="/tmp/a"), ["deleted-program: its file is deleted"]),
        (running("python3", "/tmp/nmap.py", exe="/usr/bin/python3.11"), ["scanner: name nmap"]),
        (running("python3", "-W", "nc", "-u", "/x/nmap", exe="/usr/bin/python3"), ["scanner: name nmap"]),
        (running("python3", "-m", "tools.pwncat", exe="/usr/bin/python3"), ["netcat: name pwncat"]),
        (running("perl", "-e", "nc", exe="/usr/bin/perl"), []),
        (running("/bin/sh", "/tmp/linpeas.sh", exe="/usr/bin/dash"), ["post-exploitation: name linpeas.sh"]),
        (running("busybox", "nc", "-l", exe="/bin/busybox"), ["netcat: name nc"]),
        (running("nc", "-l", exe="/bin/busybox"), ["netcat: name nc"]),
        (running("cat", "nc", exe="/usr/bin/cat"), []),
        (running("vim", "/etc/nc.conf", exe="/usr/bin/vim"), []),
        (running("launch", "nmap", exe="/usr/bin/launch"), []),
        (running(), []),
    ],
)
def test_the_list_that_ships(execution: Execution, expected: list[str]) -> None:
    assert why(SHIPPED, execution) == expected


@pytest.mark.skipif(shutil.which("nc") is None, reason="netcat-openbsd is not installed")
def test_a_copy_is_known_by_its_content(tmp_path: Path) -> None:
    copy = tmp_path / "harmless"
    shutil.copy(shutil.which("nc") or "", copy)
    execution = Execution(exe=str(copy), name="h", arguments=(), content=None, file=Executable.at(str(copy)))
    assert [hit.why.startswith("copy of /") for hit in SHIPPED.find(execution)] == [True]
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    changed = Execution(exe=str(copy), name="h", arguments=(), content=None, file=Executable.at(str(copy)))
    assert SHIPPED.find(changed) == []
    unwatched = WatchList.parse('[[watch]]\nname = "n"\nnames = ["nc*"]\ncopies = false\n')
    assert unwatched.find(execution) == []


def test_a_link_to_another_program_does_not_make_it_known() -> None:
    # On Debian sh is a link to dash, so that dash would be known as "sh" if links were enough.
    listed = WatchList.parse('[[watch]]\nname = "n"\nnames = ["sh"]\n')
    shell = str(Path("/bin/sh").resolve())
    if Path(shell).name == "sh":
        pytest.skip("sh is no link here")
    execution = Execution(exe="/tmp/a", name="a", arguments=(), content=None, file=Executable.at(shell))
    assert listed.find(execution) == []


@pytest.mark.parametrize(
    ("exception", "allowed"),
    [
        ('exe = "/opt/*"', True),
        ('exe = "/usr/*"', False),
        ('user = "root"', True),
        ("user = 0", True),
        ("user = 1", False),
        ('parent = "ba*"', True),
        ('parent = "/usr/bin/bash"', True),
        ('parent = "/bin/bash"', False),
        ('exe = "/opt/x"\nuser = "other"', False),
        ('same_as = ["/nowhere", "{true}"]', True),
        ('same_as = ["{python}"]', False),
    ],
)
def test_exceptions(exception: str, allowed: bool) -> None:
    exception = exception.replace("{true}", shutil.which("true") or "").replace("{python}", sys.executable)
    watch = '[[watch]]\nname = "w"\nnames = ["x"]\n'
    for text in (f"{watch}[[watch.allow]]\n{exception}\n", f"{watch}[[allow]]\n{exception}\n"):
        listed = WatchList.parse(text)
        (hit,) = listed.find(running(exe="/opt/x"))
        assert listed.is_allowed(hit, running(exe="/opt/x"), ROOT) is allowed


def test_an_unknown_parent_meets_no_exception() -> None:
    listed = WatchList.parse('[[watch]]\nname = "w"\nnames = ["x"]\n[[allow]]\nparent = "*"\n')
    (hit,) = listed.find(running(exe="/opt/x"))
    orphan = Circumstances(uid=0, user=None, parent_name=None, parent_exe=None)
    assert not listed.is_allowed(hit, running(exe="/opt/x"), orphan)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(DocumentError) as found:
        WatchList.parse(
            '[[wach]]\n[[watch]]\nname = "a"\nnames = "nc"\n[[watch]]\nname = "b"\ncontent = ["ram"]\n'
            '[[watch]]\nname = "c"\n[[watch]]\nname = "d"\nexe = ["/x"]\n[[watch.allow]]\n[[allow]]\nuid = 0\n',
            "list.toml",
        )
    told = [str(problem) for problem in found.value.problems]
    for part in ("wach", "watch[0].names", "'ram'", "needs names, exe or content", "needs exe, user", "uid"):
        assert any(part in line for line in told), (part, told)
    assert all(line.startswith("list.toml: ") for line in told)


def test_no_toml() -> None:
    with pytest.raises(DocumentError, match=r"list\.toml: not TOML"):
        WatchList.parse("[[watch", "list.toml")
