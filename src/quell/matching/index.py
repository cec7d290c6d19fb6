"""The compiled index: all enabled rules and policies, immutable, swapped as a whole. SEMANTICS sections 1 to 3 and 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Protocol

import msgspec
from msgspec import Struct

from quell.catalogue.table import is_broad
from quell.errors import DocumentError, Problem
from quell.matching.criteria import Equality, Test, compile_criterion
from quell.matching.groups import Groups
from quell.matching.memo import Memo, fields
from quell.matching.policies import Policies
from quell.matching.reading import Read, Reading, World, identity, is_deep, reads
from quell.matching.tree import Filed, build
from quell.model.action import Action, Kill, SendWebhook
from quell.model.answer import NOTHING, Answer, settled
from quell.model.decision import Ask, Evidence, Match, NearMiss
from quell.model.details import Details, Deviation
from quell.model.event import Category, Event
from quell.model.policy import Policy
from quell.model.rule import Group, Mode, Rule, Source, Webhook

_category = attrgetter("category")


class Documents(Protocol):
    """What is compiled (quell.documents.load.Documents)."""

    @property
    def rules(self) -> Sequence[Rule]: ...
    @property
    def groups(self) -> Sequence[Group]: ...
    @property
    def webhooks(self) -> Sequence[Webhook]: ...
    @property
    def policies(self) -> Sequence[Policy]: ...


class Matched(Struct, frozen=True):
    """Everything that an event asks for, in the order of rule ids."""

    matches: tuple[Match, ...]
    asks: tuple[Ask, ...]
    default_skipped: tuple[str, ...] = ()
    #: Of that one event, decoded at most once; None: it was not looked into, and the record is that of other events too.
    details: Callable[[], Details | None] | None = None


class CompiledRule:
    __slots__ = ("_evidence", "_match", "asks", "name", "rank", "ref", "rule", "tests")

    def __init__(self, rule: Rule, rank: int, tests: tuple[Test, ...]) -> None:
        self.rule = rule
        #: Its place in the order of ids, then names.
        self.rank = rank
        self.ref = f"rule/{rule.id or rule.name}"
        self.name = rule.name
        self.tests = tests
        self.asks = _asks(rule, self.ref)
        #: Each test, with its evidence if it can hold on one value only; the match, if that is so for all.
        self._evidence = tuple((test, _known(test)) for test in tests)
        known = tuple(evidence for _, evidence in self._evidence if evidence is not None)
        self._match = Match(ref=self.ref, name=self.name, evidence=known) if len(known) == len(tests) else None

    def match(self, reading: Reading) -> Match:
        """For an event that it matches: on what."""
        if self._match is not None:
            return self._match
        evidence = [
            known or Evidence(criterion=test.text, value=test.held(reading) or "") for test, known in self._evidence
        ]
        return Match(ref=self.ref, name=self.name, evidence=tuple(evidence))

    def near_miss(self, reading: Reading) -> NearMiss | None:
        """The first criterion that the event does not meet; None: it meets all."""
        for test in self.tests:
            if not test.holds(reading):
                return NearMiss(
                    ref=self.ref,
                    name=self.name,
                    criterion=test.text,
                    expected=test.expected,
                    got=test.got(reading),
                )
        return None


class View:
    """The rules of one category."""

    __slots__ = ("find", "rules")

    def __init__(self, category: Category, rules: Sequence[CompiledRule]) -> None:
        self.rules = tuple(rules)
        root = build([Filed(rule, rule.tests) for rule in rules], partial(is_deep, category=category))
        self.find: Callable[[Reading], list[CompiledRule]] = root.find


class Index:
    """compile makes it. What it remembers between events are only answers it would give again."""

    def __init__(self, documents: Documents, revision: int) -> None:
        self.revision = revision
        self.rules = tuple(documents.rules)
        self.groups = tuple(documents.groups)
        self.webhooks = {webhook.name: webhook for webhook in documents.webhooks}
        self.policies = tuple(documents.policies)
        problems: list[Problem] = []
        groups = _compiled_groups(self.groups, problems)
        #: The groups, for asking whose members workloads are.
        self.memberships = groups
        ordered = sorted(self.rules, key=lambda rule: (rule.id, rule.name))
        compiled = [_compiled_rule(rule, rank, groups, problems) for rank, rule in enumerate(ordered)]
        self._policies = _compiled_policies(self.policies, problems)
        if problems:
            raise DocumentError(problems)
        self._views = {
            category: View(category, of_category)
            for category in Category
            if (of_category := [r for r in compiled if r is not None and r.rule.category is category])
        }
        self._memo, self._repeats = _memo(self._views)

    def match(self, event: Event, world: World, now: float) -> Answer | Matched:
        """The answer if the record is settled by it, as most often."""
        if event.category not in self._repeats:
            return self._match(event, _reading(event, world, now)) or NOTHING
        memo = self._memo
        reading = _reading(event, world, now) if memo.needs_reading else None
        key = memo.key(event, reading)
        known = memo.get(key)
        if known is None:
            known = _common(event, self._match(event, reading or _reading(event, world, now)))
            memo.put(key, known)
        return known

    def match_all(self, events: Sequence[Event], world: World, now: float) -> list[Answer | Matched]:
        """As `match` of each, and quicker: most are found in the memo, all in one go."""
        memo = self._memo
        if memo.needs_reading or not self._repeats.issuperset(map(_category, events)):
            return [self.match(event, world, now) for event in events]
        found = memo.find(events)
        if None in found:
            return [known or self.match(event, world, now) for event, known in zip(events, found, strict=True)]
        return found  # type: ignore[return-value] # without None

    def _match(self, event: Event, reading: Reading) -> Matched | None:
        found = self._find(reading)
        matches = tuple([rule.match(reading) for rule in found])
        asks = found[0].asks if len(found) == 1 else tuple([ask for rule in found for ask in rule.asks])
        if event.category is Category.DEVIATION and (found or self._policies):
            return self._match_deviation(reading, matches, asks)
        return Matched(matches, asks, (), reading.details) if found else None

    def _match_deviation(self, reading: Reading, matches: tuple[Match, ...], asks: tuple[Ask, ...]) -> Matched | None:
        """With what its policy makes of it. All that follows from one that is not proved is marked."""
        skipped: tuple[str, ...] = ()
        deviation = reading.details()
        if isinstance(deviation, Deviation):
            policy = self._policies.of(deviation)
            asked = None if policy is None else policy.asked(reading, deviation)
            if asked is not None:
                matches, asks, skipped = (*matches, asked.match), (*asks, *asked.asks), asked.default_skipped
            if deviation.unproven:
                asks = tuple([msgspec.structs.replace(ask, unknown_scope=True) for ask in asks])
        return Matched(matches, asks, skipped, reading.details) if matches else None

    def near_misses(self, event: Event, world: World, now: float) -> tuple[NearMiss, ...]:
        """For each enabled rule of the event's categories that does not match: the first criterion it fails on."""
        reading = _reading(event, world, now)
        rules = [
            rule
            for category in reading.identity.categories
            if category in self._views
            for rule in self._views[category].rules
        ]
        misses = [rule.near_miss(reading) for rule in sorted(rules, key=_rank)]
        details = reading.details() if event.category is Category.DEVIATION else None
        if isinstance(details, Deviation) and (policy := self._policies.of(details)) is not None:
            misses.append(policy.near_miss(details) if policy.asked(reading, details) is None else None)
        return tuple([miss for miss in misses if miss is not None])

    def policy_of(self, deviation: Deviation) -> Policy | None:
        """The enabled policy that a deviation names, by its uid or name."""
        found = self._policies.of(deviation)
        return None if found is None else found.policy

    def groups_of(self, event: Event, world: World, now: float = 0.0) -> tuple[str, ...]:
        """Names of the groups that the event's subject is a member of."""
        return self.memberships.read(_reading(event, world, now))

    def _find(self, reading: Reading) -> list[CompiledRule]:
        views, found = self._views, []
        for category in reading.identity.categories:
            if category in views:
                found += views[category].find(reading)
        return sorted(set(found), key=_rank) if len(found) > 1 else found


