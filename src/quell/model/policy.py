"""Policies: a scope, a mode, and what to do about deviations. SEMANTICS section 5."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from quell.model.action import Action
from quell.model.rule import Mode, Source

#: Of a processPolicy: levels of children, and processes in all; of each direction of a networkPolicy: rules; and of
#: each rule: peers, ports and processes. A document of more is refused, so that no policy can hold up the others.
PROCESS_DEPTH_LIMIT = 24
PROCESS_LIMIT = 4096
NETWORK_RULE_LIMIT = 4096
NETWORK_ENTRY_LIMIT = 1024


class PolicyType(StrEnum):
    CONTAINER = "container"
    LINUX_SERVICE = "linux-service"
    CLUSTER = "cluster"
    TRACE = "trace"


class SelectorKind(StrEnum):
    CLUSTER = "clusterSelector"
    MACHINE = "machineSelector"
    NAMESPACE = "namespaceSelector"
    POD = "podSelector"
    CONTAINER = "containerSelector"
    SERVICE = "serviceSelector"
    PROCESS = "processSelector"
    TRACE = "traceSelector"
    USER = "userSelector"


class Operator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key of a selector. matchFields and matchLabels are In with one value."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Selector(Struct, frozen=True, kw_only=True):
    kind: SelectorKind
    #: All must hold.
    requirements: tuple[Requirement, ...]


class ResponseEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of response.default (no selector) or response.actions (one or more)."""

    action: Action
    selectors: tuple[Selector, ...] = ()
    enabled: bool = True
    #: A kill waits until evidence has been gathered.
    evidence: bool = False


class Ports(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A port, or a range of ports, of one protocol."""

    port: int
    #: TCP or UDP.
    protocol: str = "TCP"
    #: The last of the range, itself included; None: the one port.
    end: int | None = None


class ProcessNode(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One process that a policy expects, under its parent. SEMANTICS section 5, processPolicy."""

    #: Of this policy only; network rules name it.
    id: str
    #: Name, executables and users may be globs; any of several.
    name: str
    exe: tuple[str, ...] = ()
    #: (): as its parent's.
    euser: tuple[str, ...] = ()
    listening: tuple[Ports, ...] = ()
    children: tuple[ProcessNode, ...] = ()


class Block(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="ip"):
    cidr: str
    #: Not these parts of it.
    exceptions: tuple[str, ...] = ()


class Names(Struct, frozen=True, kw_only=True, tag="dns"):
    """Peers by name; globs."""

    names: tuple[str, ...]


class NetworkRule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Connections that a policy expects. Of ingress, the ports are the workload's own; of egress, the peer's."""

    peers: tuple[Block | Names, ...]
    ports: tuple[Ports, ...]
    #: Ids of process nodes; (): of any process.
    processes: tuple[str, ...] = ()


class Direction(StrEnum):
    INGRESS = "ingress"
    EGRESS = "egress"


class Expected(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a container or linux-service policy expects of its workload."""

    #: None: no processPolicy is written, and processes are not compared.
    processes: tuple[ProcessNode, ...] | None = None
    #: None: no networkPolicy is written, and connections are not compared.
    ingress: tuple[NetworkRule, ...] | None = None
    egress: tuple[NetworkRule, ...] | None = None
    #: Every process deviates, whatever is listed.
    no_processes: bool = False
    #: Every connection of these directions deviates: any, those with private addresses, those with public ones.
    no_connections: tuple[Direction, ...] = ()
    no_private_connections: tuple[Direction, ...] = ()
    no_public_connections: tuple[Direction, ...] = ()


class Policy(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    uid: str = ""
    type: PolicyType
    enabled: bool = True
    mode: Mode
    scope: tuple[Selector, ...] = ()
    rulesets: tuple[str, ...] = ()
    default: tuple[ResponseEntry, ...] = ()
    actions: tuple[ResponseEntry, ...] = ()
    #: Of a container and a linux-service policy.
    expected: Expected = Expected()
    #: Of a trace policy: classes of flags that it covers, such as redflag/proc/command/high_severity/suspicious/nc.
    allowed_flags: tuple[str, ...] = ()
    source: Source = Source()


class RulesetRule(Struct, frozen=True, kw_only=True, omit_defaults=True):
    #: container::image, process::exe and the like.
    target: str
    #: False: denied.
    allow: bool
    values: tuple[str, ...]
    selectors: tuple[Selector, ...] = ()


class Ruleset(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may run, by rules that policies share by the ruleset's name."""

    name: str
    uid: str = ""
    type: PolicyType
    rules: tuple[RulesetRule, ...] = ()
    source: Source = Source()
