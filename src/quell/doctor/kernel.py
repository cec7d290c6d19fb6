"""What the agent needs of the kernel, and of its own place on the machine."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

from quell.agent.connector import Connector, ConnectorError
from quell.agent.linux.namespace import within
from quell.agent.linux.nftables import Nftables, free_name
from quell.agent.linux.tables import Openings, closing
from quell.doctor.finding import Case, Found, missing, ok, warning

#: linux/capability.h, and what the agent does with each.
_NET_ADMIN, _SYS_ADMIN = 12, 21
_CAPABILITIES = {
    2: ("CAP_DAC_READ_SEARCH", "read executables and open files of other users"),
    5: ("CAP_KILL", "kill processes of other users"),
    _NET_ADMIN: ("CAP_NET_ADMIN", "quarantine, and watch executions"),
    19: ("CAP_SYS_PTRACE", "compare other users' executables before a kill"),
    _SYS_ADMIN: ("CAP_SYS_ADMIN", "enter network namespaces for a quarantine"),
    23: ("CAP_SYS_NICE", "renice processes of other users"),
}
#: Inodes of the first namespaces (linux/proc_ns.h).
_FIRST_USER, _FIRST_PID = 0xEFFFFFFD, 0xEFFFFFFC

#: struct nlmsghdr, struct cn_msg, and PROC_CN_MCAST_IGNORE (linux/cn_proc.h).
_IGNORE = struct.Struct("=IHHII" + "IIIIHH" + "I")
_NLMSG_DONE, _CN_PROC, _MCAST_IGNORE = 3, 1, 2

_CLOSING = "A quarantine closes network namespaces with nftables"
_LACKING = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOENT, errno.EINVAL)


def version(_case: Case) -> Found:
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if number < (5, 3):
        return missing(
            f"Linux {release}", "Nothing is killed without a pidfd, which came with Linux 5.3: use a newer kernel."
        )
    if number < (5, 16):
        return warning(
            f"Linux {release}",
            "Before 5.16 a quarantine lets raw link-layer frames out (no egress hook): use a newer kernel if that matters.",
        )
    return ok(f"Linux {release}", "5.3 brings pidfds, 5.16 the egress hook of a complete quarantine.")


def pidfd(_case: Case) -> Found:
    why = "A target is proved and killed through its pidfd, so that no other process can be hit"
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        return missing(
            f"pidfd_open fails: {error}", f"{why}: use Linux 5.3, and a sandbox (seccomp) that lets the call through."
        )
    return ok("pidfd_open works", f"{why}.")


def capabilities(_case: Case) -> Found:
    held = _held()
    lacking = [f"{name} ({use})" for bit, (name, use) in _CAPABILITIES.items() if not held >> bit & 1]
    if lacking:
        return missing(
            f"without {', '.join(lacking)}",
            f"An agent started like this (user {os.geteuid()}) refuses what needs them: run it as root, or grant them.",
        )
    return ok(f"all {len(_CAPABILITIES)} that the agent uses", "Without them the agent refuses kills or quarantines.")


def namespaces(_case: Case) -> Found:
    why = "An agent sees and reaches the processes of its own pid namespace only"
    inner = [
        name
        for name, first in (("user", _FIRST_USER), ("pid", _FIRST_PID))
        if (inode := _inode(f"/proc/self/ns/{name}")) is not None and inode != first
    ]
    if inner:
        return missing(
            f"in an inner {' and '.join(inner)} namespace (a container?)",
            f"{why}: start it on the machine itself, or its container with the host's (--pid=host, no user namespace).",
        )
    return ok("in the machine's first pid and user namespace", f"{why}.")


def connector(_case: Case) -> Found:
    why = "The sensor hears of each execution from the process connector; without it only other detectors report"
    try:
        listening = Connector(buffer_bytes=1 << 16)
    except ConnectorError as error:
        return missing(str(error), f"{why}: give CAP_NET_ADMIN, in the first namespaces, on a kernel with PROC_EVENTS.")
    try:
        # Before Linux 6.6 the kernel goes on counting a listener that only closes.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(listening.fileno())) as line:
            line.send(
                _IGNORE.pack(
                    *(_IGNORE.size, _NLMSG_DONE, 0, 0, os.getpid()),
                    *(_CN_PROC, _CN_PROC, 0, 0, 4, 0),
                    _MCAST_IGNORE,
                )
            )
    finally:
        listening.close()
    return ok("the process connector answers", f"{why}.")


def nftables(_case: Case) -> Found:
    """A network namespace of our own is made and closed; it ends with the look."""
    if not all(_held() >> bit & 1 for bit in (_NET_ADMIN, _SYS_ADMIN)):
        return missing(
            "cannot be tried: a network namespace may not be made",
            f"{_CLOSING}: run as root, or grant CAP_SYS_ADMIN and CAP_NET_ADMIN.",
        )
    try:
        lacking = within(None, _close_one)
        tracks = within(None, _let_one_in)
    except OSError as error:
        return missing(
            f"nftables cannot be used: {error.strerror}", f"{_CLOSING}: load nf_tables, or use a kernel that has it."
        )
    if lacking:
        return warning(
            f"nftables works, without {lacking}", f"{_CLOSING}; {lacking} stop raw frames of packet sockets."
        )
    if not tracks:
        return warning(
            "nftables works, without connection tracking",
            f"{_CLOSING}; without tracking (nf_conntrack, nft_ct) no investigator can be let in.",
        )
    return ok("nftables closed a namespace made for that", f"{_CLOSING}.")


def cgroups(_case: Case) -> Found:
    why = "A process is laid to its container and pod by its control group"
    base = Path("/sys/fs/cgroup")
    if (base / "cgroup.controllers").exists():
        return ok("version 2", f"{why}.")
    if (base / "unified" / "cgroup.procs").exists():
        return ok("hybrid (versions 1 and 2)", f"{why}.")
    mounted = [line.split()[2] for line in _lines("/proc/self/mounts") if len(line.split()) > 2]
    if "cgroup" in mounted:
        return ok("version 1", f"{why}.")
    return warning("none is mounted", f"{why}: on a machine with containers mount it at {base}.")


def _close_one() -> str:
    """What this kernel lacks of a complete closing, "" for nothing. In the namespace that it is about."""
    with Nftables() as nftables:
        name = free_name(nftables.tables())
        for link, egress, lacking in (
            (True, True, ""),
            (True, False, "the egress hook (Linux 5.16)"),
            (False, False, "the netdev family"),
        ):
            try:
                nftables.run(closing(name, ("lo",) if link else (), strict=True, link=link, egress=egress))
            except OSError as error:
                if error.errno not in _LACKING or not link:
                    raise
            else:
                return lacking
    return ""


def _let_one_in() -> bool:
    """Whether answers to an investigator can be told apart. In a namespace made for that."""
    openings = Openings(investigators=(IPv4Address("192.0.2.1"),))
    with Nftables() as nftables:
        name = free_name(nftables.tables())
        try:
            nftables.run(closing(name, (), strict=False, link=False, egress=False, openings=openings))
        except OSError as error:
            if error.errno not in _LACKING:
                raise
            return False
    return True


def _held() -> int:
    """Effective capabilities as a bit set."""
    for line in _lines("/proc/self/status"):
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _inode(path: str) -> int | None:
    try:
        return Path(path).stat().st_ino
    except OSError:
        return None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
