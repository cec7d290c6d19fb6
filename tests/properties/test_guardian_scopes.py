"""Policies are found by what their scopes begin with: the same ones as if each were asked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quell.guardian.scope import Scopes, compile_selectors
from quell.model.policy import Operator, Policy, PolicyType, Requirement, Selector, SelectorKind
from quell.model.rule import Mode
from quell.model.subject import Container, Subject

patterns = st.text("ab*?[]/", min_size=1, max_size=5)
images = st.text("ab/[]*", min_size=1, max_size=6)


def policy(number: int, values: list[str], operator: Operator) -> Policy:
    requirement = Requirement(key="image", operator=operator, values=tuple(values))
    scope = (Selector(kind=SelectorKind.CONTAINER, requirements=(requirement,)),)
    return Policy(name=str(number), type=PolicyType.CONTAINER, mode=Mode.AUDIT, scope=scope)


def is_readable(values: list[str]) -> bool:
    try:
        compile_selectors(policy(0, values, Operator.IN).scope)
    except ValueError:
        return False
    return True


lists = st.lists(patterns, min_size=1, max_size=3).filter(is_readable)


@given(
    scopes=st.lists(st.tuples(lists, st.sampled_from([Operator.IN, Operator.NOT_IN])), max_size=12),
    seen=st.lists(st.none() | images, min_size=1, max_size=6),
)
def test_what_is_found_is_what_takes_it(scopes: list[tuple[list[str], Operator]], seen: list[str | None]) -> None:
    policies = [policy(number, values, operator) for number, (values, operator) in enumerate(scopes)]
    found = Scopes([(each, each.name) for each in policies])
    for image in seen:
        subject = Subject(container=Container(id="c"), image=image)
        asked = [(each.name, compile_selectors(each.scope)(subject)) for each in policies]
        assert found.taking(subject) == [(name, truth) for name, truth in asked if truth is not False]
