"""What stands against an action before it is granted: time, place, protection, budgets. SEMANTICS section 8."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

import msgspec

from quell.model.action import AgentAction, Quarantine, word
from quell.model.decision import Ask, BreakerTripped, Reason
from quell.model.event import Category, Event
from quell.model.subject import Subject
from quell.response.facts import Safety
from quell.response.state import DISTURBED_PERIOD, State
from quell.response.targets import Aim, Refusal, owner_of, replica_of

_REPORTS = (Category.CVE_REPORT, Category.COMPLIANCE)

ENGINE = "engine"

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def stands_against(action: AgentAction, event: Event, aim: Aim, state: State) -> Refusal | None:
    """What refuses the action whoever asks: the target itself, the event's time, the place, what is protected."""
    if aim.refusal is not None and aim.refusal.reason is not Reason.NO_AGENT:
        return aim.refusal
    safety = state.safety
    if event.time is None:
        return Refusal(Reason.STALE, "the detector does not say when it happened")
    if event.time > event.received + safety.clock_skew:
        return Refusal(Reason.STALE, f"its time is {event.time - event.received:.0f} s later than its receipt")
    namespace = aim.subject.namespace
    if namespace is not None and namespace in safety.protected_namespaces:
        return Refusal(Reason.PROTECTED, f"namespace {namespace} is protected")
    if aim.refusal is not None or aim.agent is None:
        return aim.refusal or Refusal(Reason.NO_AGENT, "no agent is known")
    if event.time < aim.agent.boot_time:
        return Refusal(Reason.STALE, "it happened before the machine's boot")
    if aim.agent.kubernetes and namespace is None and aim.subject.is_workload:
        return Refusal(Reason.PROTECTED, "the namespace is unknown, and this is a node of Kubernetes")
    if word(action) not in aim.agent.capabilities:
        return Refusal(Reason.UNSUPPORTED, f"agent {aim.agent.id} cannot do {word(action)}")
    return None


def too_old(ask: Ask, event: Event, safety: Safety, now: float) -> Refusal | None:
    """Older than the rule's max_age, or than its class and category allow."""
    if event.time is None:
        return None
    bound = ask.max_age
    if bound is None:
        if event.category in _REPORTS:
            bound = safety.max_age_report
        elif isinstance(ask.action, Quarantine):
            bound = safety.max_age_quarantine
        else:
            bound = safety.max_age_kill
    age = now - event.time
    return (
        Refusal(Reason.STALE, f"it happened {age:.0f} s ago, at most {bound:.0f} s are allowed")
        if age > bound
        else None
    )


def cooldown_key(ask: Ask, target: str) -> str:
    return f"{ask.owner}/{word(ask.action)}/{target}"


def told_key(ask: Ask, target: str) -> str:
    """What makes a flag a repetition of another: its parameters too, for a policy may raise two for one deviation."""
    return f"{cooldown_key(ask, target)}/{hashlib.sha256(_encode(ask.action)).hexdigest()[:12]}"


def limit_key(ask: Ask) -> str:
    return f"limit/{ask.owner}"


def budget_keys(owners: list[str], namespace: str | None) -> list[str]:
    """The windows that one destructive action counts in."""
    keys = [ENGINE, *owners]
    return keys if namespace is None else [*keys, f"namespace/{namespace}"]


def restrained(ask: Ask, target: str, state: State, now: float, spent: Mapping[str, int]) -> Refusal | None:
    """The rule's own bounds: cooldown and limit. spent: what this decision has granted so far."""
    if ask.cooldown is not None and state.cooldowns.get(cooldown_key(ask, target), 0.0) > now:
        return Refusal(Reason.COOLDOWN, f"{ask.owner} did it to this target less than {ask.cooldown:.0f} s ago")
    if ask.limit is not None and state.is_over(limit_key(ask), ask.limit, now, spent.get(limit_key(ask), 0)):
        count, window = ask.limit
        return Refusal(Reason.LIMIT, f"{ask.owner} acts at most {count} times in {window:.0f} s")
    return None


