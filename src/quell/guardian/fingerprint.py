"""What was seen of one image or one service: its processes as a tree, their sockets and whom they talk to.

Kept for learning: compact, and of a bounded size. Where a bound is reached nothing more of that kind is taken in, and
`dropped` counts what was not. Nothing is generalised but what docs/guardian.md lists: copies that executed nothing are
their parent, names that differ in digits alone are one from the eighth on, and ports and addresses are joined as
quell.guardian.conversations and peers say.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec import Struct

from quell.guardian.chain import Chain, Step, chain_of, gap
from quell.guardian.connections import address
from quell.guardian.conversations import Learned, Listening, Talk, absorb_socket, absorb_talk, listen, talk
from quell.guardian.values import literal
from quell.model.observation import Observation, Seen
from quell.model.policy import PROCESS_DEPTH_LIMIT
from quell.model.subject import Subject

#: Processes in one tree, children of one process, and workloads kept as examples.
SIZE, CHILDREN, WORKLOADS = 1024, 128, 8
#: So many siblings whose names differ in digits alone are one.
ALIKE = 8


class Kind(StrEnum):
    IMAGE = "image"
    SERVICE = "service"


class Key(NamedTuple):
    """What a fingerprint is of."""

    kind: Kind
    #: The image's name; the service's control group, or its name where that is not known.
    name: str


class SeenProcess(Struct, kw_only=True, omit_defaults=True):
    """All processes of one name, executable and user below one parent. Times in epoch seconds."""

    name: str
    exe: str
    user: str
    first: float
    last: float
    #: Observations of it, those of its sockets and connections included.
    count: int = 0
    #: Where the name is a glob for several: one of them; "": it is no glob.
    called: str = ""
    #: Which of the fingerprint's workloads it was first seen in.
    workload: int = 0
    listening: list[Listening] = []
    talks: list[Talk] = []
    children: list[SeenProcess] = []


class Fingerprint(Struct, kw_only=True, omit_defaults=True):
    """Empty when it is made; add() fills it."""

    kind: Kind
    name: str
    first: float = 0.0
    last: float = 0.0
    count: int = 0
    #: Observations that lacked a fact, and those for which there was no room.
    incomplete: int = 0
    dropped: int = 0
    #: Processes in the tree.
    size: int = 0
    #: Workloads that it was seen in, as far as they differ in more than what changes with each instance.
    workloads: list[Subject] = []
    roots: list[SeenProcess] = []


def key_of(subject: Subject) -> Key | None:
    """None: it is no workload, or a container whose image is not known yet."""
    if subject.image is not None:
        return Key(Kind.IMAGE, subject.image)
    if subject.container is not None or subject.pod is not None:
        return None
    name = subject.service_cgroup or subject.service
    return None if name is None else Key(Kind.SERVICE, name)


def add(fingerprint: Fingerprint, observation: Observation) -> bool:
    """Takes it in. Whether a policy made from the fingerprint would now be another one."""
    process, peer = observation.subject.process, observation.peer
    if process is None:
        return False
    chain = chain_of(process, observation.inside)
    if gap(chain) or (peer is not None and peer.dns is None and address(peer.ip) is None):
        fingerprint.incomplete += 1
        return False
    if not fingerprint.count:
        fingerprint.first = observation.time
    fingerprint.count += 1
    fingerprint.last = max(fingerprint.last, observation.time)
    found, learned = _place(fingerprint, chain, observation)
    if found is None:
        fingerprint.dropped += 1
        return learned is Learned.NEW
    found.count += 1
    found.last = max(found.last, observation.time)
    if observation.seen is Seen.LISTENING:
        told = listen(found.listening, observation.protocol, observation.port)
    elif observation.seen is Seen.CONNECTED and peer is not None:
        told = talk(found.talks, peer)
    else:
        return learned is Learned.NEW
    if told is Learned.DROPPED:
        fingerprint.dropped += 1
    return Learned.NEW in (learned, told)


def united(fingerprints: Sequence[Fingerprint]) -> list[SeenProcess]:
    """The roots of all as one tree of its own."""
    roots: list[SeenProcess] = []
    for each in fingerprints:
        _unite(roots, each.roots)
    return roots


# ---- the tree


def _place(fingerprint: Fingerprint, chain: Chain, observation: Observation) -> tuple[SeenProcess | None, Learned]:
    """Where the chain's last process is in the tree, put there if there is room; None: there is none."""
    level, learned, depth = fingerprint.roots, Learned.KNOWN, 0
    found: SeenProcess | None = None
    before: Step | None = None
    for step in chain.steps:
        if step == before:
            continue
        depth += 1
        found = _find(level, step)
        if found is None:
            if fingerprint.size >= SIZE or depth > PROCESS_DEPTH_LIMIT or len(level) >= CHILDREN:
                return None, learned
            found, learned = _put(fingerprint, level, step, observation), Learned.NEW
        level, before = found.children, step
    return found, learned


