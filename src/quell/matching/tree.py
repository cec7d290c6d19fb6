"""Access to rules by the values they compare: a tree of hash tables, each rule filed under its rarest criterion.

A node that has many rules left files them again by what they compare besides. What stays at a node is tested one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from quell.matching.criteria import Equality, Test
from quell.matching.patterns import Pattern
from quell.matching.reading import Read, Reading

#: So few rules are tested as fast as looked up.
FEW = 2
#: A table remembers the nodes of so many values that its patterns were tried on.
MEMO = 4096
#: Of equally rare criteria, the one whose field says most.
_ORDER = ("name", "process", "number", "image", "group", "namespace", "node", "report", "source", "level", "kind")

R = TypeVar("R")


class Filed(Generic[R]):
    """A rule, and which of its criteria its place in the tree has not yet answered."""

    __slots__ = ("rule", "tests")

    def __init__(self, rule: R, tests: tuple[Test, ...]) -> None:
        self.rule = rule
        self.tests = tests


class Table(Generic[R]):
    """Nodes by a field's value, and by patterns on it."""

    __slots__ = ("_memo", "_patterns", "field", "nodes", "read")

    def __init__(
        self, field: str, read: Read, nodes: dict[str, Node[R]], patterns: list[tuple[Pattern, Node[R]]]
    ) -> None:
        self.field = field
        self.read = read
        self.nodes = nodes
        self._patterns = patterns
        self._memo: dict[str, tuple[Node[R], ...]] = {}

    @property
    def has_patterns(self) -> bool:
        return bool(self._patterns)

    def find(self, value: str) -> tuple[Node[R], ...]:
        found = self._memo.get(value)
        if found is None:
            if len(self._memo) >= MEMO:
                self._memo.clear()
            exact = self.nodes.get(value)
            fitting = [node for pattern, node in self._patterns if pattern.matches(value)]
            found = self._memo[value] = tuple(fitting) if exact is None else (exact, *fitting)
        return found


class Node(Generic[R]):
    __slots__ = ("exact", "fitted", "here")

    def __init__(self, here: tuple[Filed[R], ...], tables: list[Table[R]]) -> None:
        self.here = here
        #: (field, its read, lookup of a node by value)
        self.exact: tuple[tuple[str, Read, Callable[[str], Node[R] | None]], ...] = tuple(
            (table.field, table.read, table.nodes.get) for table in tables if not table.has_patterns
        )
        self.fitted = tuple((table.field, table.read, table.find) for table in tables if table.has_patterns)

    def find(self, reading: Reading) -> list[R]:
        """The rules whose every criterion holds, in no order; one may come twice."""
        values = reading.values
        found: list[R] = []
        nodes = [self]
        while nodes:
            node = nodes.pop()
            for filed in node.here:
                for test in filed.tests:
                    if not test.holds(reading):
                        break
                else:
                    found.append(filed.rule)
            for field, read, child_of in node.exact:
                keys = values.get(field)
                if keys is None:
                    keys = values[field] = read(reading)
                for key in keys:
                    child = child_of(key)
                    if child is not None:
                        nodes.append(child)
            for field, read, children_of in node.fitted:
                keys = values.get(field)
                if keys is None:
                    keys = values[field] = read(reading)
                for key in keys:
                    nodes.extend(children_of(key))
        return found


def build(rules: Sequence[Filed[R]], is_deep: Callable[[str], bool]) -> Node[R]:
    """is_deep: whether reading a field costs decoding the details; such a field is asked last."""
    if len(rules) <= FEW:
        return Node(tuple(rules), [])
    usage = Counter((test.field, key) for filed in rules for test in _hashed(filed) for key in _keys(test))

    def cost(test: Equality) -> tuple[bool, int, int]:
        rank = _ORDER.index(test.field) if test.field in _ORDER else 3
        return (is_deep(test.field), sum(usage[test.field, key] for key in _keys(test)), rank)

    here: list[Filed[R]] = []
    exact: dict[str, dict[str, list[Filed[R]]]] = {}
    fitted: dict[str, dict[str, tuple[Pattern, list[Filed[R]]]]] = {}
    read: dict[str, Read] = {}
    for filed in rules:
        test = min(_hashed(filed), key=cost, default=None)
        if test is None:
            here.append(filed)
            continue
        rest = Filed(filed.rule, tuple(other for other in filed.tests if other is not test))
        read[test.field] = test.read
        for key in test.exact:
            exact.setdefault(test.field, {}).setdefault(key, []).append(rest)
        for pattern in test.patterns:
            fitted.setdefault(test.field, {}).setdefault(pattern.text, (pattern, []))[1].append(rest)
    tables = [
        Table(
            field,
            read[field],
            {key: build(some, is_deep) for key, some in exact.get(field, {}).items()},
            [(pattern, build(some, is_deep)) for pattern, some in fitted.get(field, {}).values()],
        )
        for field in sorted(read)
    ]
    return Node(tuple(here), tables)


def _hashed(filed: Filed[R]) -> list[Equality]:
    return [test for test in filed.tests if isinstance(test, Equality)]


def _keys(test: Equality) -> list[str]:
    return [*test.exact, *(pattern.text for pattern in test.patterns)]