def compile(documents: Documents, revision: int = 0) -> Index:  # noqa: A001 - the word for it, used as index.compile
    """The index of these documents. DocumentError: criteria or patterns that cannot be read, all of them."""
    return Index(documents, revision)


def _common(event: Event, matched: Matched | None) -> Answer | Matched:
    """Without what is of this event alone."""
    if matched is None:
        return NOTHING
    return settled(event.source, matched.matches, matched.asks) or Matched(matched.matches, matched.asks)


def _known(test: Test) -> Evidence | None:
    return None if test.only is None else Evidence(criterion=test.text, value=test.only)


def _memo(views: Mapping[Category, View]) -> tuple[Memo[Answer | Matched], frozenset[Category]]:
    """The memo, and the categories whose events it may answer: those that meet no rule that looks into details."""
    shallow: dict[Category, dict[str, Read]] = {}
    for category in (Category.EVENT, Category.SECURITY_EVENT):  # an event of either may meet the other's rules
        reads = fields(test for rule in (views[category].rules if category in views else ()) for test in rule.tests)
        if reads is None or any(is_deep(field, category) for field in reads):
            return Memo({}), frozenset()
        shallow[category] = reads
    return Memo({field: read for reads in shallow.values() for field, read in reads.items()}), frozenset(shallow)


