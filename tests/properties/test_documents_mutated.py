"""Texts that nobody meant: the loader takes or refuses them, and a rule that it takes matches no more than it says.

What a text says is read off by tests.support.naive, which shares no code with loader and index.
"""

from __future__ import annotations

import copy
import gc
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests import documents
from tests.properties.test_index import CRITERIA, DAY, IMAGES, NAMES, NOW, PLACES, PROCESSES, world
from tests.support import naive

from quell.catalogue.names import resolve
from quell.controller.rulebook import alone
from quell.documents.load import Documents, load_text
from quell.documents.write import dump_yaml
from quell.errors import DocumentError
from quell.evaluate import evaluate
from quell.matching.index import compile as compile_index
from quell.model.details import (
    AdmissionReview,
    ComplianceItem,
    ComplianceReport,
    CveReport,
    Details,
    SecurityDetails,
    Vulnerability,
)
from quell.model.event import Category, Event, Kind, Level
from quell.model.subject import Container, Pod, Process, Subject

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
GROUPS = """
apiVersion: quell.dev/v1
kind: Group
metadata: {name: g}
spec: {criteria: [{key: image, op: "=", value: "reg/*"}]}
---
apiVersion: quell.dev/v1
kind: Group
metadata: {name: h}
spec: {criteria: [{key: app, op: "!=", value: db}, {key: namespace, op: regex, value: ^shop}]}
---
"""
TAKEN = {
    Category.EVENT: ("name", "level", "namespace", "image", "node", "source", "label:app"),
    Category.SECURITY_EVENT: ("name", "level", "kind", "process", "namespace", "image", "label:app"),
    Category.CVE_REPORT: ("name", "report", "cve-name", "cve-high", "cve-medium", "cve-high-with-fix"),
    Category.COMPLIANCE: ("name", "number", "level", "image"),
    Category.ADMISSION_CONTROL: ("name", "level", "image"),
    Category.DEVIATION: ("name", "process", "namespace"),
}
#: Scalars that a slip of the hand or of a program leaves where another was.
STRAY = st.one_of(
    st.sampled_from(
        ["", "*", "?", "[", "all", "nodes", "null", "~", "true", "no", "0", "-1", ">=", ">", "1e3", "0x10", "=", ":"]
    ),
    # Copies: what is put into a document may be changed there, and the next draw must find it as it was.
    st.sampled_from([None, True, False, 0, -1, 3, 2**70, 1.5, [], {}, [[]], {"": ""}]).map(copy.deepcopy),
    st.text(max_size=6),
)
#: What stands in the place of another and may well be right there.
FITTING = st.sampled_from([text for some in CRITERIA.values() for text in map(str, some)])


