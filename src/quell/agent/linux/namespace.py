"""Network namespaces: found, entered by a thread kept for that, closed and opened again."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple, Protocol, TypeVar, cast

from quell.agent import proc
from quell.agent.kernel import Isolation, Look
from quell.agent.linux.addresses import IPAddress, gateways, own_addresses
from quell.agent.linux.nftables import Nftables, free_name, ours, removal
from quell.agent.linux.tables import Openings, closing

_CLONE_NEWNET = 0x40000000
#: Where ip-netns, CNI plug-ins, Docker and Podman mount namespaces that shall outlive their processes.
_MOUNTS = ("/run/netns", "/var/run/netns", "/run/docker/netns")
# What a kernel says that has no such table family or hook, or that has it as a module it cannot load.
_MISSING = (errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOENT, errno.EINVAL)

_NOTHING = Openings()

# Whoever is in there may make and remove interfaces to keep us busy.
_TRIES = 4

_NO_EGRESS = (
    "this kernel has no egress hook (Linux 5.16): link-layer frames from a packet socket, ARP apart, still leave"
)
_NO_NETDEV = "this kernel has no netdev tables: link-layer frames of a packet socket, ARP apart, still pass"


class _Made(NamedTuple):
    """What closing a namespace left behind; what differs from it later, somebody has done."""

    generation: int
    contents: bytes
    interfaces: list[tuple[int, str]]


#: By cookie, of the namespaces closed since this process began. Only the visitor touches it.
_made: dict[int, _Made] = {}

#: By inode: where it was found last. What is isolated is looked at every half second.
_found: dict[int, str] = {}
_MOST_FOUND = 10_000

_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


def within(namespace: int | None, work: Callable[[], _Result]) -> _Result:
    """Do work in an open network namespace, None: in a new one; what it raises is raised here."""
    reply: SimpleQueue[tuple[_Result | None, BaseException | None]] = SimpleQueue()

    def visit() -> None:
        try:
            _enter(namespace)
            reply.put((work(), None))
        except BaseException as error:  # noqa: BLE001 - carried to the caller's thread, whole
            reply.put((None, error))

    _visitor().put(visit)
    result, error = reply.get()
    if error is not None:
        raise error
    return cast("_Result", result)


@cache
def _visitor() -> SimpleQueue[Callable[[], None]]:
    """The one thread that ever leaves this process's network namespace, and its work.

    Between two visits it is at home, so that it keeps no namespace alive.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    return _thread("visitor", lambda: _enter(home))


@cache
def _closer() -> SimpleQueue[Callable[[], None]]:
    """Closes sockets: the kernel lets go of one only when all that it took away is freed, some 15 ms after the effect."""
    return _thread("closer", lambda: None)


def _thread(name: str, afterwards: Callable[[], None]) -> SimpleQueue[Callable[[], None]]:
    """Work for a thread that stays: on a busy machine one just made waits milliseconds for its first turn."""
    waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def serve() -> None:
        while True:
            waiting.get()()
            afterwards()

    threading.Thread(target=serve, name=name, daemon=True).start()
    return waiting


def _enter(namespace: int | None) -> None:
    entered = _libc.unshare(_CLONE_NEWNET) if namespace is None else _libc.setns(namespace, _CLONE_NEWNET)
    if entered != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def isolate(
    namespace: int, *, strict: bool, ports: tuple[int, ...] = (), investigators: tuple[str, ...] = ()
) -> Isolation:
    """Close it, replacing what an earlier call made, in one transaction.

    Unless strict: ports are open to the node, and all of them to investigators (addresses).
    """
    admitted = () if strict else tuple(map(ip_address, investigators))
    own = node_addresses() if (ports and not strict) or admitted else ()
    probed = bool(ports and own and not strict)
    left = Openings(
        ports=ports if probed else (),
        node=own if probed else (),
        # Whoever passes packets on looks for their receiver from the link-local address, whatever its route is called.
        gateways=tuple(each for each in own if each.is_link_local) if admitted else (),
        investigators=admitted,
    )
    return within(namespace, lambda: _close(strict=strict, list_interfaces=_interfaces, left=left))


def node_addresses() -> tuple[IPAddress, ...]:
    """The machine's own: those of pid 1's network namespace, or of ours where that one is not to be seen."""
    try:
        namespace = os.open("/proc/1/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return within(namespace, own_addresses)
    finally:
        os.close(namespace)


def look(namespace: int) -> Look:
    """Which one it is, and whether what isolate made is there, as it made it, on every interface."""

    def work() -> Look:
        with _nftables() as nftables:
            cookie, tables = nftables.cookie(), ours(nftables.tables())
            made = _made.get(cookie) if cookie else None
            if made is None or not tables:
                return Look(cookie=cookie, closed=bool(tables), complete=not cookie)
            complete, generation = socket.if_nameindex() == made.interfaces, nftables.generation()
            if generation and generation == made.generation:
                return Look(cookie=cookie, closed=True, complete=complete)
            intact = nftables.contents(tables) == made.contents
            if intact:  # what was changed is not ours
                _made[cookie] = made._replace(generation=generation)
            return Look(cookie=cookie, closed=True, intact=intact, complete=complete)

    return within(namespace, work)


def release(namespace: int, *, cookie: int = 0) -> bool:
    """Take away what isolate made; False: there was nothing, or the cookie is another namespace's."""
    return within(namespace, lambda: _release(cookie))


@cache
def rehearse() -> tuple[str, ...]:
    """Close an empty namespace of our own, and leave it closed as long as this process lives.

    It shows what this kernel can do: what stays open is returned as for isolate, OSError where nothing can be closed.
    What the kernel has to load and to patch for the first of such hooks is then done, which takes half of the time of
    a later closing, or much more where modules are loaded.
    """

    def work() -> tuple[str, ...]:
        os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)  # never closed: it keeps the namespace
        return _close(strict=True, list_interfaces=lambda: ["lo"]).limits

    return within(None, work)


