"""The one record every event ends in, and what follows from it. SEMANTICS sections 0, 8 and 9."""

from __future__ import annotations

import re
from enum import StrEnum

from msgspec import Struct

from quell.model.action import Action, AgentAction, Severity
from quell.model.evidence import EvidenceBounds
from quell.model.subject import Subject, Target


class Status(StrEnum):
    ASKED = "asked"
    GRANTED = "granted"
    REFUSED = "refused"
    HELD = "held"


class Reason(StrEnum):
    """Why something was refused, held or failed: one closed enumeration (SEMANTICS section 0)."""

    NOT_APPLICABLE = "not-applicable"
    NO_TARGET = "no-target"
    NO_AGENT = "no-agent"
    NO_ENDPOINT = "no-endpoint"
    IDENTITY = "identity"
    GONE = "gone"
    PROTECTED = "protected"
    STALE = "stale"
    LIMIT = "limit"
    BUDGET = "budget"
    DISRUPTION_BUDGET = "disruption-budget"
    BREAKER = "breaker"
    COOLDOWN = "cooldown"
    PAUSED = "paused"
    AUDIT = "audit"
    APPROVAL = "approval"
    APPROVAL_DENIED = "approval-denied"
    EXPIRED = "expired"
    UNKNOWN_SCOPE = "unknown-scope"
    HOST_NETWORK = "host-network"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


