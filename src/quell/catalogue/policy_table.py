"""Which selectors, lists and actions a type of policy has, and what a selector looks at: SEMANTICS section 5, the tables.

The validator, the options endpoint and the reference page all read these.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct

from quell.model.policy import Operator, PolicyType, SelectorKind

_S = SelectorKind


class SelectorSpec(Struct, frozen=True, kw_only=True):
    kind: SelectorKind
    description: str
    #: What matchFields takes; (): it selects by labels, with matchLabels.
    fields: tuple[str, ...]
    #: Of its fields or labels.
    example: str

    @property
    def parts(self) -> tuple[str, str]:
        """The names of its short form, and of its expressions."""
        return ("matchFields", "matchFieldsExpressions") if self.fields else ("matchLabels", "matchExpressions")


SELECTORS: Mapping[SelectorKind, SelectorSpec] = MappingProxyType(
    {
        kind: SelectorSpec(kind=kind, fields=fields, example=example, description=description)
        for kind, fields, example, description in (
            (_S.CLUSTER, ("name", "uid"), "name: prod", "The cluster that it happened in."),
            (_S.MACHINE, ("hostname", "sourceName", "uid"), 'hostname: "worker-*"', "The machine that it happened on."),
            (_S.NAMESPACE, (), "kubernetes.io/metadata.name: shop", "The labels of the pod's namespace."),
            (_S.POD, (), "app: web", "The pod's labels."),
            (
                _S.CONTAINER,
                ("image", "imageID", "containerName", "containerID"),
                'image: "docker.io/library/nginx:*"',
                "The container.",
            ),
            (_S.SERVICE, ("cgroup", "name"), "name: nginx.service", "The Linux service."),
            (_S.PROCESS, ("name", "exe", "euser"), "exe: /bin/bash", "The process that deviates."),
            (
                _S.TRACE,
                ("triggerClass", "triggerAncestors"),
                "triggerAncestors: systemd/containerd-shim/sh/nc",
                "The flag that a trace began with: its class, and the names of the processes above it.",
            ),
            (_S.USER, ("user",), "user: root", "Who the trace's processes run as."),
        )
    }
)

#: Whether an operator takes values, and what it asks.
OPERATORS: Mapping[Operator, tuple[bool, str]] = MappingProxyType(
    {
        Operator.IN: (True, "The key is there, and its value is one of these."),
        Operator.NOT_IN: (True, "The key is there, and its value is none of these."),
        Operator.EXISTS: (False, "The key is there."),
        Operator.DOES_NOT_EXIST: (False, "The object is there and has no such key."),
    }
)


class ListSpec(Struct, frozen=True, kw_only=True):
    """A field of a policy's spec that says what is expected, or suppressed."""

    name: str
    #: list, mapping or choice.
    form: str
    description: str
    values: tuple[str, ...] = ()


_DIRECTIONS = ("all", "egress", "ingress")
_WORKLOAD_LISTS = (
    ListSpec(
        name="processPolicy",
        form="list",
        description="The processes that are expected, as a tree; without it processes are not compared.",
    ),
    ListSpec(
        name="networkPolicy",
        form="mapping",
        description="The connections that are expected; a direction that is not written is not compared.",
    ),
    ListSpec(
        name="disableProcesses",
        form="choice",
        values=("all",),
        description="Every process deviates, whatever is listed.",
    ),
    *(
        ListSpec(name=name, form="choice", values=_DIRECTIONS, description=f"Every connection {which} deviates.")
        for name, which in (
            ("disableConnections", "of these directions"),
            ("disablePrivateConnections", "of these directions with a private address"),
            ("disablePublicConnections", "of these directions with a public address"),
        )
    ),
)
_RULESETS = ListSpec(name="rulesets", form="list", description="Names of rulesets, which say what containers may run.")
_ALLOWED_FLAGS = ListSpec(
    name="allowedFlags", form="list", description="Classes of flags that may join a trace without showing it again."
)

