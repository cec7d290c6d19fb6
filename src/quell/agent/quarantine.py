"""Closes network namespaces and opens them again, and knows which are closed. SEMANTICS section 4.

What is closed is in the ledger before it is closed, with the inode and the kernel's number of each namespace, so that
it can be opened after a restart of the agent, also when only a mount or another process still holds the namespace.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from quell.agent.identity import SHORTEST_ID
from quell.agent.kernel import Isolation, Kernel
from quell.agent.ledger import Closed, Ledger
from quell.agent.proc import Facts, boot_id
from quell.agent.protected import Protected
from quell.agent.refusal import Refused
from quell.faults import point
from quell.model.action import Quarantine
from quell.model.decision import Command, OutcomeStatus, Reason
from quell.model.investigator import read_investigator
from quell.model.subject import NetworkTarget, ProcessTarget

Told = dict[str, str | int | float | list[int]]


class Opened(NamedTuple):
    """Inodes of network namespaces: opened now, still held by another quarantine, and no longer there."""

    opened: list[int]
    held: list[int]
    lost: list[int]


class Looked(NamedTuple):
    """Keys of quarantines that have ended by themselves, and why (quell.channel.messages.Isolated); and keys of those
    that somebody had opened, in whole or in part, and that were closed again.
    """

    ended: dict[str, str]
    reclosed: list[str]


class _Form(NamedTuple):
    """How a namespace is closed: the strictest that any quarantine of it asks for, with the ports and investigators of
    all of them.
    """

    strict: bool = False
    ports: tuple[int, ...] = ()
    investigators: tuple[str, ...] = ()

    def joined(self, closed: Closed) -> _Form:
        return _Form(
            self.strict or closed.strict,
            tuple(sorted({*self.ports, *closed.ports})),
            tuple(sorted({*self.investigators, *closed.investigators})),
        )


class _State(Enum):
    """Of a namespace that is recorded as closed."""

    CLOSED = auto()
    #: Closed, but not as it was made.
    CHANGED = auto()
    OPEN = auto()
    GONE = auto()


class Quarantines:
    def __init__(
        self,
        kernel: Kernel,
        ledger: Ledger,
        protected: Protected,
        find: Callable[[ProcessTarget], tuple[int, Facts]],
    ) -> None:
        """find: a proved handle of a process and its facts, or Refused."""
        self._kernel = kernel
        self._ledger = ledger
        self._protected = protected
        self._find = find
        self._lock = threading.Lock()
        for closed in ledger.closed():
            if closed.boot_id != boot_id():
                ledger.note(closed.key)  # its namespaces went with the machine

    def close(self, command: Command, action: Quarantine, target: NetworkTarget, now: float) -> tuple[Told, Closed]:
        """Close what target names. What to tell, and what the ledger shall note with the outcome; every doubt is Refused."""
        action = _admitting(action)
        with self._lock:
            handles = self._resolve(target)
            try:
                self._guard(handles)
                before = self._closed(target.key)
                if self._ledger.opened(target.key) > command.issued:
                    raise Refused(Reason.STALE, "a later command has released it")
                wanted = _closed(action, target, ((inode, 0) for inode in handles), before, now, command.issued)
                self._ledger.begin(command, wanted)
                point("agent.before-action")
                try:
                    done = {
                        inode: self._isolate(handle, self._form(inode).joined(wanted))
                        for inode, handle in handles.items()
                    }
                except OSError:
                    self._undo(handles, target.key, before)
                    raise
                point("agent.after-action")
            finally:
                for handle in handles.values():
                    self._kernel.close(handle)
        cookies = ((inode, each.cookie) for inode, each in done.items())
        closed = _closed(action, target, cookies, before, now, command.issued)
        return _told(done, closed), closed

    def open(self, target: NetworkTarget, issued: float = 0.0) -> Opened:
        """Open what is closed under the target's key. issued: when that was ordered; Refused if it was closed later."""
        with self._lock:
            if closed := self._closed(target.key):
                if issued and closed.issued > issued:
                    raise Refused(Reason.STALE, "a later command has isolated it again")
                return self._open(closed)
            # Nothing is recorded: the records may be lost, so look at what the target names now.
            try:
                handles = self._resolve(target)
            except Refused:
                return Opened([], [], [])
            try:
                held = self._held(except_key=target.key)
                opened = [i for i, handle in handles.items() if i not in held and self._kernel.release(handle)]
                return Opened(opened, [i for i in handles if i in held], [])
            finally:
                for handle in handles.values():
                    self._kernel.close(handle)

    def release(self, key: str) -> bool:
        """Open what is closed under a key and note it. False: nothing is."""
        with self._lock:
            closed = self._closed(key)
            if closed is None:
                return False
            self._open(closed)
            self._ledger.note(key)
            return True

    def look(self, *, released: bool) -> Looked:
        """Compare what is recorded with what the kernel has, and record what has ended.

        What is open though it is recorded as closed is closed again; released: unless a person has opened it, which is
        then recorded. OSError: the machine refuses; what could be looked at before that is recorded.
        """
        found = Looked({}, [])
        with self._lock:
            present = frozenset(self._kernel.namespaces()) if self._ledger.closed() else frozenset()
            for closed in self._ledger.closed():
                left = [(inode, cookie) for inode, cookie in closed.namespaces if inode in present]
                states = [self._look(inode, cookie, closed, reclose=not released) for inode, cookie in left]
                if all(state is _State.GONE for state in states):
                    self._ledger.note(closed.key)
                    found.ended[closed.key] = "gone"
                elif released and not any(state in (_State.CLOSED, _State.CHANGED) for state in states):
                    self._ledger.note(closed.key)
                    found.ended[closed.key] = "released"
                elif _State.OPEN in states or _State.CHANGED in states:
                    found.reclosed.append(closed.key)
        return found

    def _look(self, inode: int, cookie: int, closed: Closed, *, reclose: bool) -> _State:
        """What is left of it. reclose: close it where it is not closed as it was, or not on every interface."""
        handle = self._kernel.find_namespace(inode)
        if handle is None:
            return _State.GONE
        try:
            seen = self._kernel.look(handle)
            if cookie not in (0, seen.cookie):
                return _State.GONE
            if reclose and not (seen.closed and seen.intact and seen.complete):
                self._isolate(handle, self._form(inode).joined(closed))
            if not seen.closed:
                return _State.OPEN
            return _State.CLOSED if seen.intact else _State.CHANGED
        finally:
            self._kernel.close(handle)

    def release_all(self) -> tuple[int, ...]:
        """Open every namespace that is closed by Quell, recorded or not; their inodes."""
        with self._lock:
            opened = sweep(self._kernel)
            for closed in self._ledger.closed():
                self._ledger.note(closed.key)
            return opened

    def _closed(self, key: str) -> Closed | None:
        return next((each for each in self._ledger.closed() if each.key == key), None)

    def _held(self, *, except_key: str) -> dict[int, _Form]:
        """Inodes closed under other keys, and how."""
        held: dict[int, _Form] = {}
        for each in self._ledger.closed():
            if each.key != except_key:
                for inode, _ in each.namespaces:
                    held[inode] = held.get(inode, _Form()).joined(each)
        return held

    def _form(self, inode: int) -> _Form:
        return self._held(except_key="").get(inode, _Form())

    def _isolate(self, handle: int, form: _Form) -> Isolation:
        return self._kernel.isolate(handle, strict=form.strict, ports=form.ports, investigators=form.investigators)

    def _open(self, closed: Closed) -> Opened:
        done = Opened([], [], [])
        held = self._held(except_key=closed.key)
        for inode, cookie in closed.namespaces:
            handle = self._kernel.find_namespace(inode)
            if handle is None:
                done.lost.append(inode)
                continue
            try:
                if inode in held:
                    self._isolate(handle, held[inode])
                    done.held.append(inode)
                elif self._kernel.release(handle, cookie=cookie):
                    done.opened.append(inode)
                else:
                    done.lost.append(inode)
            finally:
                self._kernel.close(handle)
        return done

    def _undo(self, handles: dict[int, int], key: str, before: Closed | None) -> None:
        """Nothing stays half closed: what was open before is opened again."""
        kept = {inode for inode, _ in before.namespaces} if before else set()
        for inode, handle in handles.items():
            if inode not in kept and inode not in self._held(except_key=key):
                try:
                    self._kernel.release(handle)
                except OSError:
                    continue  # the reason for the failure is told by the outcome
        self._ledger.note(before or key)

    def _resolve(self, target: NetworkTarget) -> dict[int, int]:
        """Inode -> handle of each network namespace the target has; the first is that of its oldest process."""
        if target.container_id is not None or target.pod_uid is not None:
            handles = self._of_workload(target)
        elif target.process is not None:
            handles = self._of_process(target)
        else:
            # Inodes are given to new namespaces at once, so that a number alone may mean another by now.
            raise Refused(
                Reason.IDENTITY, "neither a container, a pod nor a process says which network namespace is meant"
            )
        if target.netns is not None and target.netns not in handles:
            self._close_all(handles)
            raise Refused(Reason.IDENTITY, f"it is in network namespace {next(iter(handles))}, not {target.netns}")
        return handles

    def _of_process(self, target: NetworkTarget) -> dict[int, int]:
        assert target.process is not None  # noqa: S101 - the caller has looked
        meant = ProcessTarget(
            node=target.node, process=target.process, container_id=target.container_id, seen=target.seen
        )
        process, facts = self._find(meant)
        try:
            handle = self._kernel.open_namespace(facts.process.pid or 0)
            # While the process lives, its pid is its own, and so is the namespace just opened.
            if handle is None or self._kernel.wait_ended(process, 0):
                if handle is not None:
                    self._kernel.close(handle)
                raise Refused(Reason.GONE, f"process {facts.process.pid} has ended", OutcomeStatus.GONE)
            return {self._kernel.inode(handle): handle}
        finally:
            self._kernel.close(process)

    def _of_workload(self, target: NetworkTarget) -> dict[int, int]:
        """All namespaces of a container or pod: one of its processes may have made itself a private one to hide in."""
        if target.container_id is not None and len(target.container_id) < SHORTEST_ID:
            raise Refused(Reason.IDENTITY, f"{target.container_id!r} is too short to name one container")
        pids: list[int] = []
        if target.container_id is not None:
            pids = self._kernel.members(container_id=target.container_id)
        if not pids and target.pod_uid is not None:
            pids = self._kernel.members(pod_uid=target.pod_uid)
        host = self._kernel.host_namespaces()
        handles: dict[int, int] = {}
        try:
            for pid in pids:
                if self._kernel.netns(pid) in handles:
                    continue
                handle = self._member(pid, target)
                if handle is None:
                    continue
                inode = self._kernel.inode(handle)
                if inode in handles or (handles and inode in host):
                    self._kernel.close(handle)
                else:
                    handles[inode] = handle
        except BaseException:
            self._close_all(handles)
            raise
        if not handles:
            what = f"container {target.container_id[:12]}" if target.container_id else f"pod {target.pod_uid}"
            raise Refused(Reason.GONE, f"no process of {what} is here", OutcomeStatus.GONE)
        return handles

    def _member(self, pid: int, target: NetworkTarget) -> int | None:
        """A handle of the namespace of one process of the workload; None if it is gone or is another by now."""
        process = self._kernel.open_process(pid)
        if process is None:
            return None
        try:
            facts = self._kernel.facts(pid)
            handle = self._kernel.open_namespace(pid)
            if facts is None or handle is None or self._kernel.wait_ended(process, 0) or not _belongs(facts, target):
                if handle is not None:
                    self._kernel.close(handle)
                return None
            return handle
        finally:
            self._kernel.close(process)

    def _guard(self, handles: Iterable[int]) -> None:
        """Refuse a namespace that is the machine's own or that something protected lives in."""
        host = self._kernel.host_namespaces()
        for inode in handles:
            if inode in host:
                raise Refused(Reason.HOST_NETWORK, "it is in the network namespace of the machine itself")
            for pid in self._kernel.residents(inode):
                facts = self._kernel.facts(pid)
                if facts is not None and (why := self._protected.check(facts)):
                    raise Refused(Reason.PROTECTED, f"process {pid} in this network namespace is protected: {why}")

    def _close_all(self, handles: dict[int, int]) -> None:
        for handle in handles.values():
            self._kernel.close(handle)


