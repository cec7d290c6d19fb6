"""The notifications: events, security events and risk reports that people look for in the journal. docs/notifications.md.

They are a view of it: nothing is stored a second time, so that what is listed, explained and exported is one thing.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from msgspec import Struct

from quell.catalogue.forms import KINDS, levels
from quell.catalogue.mappings import catalogue_name
from quell.catalogue.table import ACTIONS
from quell.catalogue.words import nearest
from quell.controller.past import as_decided
from quell.errors import FilterError, Problem
from quell.matching.criteria import Equality, compile_criterion
from quell.matching.groups import LEARNED, RESERVED
from quell.matching.index import Index
from quell.matching.patterns import Matches, glob
from quell.matching.reading import Reading, World, identity
from quell.model.action import ReleaseQuarantine, word
from quell.model.answer import Answer
from quell.model.decision import Decision, Status
from quell.model.event import Category, Event, Level
from quell.model.notification import Filter, Notification, NotificationList, message_of, notification
from quell.model.rule import Criterion
from quell.storage import outcomes, search, summary
from quell.storage.records import Stored
from quell.storage.search import Found, Gap, Needle, Query, Search, anchor, needle
from quell.storage.summary import Bounds, Trait

#: Sources whose events' facts and messages stand in their bytes as they are, so that bytes can be searched for them.
VERBATIM = frozenset(("falco", "native", "quell", "sensor"))
#: Digits of a container's id that name it.
_ID_DIGITS = 12
_LEAST_DIGITS = 6

_HEX = re.compile(r"[0-9a-f]+")
_WORDS = re.compile(r'"([^"]*)"|(\S+)')
#: What a part of a glob is between.
_STARS = re.compile(r"[*?]")

_ACTION_WORDS = (*ACTIONS, word(ReleaseQuarantine))


class Hit(NamedTuple):
    """An event that was found, as it was decided."""

    event: Event
    decision: Decision


class Scope(Struct, frozen=True, kw_only=True):
    """What groups are asked of: documents and state as they are now."""

    index: Index
    world: World


Test = Callable[[Reading], bool]


def find(
    connection: sqlite3.Connection,
    query: Query[Hit],
    *,
    limit: int,
    at: Gap | None = None,
    stop: Gap | None = None,
    oldest_first: bool = False,
    seconds: float = float("inf"),
) -> Found[Hit]:
    """One page of a search, of what was journaled before `stop` (None: now). seconds: how long it may take; it goes on from what it gives back.

    FilterError: `at` is none of this journal's, as after a restore.
    """
    if at is not None and oldest_first and at.seq > summary.end(connection):
        raise FilterError(
            [Problem(file="", path="cursor", message="the journal ends before this cursor: it is not the one it is of")]
        )
    return Search(connection, query, limit=limit, at=at, stop=stop, newer=oldest_first, seconds=seconds).run()


def end(connection: sqlite3.Connection) -> Gap:
    """Where the journal ends now."""
    return search.end(connection)


def told(connection: sqlite3.Connection, hits: Iterable[Hit]) -> list[Notification]:
    """As people are told, with what came of their actions by now."""
    return [
        notification(hit.event, hit.decision, outcomes.of(connection, hit.event.id) if hit.decision.actions else ())
        for hit in hits
    ]


def most(connection: sqlite3.Connection, query: Query[Hit]) -> int:
    """No more events than this can be found."""
    return summary.events_within(connection, query.bounds)


def compiled(wanted: Filter, scope: Scope, which: NotificationList = NotificationList.ALL) -> Query[Hit]:
    """FilterError: everything that is wrong with it."""
    return _Compiling(wanted, scope, which).query()


class _Compiling:
    """A filter on its way to a query."""

    def __init__(self, wanted: Filter, scope: Scope, which: NotificationList) -> None:
        self._wanted = wanted
        self._scope = scope
        self._which = which
        self._problems: list[Problem] = []
        self._needles: list[Needle | None] = []

    def query(self) -> Query[Hit]:
        wanted = self._wanted
        categories = self._categories()
        self._known("kind", wanted.kind, KINDS)
        self._check_groups()
        actions = self._known("action", wanted.action, _ACTION_WORDS)
        statuses = self._known("status", wanted.status, tuple(Status))
        criteria = {
            name: self._criterion(name, getattr(wanted, name))
            for name in ("level", "name", "kind", "namespace", "node", "image", "source")
            if getattr(wanted, name)
        }
        for name in ("namespace", "node", "image"):
            self._add_needle(getattr(wanted, name))
        tests: list[Test] = [test.holds for test in criteria.values() if test is not None]
        if wanted.group:
            tests.append(_of_groups(wanted.group, self._scope))
        if wanted.workload:
            tests.append(self._workload())
        words = _words(wanted.text)
        for one in words:
            self._needles.append(needle([one], folded=True))
        if self._problems:
            raise FilterError(self._problems)
        rules = _rule_words(wanted.rule)
        of_decision = _decision_test(rules, actions, statuses)
        return Query(
            bounds=Bounds(
                since=float("-inf") if wanted.since is None else wanted.since,
                until=float("inf") if wanted.until is None else wanted.until,
                levels=sum(summary.LEVELS[level] for level in self._levels()),
                categories=sum(summary.CATEGORIES[category] for category in categories),
                decided=wanted.decided or of_decision is not None,
                suppressed=wanted.include_suppressed,
            ),
            trait=_trait_test(frozenset(categories), self._levels(), criteria),
            rules=rules,
            needles=tuple([one for one in self._needles if one is not None]),
            verbatim=VERBATIM,
            decision=of_decision,
            test=_event_test(frozenset(categories), tests, [one.encode().lower() for one in words], self._scope.world),
        )

    def _categories(self) -> list[Category]:
        given = self._known("category", self._wanted.category, tuple(Category))
        return [category for category in self._which.categories if not given or category in given]

    def _levels(self) -> frozenset[Level]:
        given = self._wanted.level
        return frozenset([level for text in given for level in levels(text)] if given else Level)

    def _known(self, name: str, values: Sequence[str], words: Sequence[str]) -> frozenset[str]:
        """Values in the spelling of those there are."""
        spelled = {one.casefold(): str(one) for one in words}
        found = set()
        for value in values:
            known = spelled.get(value.casefold())
            if known is None:
                self._wrong(name, f"there is no {name} {value[:100]!r}", expected=", ".join(words), got=value)
            else:
                found.add(known)
        return frozenset(found)

    def _criterion(self, name: str, values: tuple[str, ...]) -> Equality | None:
        """As a rule's criterion of this type."""
        if name == "kind":
            values = tuple([value.casefold() for value in values])
        try:
            test = compile_criterion(Criterion(type=name, values=values))
        except ValueError as error:
            expected = ", ".join(Level) if name == "level" else ""
            self._wrong(name, str(error), expected=expected, got=", ".join(values))
            return None
        assert isinstance(test, Equality)  # noqa: S101 - all of these compare a field
        return test

    def _check_groups(self) -> None:
        """A learned group may be one of long ago."""
        there = (*RESERVED, *(group.name for group in self._scope.index.groups))
        for name in self._wanted.group:
            if name not in there and not name.startswith(LEARNED):
                self._wrong("group", f"there is no group {name[:100]!r}", got=name, words=there)

    def _workload(self) -> Test:
        """Its beginning of an id with at least 6 digits, a name or service as a whole or as a glob."""
        values = self._wanted.workload
        self._add_needle([value[:_ID_DIGITS] if _HEX.fullmatch(value) else value for value in values])
        prefixes = tuple([value for value in values if len(value) >= _LEAST_DIGITS and _HEX.fullmatch(value)])
        patterns: list[Matches] = []
        for value in values:
            try:
                patterns.append(glob(value).matches)
            except ValueError as error:
                self._wrong("workload", str(error), got=value)

        def test(reading: Reading) -> bool:
            subject = reading.subject
            container, pod = subject.container, subject.pod
            if container is not None and prefixes:
                identifier = container.id
                if identifier.startswith(prefixes):
                    return True
                # Some detectors say only the first twelve digits.
                if len(identifier) >= _ID_DIGITS and any(prefix.startswith(identifier) for prefix in prefixes):
                    return True
            facts = (
                None if container is None else container.name,
                None if pod is None else pod.name,
                None if pod is None else pod.uid,
                subject.service,
            )
            return any(matches(fact) for fact in facts if fact is not None for matches in patterns)

        return test

    def _add_needle(self, values: Sequence[str]) -> None:
        """Of values that are text or globs, of which the event has one."""
        if values and not any("[" in value for value in values):
            parts = [max(_STARS.split(value), key=lambda part: len(anchor(part))) for value in values]
            self._needles.append(needle(parts, added=True))

    def _wrong(self, name: str, message: str, *, expected: str = "", got: str = "", words: Sequence[str] = ()) -> None:
        near = nearest(got, words or expected.split(", ")) if got and (words or expected) else ""
        self._problems.append(
            Problem(file="", path=name, message=message, expected=expected, got=got[:200], nearest=near)
        )


