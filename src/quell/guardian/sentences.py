"""Deviations as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from quell.guardian.chain import Step
from quell.guardian.rulesets import DEFAULT_DENY, Denied
from quell.model.observation import Peer
from quell.model.policy import Direction, Ports
from quell.model.subject import Subject

_CALLED = {
    "container::image": "image",
    "container::imageID": "image id",
    "container::containerName": "container name",
    "container::containerID": "container id",
    "process::exe": "executable",
    "process::name": "process name",
    "process::euser": "user",
}


def unexpected(step: Step, parent: Step | None, policy: str) -> str:
    under = "" if parent is None else f", started by {_named(parent)},"
    return f"{_process(step)}{under} is not expected by policy {policy}"


def forbidden(step: Step, policy: str) -> str:
    return f"{_process(step)} ran where policy {policy} allows no process"


def listening(step: Step, ports: Ports, policy: str) -> str:
    return f"{_process(step)} listens on {ports.protocol} {ports.port}, which policy {policy} does not expect"


def connected(step: Step, peer: Peer, policy: str, switch: str) -> str:
    """switch: that forbids it; "": no rule expects it."""
    who = peer.ip if peer.dns is None else f"{peer.dns} ({peer.ip})"
    port = f"{peer.protocol} {peer.port}"
    why = f"policy {policy} does not expect" if not switch else f"{switch} of policy {policy} forbids"
    if peer.direction is Direction.INGRESS:
        return f"{who} connected to {_process(step)} on {port}, which {why}"
    return f"{_process(step)} connected to {who} on {port}, which {why}"


def denied(rejected: Sequence[Denied], subject: Subject, policy: str) -> str:
    parts = []
    for each in rejected:
        value = "which is not known," if each.value is None else each.value
        by = ", ".join(each.patterns)
        why = "is allowed by no rule" if each.patterns == (DEFAULT_DENY,) else f"is denied by the rule for {by}"
        parts.append(f"{_CALLED[each.target]} {value} {why}")
    where = "" if subject.namespace is None else f" in namespace {subject.namespace}"
    return f"{'; '.join(parts)}{where}: policy {policy}"


def _process(step: Step) -> str:
    name, exe, user = step
    of = "" if user is None else f" of {user}"
    return f"process {name or 'without a name'}{of} ({exe or 'executable not known'})"


def _named(step: Step) -> str:
    return step[0] or "a process without a name"
