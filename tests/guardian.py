"""Workloads, processes and policies for tests of the guardian."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st

from quell.model.observation import Observation, Peer, Seen
from quell.model.policy import (
    Block,
    Direction,
    Expected,
    Names,
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


# ---- for properties

#: Few values, so that trees and chains meet often.
NAMES, EXES, USERS = ("a", "b", "ab"), ("/a", "/b"), ("u", "v")
facts = st.tuples(st.sampled_from(NAMES), st.sampled_from(EXES), st.sampled_from(USERS))
chains = st.lists(facts, min_size=1, max_size=6).map(tuple)


@st.composite
def trees(draw: st.DrawFn) -> tuple[ProcessNode, ...]:
    count = itertools.count()

    def nodes(depth: int) -> tuple[ProcessNode, ...]:
        return tuple(
            ProcessNode(
                id=f"n{next(count)}",
                name=draw(st.sampled_from((*NAMES, "a*", "?", "[ab]"))),
                exe=tuple(draw(st.lists(st.sampled_from((*EXES, "/*")), max_size=2))),
                euser=tuple(draw(st.lists(st.sampled_from((*USERS, "*")), max_size=1))),
                children=nodes(depth - 1) if depth else (),
            )
            for _ in range(draw(st.integers(0, 3)))
        )

    return nodes(draw(st.integers(0, 3)))


cidrs = st.sampled_from(("10.0.0.0/8", "10.0.0.0/30", "10.0.0.2/32", "0.0.0.0/0", "fd00::/8", "::/0"))
hosts = ("a.example", "b.example")
ports = st.builds(
    lambda low, width, protocol: Ports(port=low, end=low + width if width else None, protocol=protocol),
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from(("TCP", "UDP")),
)
network_rules = st.builds(
    NetworkRule,
    peers=st.lists(
        st.builds(Block, cidr=cidrs, exceptions=st.lists(cidrs, max_size=1).map(tuple))
        | st.builds(Names, names=st.lists(st.sampled_from((*hosts, "*.example")), min_size=1, max_size=2).map(tuple)),
        min_size=1,
        max_size=2,
    ).map(tuple),
    ports=st.lists(ports, min_size=1, max_size=2).map(tuple),
    processes=st.lists(st.sampled_from(("n0", "n1", "n2")), max_size=2).map(tuple),
)

requirements = st.sampled_from(
    (
        ("app", "web", Operator.IN),
        ("app", "d*", Operator.IN),
        ("app", "web", Operator.NOT_IN),
        ("tier", "x", Operator.NOT_IN),
    )
)


def _selector(kind: SelectorKind, requirement: tuple[str, str, Operator]) -> Selector:
    key, value, operator = requirement
    return selector(kind, key, value, operator=operator)


selectors = st.builds(_selector, st.sampled_from((SelectorKind.POD, SelectorKind.NAMESPACE)), requirements)
labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("web", "db", "x")))
ruleset_rules = st.builds(
    RulesetRule,
    target=st.sampled_from(("container::image", "container::containerName")),
    allow=st.booleans(),
    values=st.lists(st.sampled_from(("web", "db", "w*", "*", "?b")), min_size=1, max_size=2).map(tuple),
    selectors=st.lists(selectors, max_size=2, unique_by=lambda each: each.kind).map(tuple),
)
