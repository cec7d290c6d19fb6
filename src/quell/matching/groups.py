"""Which groups an event's subject is a member of. SEMANTICS section 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

from quell.matching.patterns import regex, wildcard
from quell.matching.reading import Known, Reading
from quell.model.details import CveReport, SecurityDetails
from quell.model.event import Category
from quell.model.rule import Group, GroupCriterion
from quell.model.subject import Subject

#: Groups that are always there: every workload, the hosts, what is not managed, everything.
CONTAINERS, NODES, EXTERNAL, ALL = "containers", "nodes", "external", "all"

#: Facts of a workload, in the order of the tuple that groups are tested on and remembered by; labels follow.
_KEYS = ("container", "image", "node", "service", "namespace")
_SAME = {"domain": "namespace"}
_MEMO = 8192

Facts = tuple[str | None, ...]
Holds = Callable[[str], bool]


class Groups:
    """The groups that documents define, compiled; a workload's memberships are remembered by its facts."""

    def __init__(self, groups: Sequence[Group]) -> None:
        """ValueError: a criterion has an unknown operator or a pattern that cannot be read."""
        named = {key for group in groups for criterion in group.criteria if (key := _fact(criterion.key)) not in _KEYS}
        self._labels = tuple(sorted(key for key in named if not key.startswith("ns:")))
        self._no_labels = (None,) * len(self._labels)
        of_namespace = sorted(key for key in named if key.startswith("ns:"))
        self._namespace_labels = tuple(key.removeprefix("ns:") for key in of_namespace)
        places = {key: place for place, key in enumerate((*_KEYS, *self._labels, *of_namespace))}
        self._groups = tuple((group.name, _compiled(group, places)) for group in groups if _selects(group))
        self._memo: dict[Facts, tuple[str, ...]] = {}

    def read(self, reading: Reading) -> tuple[str, ...]:
        """The names of all groups that the event's subject is a member of."""
        subject = reading.subject
        if reading.identity.is_of_group:
            return (ALL,) if subject.group is None else (ALL, subject.group)
        container = subject.container
        if container is None:
            if subject.pod is None:
                return (ALL, NODES) if is_host(reading) else (ALL,)
            facts = self._facts(subject, None, None)
        else:
            facts = self._facts(subject, container.name, reading.world.workloads.get(container.id))
        names = self._memo.get(facts)
        if names is None:
            if len(self._memo) >= _MEMO:
                self._memo.clear()
            names = self._memo[facts] = self._names(facts)
        if container is not None and (given := reading.world.groups_of(container.id)):
            names = (*names, *given)
        if reading.identity.lists_groups:
            details = reading.details()
            listed = details.groups if isinstance(details, SecurityDetails) else ()
            names = tuple(group for group in names if group == ALL or group in listed)
        return names

    def _facts(self, subject: Subject, name: str | None, known: Known | None) -> Facts:
        """What the event says of its workload; what it does not say, from the inventory."""
        pod = subject.pod
        labels = None if pod is None else pod.labels
        namespace_labels = subject.namespace_labels
        if known is None:
            facts: Facts = (name, subject.image, subject.node, subject.service, subject.namespace)
        else:
            facts = (
                name or known.name,
                subject.image or known.image,
                subject.node or known.node,
                subject.service or known.service,
                subject.namespace or known.namespace,
            )
            labels = known.labels if labels is None else labels
            namespace_labels = known.namespace_labels if namespace_labels is None else namespace_labels
        if self._labels:
            facts += tuple(map(labels.get, self._labels)) if labels else self._no_labels
        if self._namespace_labels:
            facts += tuple(map((namespace_labels or {}).get, self._namespace_labels))
        return facts

    def _names(self, facts: Facts) -> tuple[str, ...]:
        service, namespace = facts[3], facts[4]
        names = [ALL, CONTAINERS]
        if service and namespace:
            names.append(f"nv.{service}.{namespace}")
            if service.endswith(f".{namespace}"):
                names.append(f"nv.{service}")
        names.extend(name for name, keys in self._groups if all(_meets(facts[place], tests) for place, tests in keys))
        return tuple(dict.fromkeys(names))


def is_host(reading: Reading) -> bool:
    """Whether an event without a workload is about a host: its incidents, scans and compliance (group nodes)."""
    event = reading.event
    name = reading.identity.name
    if name.startswith(("host.", "compliance.host")):
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


_machine = attrgetter("node", "machine_id")


def _on_machine(reading: Reading) -> bool:
    return any(_machine(reading.subject))


#: For one key: the positive criteria, of which one must hold if there are any, and the negative ones, which all must.
_Tests = tuple[tuple[Holds, ...], tuple[Holds, ...]]


def _fact(key: str) -> str:
    return _SAME.get(key, key)


def _selects(group: Group) -> bool:
    """An address selects no workload, and a group without criteria has no member."""
    return bool(group.criteria) and all(criterion.key != "address" for criterion in group.criteria)


def _compiled(group: Group, places: dict[str, int]) -> tuple[tuple[int, _Tests], ...]:
    """By key: domain and namespace compare the same fact, each as a key of its own."""
    keys: dict[str, tuple[list[Holds], list[Holds]]] = {}
    for criterion in group.criteria:
        positive, negative = keys.setdefault(criterion.key, ([], []))
        (negative if criterion.op.startswith("!") else positive).append(_holds(criterion))
    return tuple((places[_fact(key)], (tuple(some), tuple(every))) for key, (some, every) in keys.items())


def _meets(value: str | None, tests: _Tests) -> bool:
    if value is None:
        return False
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