def sweep(kernel: Kernel) -> tuple[int, ...]:
    """Open every network namespace on the machine that Quell has closed, without any record; their inodes.

    For `quell agent release --all`, also where the agent's state is lost. OSError: the machine refuses.
    """
    opened = []
    for inode in kernel.namespaces():
        handle = kernel.find_namespace(inode)
        if handle is None:
            continue
        try:
            if kernel.release(handle):
                opened.append(inode)
        finally:
            kernel.close(handle)
    return tuple(opened)


def _belongs(facts: Facts, target: NetworkTarget) -> bool:
    if target.pod_uid is not None and facts.pod_uid not in (None, target.pod_uid):
        raise Refused(Reason.IDENTITY, f"the container is in pod {facts.pod_uid}, not {target.pod_uid}")
    if target.container_id is not None and any(
        each.startswith(target.container_id) for each in facts.placement.containers
    ):
        return True
    return target.pod_uid is not None and facts.pod_uid == target.pod_uid


def _closed(
    action: Quarantine,
    target: NetworkTarget,
    namespaces: Iterable[tuple[int, int]],
    before: Closed | None,
    now: float,
    issued: float,
) -> Closed:
    """The record of a quarantine, joined with the one in force: the later end, the stricter form, all namespaces.

    issued: when this was ordered. Who may reach it is not joined but replaced, by what was ordered last: the controller
    says it whole, and takes an address away so.
    """
    until = None if action.ttl is None else now + action.ttl
    investigators = action.investigator
    if before is not None and before.issued > issued:
        issued, investigators = before.issued, before.investigators
    inodes = dict(namespaces)
    if before is not None:
        until = None if until is None or before.until is None else max(until, before.until)
        # A number known from before is kept while the new one is not: it is of the same inode, and checked when opened.
        for inode, cookie in before.namespaces:
            inodes[inode] = inodes.get(inode) or cookie
    return Closed(
        key=target.key,
        boot_id=boot_id(),
        namespaces=tuple(inodes.items()),
        strict=action.strict or (before is not None and before.strict),
        ports=tuple(sorted({*target.probe_ports, *(before.ports if before is not None else ())})),
        investigators=investigators,
        until=until,
        issued=issued,
    )


