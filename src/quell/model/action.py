"""What a rule may ask for, one struct an action. SEMANTICS sections 0, 3 and 5.

An action's word is its struct's tag; two equal structs are the same request and are done once.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class ActionClass(StrEnum):
    """agent: done on the machine or to the pod. standard: a flag or a message."""

    AGENT = "agent"
    STANDARD = "standard"


class Severity(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


class Quarantine(Struct, frozen=True, gc=False, kw_only=True, tag="quarantine", omit_defaults=True):
    #: Seconds after which it ends unless new evidence comes; None: until released.
    ttl: float | None = None
    strict: bool = False
    #: Addresses that may reach it meanwhile, unless it is strict (quell.model.investigator).
    investigator: tuple[str, ...] = ()


class SendWebhook(Struct, frozen=True, gc=False, kw_only=True, tag="webhook", omit_defaults=True):
    #: Names of endpoints; none: those marked default.
    endpoints: tuple[str, ...] = ()


class SuppressLog(Struct, frozen=True, gc=False, kw_only=True, tag="suppress-log"):
    pass


class MakeRedFlag(Struct, frozen=True, gc=False, kw_only=True, tag="makeRedFlag", omit_defaults=True):
    severity: Severity
    impact: str = ""
    content: str = ""
    webhooks: tuple[str, ...] = ()


class MakeOpsFlag(Struct, frozen=True, gc=False, kw_only=True, tag="makeOpsFlag", omit_defaults=True):
    severity: Severity
    impact: str = ""
    content: str = ""
    webhooks: tuple[str, ...] = ()


class KillProcess(Struct, frozen=True, gc=False, kw_only=True, tag="agentKillProcess"):
    pass


class KillProcessGroup(Struct, frozen=True, gc=False, kw_only=True, tag="agentKillProcessGroup"):
    pass


class KillProcessTree(Struct, frozen=True, gc=False, kw_only=True, tag="agentKillProcessTree"):
    pass


class KillPod(Struct, frozen=True, gc=False, kw_only=True, tag="agentKillPod", omit_defaults=True):
    #: Seconds between the polite signal and the last one.
    grace_period: int = 0


class ReniceProcess(Struct, frozen=True, gc=False, kw_only=True, tag="agentReniceProcess"):
    #: -20 to 19.
    priority: int


class ReleaseQuarantine(Struct, frozen=True, gc=False, kw_only=True, tag="release"):
    """The inverse of Quarantine. Never written in a rule: asked for when the last holder lets go."""


Action = (
    Quarantine
    | SendWebhook
    | SuppressLog
    | MakeRedFlag
    | MakeOpsFlag
    | KillProcess
    | KillProcessGroup
    | KillProcessTree
    | KillPod
    | ReniceProcess
    | ReleaseQuarantine
)
#: What evidence can be gathered before.
Kill = KillProcess | KillProcessGroup | KillProcessTree | KillPod
AgentAction = (
    Quarantine | KillProcess | KillProcessGroup | KillProcessTree | KillPod | ReniceProcess | ReleaseQuarantine
)


def word(action: Action | type[Action]) -> str:
    """The word documents, records and messages use for an action, such as agentKillProcess."""
    return str(action.__struct_config__.tag)
