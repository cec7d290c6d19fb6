"""Policies against deviations: which entries a deviation asks for, and which defaults they replace. SEMANTICS section 5."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from quell.matching.reading import Reading
from quell.matching.selectors import Check, Truth, compile_selector, every
from quell.model.action import (
    KillProcess,
    KillProcessGroup,
    KillProcessTree,
    MakeOpsFlag,
    MakeRedFlag,
    ReniceProcess,
    SendWebhook,
    word,
)
from quell.model.decision import Ask, Evidence, Match, NearMiss
from quell.model.details import Deviation
from quell.model.policy import Policy, PolicyType, ResponseEntry
from quell.model.rule import Mode

#: A process instance is acted on once, and a checksum flagged once an hour: seconds.
ONCE = 3600.0
_ONCE = (KillProcess, KillProcessGroup, KillProcessTree, ReniceProcess, MakeRedFlag, MakeOpsFlag)


class PolicyStatus(StrEnum):
    DISABLED = "Disabled"
    AUDITING = "Auditing"
    ENFORCING = "Enforcing"
    #: It names a ruleset that is not there.
    PENDING = "Pending"


def status(policy: Policy, rulesets: Container[str] = ()) -> PolicyStatus:
    """rulesets: the names of those that are there."""
    if not policy.enabled:
        return PolicyStatus.DISABLED
    if any(name not in rulesets for name in policy.rulesets):
        return PolicyStatus.PENDING
    return PolicyStatus.AUDITING if policy.mode is Mode.AUDIT else PolicyStatus.ENFORCING


class Asked(NamedTuple):
    """What one policy makes of one deviation."""

    match: Match
    asks: tuple[Ask, ...]
    #: "policy/NAME/makeRedFlag": defaults that a specific entry of the same type replaced.
    default_skipped: tuple[str, ...]


class _Entry(NamedTuple):
    ask: Ask
    checks: tuple[Check, ...]


class CompiledPolicy:
    __slots__ = ("_actions", "_default", "_scope", "policy", "ref")

    def __init__(self, policy: Policy) -> None:
        """ValueError: a pattern of a selector cannot be read."""
        self.policy = policy
        self.ref = f"policy/{policy.name}"
        self._scope: Check = _all([compile_selector(selector) for selector in policy.scope])
        self._default = self._entries(policy.default, "default")
        self._actions = self._entries(policy.actions, "actions")

    def asked(self, reading: Reading, deviation: Deviation) -> Asked | None:
        """None: the deviation is outside the policy's scope. A scope that cannot be proved is marked on every ask."""
        truth = self._scope(reading.subject)
        if truth is False:
            return None
        subject = reading.subject
        asks = [entry.ask for entry in self._actions if all(check(subject) for check in entry.checks)]
        specific = {type(ask.action) for ask in asks}
        asks += [entry.ask for entry in self._default if type(entry.ask.action) not in specific]
        skipped = [entry.ask.action for entry in self._default if type(entry.ask.action) in specific]
        if truth is None:
            asks = [msgspec.structs.replace(ask, unknown_scope=True) for ask in asks]
        evidence = Evidence(criterion=f"policy:{self.policy.name}", value=deviation.policy_uid or deviation.policy)
        return Asked(
            Match(ref=self.ref, name=self.policy.name, evidence=(evidence,)),
            tuple(asks),
            tuple(dict.fromkeys(f"{self.ref}/{word(action)}" for action in skipped)),
        )

    def near_miss(self, deviation: Deviation) -> NearMiss:
        """Why asked gave nothing."""
        return NearMiss(
            ref=self.ref,
            name=self.policy.name,
            criterion="scope",
            expected="a subject that the policy's selectors take",
            got=deviation.message or deviation.policy,
        )

    def _entries(self, entries: Sequence[ResponseEntry], part: str) -> tuple[_Entry, ...]:
        return tuple(
            _Entry(self._ask(entry, part), tuple(compile_selector(selector) for selector in entry.selectors))
            for entry in entries
            if entry.enabled
        )

    def _ask(self, entry: ResponseEntry, part: str) -> Ask:
        action = entry.action
        return Ask(
            action=action,
            by=f"{self.ref}/{part}",
            owner=self.ref,
            endpoints=action.endpoints if isinstance(action, SendWebhook) else (),
            audit=f"policy {self.policy.name} is in audit mode" if self.policy.mode is Mode.AUDIT else "",
            cooldown=ONCE if isinstance(action, _ONCE) else None,
            evidence=entry.evidence,
        )


class Policies:
    """The enabled policies, found by what a deviation calls them."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        compiled = [CompiledPolicy(p) for p in policies if p.enabled and p.type is not PolicyType.TRACE]
        self._by_name = {each.policy.name: each for each in compiled}
        self._by_uid = {each.policy.uid: each for each in compiled if each.policy.uid}

    def __bool__(self) -> bool:
        return bool(self._by_name)

    def of(self, deviation: Deviation) -> CompiledPolicy | None:
        """By uid if it gives one that is known, else by name; `policy` may be either."""
        return (
            self._by_uid.get(deviation.policy_uid or "")
            or self._by_name.get(deviation.policy)
            or self._by_uid.get(deviation.policy)
        )


def _all(checks: Sequence[Check]) -> Callable[..., Truth]:
    return lambda subject: every(check(subject) for check in checks)
