"""Trace policies against traces: which one hides it. SEMANTICS sections 5 and 6, suppression.

A policy covers a trace if it takes the trigger and everybody the flags are about, and allows the class of each flag.
What cannot be proved is not covered: a missing field hides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quell.catalogue.forms import is_glob
from quell.matching.patterns import glob
from quell.matching.selectors import Check, compile_selector, compile_trigger
from quell.model.policy import Policy, PolicyType, SelectorKind
from quell.model.rule import Mode
from quell.model.trace import Judgement, Trace


class CompiledSuppression:
    """One policy."""

    __slots__ = ("_allowed", "_exact", "_scope", "_triggers", "policy")

    def __init__(self, policy: Policy) -> None:
        """ValueError: a pattern cannot be read."""
        self.policy = policy
        self._triggers = [compile_trigger(each) for each in policy.scope if each.kind is SelectorKind.TRACE]
        self._scope: list[Check] = [
            compile_selector(each) for each in policy.scope if each.kind is not SelectorKind.TRACE
        ]
        self._exact = frozenset(policy.allowed_flags)
        self._allowed: list[Callable[[str], bool]] = [
            glob(path).matches for path in policy.allowed_flags if is_glob(path)
        ]

    def covers(self, trace: Trace) -> bool:
        if trace.uncounted:
            return False
        trigger = {"triggerClass": trace.trigger_class, "triggerAncestors": trace.trigger_ancestors or None}
        return (
            all(holds(trigger) for holds in self._triggers)
            and all(check(scope) for scope in trace.scopes for check in self._scope)
            and (bool(trace.scopes) or not self._scope)
            and all(self._allows(path) for path in trace.classes)
        )

    def _allows(self, path: str) -> bool:
        return path in self._exact or any(matches(path) for matches in self._allowed)


class Suppression:
    """The enabled trace policies."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        """ValueError: a pattern cannot be read."""
        compiled = [
            CompiledSuppression(policy)
            for policy in sorted(policies, key=lambda policy: policy.name)
            if policy.enabled and policy.type is PolicyType.TRACE
        ]
        self._enforced = [each for each in compiled if each.policy.mode is Mode.ENFORCE]
        self._audited = [each for each in compiled if each.policy.mode is Mode.AUDIT]

    def judge(self, trace: Trace) -> Judgement:
        """The first policy by name that hides it; where none does, the first in audit mode that would."""
        for each in self._enforced:
            if each.covers(trace):
                return Judgement(suppressed_by=each.policy.name)
        for each in self._audited:
            if each.covers(trace):
                return Judgement(would_suppress=each.policy.name)
        return Judgement()