def _words(texts: Iterable[str]) -> list[str]:
    return [quoted or plain for text in texts for quoted, plain in _WORDS.findall(text) if quoted or plain]


def _rule_words(values: Iterable[str]) -> frozenset[str]:
    """References and names of which a match must have one."""
    given = set(values)
    return frozenset(given | {f"rule/{value}" for value in given if value.isascii() and value.isdigit()})


def _trait_test(
    categories: frozenset[Category], wanted: frozenset[Level], criteria: Mapping[str, Equality | None]
) -> Callable[[Trait], bool]:
    named, sourced = criteria.get("name"), criteria.get("source")

    @cache
    def test(trait: Trait) -> bool:
        if trait.category not in categories or trait.level not in wanted:
            return False
        if sourced is not None and not _is_met(sourced, (trait.source,)):
            return False
        # The numbers of a report's failed items are names too.
        if named is None or trait.category is Category.COMPLIANCE:
            return True
        return any(
            _is_met(named, identity(trait.category, trait.name, known, None).keys) for known in _catalogue_names(trait)
        )

    return test


def _catalogue_names(trait: Trait) -> set[str | None]:
    """That of then, and those of now: mappings are extended."""
    mapped = [catalogue_name(trait.source, trait.name, container) for container in (True, False)]
    return {trait.catalogue_name, *(mapping.name for mapping in mapped if mapping is not None)}


