"""Policies: a scope, a mode, and what to do about deviations. SEMANTICS section 5."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from quell.model.action import Action
from quell.model.rule import Mode, Source


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
    #: processPolicy, networkPolicy, disable..., allowedFlags: a JSON object, kept as written for the guardian.
    opaque: str = ""
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