class Ask(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One action that a matching rule or policy entry asks for, and the bounds it sets itself. Durations in seconds."""

    action: Action
    #: "rule/8", "policy/NAME/default" or "policy/NAME/actions".
    by: str
    #: Whose budget, limit and cooldown it counts in, and who holds a quarantine: "rule/8" or "policy/NAME".
    owner: str
    #: Endpoints that the rule or the action names, once each; none: those marked default.
    endpoints: tuple[str, ...] = ()
    #: Why it only says what it would do; "": it acts.
    audit: str = ""
    cooldown: float | None = None
    limit: tuple[int, float] | None = None
    max_age: float | None = None
    approval: bool = False
    #: A kill waits until what the process is like has been gathered.
    evidence: bool = False
    #: The scope could not be proved: nothing destructive (SEMANTICS section 0, principle 2).
    unknown_scope: bool = False


class Evidence(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One criterion that held, and the event's value it held on."""

    criterion: str
    value: str


class Match(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A rule or policy that matched. ref is "rule/8" or "policy/NAME"."""

    ref: str
    name: str
    evidence: tuple[Evidence, ...] = ()


class NearMiss(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A rule of the event's category that did not match, and the first criterion that was not met."""

    ref: str
    name: str
    criterion: str
    expected: str
    #: The event's value; None where the event has no such thing.
    got: str | None = None


class ActionRecord(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One distinct (action, target, parameters), once, naming every rule that asked."""

    #: "<event id>/<n>": the id of the command, flag or delivery that follows; "" for suppress-log, which brings nothing.
    id: str
    action: Action
    target: Target | None = None
    #: "rule/8", "policy/NAME/default" or "policy/NAME/actions".
    asked_by: tuple[str, ...]
    status: Status
    reason: Reason | None = None
    explanation: str = ""
    #: Endpoints of a webhook action, once each.
    endpoints: tuple[str, ...] = ()
    #: Who carries it out: an agent, or "kubernetes:<cluster>" for that cluster's API; "": no command follows.
    agent: str = ""
    #: Of a flag that is refused because it was raised not long ago: the id of that one, which counts this.
    repeats: str = ""
    #: Evidence is gathered first (quell.model.evidence).
    evidence: bool = False


class CooldownStarted(Struct, frozen=True, gc=False, kw_only=True, tag="cooldown", omit_defaults=True):
    key: str
    at: float
    until: float
    #: Where it starts with a flag: under which key that is found (quell.response.safety.told_key), and its id.
    told: str = ""
    flag: str = ""


class BudgetSpent(Struct, frozen=True, gc=False, kw_only=True, tag="budget"):
    """One action counted in each of these windows, the longest of which is window seconds long."""

    keys: tuple[str, ...]
    at: float
    window: float = 60.0


class CommandExpected(Struct, frozen=True, gc=False, kw_only=True, tag="expected", omit_defaults=True):
    """A command is on its way; its success starts these cooldowns: (key, seconds)."""

    id: str
    cooldowns: tuple[tuple[str, float], ...] = ()
    #: Key of the quarantine it makes, or ends if release.
    quarantine: str = ""
    release: bool = False
    #: It makes strict what was not.
    strict: bool = False
    #: It changes who may reach what is isolated already: what was ordered before counts until this is done.
    admits: bool = False
    #: Of a release, or of what nobody asked for but a holder's going: when it was ordered.
    at: float = 0.0


class CommandEnded(Struct, frozen=True, gc=False, kw_only=True, tag="ended"):
    id: str


class QuarantineHeld(Struct, frozen=True, gc=False, kw_only=True, tag="quarantine-held", omit_defaults=True):
    target: Target
    holder: str
    until: float | None = None
    strict: bool = False
    #: Addresses that may reach it as long as this one holds it, instead of those that it asked for before.
    investigator: tuple[str, ...] = ()
    #: Id of the agent that carries it out.
    agent: str = ""
    at: float = 0.0
    #: Id of the event whose decision it is.
    cause: str = ""


class QuarantineConfirmed(Struct, frozen=True, gc=False, kw_only=True, tag="quarantine-confirmed"):
    """The agent has isolated it."""

    key: str


class QuarantineLetGo(Struct, frozen=True, gc=False, kw_only=True, tag="quarantine-let-go"):
    key: str
    holder: str


class QuarantineRelaxed(Struct, frozen=True, gc=False, kw_only=True, tag="quarantine-relaxed"):
    """It could not be made strict."""

    key: str


class QuarantineUnsettled(Struct, frozen=True, gc=False, kw_only=True, tag="quarantine-unsettled"):
    """What was to change who may reach it has not been done."""

    key: str


class QuarantineEnded(Struct, frozen=True, gc=False, kw_only=True, tag="quarantine-ended"):
    """Nothing is isolated any more: released, gone, or never carried out."""

    key: str


class RefusalCounted(Struct, frozen=True, gc=False, kw_only=True, tag="refusal", omit_defaults=True):
    """A refusal or a hold that people should know of. flagged: the first of its key in an hour, which raises a flag."""

    key: str
    at: float
    record: str
    owner: str
    reason: Reason
    flagged: bool = False
    #: For a flag: this one and those counted since the last flag of the key.
    count: int = 1
    #: Where it raises none: the id of the key's last flag, which counts it.
    repeats: str = ""

    @property
    def flag(self) -> str:
        """The id of the flag that it raises."""
        return f"{self.record}/{self.reason}/{self.owner}"


class HoldEnd(StrEnum):
    """How a hold ends."""

    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"


class ActionHeld(Struct, frozen=True, gc=False, kw_only=True, tag="held", omit_defaults=True):
    """An action waits for a person: its rule asks for that, or it was over a budget."""

    #: Of the record, and of the command if it is approved.
    id: str
    #: "<action>/<target>": one hold stands for all events that ask for the same.
    key: str
    event_id: str
    action: AgentAction
    target: Target
    agent: str
    asks: tuple[Ask, ...]
    reason: Reason
    explanation: str
    subject: Subject
    at: float
    #: When nobody need decide any more, epoch seconds.
    until: float


class HoldEnded(Struct, frozen=True, gc=False, kw_only=True, tag="hold-ended"):
    id: str
    how: HoldEnd


class ReplicaDisturbed(Struct, frozen=True, gc=False, kw_only=True, tag="disturbed"):
    """Something destructive was granted against one replica of a workload's owner."""

    owner: str
    replica: str
    at: float


class BreakerTripped(Struct, frozen=True, gc=False, kw_only=True, tag="breaker", omit_defaults=True):
    """A rule does this no more to this owner's workloads of this image, until a person says so."""

    key: str
    #: "rule/8" or "policy/NAME".
    by: str
    #: The action's word.
    action: str
    owner: str
    image: str
    at: float
    event_id: str


class BreakerReset(Struct, frozen=True, gc=False, kw_only=True, tag="breaker-reset"):
    key: str


StateChange = (
    CooldownStarted
    | BudgetSpent
    | CommandExpected
    | CommandEnded
    | QuarantineHeld
    | QuarantineConfirmed
    | QuarantineLetGo
    | QuarantineRelaxed
    | QuarantineUnsettled
    | QuarantineEnded
    | RefusalCounted
    | ActionHeld
    | HoldEnded
    | ReplicaDisturbed
    | BreakerTripped
    | BreakerReset
)


class Decision(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    event_id: str
    #: When it was decided.
    time: float
    #: Which set of documents decided; Index.revision.
    revision: int
    matches: tuple[Match, ...] = ()
    #: Only where asked for.
    near_misses: tuple[NearMiss, ...] = ()
    actions: tuple[ActionRecord, ...] = ()
    #: True: the event stays out of notifications, syslog and webhooks.
    suppressed: bool = False
    #: Specific entries replaced these policy defaults: "policy/NAME/makeRedFlag".
    default_skipped: tuple[str, ...] = ()
    changes: tuple[StateChange, ...] = ()
    #: What the inventory filled in before: the parts that the event did not have. A container is named by its full id.
    added: Subject | None = None
    #: Where event and inventory say different things; what the event says counts.
    conflicts: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Nothing matched: the record is the event and the revision, nothing more."""
        return not self.matches and not self.actions


class Command(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One action on one target by one agent. Signed as a whole (quell.channel.envelope)."""

    id: str
    #: Or "kubernetes:<cluster>": that is never signed, the controller itself asks the cluster's API.
    agent: str
    action: AgentAction
    target: Target
    issued: float
    expires: float
    nonce: str
    event_id: str = ""
    asked_by: tuple[str, ...] = ()
    #: What is gathered before a kill; None: nothing.
    evidence: EvidenceBounds | None = None


class OutcomeStatus(StrEnum):
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"
    #: The target was no longer there: nothing left to do.
    GONE = "gone"


class Outcome(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What became of a command or a delivery. duration in seconds, on the machine that acted."""

    id: str
    status: OutcomeStatus
    reason: Reason | None = None
    explanation: str = ""
    time: float
    duration: float | None = None
    #: Facts: pids reached, namespace inode, interfaces, HTTP status, attempts.
    facts: dict[str, str | int | float | list[int]] = {}


class FlagClass(StrEnum):
    RED = "red"
    OPS = "ops"


class Flag(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A finding for people. SEMANTICS section 6."""

    id: str
    flag_class: FlagClass
    severity: Severity
    name: str
    description: str = ""
    impact: str = ""
    content: str = ""
    subject: Subject = Subject()
    asked_by: tuple[str, ...] = ()
    event_id: str = ""
    time: float
    #: As it was raised: what it stands for, with what came before it.
    count: int = 1
    #: How often it would have been raised again since, and when last.
    repeats: int = 0
    last: float | None = None
    webhooks: tuple[str, ...] = ()
    #: Its event is suppressed: no webhook tells of it, subscribers' neither (SEMANTICS section 3, suppress-log).
    silent: bool = False

    @property
    def class_path(self) -> str:
        """What kind of flag it is, as triggerClass and allowedFlags of trace policies name it. docs/flags.md has the form.

        Such as redflag/proc/host_suspicious_process/high_severity/nc. Only the last part is up to whom the flag is about.
        """
        what, name = _about(self.subject)
        word = _NO_WORD.sub("_", self.name.casefold()).strip("_") or "unnamed"
        parts = [f"{self.flag_class}flag", what, word, f"{self.severity}_severity"]
        return "/".join([*parts, path_part(name)] if name else parts)


class Repetition(Struct, frozen=True, gc=False, kw_only=True):
    """A flag that was raised not long ago would have been raised again."""

    flag: str
    time: float


#: Between the words of a flag's name.
_NO_WORD = re.compile(r"[\W_]+")


def path_part(name: str) -> str:
    """A process's name as a part of a path, where a slash of its own would look like two parts."""
    return name.replace("/", "_")


def _about(subject: Subject) -> tuple[str, str]:
    """Whom a flag is about, as a word, and the name that its class ends with; "": there is none."""
    process, pod = subject.process, subject.pod
    if process is not None:
        return "proc", process.name or (process.exe or "").rpartition("/")[2]
    if subject.container is not None:
        return "cont", subject.container.name or subject.image or ""
    if pod is not None:
        return "pod", pod.name or ""
    if subject.image is not None:
        return "image", subject.image
    return ("mach", subject.node) if subject.node else ("cluster", subject.cluster or "")
