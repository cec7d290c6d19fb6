"""Which groups a workload is a member of. SEMANTICS section 2.

A group is a bit. For each fact, the value of a workload gives the bits of the groups that it does not keep out; a
workload is in the groups whose bits are left by all of its facts. Equality is one look-up for all groups; patterns are
asked once for each value and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter

from quell.matching.patterns import regex, wildcard
from quell.matching.reading import Reading
from quell.model.details import CveReport, SecurityDetails
from quell.model.event import Category
from quell.model.rule import Group, GroupCriterion

#: Groups that are always there: every workload, the hosts, what is not managed, everything.
CONTAINERS, NODES, EXTERNAL, ALL = "containers", "nodes", "external", "all"
RESERVED = (CONTAINERS, NODES, EXTERNAL, ALL)
#: What the names of learned groups begin with.
LEARNED = "nv."

#: Facts of a workload; other keys are labels.
_KEYS = ("container", "image", "node", "service", "namespace")
_SAME = {"domain": "namespace"}
_NAMESPACE_LABEL = "ns:"
#: Answers that each memo keeps.
_MEMO = 8192

Labels = Mapping[str, str] | None
Facts = tuple[str | None, str | None, str | None, str | None, str | None]
Holds = Callable[[str], bool]


class Groups:
    """The groups that documents define, compiled."""

    def __init__(self, groups: Sequence[Group]) -> None:
        """ValueError: a criterion has an unknown operator or a pattern that cannot be read."""
        selecting = [group for group in groups if _selects(group)]
        self._named = tuple(group.name for group in selecting)
        self._every = (1 << len(selecting)) - 1
        tests: dict[str, list[tuple[int, tuple[GroupCriterion, ...]]]] = {}
        for place, group in enumerate(selecting):
            for key, criteria in _by_key(group).items():
                tests.setdefault(_SAME.get(key, key), []).append((1 << place, criteria))
        facts = {key: _Fact(tests.pop(key, ()), self._every) for key in _KEYS}
        self._facts = tuple((place, fact) for place, fact in enumerate(facts.values()) if fact.tested)
        of_namespace = {key: tests.pop(key) for key in list(tests) if key.startswith(_NAMESPACE_LABEL)}
        self._labels = _Labels(tests, self._every)
        self._namespace_labels = _Labels(
            {key.removeprefix(_NAMESPACE_LABEL): some for key, some in of_namespace.items()}, self._every
        )
        self._memo: dict[tuple[int, str | None, str | None], tuple[str, ...]] = {}

    def read(self, reading: Reading) -> tuple[str, ...]:
        """The names of all groups that the event's subject is a member of."""
        subject = reading.subject
        if reading.identity.is_of_group:
            return (ALL,) if subject.group is None else (ALL, subject.group)
        container, pod = subject.container, subject.pod
        if container is None and pod is None and not _is_of_workload(reading):
            return (ALL, NODES) if is_host(reading) else (ALL,)
        labels = pod.labels if pod is not None else container.labels if container is not None else None
        facts = (
            None if container is None else container.name,
            subject.image,
            subject.node,
            subject.service,
            subject.namespace,
        )
        names = self.of(facts, labels, subject.namespace_labels)
        if container is not None and (given := reading.world.groups_of(container.id)):
            names = (*names, *given)
        if reading.identity.lists_groups:
            details = reading.details()
            listed = details.groups if isinstance(details, SecurityDetails) else ()
            names = tuple(group for group in names if group == ALL or group in listed)
        return names

    def of(self, facts: Facts, labels: Labels, namespace_labels: Labels) -> tuple[str, ...]:
        """The groups of a workload: reserved, learned and defined. facts: name, image, node, service, namespace."""
        left = self._labels.left(labels) & self._namespace_labels.left(namespace_labels)
        for place, fact in self._facts:
            left &= fact.left(facts[place])
        key = (left, facts[3], facts[4])
        names = self._memo.get(key)
        if names is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            names = self._memo[key] = self._names(*key)
        return names

    def _names(self, left: int, service: str | None, namespace: str | None) -> tuple[str, ...]:
        names = [ALL, CONTAINERS]
        if service and (learned := learned_name(service, namespace)):
            names.append(learned)
            if namespace and service.endswith(f".{namespace}"):
                names.append(f"{learned}.{namespace}")
        while left:
            lowest = left & -left
            names.append(self._named[lowest.bit_length() - 1])
            left ^= lowest
        return tuple(dict.fromkeys(names))


def learned_name(service: str, namespace: str | None) -> str:
    """The learned group of a service: nv.<service>.<namespace>, where there is a namespace and it is not said twice."""
    return (
        f"{LEARNED}{service}"
        if not namespace or service.endswith(f".{namespace}")
        else f"{LEARNED}{service}.{namespace}"
    )


