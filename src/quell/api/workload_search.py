"""Which workloads are wanted: asked for over REST and in the console."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from quell.api.problem import Refusal
from quell.api.services import Services
from quell.matching.patterns import Matches, glob
from quell.response.facts import Workload

_Test = Callable[[Workload], bool]


def members_of(services: Services, group: str) -> list[str]:
    """Full ids of its workloads; of the group nodes, names of hosts. Refusal 404."""
    found = services.controller.inventory.members(group)
    if found is None:
        raise Refusal(404, f"no group {group[:200]}")
    return found


def workloads(
    services: Services,
    *,
    text: str | None = None,
    node: str | None = None,
    namespace: str | None = None,
    image: str | None = None,
    label: Sequence[str] = (),
    group: str | None = None,
    running: bool | None = None,
) -> list[Workload]:
    """In no order. text: a part of a name or an id; node, namespace, image: globs; label: "key=glob" or "key".

    Refusal 400: a glob that is none; 404: no such group.
    """
    tests = [_like(name, pattern) for name, pattern in (("node", node), ("namespace", namespace), ("image", image))]
    tests += [_labelled(wanted) for wanted in label]
    if text:
        tests.append(_named(text.casefold()))
    if running is not None:
        tests.append(lambda known: is_running(known) is running)
    members = None if group is None else frozenset(members_of(services, group))
    return [
        known
        for known in services.controller.inventory.workloads.values()
        if (members is None or known.id in members) and all(test(known) for test in tests)
    ]


def is_running(known: Workload) -> bool:
    return known.running and known.gone is None


def _named(words: str) -> _Test:
    """The parts are those that people call a container by."""
    return lambda known: any(
        words in part.casefold() for part in (known.name, known.pod_name, known.service, known.id) if part
    )


def _like(name: str, pattern: str | None) -> _Test:
    if pattern is None:
        return lambda _: True
    matches = _glob(pattern, name)

    def test(known: Workload) -> bool:
        value: str | None = getattr(known, name)
        return value is not None and matches(value)

    return test


def _labelled(wanted: str) -> _Test:
    key, separator, pattern = wanted.partition("=")
    matches = _glob(pattern, "label") if separator else lambda _: True

    def test(known: Workload) -> bool:
        value = (known.labels or {}).get(key)
        return value is not None and matches(value)

    return test


def _glob(pattern: str, name: str) -> Matches:
    try:
        return glob(pattern).matches
    except ValueError as error:
        raise Refusal(400, f"{name}: {error}") from error