def over_budget(ask: Ask, namespace: str | None, state: State, now: float, spent: Mapping[str, int]) -> Refusal | None:
    safety = state.safety
    bounds = [(ENGINE, safety.budget_engine, "in all"), (ask.owner, safety.budget_rule, f"by {ask.owner}")]
    if namespace is not None:
        bounds.append((f"namespace/{namespace}", safety.budget_namespace, f"in namespace {namespace}"))
    for key, bound, what in bounds:
        if state.is_over(key, bound, now, spent.get(key, 0)):
            return Refusal(Reason.BUDGET, f"more than {bound[0]} destructive actions {what} in {bound[1]:.0f} s")
    return None


#: So many workloads may be isolated at once however few there are (SEMANTICS section 8, budget).
_ISOLATED_ANYWAY = 3


def breaker_key(ask: Ask, subject: Subject) -> str | None:
    """What a breaker counts: one rule's action on one owner and image. None: it is about no workload."""
    if not subject.is_workload:
        return None
    return f"breaker/{ask.owner}/{word(ask.action)}/{owner_of(subject)}/{subject.image or ''}"


def broken(ask: Ask, subject: Subject, state: State, now: float, spent: Mapping[str, int]) -> Refusal | None:
    """A pod that is killed for its image comes back with the same image: a rule that only repeats itself stops."""
    key = breaker_key(ask, subject)
    if key is None:
        return None
    count, window = state.safety.breaker
    if key in state.breakers or state.is_over(key, state.safety.breaker, now, spent.get(key, 0)):
        said = (
            f"{ask.owner} did this {count} times in {window:.0f} s to {owner_of(subject)}; a person has to release it"
        )
        return Refusal(Reason.BREAKER, said)
    return None


def tripped(ask: Ask, event: Event, subject: Subject, state: State, now: float) -> BreakerTripped | None:
    """The breaker that stopped this rule stands open from here on, until a person says so. None: it does already."""
    key = breaker_key(ask, subject)
    if key is None or key in state.breakers or ask.audit:
        return None
    return BreakerTripped(
        key=key,
        by=ask.owner,
        action=word(ask.action),
        owner=owner_of(subject),
        image=subject.image or "",
        at=now,
        event_id=event.id,
    )


def over_replicas(subject: Subject, state: State, now: float, more: Collection[str]) -> Refusal | None:
    """Whether it would be one replica of its owner too many in a minute. more: what this decision disturbs already."""
    if not subject.is_workload:
        return None
    owner, mine = owner_of(subject), replica_of(subject)
    before = {name for name, at in state.disturbed.get(owner, {}).items() if at > now - DISTURBED_PERIOD}
    others = (before | set(more)) - {mine}
    if not others:
        return None
    replicas = others | {mine}
    replicas |= {
        known.pod_uid or known.id
        for known in state.workloads.values()
        if known.running and known.gone is None and f"{known.namespace or ''}/{known.service}" == owner
    }
    most = max(1, len(replicas) * state.safety.budget_replicas // 100)
    if len(others) < most:
        return None
    return Refusal(
        Reason.BUDGET,
        f"more than {most} of the {len(replicas)} replicas of {owner} in {DISTURBED_PERIOD:.0f} s",
    )


def over_isolated(state: State, more: int) -> Refusal | None:
    """Whether it would be one isolated workload too many. more: what this decision isolates already."""
    isolated = more + sum(1 for held in state.quarantines.values() if held.holders)
    if isolated < _ISOLATED_ANYWAY:
        return None
    running = sum(1 for known in state.workloads.values() if known.running and known.gone is None)
    most = max(_ISOLATED_ANYWAY, running * state.safety.budget_isolated // 100)
    if isolated < most:
        return None
    return Refusal(Reason.BUDGET, f"more than {most} workloads isolated at once, of {running} that run")