def _rank(rule: CompiledRule) -> int:
    return rule.rank


def _reading(event: Event, world: World, now: float) -> Reading:
    return Reading(event, identity(event.category, event.name, event.catalogue_name, event.kind), world, now)


def _compiled_groups(groups: Sequence[Group], problems: list[Problem]) -> Groups:
    sound: list[Group] = []
    for group in groups:
        try:
            Groups([group])
            sound.append(group)
        except ValueError as error:
            problems.append(_problem(group.source, f"group {group.name}: {error}"))
    return Groups(sound)


def _compiled_policies(policies: Sequence[Policy], problems: list[Problem]) -> Policies:
    sound: list[Policy] = []
    for policy in policies:
        try:
            Policies([policy])
            sound.append(policy)
        except ValueError as error:
            problems.append(_problem(policy.source, f"policy {policy.name}: {error}"))
    return Policies(sound)


def _compiled_rule(rule: Rule, rank: int, groups: Groups, problems: list[Problem]) -> CompiledRule | None:
    """None: it is disabled, or a problem."""
    tests: list[Test] = []
    for place, criterion in enumerate(rule.criteria):
        try:
            tests.append(compile_criterion(criterion))
        except ValueError as error:
            problems.append(_problem(rule.source, f"rule {rule.name}: {error}", f"spec.criteria[{place}]"))
    if rule.kind is not None:
        tests.append(Equality("kind", reads("kind"), f"kind:{rule.kind}", [rule.kind], expected=rule.kind))
    if rule.group:
        expected = f"a member of {rule.group}"
        tests.append(Equality("group", groups.read, f"group:{rule.group}", [rule.group], expected=expected))
    return None if rule.disabled or problems else CompiledRule(rule, rank, tuple(tests))


def _asks(rule: Rule, ref: str) -> tuple[Ask, ...]:
    audit = ""
    if rule.mode is Mode.AUDIT:
        audit = f"{ref} is in audit mode"
    elif is_broad(rule):
        audit = f"{ref} would act on everything: it runs in audit until allow_broad: true says that this is meant"
    return tuple(
        Ask(
            action=action,
            by=ref,
            owner=ref,
            endpoints=_endpoints(rule, action),
            audit=audit,
            cooldown=rule.cooldown,
            limit=rule.limit,
            max_age=rule.max_age,
            approval=rule.approval,
            evidence=rule.evidence and isinstance(action, Kill),
        )
        for action in rule.actions
    )


def _endpoints(rule: Rule, action: Action) -> tuple[str, ...]:
    if not isinstance(action, SendWebhook):
        return ()
    return tuple(dict.fromkeys((*rule.webhooks, *action.endpoints)))


def _problem(source: Source, message: str, path: str = "") -> Problem:
    return Problem(file=source.file, line=source.line, path=path, message=message)
