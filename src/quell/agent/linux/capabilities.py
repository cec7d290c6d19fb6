"""What this process may do on this machine, found out on nothing but itself."""

from __future__ import annotations

import os
from pathlib import Path

from quell.agent.kernel import Capabilities
from quell.agent.linux import cgroups
from quell.agent.linux.namespace import rehearse
from quell.agent.linux.sock_diag import Diag
from quell.model.action import (
    KillPod,
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    Quarantine,
    ReleaseQuarantine,
    ReniceProcess,
    word,
)

# linux/capability.h
_KILL, _NET_ADMIN, _SYS_PTRACE, _SYS_ADMIN, _SYS_NICE = 5, 12, 19, 21, 23
_NAMES = {_NET_ADMIN: "CAP_NET_ADMIN", _SYS_ADMIN: "CAP_SYS_ADMIN", _SYS_PTRACE: "CAP_SYS_PTRACE"}


def probe() -> Capabilities:
    held = _held()
    words: set[str] = set()
    limits: list[str] = []
    if hasattr(os, "pidfd_open") and _has_pidfd():
        words |= {word(KillProcess), word(KillProcessGroup), word(KillProcessTree), word(KillPod), word(ReniceProcess)}
        if not cgroups.may_make():
            limits.append(
                f"{word(KillProcessTree)}: what is forked and orphaned while it is killed may be left, for lack of "
                "control groups (version 2) that this agent may make"
            )
        if not held >> _KILL & 1:
            limits.append(f"{word(KillProcess)}: only processes of user {os.geteuid()}, for lack of CAP_KILL")
        elif not held >> _SYS_PTRACE & 1:
            limits.append(
                f"{word(KillProcess)}: other users' executables cannot be compared, for lack of CAP_SYS_PTRACE"
            )
        if not held >> _SYS_NICE & 1:
            limits.append(
                f"{word(ReniceProcess)}: only to a lower priority and for user {os.geteuid()}, for lack of CAP_SYS_NICE"
            )
    else:
        limits.append(
            f"{word(KillProcess)}: this kernel has no pidfd (Linux 5.3), without which a target cannot be proved"
        )
    missing = [name for bit, name in _NAMES.items() if not held >> bit & 1]
    if missing:
        limits.append(f"{word(Quarantine)}: for lack of {', '.join(missing)}")
    else:
        try:
            limits += [f"{word(Quarantine)}: {limit}" for limit in rehearse()]
            words |= {word(Quarantine), word(ReleaseQuarantine)}
        except OSError as error:
            limits.append(f"{word(Quarantine)}: this kernel's nftables cannot be used: {error.strerror}")
    return Capabilities(words=frozenset(words), limits=tuple(limits))


def may_look_at_others() -> bool:
    """Whether the executables of other users' processes can be seen."""
    return bool(_held() >> _SYS_PTRACE & 1)


def socket_limits() -> tuple[str, ...]:
    """What of the sockets of workloads cannot be seen (quell.agent.sockets), and why, a sentence each."""
    try:
        diag = Diag()
    except OSError as error:
        return (f"observations: sockets cannot be seen: {error.strerror}",)
    diag.close()
    limits = []
    if not diag.tells:
        limits.append(
            "observations: connections that come and go between two looks are not seen, for lack of CAP_NET_ADMIN"
        )
    if not _held() >> _SYS_ADMIN & 1:
        limits.append("observations: sockets of other network namespaces are not seen, for lack of CAP_SYS_ADMIN")
    if not may_look_at_others():
        limits.append(f"observations: only processes and sockets of user {os.geteuid()}, for lack of CAP_SYS_PTRACE")
    return tuple(limits)


def _held() -> int:
    """The effective capabilities of this process as a bit set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True