class _Fact:
    """What one fact says of all groups. every: the bits of all."""

    __slots__ = ("_equal", "_every", "_memo", "_other", "_simple", "tested")

    def __init__(self, tests: Iterable[tuple[int, tuple[GroupCriterion, ...]]], every: int) -> None:
        """tests: a group's bit, and criteria of one key of it. ValueError."""
        tests = list(tests)
        bits = [bit for bit, _ in tests]
        self._every = every
        #: Groups that look at it at all; those that only ask whether it is one of some values.
        self.tested = self._simple = 0
        #: By value: those of them that are content with it.
        self._equal: dict[str, int] = {}
        self._other: list[tuple[int, _Tests]] = []
        self._memo: dict[str, int] = {}
        for bit, criteria in tests:
            self.tested |= bit
            if bits.count(bit) == 1 and all(map(_is_plain, criteria)):
                self._simple |= bit
                for criterion in criteria:
                    self._equal[criterion.value] = self._equal.get(criterion.value, 0) | bit
            else:
                self._other.append((bit, _tests(criteria)))

    def left(self, value: str | None) -> int:
        """The groups that a workload with this value (None: without one) may still be in."""
        if value is None:
            return self._every & ~self.tested
        left = self._memo.get(value)
        if left is None:
            left = self._every & ~self._simple | self._equal.get(value, 0)
            for bit, tests in self._other:
                if not _meets(value, tests):
                    left &= ~bit
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            self._memo[value] = left
        return left


class _Labels:
    """What all labels say of all groups; a group that looks at a label which is not there is left out."""

    __slots__ = ("_every", "_facts", "_known", "_without")

    def __init__(self, tests: Mapping[str, Iterable[tuple[int, tuple[GroupCriterion, ...]]]], every: int) -> None:
        self._every = every
        self._facts = {key: _Fact(some, every) for key, some in tests.items()}
        self._without = every
        for fact in self._facts.values():
            self._without &= ~fact.tested
        #: By the labels that are there and looked at: groups that look at no other.
        self._known: dict[tuple[str, ...], int] = {(): self._without}

    def left(self, labels: Labels) -> int:
        if not labels or not self._facts:
            return self._without
        facts = self._facts
        there = tuple([key for key in labels if key in facts])
        left = self._known.get(there)
        if left is None:
            left = self._remembered(there)
        for key in there:
            left &= facts[key].left(labels[key])
        return left

    def _remembered(self, there: tuple[str, ...]) -> int:
        absent = 0
        for key, fact in self._facts.items():
            if key not in there:
                absent |= fact.tested
        left = self._every & ~absent
        if len(self._known) >= _MEMO:
            self._known.clear()
        self._known[there] = left
        return left


_HOSTS = ("host.", "compliance.host")


def is_host(reading: Reading) -> bool:
    """Whether an event without a workload is about a host: its incidents, scans and compliance (group nodes)."""
    event = reading.event
    name = reading.identity.name
    if name.startswith(_HOSTS):
        return True
    match event.category:
        case Category.SECURITY_EVENT | Category.DEVIATION:
            return _on_machine(reading)
        case Category.COMPLIANCE:
            return _on_machine(reading) and event.subject.image is None
        case Category.CVE_REPORT:
            details = reading.details()
            return isinstance(details, CveReport) and details.report == "host"
        case _:
            return False


def _is_of_workload(reading: Reading) -> bool:
    """Whether a report is about a workload by its name alone, such as a Deployment, whose containers are members."""
    event, subject = reading.event, reading.subject
    if event.category not in (Category.CVE_REPORT, Category.COMPLIANCE) or subject.service is None:
        return False
    return subject.namespace is not None and not reading.identity.name.startswith(_HOSTS)


_machine = attrgetter("node", "machine_id")


def _on_machine(reading: Reading) -> bool:
    return any(_machine(reading.subject))


#: For one key: the positive criteria, of which one must hold if there are any, and the negative ones, which all must.
_Tests = tuple[tuple[Holds, ...], tuple[Holds, ...]]


def _selects(group: Group) -> bool:
    """An address selects no workload, and a group without criteria has no member."""
    return bool(group.criteria) and all(criterion.key != "address" for criterion in group.criteria)


def _by_key(group: Group) -> dict[str, tuple[GroupCriterion, ...]]:
    """By key: domain and namespace compare the same fact, each as a key of its own."""
    keys: dict[str, tuple[GroupCriterion, ...]] = {}
    for criterion in group.criteria:
        keys[criterion.key] = (*keys.get(criterion.key, ()), criterion)
    return keys


def _is_plain(criterion: GroupCriterion) -> bool:
    value = criterion.value
    return criterion.op == "=" and value != "any" and "*" not in value and "?" not in value


def _tests(criteria: Iterable[GroupCriterion]) -> _Tests:
    some: list[Holds] = []
    every: list[Holds] = []
    for criterion in criteria:
        (every if criterion.op.startswith("!") else some).append(_holds(criterion))
    return tuple(some), tuple(every)


def _meets(value: str, tests: _Tests) -> bool:
    some, every = tests
    return (not some or any(holds(value) for holds in some)) and all(holds(value) for holds in every)


def _holds(criterion: GroupCriterion) -> Holds:
    wanted = criterion.value
    match criterion.op:
        case "=":
            return (lambda _: True) if wanted == "any" else _equals(wanted)
        case "!=":
            equals = _equals(wanted)
            return lambda value: wanted != "any" and not equals(value)
        case "contains":
            return lambda value: wanted in value
        case "prefix":
            return lambda value: value.startswith(wanted)
        case "regex":
            return regex(wanted).matches
        case "!regex":
            matches = regex(wanted).matches
            return lambda value: not matches(value)
        case operator:
            raise ValueError(f"expected =, !=, contains, prefix, regex or !regex, got {operator!r}")


def _equals(wanted: str) -> Holds:
    return wildcard(wanted).matches if "*" in wanted or "?" in wanted else wanted.__eq__