def find(netns: int) -> int | None:
    """An open file of the network namespace with this inode; None if no process or mount here leads to it."""
    for path in _paths(netns):
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        if os.fstat(file).st_ino == netns:
            if len(_found) >= _MOST_FOUND:
                _found.clear()
            _found[netns] = path
            return file
        os.close(file)
    return None


def reachable() -> set[int]:
    """Inodes of all network namespaces that processes or mounts here lead to."""
    found = {inode for pid in proc.pids() if (inode := proc.netns(pid)) is not None}
    return found | {inode for inode, _ in _mounted()}


def _close(
    *,
    strict: bool,
    list_interfaces: Callable[[], list[str]],
    left: Openings = _NOTHING,
) -> Isolation:
    with _nftables() as nftables:
        tables = nftables.tables()
        away, name = removal(ours(tables)), free_name(tables)

        openings: Openings | None = None

        def close(interfaces: list[str], *, link: bool, egress: bool) -> None:
            made = closing(name, tuple(interfaces), strict=strict, link=link, egress=egress, openings=openings)
            nftables.run([*away, *made])

        present = socket.if_nameindex()
        for openings in _ever_less(left):
            try:
                interfaces, limits = _close_as_far_as_possible(close, list_interfaces)
                break
            except OSError:  # better all of it closed than nothing
                if openings is None:
                    raise
        stays = openings or _NOTHING
        if cookie := nftables.cookie():
            _made[cookie] = _Made(nftables.generation(), nftables.contents(ours(nftables.tables())), present)
        shown = tuple(os.fsencode(each).decode(errors="backslashreplace") for each in interfaces)
        return Isolation(
            cookie=cookie,
            interfaces=shown,
            limits=limits,
            ports=stays.ports,
            investigators=tuple(map(str, stays.investigators)),
        )


def _ever_less(left: Openings) -> Iterator[Openings | None]:
    """What is to stay open; the same without investigators, whose connections a kernel may be unable to track; nothing."""
    if left.investigators:
        yield left._replace(gateways=(*left.gateways, *gateways((*left.node, *left.investigators))))
    if left.ports:
        yield left._replace(gateways=gateways(left.node), investigators=())
    yield None


@contextlib.contextmanager
def _nftables() -> Iterator[Nftables]:
    nftables = Nftables()
    try:
        yield nftables
    finally:
        _closer().put(nftables.close)


class _Close(Protocol):
    def __call__(self, interfaces: list[str], *, link: bool, egress: bool) -> None: ...


def _close_as_far_as_possible(
    close: _Close, list_interfaces: Callable[[], list[str]]
) -> tuple[list[str], tuple[str, ...]]:
    """The interfaces closed, and what this kernel leaves open. OSError: not even IP can be stopped."""
    for _ in range(_TRIES):
        interfaces = list_interfaces()
        try:
            close(interfaces, link=True, egress=True)
        except OSError as error:
            if error.errno not in _MISSING:
                raise
            if list_interfaces() == interfaces:
                break  # nothing came or went meanwhile: it is the kernel that lacks something
        else:
            return interfaces, ()
    try:
        close(interfaces, link=True, egress=False)
    except OSError as error:
        if error.errno not in _MISSING:
            raise
        close([], link=False, egress=False)
        return [], (_NO_NETDEV,)
    return interfaces, (_NO_EGRESS,)


def _release(cookie: int) -> bool:
    with _nftables() as nftables:
        if cookie and cookie != nftables.cookie():
            return False
        away = removal(ours(nftables.tables()))
        if away:
            nftables.run(away)
        _made.pop(nftables.cookie(), None)
        return bool(away)


def _interfaces() -> list[str]:
    """Names of all interfaces of this thread's namespace but the loopback, which is always the first."""
    return [name for index, name in socket.if_nameindex() if index != 1]


def _paths(netns: int) -> Iterator[str]:
    if (path := _found.get(netns)) is not None:
        yield path
    for pid in proc.pids():
        if proc.netns(pid) == netns:
            yield f"/proc/{pid}/ns/net"
    for inode, path in _mounted():
        if inode == netns:
            yield path


def _mounted() -> Iterator[tuple[int, str]]:
    """Inode and path of mounted namespaces: those of pid 1's mounts, of ours, and in the usual folders."""
    for root in ("/proc/1/root", ""):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{'1' if root else 'self'}/mountinfo").read_bytes()
            for line in text.splitlines():
                fields = line.split()
                # proc_pid_mountinfo(5): the root of such a mount is the namespace's name, net:[INODE].
                if fields[3].startswith(b"net:["):
                    yield int(fields[3][5:-1]), root + fields[4].decode("unicode_escape")
    for folder in _MOUNTS:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                found = entry.stat()
                # One that is being made, or whose mount is not seen from here, is a plain file.
                if found.st_dev == _nsfs():
                    yield found.st_ino, entry.path


@cache
def _nsfs() -> int:
    """The device that all namespaces are files of."""
    return os.stat("/proc/self/ns/net").st_dev  # noqa: PTH116 - a number, no path
