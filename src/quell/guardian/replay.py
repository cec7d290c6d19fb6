"""What was seen of an image or a service as observations once more: for asking what another policy makes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from quell.guardian.conversations import Talk
from quell.guardian.fingerprint import Fingerprint, SeenProcess
from quell.guardian.peers import address_in
from quell.model.observation import Observation, Peer, Seen
from quell.model.subject import Ancestor, Process, Subject

#: Above the workload's first process, outside of it.
_OUTSIDE = Ancestor(name="outside")


def replay(fingerprint: Fingerprint) -> Iterator[Observation]:
    """One for each process, socket and peer, in an example of a workload that it was seen in.

    A network of peers is one address of it, a range of ports its first, and a name that stands for several one of them.
    """
    for root in fingerprint.roots:
        yield from _below(fingerprint, root, ())


def _below(fingerprint: Fingerprint, seen: SeenProcess, above: Sequence[Ancestor]) -> Iterator[Observation]:
    """above: from the parent up."""
    name = seen.called or seen.name
    process = Process(name=name, exe=seen.exe, user=seen.user, lineage=(*above, _OUTSIDE))
    workloads = fingerprint.workloads
    subject = msgspec.structs.replace(
        workloads[min(seen.workload, len(workloads) - 1)] if workloads else Subject(), process=process
    )
    at = Observation(seen=Seen.EXECUTED, time=seen.last, subject=subject, inside=len(above))
    yield at
    for socket in seen.listening:
        yield msgspec.structs.replace(at, seen=Seen.LISTENING, protocol=socket.protocol, port=socket.port)
    for talk in seen.talks:
        for peer in _peers(talk):
            yield msgspec.structs.replace(at, seen=Seen.CONNECTED, peer=peer)
    for child in seen.children:
        yield from _below(fingerprint, child, (Ancestor(name, seen.exe, seen.user), *above))


def _peers(talk: Talk) -> Iterator[Peer]:
    for network in talk.networks:
        yield Peer(direction=talk.direction, ip=address_in(network), port=talk.port, protocol=talk.protocol)
    for name in talk.names:
        yield Peer(direction=talk.direction, ip=talk.ip, port=talk.port, protocol=talk.protocol, dns=name)
