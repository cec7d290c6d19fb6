"""An observation as other programs than the agent send it: one JSON object, as docs/event-format.md says.

It is no event: it is compared with policies and learned from, and not journaled. SEMANTICS section 1.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from quell.detectors.form import Moment, Port, SubjectForm, seconds
from quell.detectors.line import read
from quell.detectors.native import subject_of
from quell.errors import EventError
from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import Direction
from quell.model.subject import Process, Subject


class PeerForm(Struct, kw_only=True, forbid_unknown_fields=True):
    direction: Literal["ingress", "egress"]
    ip: Annotated[str, Meta(min_length=1)]
    port: Port
    protocol: Literal["TCP", "UDP"] = "TCP"
    dns: str | None = None


class ObservationForm(Struct, kw_only=True, forbid_unknown_fields=True):
    seen: Literal["executed", "running", "listening", "connected"]
    time: Moment
    subject: SubjectForm
    #: How many of the process's lineage, from its parent up, are in the same container or service.
    inside: Annotated[int, Meta(ge=0)] = 0
    #: Of listening.
    protocol: Literal["TCP", "UDP"] | None = None
    address: str = ""
    port: Port = 0
    #: Of connected.
    peer: PeerForm | None = None


_decoder = msgspec.json.Decoder(ObservationForm)


def read_observation(line: bytes) -> Observation:
    """EventError says what is expected where."""
    form = read(_decoder, line)
    subject = subject_of(form.subject)
    process = subject.process
    if process is None:
        raise EventError("Expected the process that did it - at `$.subject.process`")
    if form.inside > len(process.lineage):
        raise EventError(
            f"Expected at most the {len(process.lineage)} of the lineage, got {form.inside} - at `$.inside`"
        )
    _check_workload(subject, process)
    seen = Seen(form.seen)
    if (seen is Seen.LISTENING) is not (form.protocol is not None and form.port > 0):
        raise EventError("Expected protocol and port if it is listening, and only then - at `$.port`")
    if (seen is Seen.CONNECTED) is not (form.peer is not None):
        raise EventError("Expected a peer if it is connected, and only then - at `$.peer`")
    return Observation(
        seen=seen,
        time=seconds(form.time) or 0.0,
        subject=subject,
        inside=form.inside,
        protocol=form.protocol or "",
        address=form.address,
        port=form.port,
        peer=None if form.peer is None else _peer(form.peer),
    )


def _check_workload(subject: Subject, process: Process) -> None:
    if not (subject.is_workload or subject.service or subject.service_cgroup):
        raise EventError("Expected a container, a pod or a service that the process is in - at `$.subject`")
    if process.name is None:
        raise EventError("Expected the process's name - at `$.subject.process.name`")


def _peer(form: PeerForm) -> Peer:
    try:
        ip_address(form.ip)
    except ValueError as error:
        raise EventError(f"Expected an address, got `{form.ip[:64]}` - at `$.peer.ip`") from error
    return Peer(
        direction=Direction(form.direction), ip=form.ip, port=form.port, protocol=form.protocol, dns=form.dns or None
    )
