"""Label and field selectors, as far as the stand-in knows them; anything else is refused, never ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.kubernetes.statuses import bad_request

Test = Callable[[dict[str, Any]], bool]

#: Fields that objects of each kind can be chosen by; all by metadata.name and metadata.namespace.
_FIELDS = {"pods": {"spec.nodeName", "status.phase", "spec.hostNetwork"}, "namespaces": {"status.phase"}}


def selection(resource: str, labels: str, fields: str) -> Test:
    tests = [_label(term) for term in _terms(labels)] + [_field(resource, term) for term in _terms(fields)]
    return lambda thing: all(test(thing) for test in tests)


def _terms(text: str) -> list[str]:
    return [term for term in text.split(",") if term]


def _label(term: str) -> Test:
    if any(mark in term for mark in "() ~"):
        raise bad_request(f"the stand-in does not know the label selector {term!r}")
    key, operator, value = _split(term)
    if not operator:
        return lambda thing: (term.lstrip("!") in _labels(thing)) is not term.startswith("!")
    return lambda thing: (_labels(thing).get(key) == value) is (operator == "=")


def _field(resource: str, term: str) -> Test:
    key, operator, value = _split(term)
    if not operator or key not in {"metadata.name", "metadata.namespace"} | _FIELDS.get(resource, set()):
        raise bad_request(f'Unable to find "{resource}" that match field selector "{term}": field label not supported')
    return lambda thing: (_at(thing, key) == value) is (operator == "=")


def _split(term: str) -> tuple[str, str, str]:
    for mark, operator in (("!=", "!="), ("==", "="), ("=", "=")):
        if mark in term:
            key, _, value = term.partition(mark)
            return key, operator, value
    return term, "", ""


def _labels(thing: dict[str, Any]) -> dict[str, str]:
    return thing["metadata"].get("labels") or {}


def _at(thing: dict[str, Any], path: str) -> str:
    value: Any = thing
    for word in path.split("."):
        value = value.get(word, "") if isinstance(value, dict) else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