def _is_met(test: Equality, values: Iterable[str]) -> bool:
    return any(value in test.exact or any(one.matches(value) for one in test.patterns) for value in values)


def _decision_test(
    rules: frozenset[str], actions: frozenset[str], statuses: frozenset[str]
) -> Callable[[Decision | Answer], bool] | None:
    if not rules and not actions and not statuses:
        return None

    def test(decision: Decision | Answer) -> bool:
        if rules and not any(match.ref in rules or match.name in rules for match in decision.matches):
            return False
        return not (actions or statuses) or any(
            (not actions or word(record.action) in actions) and (not statuses or record.status in statuses)
            for record in decision.actions
        )

    return test


def _of_groups(names: Sequence[str], scope: Scope) -> Test:
    """As a rule of one of these groups would see it."""
    wanted, read = frozenset(names), scope.index.memberships.read
    return lambda reading: not wanted.isdisjoint(read(reading))


def _event_test(
    categories: frozenset[Category], tests: Sequence[Test], words: Sequence[bytes], world: World
) -> Callable[[Stored], Hit | None]:
    def test(stored: Stored) -> Hit | None:
        event = as_decided(stored)
        if event.category not in categories:
            return None
        if tests:
            known = identity(event.category, event.name, event.catalogue_name, event.kind)
            reading = Reading(event, known, world, stored.decision.time)
            if not all(holds(reading) for holds in tests):
                return None
        return Hit(event, stored.decision) if not words or _says(event, words) else None

    return test


def _says(event: Event, words: Sequence[bytes]) -> bool:
    """Whether each word stands in the bytes as they came, or in the message, where no escape hides it."""
    raw = event.raw.lower()
    missing = [word for word in words if word not in raw]
    if not missing:
        return True
    message = message_of(event.details()).encode().lower()
    return all(word in message for word in missing)
