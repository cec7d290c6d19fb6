"""A kernel that does nothing and writes down what would have been done: for dry runs and for tests.

It looks at the machine through another kernel, or knows only the processes it was given, or both. What it is told to do
has its effect on what it shows afterwards: a killed process is gone, a closed namespace is closed, and nothing else.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from quell.agent.kernel import Capabilities, Isolation, Kernel, Look
from quell.agent.members import now
from quell.agent.proc import Facts, Stat
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
from quell.model.rehearsal import Deed

_WORDS = frozenset(
    word(action)
    for action in (
        KillProcess,
        KillProcessGroup,
        KillProcessTree,
        KillPod,
        ReniceProcess,
        Quarantine,
        ReleaseQuarantine,
    )
)


class _Opened(NamedTuple):
    """What a handle stands for: a process or (no facts) a namespace, and the handle of the kernel looked through."""

    facts: Facts | None
    netns: int
    beneath: int | None


class RecordingKernel:
    """quell.agent.kernel.Kernel. deeds: what would have been done, in order."""

    #: They are made and killed as a whole; here each process is written down by itself.
    cgroups = None
    facts_at_once = False

    def __init__(
        self,
        seen_through: Kernel | None = None,
        *,
        processes: Iterable[Facts] = (),
        host_namespaces: Iterable[int] = (),
    ) -> None:
        """processes: known beside those of the kernel looked through; they need not exist."""
        self.deeds: list[Deed] = []
        self._beneath = seen_through
        self._given = {facts.process.pid or 0: facts for facts in processes}
        self._host = frozenset(host_namespaces)
        # Above every file descriptor, so that a handle of ours is never mistaken for one.
        self._numbers = itertools.count(1 << 32)
        self._handles: dict[int, _Opened] = {}
        #: Instances that would have ended, and when (clock ticks after boot).
        self._ended: dict[tuple[int | None, int | None], int] = {}
        self._priorities: dict[int, int] = {}
        self._closed: dict[int, bool] = {}

    def capabilities(self) -> Capabilities:
        return Capabilities(words=_WORDS, limits=("everything: only written down, because this is a dry run",))

    def hurrying(self) -> AbstractContextManager[None]:
        return nullcontext()

    def open_process(self, pid: int) -> int | None:
        return self._open_process(
            pid, self._beneath.open_process(pid) if self._beneath and pid not in self._given else None
        )

    def adopt_process(self, kept: int, pid: int) -> int | None:
        beneath = self._beneath.adopt_process(kept, pid) if self._beneath else None
        return None if beneath is None else self._open_process(pid, beneath)

    def facts(self, pid: int) -> Facts | None:
        facts = self._given.get(pid)
        if facts is None and self._beneath:
            facts = self._beneath.facts(pid)
        return None if facts is None or _instance(facts) in self._ended else facts

    def names_of(self, uid: int, pid: int) -> frozenset[str]:
        if (facts := self._given.get(pid)) is not None:
            return frozenset([facts.process.user] if facts.process.user else [])
        return self._beneath.names_of(uid, pid) if self._beneath else frozenset()

    def wait_ended(self, process: int, timeout: float) -> bool:
        opened = self._handles[process]
        if opened.facts is not None and _instance(opened.facts) in self._ended:
            return True
        return (
            self._beneath.wait_ended(opened.beneath, timeout) if self._beneath and opened.beneath is not None else False
        )

    def kill(self, process: int) -> None:
        facts = self._process(process)
        self._permitted(process)
        self._note(KillProcess, facts)
        self._ended[_instance(facts)] = now()

    def terminate(self, process: int) -> None:
        facts = self._process(process)
        self._permitted(process)
        self._note(KillProcess, facts, polite=True)

    def _permitted(self, process: int) -> None:
        if not self.may_kill(process):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def may_kill(self, process: int) -> bool:
        beneath = self._handles[process].beneath
        if self.wait_ended(process, 0):
            raise ProcessLookupError
        return self._beneath.may_kill(beneath) if self._beneath and beneath is not None else True

    def kill_group(self, leader: int) -> bool:  # noqa: ARG002 - each member is written down by itself
        return False

    def priority(self, pid: int) -> int:
        if self.facts(pid) is None:
            raise ProcessLookupError
        if pid in self._priorities or pid in self._given or self._beneath is None:
            return self._priorities.get(pid, 0)
        return self._beneath.priority(pid)

    def renice(self, pid: int, priority: int) -> None:
        facts = self.facts(pid)
        if facts is None:
            raise ProcessLookupError
        self._priorities[pid] = priority
        self._note(ReniceProcess, facts, priority=priority)

    def table(self) -> dict[int, Stat]:
        table = self._beneath.table() if self._beneath else {}
        table |= {pid: _stat(facts) for pid, facts in self._given.items()}
        return {pid: stat for pid, stat in table.items() if not self._would_not_be(pid, stat, table)}

    def _would_not_be(self, pid: int, stat: Stat, table: dict[int, Stat]) -> bool:
        """Whether it has ended, or was forked by one that has."""
        if (pid, stat.start_ticks) in self._ended:
            return True
        parent = table.get(stat.ppid)
        ended = None if parent is None else self._ended.get((stat.ppid, parent.start_ticks))
        return ended is not None and stat.start_ticks >= ended

    def pid_namespace(self, pid: int) -> int | None:
        if pid in self._given or self._beneath is None:
            return 0 if self.facts(pid) else None
        return self._beneath.pid_namespace(pid)

    def is_within(self, pid: int, namespace: int | None) -> bool:
        if pid in self._given or self._beneath is None:
            return self.facts(pid) is not None and namespace == 0
        return self._beneath.is_within(pid, namespace)

    def members(self, *, container_id: str | None = None, pod_uid: str | None = None) -> list[int]:
        found = [
            facts
            for facts in self._given.values()
            if (container_id is None or any(each.startswith(container_id) for each in facts.placement.containers))
            and (pod_uid is None or facts.placement.container_in(pod_uid) is not None)
            and _instance(facts) not in self._ended
        ]
        found.sort(key=lambda facts: facts.process.start_ticks or 0)
        beneath = self._beneath.members(container_id=container_id, pod_uid=pod_uid) if self._beneath else []
        return [facts.process.pid or 0 for facts in found] + [pid for pid in beneath if self.facts(pid)]

    def netns(self, pid: int) -> int | None:
        facts = self.facts(pid)
        return facts.netns if facts else None

    def residents(self, netns: int) -> list[int]:
        given = [pid for pid, facts in self._given.items() if facts.netns == netns and self.facts(pid)]
        beneath = self._beneath.residents(netns) if self._beneath else []
        return given + [pid for pid in beneath if pid not in self._given and self.facts(pid)]

    def host_namespaces(self) -> frozenset[int]:
        return self._host | (self._beneath.host_namespaces() if self._beneath else frozenset())

    def namespaces(self) -> list[int]:
        given = {facts.netns for facts in self._given.values() if facts.netns is not None}
        beneath = self._beneath.namespaces() if self._beneath else []
        return sorted(given.union(beneath) - self.host_namespaces())

    def open_namespace(self, pid: int) -> int | None:
        if pid in self._given or self._beneath is None:
            inode = self.netns(pid)
            return None if inode is None else self._handle(_Opened(None, inode, None))
        return self._open_beneath(self._beneath.open_namespace(pid))

    def find_namespace(self, netns: int) -> int | None:
        if any(facts.netns == netns for facts in self._given.values()):
            return self._handle(_Opened(None, netns, None))
        return self._open_beneath(self._beneath.find_namespace(netns)) if self._beneath else None

    def inode(self, namespace: int) -> int:
        return self._handles[namespace].netns

    def look(self, namespace: int) -> Look:
        netns = self.inode(namespace)
        return Look(cookie=netns, closed=netns in self._closed)

    def isolate(
        self, namespace: int, *, strict: bool, ports: tuple[int, ...] = (), investigators: tuple[str, ...] = ()
    ) -> Isolation:
        netns = self.inode(namespace)
        left = ((), ()) if strict else (ports, investigators)
        self._closed[netns] = strict
        self.deeds.append(
            Deed(action=word(Quarantine), netns=netns, strict=strict, ports=left[0], investigators=left[1])
        )
        limits = ("everything: this is a dry run",)
        return Isolation(cookie=netns, interfaces=(), limits=limits, ports=left[0], investigators=left[1])

    def release(self, namespace: int, *, cookie: int = 0) -> bool:
        netns = self.inode(namespace)
        if netns not in self._closed or cookie not in (0, netns):
            return False
        del self._closed[netns]
        self.deeds.append(Deed(action=word(ReleaseQuarantine), netns=netns))
        return True

    def close(self, handle: int) -> None:
        opened = self._handles.pop(handle)
        if opened.beneath is not None and self._beneath:
            self._beneath.close(opened.beneath)

    def _open_process(self, pid: int, beneath: int | None) -> int | None:
        facts = self.facts(pid)
        if facts is None or (beneath is None and pid not in self._given):
            if beneath is not None and self._beneath:
                self._beneath.close(beneath)
            return None
        return self._handle(_Opened(facts, facts.netns or 0, beneath))

    def _open_beneath(self, beneath: int | None) -> int | None:
        if beneath is None or self._beneath is None:
            return None
        return self._handle(_Opened(None, self._beneath.inode(beneath), beneath))

    def _handle(self, opened: _Opened) -> int:
        number = next(self._numbers)
        self._handles[number] = opened
        return number

    def _process(self, handle: int) -> Facts:
        facts = self._handles[handle].facts
        if facts is None:
            raise ValueError("this is the handle of a namespace")
        return facts

    def _note(
        self,
        action: type[KillProcess | ReniceProcess],
        facts: Facts,
        *,
        priority: int | None = None,
        polite: bool = False,
    ) -> None:
        process = facts.process
        self.deeds.append(
            Deed(
                action=word(action),
                pid=process.pid,
                start_ticks=process.start_ticks,
                priority=priority,
                polite=polite,
            )
        )


def _instance(facts: Facts) -> tuple[int | None, int | None]:
    return facts.process.pid, facts.process.start_ticks


def _stat(facts: Facts) -> Stat:
    process = facts.process
    return Stat(
        name=process.name or "",
        state="Z" if facts.ended else "S",
        ppid=process.ppid or 0,
        pgid=process.pgid or 0,
        sid=facts.sid,
        kernel_thread=facts.kernel_thread,
        start_ticks=process.start_ticks or 0,
    )
