"""Runs a program as a unit file of deploy/systemd would confine it, as far as that takes no systemd.

    python confine.py UNIT CAPABILITIES WORD...

UNIT may be several files with : between, a unit and what is dropped in after it. CAPABILITIES are names with commas between (- for none): the bounding set, so that a test can leave one of the unit's
out. The unit's system call filter, address families, namespaces and memory are as systemd makes them: with seccomp.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1
_EAFNOSUPPORT = 0x00050000 | 97
_EQUAL, _MASKED = 4, 7
#: Namespaces as clone flags: everything but net.
_OTHER_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000)
_NEWNET = 0x40000000
_NO_NEW_PRIVS, _MDWE = 38, 65


def directives(*units: Path) -> dict[str, list[str]]:
    """Every value of each directive, in order. Comments stand on lines of their own."""
    found: dict[str, list[str]] = {}
    for line in (line for unit in units for line in unit.read_text().splitlines()):
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def system_calls(filters: list[str]) -> set[str]:
    """The names that the filters leave, as systemd knows its groups."""
    left: set[str] = set()
    for words in filters:
        named = {name for word in words.removeprefix("~").split() for name in _group(word)}
        left = left - named if words.startswith("~") else left | named
    return left


def _group(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    told = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
    names = [line.strip() for line in told.stdout.splitlines()[1:]]
    return {each for name in names if name and name[0] != "#" for each in _group(name)}


class _Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


class _Filter:
    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(otherwise))

    def add(self, action: int, name: str, compare: _Compare | None = None) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # another architecture's
        array = None if compare is None else ctypes.byref(compare)
        done = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, 0 if array is None else 1, array
        )
        assert done == 0, f"{name}: {os.strerror(-done)}"

    def load(self) -> None:
        done = self._library.seccomp_load(self._context)
        assert done == 0, os.strerror(-done)


def confine(units: list[Path], capabilities: str) -> None:
    """From here on for this process and its children; the capabilities hold from the next execution on."""
    wanted = directives(*units)
    libc = ctypes.CDLL(None, use_errno=True)
    for number, name in capability_names().items():
        if name not in capabilities.split(","):
            libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
    names = system_calls(wanted["SystemCallFilter"])
    if wanted["NoNewPrivileges"] == ["yes"]:
        assert libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if wanted["MemoryDenyWriteExecute"] == ["yes"] and libc.prctl(_MDWE, 1, 0, 0, 0) != 0:
        sys.stderr.write("this kernel (before 6.3) cannot deny memory that is written and executed\n")
    families = {getattr(socket, name) for name in wanted["RestrictAddressFamilies"][0].split()}
    sockets = _Filter(_ALLOW)
    for family in set(range(46)) - families:
        sockets.add(_EAFNOSUPPORT, "socket", _Compare(0, _EQUAL, family, 0))
    spaces = _Filter(_ALLOW)
    flags = _OTHER_NAMESPACES if wanted["RestrictNamespaces"] == ["net"] else (*_OTHER_NAMESPACES, _NEWNET)
    for flag in flags:
        for call, position in (("unshare", 0), ("setns", 1), ("clone", 0)):
            spaces.add(_EPERM, call, _Compare(position, _MASKED, flag, flag))
    calls = _Filter(_EPERM)
    for name in (*names, "seccomp", "execve"):
        calls.add(_ALLOW, name)
    for each in (sockets, spaces, calls):
        each.load()


def capability_names() -> dict[int, str]:
    """Capabilities by number, as linux/capability.h has them."""
    names = (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
        "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    )
    return {number: f"CAP_{name}" for number, name in enumerate(names.split())}


if __name__ == "__main__":
    confine([Path(each) for each in sys.argv[1].split(":")], sys.argv[2])
    os.execvp(sys.argv[3], sys.argv[3:])  # noqa: S606 - that is what it is for