def _find(level: Sequence[SeenProcess], step: Step) -> SeenProcess | None:
    name, exe, user = step
    for each in level:
        if each.exe == exe and each.user == user and (each.name == name or (each.called and each.name == _shape(name))):
            return each
    return None


def _put(fingerprint: Fingerprint, level: list[SeenProcess], step: Step, observation: Observation) -> SeenProcess:
    name, exe, user = step
    time, workload = observation.time, _workload(fingerprint, observation.subject)
    made = SeenProcess(name=name or "", exe=exe or "", user=user or "", first=time, last=time, workload=workload)
    level.append(made)
    fingerprint.size += 1
    shape = _shape(name)
    alike = [each for each in level if (each.exe, each.user) == (exe, user) and _shape(each.name) == shape]
    if len(alike) < ALIKE or shape == literal(name or ""):
        return made
    whole = SeenProcess(
        name=shape,
        exe=made.exe,
        user=made.user,
        first=alike[0].first,
        last=time,
        called=alike[0].name,
        workload=alike[0].workload,
    )
    level[:] = [each for each in level if not any(each is one for one in alike)]
    level.append(whole)
    for each in alike:
        _absorb(whole, each)
    fingerprint.size = _count(fingerprint.roots)
    return whole


def _shape(name: str | None) -> str:
    """The glob for names that differ from it in digits alone."""
    return "".join("[0-9]" if "0" <= each <= "9" else literal(each) for each in name or "")


def _unite(level: list[SeenProcess], others: Sequence[SeenProcess]) -> None:
    for other in others:
        found = next(
            (each for each in level if (each.exe, each.user) == (other.exe, other.user) and _is_called(each, other)),
            None,
        )
        if found is None:
            found = SeenProcess(
                name=other.name,
                exe=other.exe,
                user=other.user,
                first=other.first,
                last=other.last,
                called=other.called,
                workload=other.workload,
            )
            level.append(found)
        _absorb(found, other)


def _is_called(each: SeenProcess, other: SeenProcess) -> bool:
    return each.name == other.name or (bool(each.called) and not other.called and each.name == _shape(other.name))


def _absorb(found: SeenProcess, other: SeenProcess) -> None:
    found.first, found.last = min(found.first, other.first), max(found.last, other.last)
    found.count += other.count
    for socket in other.listening:
        absorb_socket(found.listening, socket)
    for each in other.talks:
        absorb_talk(found.talks, each)
    _unite(found.children, other.children)


def _count(level: Sequence[SeenProcess]) -> int:
    return sum(1 + _count(each.children) for each in level)


# ---- examples


def _workload(fingerprint: Fingerprint, subject: Subject) -> int:
    """The place of one like it among the examples, where it is put if there is room; else the first."""
    known = fingerprint.workloads
    own = _kind(subject)
    for place, each in enumerate(known):
        if _kind(each) == own:
            return place
    if len(known) >= WORKLOADS:
        return 0
    known.append(msgspec.structs.replace(subject, process=None))
    return len(known) - 1


def _kind(subject: Subject) -> tuple[object, ...]:
    """What policies tell workloads of one image apart by, without what changes with each instance."""
    labels = None if subject.pod is None else subject.pod.labels
    return subject.cluster, subject.namespace, subject.namespace_labels, labels, subject.service
