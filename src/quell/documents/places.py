"""Where a document names groups, webhooks and rulesets: for the message about a name that nothing has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct

from quell.documents.nodes import Mapping as MappingNode
from quell.documents.nodes import Node, Scalar, Sequence

GROUP, WEBHOOK, RULESET = "group", "webhook", "ruleset"


class Place(Struct, frozen=True, gc=False):
    """A field. line and column count from 1."""

    path: str
    line: int
    column: int


#: What is named (group, webhook or ruleset) and its name -> where, the first time.
Places = Mapping[tuple[str, str], Place]
NOWHERE: Places = MappingProxyType({})

#: Lists of webhooks among an action's parameters.
_LISTS = ("endpoints", "webhooks")


def places(spec: Node, path: str = "spec") -> Places:
    """The references in a spec. path: of the spec, such as spec.rule in documents that nest it."""
    found: dict[tuple[str, str], Place] = {}
    for what, node, where in _references(spec, path):
        if isinstance(node, Scalar):
            found.setdefault((what, node.text), Place(where, node.line, node.column))
    return found


def _references(spec: Node, path: str) -> Iterator[tuple[str, Node, str]]:
    fields = _fields(spec)
    if "group" in fields:
        yield GROUP, fields["group"], f"{path}.group"
    for what, name in ((WEBHOOK, "webhooks"), (RULESET, "rulesets")):
        yield from _items(what, fields.get(name), f"{path}.{name}")
    yield from _of_actions(fields.get("actions"), f"{path}.actions")
    response = _fields(fields.get("response"))
    for name in ("default", "actions"):
        yield from _of_actions(response.get(name), f"{path}.response.{name}")


def _of_actions(actions: Node | None, path: str) -> Iterator[tuple[str, Node, str]]:
    for position, entry in enumerate(_entries(actions)):
        for word, parameters in _fields(entry).items():
            inner = _fields(parameters)
            for name in _LISTS:
                yield from _items(WEBHOOK, inner.get(name), f"{path}[{position}].{word}.{name}")


def _items(what: str, node: Node | None, path: str) -> Iterator[tuple[str, Node, str]]:
    for position, item in enumerate(_entries(node)):
        yield what, item, f"{path}[{position}]"


def _fields(node: Node | None) -> dict[str, Node]:
    if not isinstance(node, MappingNode):
        return {}
    return {key.text: value for key, value in node.pairs if isinstance(key, Scalar)}


def _entries(node: Node | None) -> list[Node]:
    return node.items if isinstance(node, Sequence) else []
