"""Which workloads selectors take, for the guardian. SEMANTICS section 0 (2) and section 5.

A selector on something that the workload does not have (a podSelector, and it is in no pod) never takes it. One on
something that is there, of which the value is not known, can neither take it nor leave it: that is None.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from quell.catalogue.forms import is_glob
from quell.matching.selectors import Check, Truth, compile_selector, every
from quell.model.policy import Operator, Policy, PolicyType, Selector, SelectorKind
from quell.model.subject import Subject

T = TypeVar("T")
#: What a policy is filed under: the selector and key that it compares with values that begin with a letter.
_Key = tuple[SelectorKind, str]
_WILD = re.compile(r"[*?\[]")


def compile_selectors(selectors: Sequence[Selector]) -> Check:
    """ValueError: a pattern cannot be read."""
    checks = tuple((_IS_THERE[selector.kind], compile_selector(selector)) for selector in selectors)

    def check(subject: Subject) -> Truth:
        return every(holds(subject) if is_there(subject) else False for is_there, holds in checks)

    return check


def has_container(subject: Subject) -> bool:
    return subject.container is not None or subject.image is not None


def _is_service(subject: Subject) -> bool:
    """Pods have services too, but Kubernetes's: only what runs on the machine itself is a unit of it."""
    named = subject.service_cgroup is not None or subject.service is not None
    return named and not has_container(subject) and subject.pod is None


def _in_cluster(subject: Subject) -> bool:
    return subject.cluster is not None or subject.cluster_uid is not None or _in_namespace(subject)


def _in_namespace(subject: Subject) -> bool:
    return subject.namespace is not None or subject.namespace_labels is not None or subject.pod is not None


_IS_THERE: Mapping[SelectorKind, Callable[[Subject], bool]] = {
    SelectorKind.CLUSTER: _in_cluster,
    SelectorKind.MACHINE: lambda _: True,
    SelectorKind.NAMESPACE: _in_namespace,
    SelectorKind.POD: lambda subject: subject.pod is not None,
    SelectorKind.CONTAINER: has_container,
    SelectorKind.SERVICE: _is_service,
    SelectorKind.PROCESS: lambda subject: subject.process is not None,
    SelectorKind.TRACE: lambda _: False,
    SelectorKind.USER: lambda subject: subject.user is not None,
}

#: What kind of workload a type of policy is about.
_IS_ABOUT: Mapping[PolicyType, Callable[[Subject], bool]] = {
    PolicyType.CONTAINER: has_container,
    PolicyType.LINUX_SERVICE: _is_service,
    PolicyType.CLUSTER: has_container,
    PolicyType.TRACE: lambda _: False,
}

#: Keys that tell workloads apart, and how they are read.
_TELLING: Mapping[_Key, Callable[[Subject], str | None]] = {
    (SelectorKind.CONTAINER, "image"): lambda subject: subject.image,
    (SelectorKind.SERVICE, "cgroup"): lambda subject: subject.service_cgroup,
    (SelectorKind.SERVICE, "name"): lambda subject: subject.service,
    (SelectorKind.CLUSTER, "name"): lambda subject: subject.cluster,
}


class Scopes(Generic[T]):
    """Finds what was filed under the policies that take a workload, without asking all of them."""

    def __init__(self, filed: Iterable[tuple[Policy, T]]) -> None:
        """ValueError: a pattern of a selector cannot be read."""
        self._scopes: list[tuple[Callable[[Subject], bool], Check, T]] = []
        self._others: list[int] = []
        self._filed: dict[_Key, _Filed] = {}
        for policy, thing in filed:
            place = len(self._scopes)
            self._scopes.append((_IS_ABOUT[policy.type], compile_selectors(policy.scope), thing))
            key, values = _telling(policy.scope)
            if key is None:
                self._others.append(place)
            else:
                self._filed.setdefault(key, _Filed()).put(values, place)

    def taking(self, subject: Subject) -> list[tuple[T, Truth]]:
        """With True or None, in the order in which they were given."""
        found: list[tuple[T, Truth]] = []
        for place in sorted(self._candidates(subject)):
            is_about, check, thing = self._scopes[place]
            if is_about(subject) and (truth := check(subject)) is not False:
                found.append((thing, truth))
        return found

    def _candidates(self, subject: Subject) -> set[int]:
        found = set(self._others)
        for key, filed in self._filed.items():
            value = _TELLING[key](subject)
            found.update(filed.all if value is None else filed.of(value))
        return found


class _Filed:
    """Places by the values that they take, and by what the globs that they take begin with."""

    def __init__(self) -> None:
        self.all: list[int] = []
        self._by_value: dict[str, list[int]] = {}
        #: By the number of letters, then these.
        self._by_beginning: dict[int, dict[str, list[int]]] = {}

    def put(self, values: Sequence[str], place: int) -> None:
        self.all.append(place)
        for value in values:
            beginning = _beginning(value)
            of_length = self._by_beginning.setdefault(len(beginning), {}) if is_glob(value) else self._by_value
            of_length.setdefault(beginning if is_glob(value) else value, []).append(place)

    def of(self, value: str) -> list[int]:
        """Those that may take it."""
        found = list(self._by_value.get(value, ()))
        for length, of_length in self._by_beginning.items():
            found += of_length.get(value[:length], ())
        return found


def _beginning(pattern: str) -> str:
    """The letters of a glob before the first that is none."""
    return _WILD.split(pattern, 1)[0]


def _telling(scope: Sequence[Selector]) -> tuple[_Key | None, tuple[str, ...]]:
    for selector in scope:
        for requirement in selector.requirements:
            key = (selector.kind, requirement.key)
            if key in _TELLING and requirement.operator is Operator.IN and all(map(_beginning, requirement.values)):
                return key, requirement.values
    return None, ()
