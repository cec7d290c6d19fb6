"""A policy made of a trace, which hides it and those like it. SEMANTICS section 5, suppression; docs/traces.md. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from quell.controller.creation import free_name
from quell.matching.suppression import CompiledSuppression
from quell.model.policy import Operator, Policy, PolicyType, Requirement, Selector, SelectorKind
from quell.model.rule import Mode
from quell.model.subject import Subject
from quell.model.trace import Trace

#: What narrows a policy to whom a trace is about, where all that its flags are about say it.
_FACTS: Sequence[tuple[SelectorKind, str, Callable[[Subject], str | None]]] = (
    (SelectorKind.CLUSTER, "name", lambda subject: subject.cluster),
    (SelectorKind.MACHINE, "hostname", lambda subject: subject.node),
    (SelectorKind.CONTAINER, "image", lambda subject: subject.image),
    (SelectorKind.USER, "user", lambda subject: subject.user),
)


def policy_for(trace: Trace, name: str, taken: Collection[str]) -> Policy:
    """It enforces: its scope is the trigger and everybody whom flags are about, and it allows the classes of all flags.

    name: ""; then one is made that is not among `taken`. ValueError: no policy can hide it.
    """
    if trace.uncounted:
        raise ValueError("it has more flags than are listed, so that no policy can cover it")
    trigger = [("triggerClass", trace.trigger_class), ("triggerAncestors", trace.trigger_ancestors)]
    scope = [
        Selector(
            kind=SelectorKind.TRACE,
            requirements=tuple(
                Requirement(key=key, operator=Operator.IN, values=(_literal(value),)) for key, value in trigger if value
            ),
        )
    ]
    for kind, key, read in _FACTS:
        values = list(dict.fromkeys(read(each) for each in trace.scopes))
        known = [value for value in values if value]
        if known and len(known) == len(values):
            requirement = Requirement(key=key, operator=Operator.IN, values=tuple(map(_literal, known)))
            scope.append(Selector(kind=kind, requirements=(requirement,)))
    policy = Policy(
        name=name or free_name(f"expected {trace.trigger_name}", taken),
        type=PolicyType.TRACE,
        mode=Mode.ENFORCE,
        scope=tuple(sorted(scope, key=lambda selector: list(SelectorKind).index(selector.kind))),
        allowed_flags=tuple(map(_literal, trace.classes)),
    )
    if not CompiledSuppression(policy).covers(trace):
        raise ValueError("what it is about cannot be said in a policy")
    return policy


def _literal(value: str) -> str:
    """As a pattern that only this value fits: what an attacker chose must not become a glob that hides more."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in value)
