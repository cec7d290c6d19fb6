"""What a set of documents makes the guardian do: what agents are to look at, and where something is done to each process
that deviates. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quell.catalogue.names import NAMES
from quell.catalogue.table import is_broad
from quell.guardian.guard import event_name
from quell.matching.criteria import Test, compile_criterion
from quell.matching.reading import Reading, identity
from quell.model.action import AgentAction
from quell.model.details import Deviation
from quell.model.event import Category, Event, Level
from quell.model.policy import Policy, PolicyType, Ruleset
from quell.model.rule import Mode, Rule
from quell.model.subject import Subject
from quell.response.state import State

_GUARDIAN = (PolicyType.CONTAINER, PolicyType.LINUX_SERVICE, PolicyType.CLUSTER)
#: Names of all events of deviations.
EVENTS = tuple(
    dict.fromkeys(
        event_name(Deviation(policy="", policy_type=type_.value, what=what))
        for type_ in _GUARDIAN
        for what in ("process", "ingress", "egress", "container")
    )
)


def is_guardian(policy: Policy) -> bool:
    """Whether it compares anything at all."""
    return policy.type in _GUARDIAN


def compares_processes(policy: Policy, rulesets: Mapping[str, Ruleset]) -> bool:
    """By its own list or by its rulesets."""
    if not is_guardian(policy):
        return False
    expected = policy.expected
    rules = [rule for name in policy.rulesets if name in rulesets for rule in rulesets[name].rules]
    return (
        expected.processes is not None
        or expected.no_processes
        or any(rule.target.startswith("process::") for rule in rules)
    )


def compares_sockets(policy: Policy) -> bool:
    """Connections, or the ports that its processes listen on."""
    if not is_guardian(policy):
        return False
    expected = policy.expected
    return (
        expected.processes is not None
        or expected.no_processes
        or expected.ingress is not None
        or expected.egress is not None
        or bool(expected.no_connections or expected.no_private_connections or expected.no_public_connections)
    )


def acts(policy: Policy) -> bool:
    """Whether an agent does something to whatever deviates from it."""
    entries = (*policy.default, *policy.actions)
    return (
        policy.enabled
        and policy.mode is Mode.ENFORCE
        and any(entry.enabled and isinstance(entry.action, AgentAction) for entry in entries)
    )


def acted_on(rules: Iterable[Rule]) -> frozenset[str]:
    """Names of the events of deviations on which a response rule has an agent do something."""
    acting = [
        rule
        for rule in rules
        if not rule.disabled
        and rule.mode is Mode.ENFORCE
        and not is_broad(rule)
        and rule.category in (Category.DEVIATION, Category.SECURITY_EVENT)
        and any(isinstance(action, AgentAction) for action in rule.actions)
    ]
    return frozenset(name for name in EVENTS if any(_may_meet(rule, name) for rule in acting))


def _may_meet(rule: Rule, name: str) -> bool:
    """By its name; what else the rule asks for, only the event itself can say."""
    reading = _reading(name)
    if rule.category not in reading.identity.categories:
        return False
    if rule.kind is not None and rule.kind.value not in reading.identity.kind:
        return False
    tests: list[Test] = [compile_criterion(each) for each in rule.criteria if each.type in ("name", "level", "kind")]
    return all(test.holds(reading) for test in tests)


def _reading(name: str) -> Reading:
    entry = NAMES.get(name)
    event = Event(
        id="",
        time=None,
        received=0.0,
        source="guardian",
        category=Category.DEVIATION,
        name=name,
        catalogue_name=None if entry is None else entry.name,
        level=Level.WARNING if entry is None else entry.level,
        subject=Subject(),
        raw=b"",
    )
    return Reading(event, identity(event.category, name, event.catalogue_name, None), State(), 0.0)