@st.composite
def spec(draw: st.DrawFn) -> dict[str, Any]:
    category = draw(st.sampled_from(Category))
    criteria: list[Any] = []
    for type_ in draw(st.lists(st.sampled_from(TAKEN[category]), unique=True, max_size=3)):
        values = [str(value) for value in draw(st.lists(st.sampled_from(CRITERIA[type_]), min_size=1, max_size=2))]
        forms: list[Any] = [{"type": type_, "value": values}, {type_: values}]
        if len(values) == 1:
            forms += [f"{type_}:{values[0]}", {"type": type_, "value": values[0]}, {type_: values[0]}]
        criteria.append(draw(st.sampled_from(forms)))
    group = draw(st.sampled_from(["", "all", "containers", "g", "h", "nv.web.shop"]))
    return {"event": str(category), "group": group, "criteria": criteria, "actions": ["suppress-log"]}


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a value, itself left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in ((*at, key), *places(item, (*at, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """The text of a rule that one to three changes have been made to."""
    rule: dict[str, Any] = {
        "apiVersion": "quell.dev/v1",
        "kind": "ResponseRule",
        "metadata": {"name": "r"},
        "spec": draw(spec()),
    }
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        path = draw(st.sampled_from(places(rule["spec"]) or [("event",)]))
        parent = rule["spec"]
        for key in path[:-1]:
            parent = parent[key]
        if draw(st.booleans()):
            parent[path[-1]] = draw(FITTING | STRAY)
        else:
            draw(change_of)(parent, path[-1])
    text = yaml.safe_dump(rule, allow_unicode=True, sort_keys=False)
    if draw(st.integers(0, 3)) == 0:
        text = draw(torn(text))
    return text


def _drop(parent: Any, key: Any) -> None:
    del parent[key]


def _double(parent: Any, key: Any) -> None:
    if isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = [copy.deepcopy(parent[key]), parent[key]]


def _swap_case(parent: Any, key: Any) -> None:
    if isinstance(parent[key], str):
        parent[key] = parent[key].swapcase()


def _wrap(parent: Any, key: Any) -> None:
    parent[key] = [parent[key]]


def _rename(parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        parent[str(key)[:-1]] = parent.pop(key)


#: A slip of another kind than one value in the place of another.
change_of: st.SearchStrategy[Callable[[Any, Any], None]] = st.sampled_from([_drop, _double, _swap_case, _wrap, _rename])


@st.composite
def torn(draw: st.DrawFn, text: str) -> str:
    """A text with a piece taken out, put in, or said twice."""
    begin = draw(st.integers(0, len(text)))
    end = draw(st.integers(begin, min(len(text), begin + 12)))
    piece = draw(
        st.sampled_from(["", text[begin:end] * 2, "\n", "#", ": ", "- ", "*", "&a ", "'", "{", "]", "\t", "\0"])
    )
    return text[:begin] + piece + text[end:]


def seen(seed: int, count: int = 120) -> list[Event]:
    """Events of all categories with the values that the rules here speak of."""
    chance = random.Random(seed)  # noqa: S311 - the same events for the same seed
    return [_event(chance, chance.choice(tuple(Category))) for _ in range(count)]


def _event(chance: random.Random, category: Category) -> Event:
    maybe: Callable[[tuple[str, ...]], str | None] = lambda values: chance.choice((None, *values))  # noqa: E731
    severities, ages = ("High", "Critical", "Medium", "Low"), (None, 5, 15, 40)
    told: Details | None = None
    match category:
        case Category.CVE_REPORT:
            told = CveReport(
                report=chance.choice(("container", "host")),
                vulnerabilities=tuple(
                    Vulnerability(
                        name=chance.choice(("CVE-2018-1234", "CVE-2018-12", "GHSA-x")),
                        severity=chance.choice(severities),
                        fixed=chance.random() < 0.7,
                        published=None if (age := chance.choice(ages)) is None else NOW - age * DAY,
                    )
                    for _ in range(chance.randrange(5))
                ),
            )
        case Category.COMPLIANCE:
            numbers = ("D.5.4", "K.5.4", "I.1.1", "g/check")
            told = ComplianceReport(
                items=tuple(
                    ComplianceItem(number=chance.choice(numbers), failed=chance.random() < 0.5)
                    for _ in range(chance.randrange(3))
                )
            )
        case Category.ADMISSION_CONTROL:
            told = AdmissionReview(images=(chance.choice(IMAGES),))
        case Category.SECURITY_EVENT:
            told = SecurityDetails(groups=chance.choice(((), ("g",), ("h", "nv.web.shop"))))
    labels = chance.choice((None, {"app": "web"}, {"app": "db"}))
    container = maybe(("c1", "c2"))
    name = chance.choice(NAMES)
    return Event(
        id="event",
        time=NOW,
        received=NOW,
        source=chance.choice(("falco", "native")),
        category=category,
        name=name,
        # A detector's mapping gives its own rules a name of the catalogue; a name of the catalogue stays what it is.
        catalogue_name=resolve(name) or maybe(("Network.Violation", "SSL.TLS1.0", "Container.Quarantined")),
        level=chance.choice(tuple(Level)),
        kind=chance.choice((None, *Kind)),
        subject=Subject(
            node=maybe(("n1", "n2")),
            namespace=maybe(PLACES),
            pod=None if labels is None else Pod(labels=labels),
            container=None if container is None else Container(id=container),
            image=maybe(IMAGES),
            service=maybe(("web", "web.shop")),
            process=Process(name=maybe(PROCESSES), exe=maybe(("/usr/bin/nc", "/bin/sh"))),
        ),
        raw=b"{}",
        decode=None if told is None else lambda _: told,
    )


def loaded(text: str | bytes) -> Documents | None:
    """None: refused, with at least one problem that says something."""
    try:
        return alone(load_text(text, "a.yaml"))
    except DocumentError as error:
        refused = error
    assert refused.problems
    assert all(problem.message for problem in refused.problems)
    return None


NARROW = """{apiVersion: quell.dev/v1, kind: ResponseRule, metadata: {name: r},
 spec: {event: event, criteria: ["level:>= Warning", "namespace: shop"], actions: [suppress-log]}}"""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutated(), st.integers(0, 10**6))
@example(NARROW, 1)
def test_no_change_of_a_rule_makes_it_match_more_than_it_says(text: str, seed: int) -> None:
    whole = GROUPS + text
    taken = loaded(whole)
    if taken is None:
        return
    said = naive.rules_of(whole)
    assert {rule.name for rule in taken.rules} == said.keys()
    index, state = compile_index(taken), world()
    for event in seen(seed):
        matched = {match.name for match in evaluate(event, index, state, NOW).matches}
        groups = naive.groups_of(event, state.members)
        for name, spec in said.items():
            if (spec.get("group") or "all") in (*groups, "all"):
                holds = naive.matches(spec, event, groups, NOW)
                assert holds or name not in matched, f"{event} is matched by\n{text}"


@settings(max_examples=100, deadline=None)
@given(spec(), st.integers(0, 10**6))
def test_a_rule_matches_what_it_says(said: dict[str, Any], seed: int) -> None:
    rule = {"apiVersion": "quell.dev/v1", "kind": "ResponseRule", "metadata": {"name": "r"}, "spec": said}
    whole = GROUPS + yaml.safe_dump(rule)
    taken = loaded(whole)
    if taken is None:
        return
    index, state = compile_index(taken), world()
    text = naive.rules_of(whole)["r"]
    for event in seen(seed):
        holds = naive.matches(text, event, naive.groups_of(event, state.members), NOW)
        assert holds == bool(evaluate(event, index, state, NOW).matches), f"{event}\n{text}"


written = st.one_of(documents.rules(), documents.groups, documents.webhooks, documents.policies(), documents.rulesets)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.one_of(
        written.map(lambda thing: dump_yaml([thing])).flatmap(torn),
        st.sampled_from([path.read_text() for path in EXAMPLES]).flatmap(torn),
        st.text(max_size=200),
    )
)
def test_the_loader_has_no_other_error_than_ours(text: str) -> None:
    loaded(text)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_text(raw: bytes) -> None:
    loaded(raw)


def test_reading_leaves_no_memory_behind() -> None:
    """The same torn texts again and again: after the first rounds, in which caches fill, nothing grows."""
    chance = random.Random(7)  # noqa: S311 - the same texts every time
    texts = []
    for text in [path.read_text() for path in EXAMPLES] * 40:
        begin = chance.randrange(len(text))
        texts.append(
            text[:begin] + chance.choice(["", "\n", ": ", "- [", "*", "&a "]) + text[begin + chance.randrange(9) :]
        )

    def read_all() -> int:
        for text in texts:
            loaded(text)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        read_all()
        before = read_all()
        after = max(read_all() for _ in range(2))
    finally:
        tracemalloc.stop()
    assert after - before < 64 << 10