_FLAGS = ("makeRedFlag", "makeOpsFlag")
_PROCESS_ACTIONS = (
    "agentKillProcess",
    "agentKillProcessGroup",
    "agentKillProcessTree",
    "agentReniceProcess",
    "quarantine",
    "webhook",
    "suppress-log",
)


class PolicyTypeSpec(Struct, frozen=True, kw_only=True):
    type: PolicyType
    description: str
    #: The selector that its scope must have; None: at least one of the others.
    must: SelectorKind | None
    #: Those that it may have beside.
    may: tuple[SelectorKind, ...]
    #: Those of its fields that say what is expected, in the order in which they are written.
    lists: tuple[ListSpec, ...]
    #: Actions that are usual for it, others are taken with a warning; (): it has no response.
    usual: tuple[str, ...]


_WORKLOAD_SCOPE = (_S.CLUSTER, _S.MACHINE, _S.NAMESPACE, _S.POD)
POLICY_TYPES: Mapping[PolicyType, PolicyTypeSpec] = MappingProxyType(
    {
        spec.type: spec
        for spec in (
            PolicyTypeSpec(
                type=PolicyType.CONTAINER,
                description="What the containers in its scope may do.",
                must=_S.CONTAINER,
                may=_WORKLOAD_SCOPE,
                lists=_WORKLOAD_LISTS,
                usual=(*_FLAGS, "agentKillPod", *_PROCESS_ACTIONS),
            ),
            PolicyTypeSpec(
                type=PolicyType.LINUX_SERVICE,
                description="What the services in its scope may do.",
                must=_S.SERVICE,
                may=(_S.CLUSTER, _S.MACHINE),
                lists=_WORKLOAD_LISTS,
                usual=(*_FLAGS, *_PROCESS_ACTIONS),
            ),
            PolicyTypeSpec(
                type=PolicyType.CLUSTER,
                description="What may run in a cluster, by the rulesets that it names.",
                must=_S.CLUSTER,
                may=(),
                lists=(_RULESETS,),
                usual=(*_FLAGS, "agentKillPod"),
            ),
            PolicyTypeSpec(
                type=PolicyType.TRACE,
                description="Which traces are expected, and so hidden.",
                must=None,
                may=(_S.TRACE, _S.USER, *_WORKLOAD_SCOPE, _S.CONTAINER, _S.SERVICE),
                lists=(_ALLOWED_FLAGS,),
                usual=(),
            ),
        )
    }
)

#: Selectors of entries in response.actions.
ACTION_SELECTORS = (_S.CLUSTER, _S.MACHINE, _S.NAMESPACE, _S.POD, _S.CONTAINER, _S.SERVICE, _S.PROCESS)


def selectors_of(action: str) -> tuple[SelectorKind, ...]:
    """Those that an entry of this action takes. A service is in no pod."""
    return tuple(kind for kind in ACTION_SELECTORS if action != "agentKillPod" or kind is not _S.SERVICE)


class Target(StrEnum):
    """What a rule of a ruleset is about."""

    IMAGE = "container::image"
    IMAGE_ID = "container::imageID"
    CONTAINER_NAME = "container::containerName"
    CONTAINER_ID = "container::containerID"
    EXE = "process::exe"
    PROCESS_NAME = "process::name"
    EUSER = "process::euser"

    @property
    def is_process(self) -> bool:
        return self.value.startswith("process::")

    @property
    def selectors(self) -> tuple[SelectorKind, ...]:
        """Those that such a rule takes."""
        return _RULE_SCOPE if self.is_process else _RULE_SCOPE[:-1]


class Verb(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


_RULE_SCOPE = (*_WORKLOAD_SCOPE, _S.CONTAINER, _S.PROCESS)
#: Types that a ruleset may have.
RULESET_TYPES = (PolicyType.CLUSTER, PolicyType.CONTAINER)
