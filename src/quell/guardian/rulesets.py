"""Rulesets compiled: whether a policy's rules allow a value. SEMANTICS section 5, rulesets.

For a target that the rules speak of, what no rule matches is denied. A rule with selectors beats one without; of those,
an explicit value beats a glob; of those, deny beats allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from quell.catalogue.forms import is_glob
from quell.guardian.room import LONGEST, Room
from quell.guardian.scope import compile_selectors
from quell.guardian.values import literal
from quell.matching.patterns import Matches, glob
from quell.matching.selectors import NAMESPACE_LABEL, Check
from quell.model.policy import Operator, Requirement, RulesetRule, Selector, SelectorKind
from quell.model.subject import Subject

#: What stands for the pattern that denied where none did.
DEFAULT_DENY = "__DEFAULT_DENY__"
CONTAINER = "container::"
PROCESS = "process::"

Read = Callable[[Subject], str | None]

TARGETS: Mapping[str, Read] = {
    "container::image": lambda subject: subject.image,
    "container::imageID": lambda subject: subject.container.image_id if subject.container else None,
    "container::containerName": lambda subject: subject.container.name if subject.container else None,
    "container::containerID": lambda subject: (subject.container.id or None) if subject.container else None,
    "process::exe": lambda subject: subject.process.exe if subject.process else None,
    "process::name": lambda subject: subject.process.name if subject.process else None,
    "process::euser": lambda subject: subject.process.user if subject.process else None,
}


class Denied(NamedTuple):
    """A value that is not allowed."""

    target: str
    #: None: it is not known.
    value: str | None
    #: Those that denied it, or DEFAULT_DENY.
    patterns: tuple[str, ...]
    #: The rule that would allow it; None: the value is not known, or a deny of a glob stands against any rule.
    addition: RulesetRule | None
    #: Denies of this very value that would win over the addition.
    against: tuple[RulesetRule, ...]
    #: Whether it could be allowed, were everything known.
    is_proved: bool


class _Rule:
    __slots__ = ("check", "rule")

    def __init__(self, rule: RulesetRule) -> None:
        self.rule = rule
        self.check: Check = compile_selectors(rule.selectors)


class _Matching(NamedTuple):
    """A rule one of whose values is, or fits, the subject's. The least wins."""

    is_global: bool
    is_glob: bool
    allows: bool
    pattern: str
    compiled: _Rule


class Rules:
    """All rules of a policy's rulesets."""

    def __init__(self, rules: Iterable[RulesetRule], room: Room) -> None:
        """ValueError: a pattern cannot be read."""
        self._targets: dict[str, _Target] = {}
        for rule in rules:
            if rule.target not in self._targets:
                self._targets[rule.target] = _Target(rule.target, room)
            self._targets[rule.target].add(rule)

    def speak_of(self, kind: str) -> bool:
        """kind: CONTAINER or PROCESS."""
        return any(target.startswith(kind) for target in self._targets)

    def denied(self, kind: str, subject: Subject) -> list[Denied]:
        """By target, in the order in which the rules speak of them; none: it is allowed."""
        judged = [target.denied(subject) for name, target in self._targets.items() if name.startswith(kind)]
        return [each for each in judged if each is not None]


class _Target:
    def __init__(self, name: str, room: Room) -> None:
        self._name = name
        self._read = TARGETS[name]
        self._all: list[_Rule] = []
        self._explicit: dict[str, list[_Rule]] = {}
        self._globs: list[tuple[str, Matches, _Rule]] = []
        self._memo: dict[str, tuple[_Matching, ...]] = {}
        self._room = room
        room.share(self._memo.clear)

    def add(self, rule: RulesetRule) -> None:
        compiled = _Rule(rule)
        self._all.append(compiled)
        for value in dict.fromkeys(rule.values):
            if is_glob(value):
                self._globs.append((value, glob(value).matches, compiled))
            else:
                self._explicit.setdefault(value, []).append(compiled)

    def denied(self, subject: Subject) -> Denied | None:
        value = self._read(subject)
        if value is None:
            could = any(each.rule.allow and each.check(subject) is not False for each in self._all)
            return Denied(self._name, None, (DEFAULT_DENY,), None, (), is_proved=not could)
        matching = self._matching(value)
        ranked = [each for each in matching if each.compiled.check(subject) is True]
        best = min((each[:3] for each in ranked), default=None)
        if best is not None and best[2]:
            return None
        patterns = tuple(dict.fromkeys(each.pattern for each in ranked if each[:3] == best)) or (DEFAULT_DENY,)
        addition, against = self._addition(value, subject, ranked)
        possible = [
            each[:3]
            for each in matching
            if (truth := each.compiled.check(subject)) is True or (truth is None and each.allows)
        ]
        could = min(possible, default=(True, True, False))[2]
        return Denied(self._name, value, patterns, addition, against, is_proved=not could)

    def _matching(self, value: str) -> tuple[_Matching, ...]:
        known = self._memo.get(value)
        if known is not None:
            return known
        found = [(value, rule, False) for rule in self._explicit.get(value, ())]
        found += [(pattern, rule, True) for pattern, matches, rule in self._globs if matches(value)]
        matching = tuple(
            _Matching(not each.rule.selectors, is_pattern, each.rule.allow, pattern, each)
            for pattern, each, is_pattern in found
        )
        if len(value) <= LONGEST:
            self._room.take()
            self._memo[value] = matching
        return matching

    def _addition(
        self, value: str, subject: Subject, ranked: Sequence[_Matching]
    ) -> tuple[RulesetRule | None, tuple[RulesetRule, ...]]:
        """The narrowest that helps, and the denies that must go for it."""
        written = literal(value)
        namespace = _namespace(subject)
        scopes = [namespace] if namespace else [(), _machine(subject)]
        for selectors in scopes:
            rank = (not selectors, is_glob(written), True)
            winning = [each for each in ranked if not each.allows and each[:3] < rank]
            if not any(each.is_glob for each in winning):
                rules = [each.compiled.rule for each in winning]
                against = tuple(
                    RulesetRule(target=self._name, allow=False, values=(value,), selectors=rule.selectors)
                    for rule in rules
                )
                addition = RulesetRule(target=self._name, allow=True, values=(written,), selectors=selectors)
                return addition, tuple(dict.fromkeys(against))
        return None, ()


def _namespace(subject: Subject) -> tuple[Selector, ...]:
    name = subject.namespace or (subject.namespace_labels or {}).get(NAMESPACE_LABEL)
    return () if name is None else (_selector(SelectorKind.NAMESPACE, NAMESPACE_LABEL, name),)


def _machine(subject: Subject) -> tuple[Selector, ...]:
    return () if subject.node is None else (_selector(SelectorKind.MACHINE, "hostname", subject.node),)


def _selector(kind: SelectorKind, key: str, value: str) -> Selector:
    requirement = Requirement(key=key, operator=Operator.IN, values=(literal(value),))
    return Selector(kind=kind, requirements=(requirement,))
