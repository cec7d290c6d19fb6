"""One network namespace: which of its sockets listen, which are connected with whom, and what of it is new.

Pure: the kernel's lists in, findings out. SEMANTICS section 1, observations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec import Struct

from quell.agent.cgroup import Placement
from quell.agent.holders import Holder
from quell.agent.linux.sock_diag import UDP, Looked, Socket
from quell.model.policy import Direction

#: Looks at which the process of a socket is searched for before it is told of as nobody's.
_TRIES = 2

#: Who listens, by protocol, address and port.
_Ports = dict[tuple[str, str, int], Holder | None]
#: The processes that hold these sockets, by inode, as far as they are of a workload.
Owners = Callable[[Iterable[int]], dict[int, Holder]]


class Finding(Struct, frozen=True, kw_only=True):
    """A socket that listens, or one that is or was connected."""

    #: None: its process is not known. It was one of the placement or, that being of no container, of its pod.
    holder: Holder | None
    placement: Placement
    protocol: str
    #: Of a socket that listens: the address it is bound to, "": every one.
    address: str = ""
    #: Of a connection, the server's.
    port: int
    #: Of a connection: the other end's address.
    peer: str | None = None
    direction: Direction | None = None


class Taken(NamedTuple):
    findings: list[Finding]
    #: Connections that went before their process was known, where several workloads live or others than workloads.
    unattributed: int


class Place:
    def __init__(self, ephemeral: tuple[int, int]) -> None:
        """ephemeral: the ports that the kernel gives to sockets which ask for none, the last one included."""
        self._ephemeral = ephemeral
        #: Sockets that need not be looked at again, by protocol.
        self.known: dict[str, set[int]] = {}
        #: Those whose process is searched for, and how often it was.
        self._searched: dict[int, tuple[Socket, int]] = {}
        self._listening: dict[int, tuple[Socket, Holder | None]] = {}
        self._tries = _TRIES

    @property
    def wants_all(self) -> bool:
        """Whether a list is of use although nothing came: for want of any, or since a socket that is searched for has
        no process before it is accepted.
        """
        return not self.known or bool(self._searched)

    def forget(self) -> None:
        """Everything is new at the next look."""
        self.known.clear()
        self._searched.clear()
        self._listening.clear()

    def take(self, looked: Looked, owners: Owners, otherwise: Placement | None, *, last: bool = False) -> Taken:
        """What is new. otherwise: whose the sockets are whose process is not known; None: that cannot be said.

        last: no other look will follow that could find the process.
        """
        self._tries = 1 if last else _TRIES
        if not looked.listed and not looked.gone:
            return Taken([], 0)
        fresh = [each for listed in looked.listed.values() for each in listed.fresh]
        fresh = [each for each in fresh if each.listens or not each.is_loopback]
        # What has stopped listening since the last look may have taken connections that are new in this one.
        ports = self._ports()
        self._drop_gone(looked)
        found = owners([each.inode for each in fresh if each.inode]) if fresh else {}
        # Listening ones first: they say which side of a connection this one is.
        findings = [*self._listens(fresh, found, otherwise)]
        ports |= self._ports()
        findings += self._connected(fresh, found, ports, otherwise)
        unattributed = 0
        for each in looked.gone:
            if not each.peer or each.is_loopback or each.id in self.known.get(each.protocol, ()):
                continue
            self._searched.pop(each.id, None)
            finding = self._connection(each, None, ports, otherwise)
            if finding is not None:
                findings.append(finding)
            elif otherwise is None:
                unattributed += 1
        for protocol, listed in looked.listed.items():
            self.known[protocol] = listed.present - self._searched.keys()
        return Taken(findings, unattributed)

    def _ports(self) -> _Ports:
        return {(each.protocol, each.address, each.port): holder for each, holder in self._listening.values()}

    def _drop_gone(self, looked: Looked) -> None:
        for kept in (self._listening, self._searched):
            for identity, (each, _) in list(kept.items()):
                listed = looked.listed.get(each.protocol)
                if listed is not None and identity not in listed.present:
                    del kept[identity]

    def _listens(
        self, fresh: Iterable[Socket], found: dict[int, Holder], otherwise: Placement | None
    ) -> Iterable[Finding]:
        first, last = self._ephemeral
        for each in fresh:
            # A UDP socket that sent something without having a peer looks the same as one that listens.
            if not each.listens or (each.protocol == UDP and first <= each.port <= last):
                continue
            holder = found.get(each.inode)
            self._listening[each.id] = (each, holder)
            if self._is_searched(each, holder):
                continue
            placement = otherwise if holder is None else holder.placement
            if placement is not None:
                yield Finding(
                    holder=holder,
                    placement=placement,
                    protocol=each.protocol,
                    address=each.address,
                    port=each.port,
                )

    def _connected(
        self,
        fresh: Iterable[Socket],
        found: dict[int, Holder],
        ports: _Ports,
        otherwise: Placement | None,
    ) -> Iterable[Finding]:
        for each in fresh:
            if each.listens:
                continue
            holder = found.get(each.inode)
            listener = _listener(each, ports)
            if self._is_searched(each, holder or (ports[listener] if listener else None)):
                continue
            finding = self._connection(each, holder, ports, otherwise)
            if finding is not None:
                yield finding

    def _connection(
        self,
        each: Socket,
        holder: Holder | None,
        ports: _Ports,
        otherwise: Placement | None,
    ) -> Finding | None:
        listener = _listener(each, ports)
        ingress = listener is not None
        if listener is not None:
            # Whoever took it had it from the one that listens. That one is named in any case: which of its workers took a
            # connection is another each time, and nobody knows of one that has gone.
            holder = ports[listener] or holder
        placement = otherwise if holder is None else holder.placement
        if placement is None:
            return None
        return Finding(
            holder=holder,
            placement=placement,
            protocol=each.protocol,
            port=each.port if ingress else each.peer_port,
            peer=each.peer,
            direction=Direction.INGRESS if ingress else Direction.EGRESS,
        )

    def _is_searched(self, each: Socket, holder: Holder | None) -> bool:
        """Whether its process will be searched for again, by the next look."""
        _, tries = self._searched.pop(each.id, (each, 0))
        if holder is not None or tries + 1 >= self._tries:
            return False
        self._searched[each.id] = (each, tries + 1)
        return True


def _listener(each: Socket, ports: _Ports) -> tuple[str, str, int] | None:
    """Of these the one that took this connection; None: none, it is the one that connected."""
    for listener in ((each.protocol, each.address, each.port), (each.protocol, "", each.port)):
        if listener in ports:
            return listener
    return None