def _admitting(action: Quarantine) -> Quarantine:
    """The action, its addresses as the kernel is to have them. Refused: one is none."""
    try:
        return msgspec.structs.replace(action, investigator=tuple(map(read_investigator, action.investigator)))
    except ValueError as error:
        raise Refused(Reason.UNSUPPORTED, str(error)) from error


def _told(done: dict[int, Isolation], closed: Closed) -> Told:
    told: Told = {
        "namespaces": list(done),
        "interfaces": " ".join(name for each in done.values() for name in each.interfaces),
    }
    if limits := sorted({limit for each in done.values() for limit in each.limits}):
        told["limits"] = "; ".join(limits)
    if ports := sorted({port for each in done.values() for port in each.ports}):
        told["probe_ports"] = ports
    admitted = sorted({each for one in done.values() for each in one.investigators})
    if admitted:
        told["investigators"] = " ".join(admitted)
    warnings = []
    if closed.ports and not ports:
        why = "it is strict" if closed.strict else "they could not be kept open here"
        warnings.append(
            f"the pod's probes (TCP port {', '.join(map(str, closed.ports))}) do not get through, because {why}: "
            "Kubernetes will restart its containers"
        )
    if closed.investigators and not admitted:
        why = "it is strict" if closed.strict else "this kernel cannot tell answers apart"
        warnings.append(f"{', '.join(closed.investigators)} may not reach it, because {why}")
    if warnings:
        told["warning"] = "; ".join(warnings)
    return told
