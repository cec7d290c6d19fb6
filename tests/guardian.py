"""Workloads, processes and policies for tests of the guardian."""

from __future__ import annotations

from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import (
    Direction,
    Expected,
    NetworkRule,
    Operator,
    Policy,
    PolicyType,
    Ports,
    ProcessNode,
    Requirement,
    Ruleset,
    RulesetRule,
    Selector,
    SelectorKind,
)
from quell.model.rule import Mode
from quell.model.subject import Ancestor, Container, Pod, Process, Subject

NOW = 1_790_000_000.0
#: What is above every container here, outside of it.
SHIM = Ancestor(name="conmon", exe="/usr/bin/conmon", user="root", pid=70, start_ticks=1)

Step = tuple[str | None, str | None, str | None]


def step(name: str, user: str = "root", exe: str | None = None) -> Step:
    return name, exe or f"/usr/bin/{name}", user


def workload(**fields: object) -> Subject:
    known: dict[str, object] = {
        "cluster": "demo",
        "node": "n1",
        "namespace": "shop",
        "pod": Pod(name="web-1", uid="uid-1", labels={"app": "web"}),
        "container": Container(id="c1", name="web", image_id="sha256:1"),
        "image": "docker.io/library/web:1",
    }
    return Subject(**(known | fields))  # type: ignore[arg-type]


def service(name: str = "web.service") -> Subject:
    return Subject(node="n1", service=name, service_cgroup=f"systemd:/system.slice/{name}")


def seen(
    *steps: Step,
    what: Seen = Seen.EXECUTED,
    at: Subject | None = None,
    is_whole: bool = True,
    pid: int = 100,
    **more: object,
) -> Observation:
    """steps: the workload's processes that led to it, outermost first, itself last."""
    *above, own = steps
    lineage = [Ancestor(name or "", exe, user, pid=80 + n) for n, (name, exe, user) in enumerate(above)]
    process = Process(
        pid=pid, name=own[0], exe=own[1], user=own[2], lineage=(*reversed(lineage), *([SHIM] if is_whole else []))
    )
    subject = at or workload()
    subject = Subject(
        **{field: getattr(subject, field) for field in subject.__struct_fields__ if field != "process"}
        | {"process": process}
    )
    return Observation(seen=what, time=NOW, subject=subject, inside=len(above), **more)  # type: ignore[arg-type]


def listens(*steps: Step, port: int, protocol: str = "TCP", at: Subject | None = None) -> Observation:
    return seen(*steps, what=Seen.LISTENING, port=port, protocol=protocol, at=at)


def connects(
    *steps: Step,
    ip: str = "10.0.0.9",
    port: int = 443,
    direction: Direction = Direction.EGRESS,
    dns: str | None = None,
    protocol: str = "TCP",
    at: Subject | None = None,
) -> Observation:
    peer = Peer(direction=direction, ip=ip, port=port, dns=dns, protocol=protocol)
    return seen(*steps, what=Seen.CONNECTED, peer=peer, at=at)


def node(
    name: str,
    *children: ProcessNode,
    exe: tuple[str, ...] | None = None,
    users: tuple[str, ...] = (),
    ports: tuple[int, ...] = (),
    identifier: str = "",
) -> ProcessNode:
    return ProcessNode(
        id=identifier or f"{name}_0",
        name=name,
        exe=(f"/usr/bin/{name}",) if exe is None else exe,
        euser=users,
        listening=tuple(Ports(port=port) for port in ports),
        children=children,
    )


def selector(kind: SelectorKind, key: str, *values: str, operator: Operator = Operator.IN) -> Selector:
    return Selector(kind=kind, requirements=(Requirement(key=key, operator=operator, values=values),))


IMAGE = selector(SelectorKind.CONTAINER, "image", "docker.io/library/web:*")


def policy(
    *processes: ProcessNode,
    name: str = "web",
    type_: PolicyType = PolicyType.CONTAINER,
    scope: tuple[Selector, ...] = (IMAGE,),
    ingress: tuple[NetworkRule, ...] | None = None,
    egress: tuple[NetworkRule, ...] | None = None,
    rulesets: tuple[str, ...] = (),
    expected: Expected | None = None,
    **fields: object,
) -> Policy:
    return Policy(
        name=name,
        type=type_,
        mode=Mode.ENFORCE,
        scope=scope,
        rulesets=rulesets,
        expected=expected or Expected(processes=processes, ingress=ingress, egress=egress),
        **fields,  # type: ignore[arg-type]
    )


def rule(target: str, *values: str, allow: bool = True, scope: tuple[Selector, ...] = ()) -> RulesetRule:
    return RulesetRule(target=target, allow=allow, values=values, selectors=scope)


def ruleset(*rules: RulesetRule, name: str = "rules") -> Ruleset:
    return Ruleset(name=name, type=PolicyType.CLUSTER, rules=rules)
