"""The tree of processes that a policy expects. SEMANTICS section 5, processPolicy."""

from __future__ import annotations

from itertools import count

import msgspec
from msgspec import Struct

from quell.documents.ports import read_ports
from quell.documents.reader import Value
from quell.model.policy import PROCESS_DEPTH_LIMIT, PROCESS_LIMIT, ProcessNode

_FIELDS = ("name", "exe", "id", "euser", "listeningSockets", "children")
_NAME_LIMIT = 255
#: Characters of a path, as Linux has it.
_PATH_LIMIT = 4096
_EUSER_HINT = "a process without a parent here says who runs it; those below it are run by the same unless they say"


class Processes(Struct, frozen=True):
    roots: tuple[ProcessNode, ...] = ()
    #: Ids as they are written, in their order: those that network rules may name.
    ids: tuple[str, ...] = ()


def read_processes(value: Value, *, foreign: bool) -> Processes:
    """The processes of a list. In our documents an id may be left out; it is then NAME_0, NAME_1 and so on.

    A derived id changes when processes are put before it, so that network rules do not name those.
    """
    tree = _Tree(foreign)
    roots = tree.read(value, 1)
    free = _FreeIds(tree.ids)
    return Processes(tuple(free.fill(node) for node in roots), tuple(tree.ids))


class _Tree:
    """What is known while a tree is read, from the root down and in the order of writing."""

    def __init__(self, foreign: bool) -> None:
        self.foreign = foreign
        self.ids: dict[str, Value] = {}
        self._nodes = 0

    def read(self, value: Value, depth: int) -> list[ProcessNode]:
        if depth > PROCESS_DEPTH_LIMIT:
            value.name_of_field.problem(
                f"more than {PROCESS_DEPTH_LIMIT} levels of processes", expected=f"at most {PROCESS_DEPTH_LIMIT} levels"
            )
            return []
        return [node for item in value.items() if (node := self._node(item, depth)) is not None]

    def _node(self, item: Value, depth: int) -> ProcessNode | None:
        self._nodes += 1
        if self._nodes > PROCESS_LIMIT:
            if self._nodes == PROCESS_LIMIT + 1:
                item.problem(f"more than {PROCESS_LIMIT} processes", expected=f"at most {PROCESS_LIMIT} processes")
            return None
        required = ("name", "exe", *(("euser",) if depth == 1 else ()), *(("id",) if self.foreign else ()))
        fields = item.fields(required, [name for name in _FIELDS if name not in required], {"euser": _EUSER_HINT})
        return ProcessNode(
            id=self._id(fields["id"]) if "id" in fields else "",
            name=fields["name"].text(limit=_NAME_LIMIT) if "name" in fields else "",
            exe=_texts(fields["exe"], "executable", _PATH_LIMIT) if "exe" in fields else (),
            euser=_texts(fields["euser"], "user", _NAME_LIMIT) if "euser" in fields else (),
            listening=read_ports(fields["listeningSockets"]) if "listeningSockets" in fields else (),
            children=tuple(self.read(fields["children"], depth + 1)) if "children" in fields else (),
        )

    def _id(self, value: Value) -> str:
        id_ = value.text(limit=_NAME_LIMIT)
        first = self.ids.setdefault(id_, value)
        if id_ and first is not value:
            line = first.node.line
            place = f", first in line {line}" if line else ""
            value.problem(f'the id "{id_}" is given twice{place}', expected="an id of its own", got=id_)
        return id_


class _FreeIds:
    """Gives ids to the nodes without one; the same tree gets the same."""

    def __init__(self, taken: dict[str, Value]) -> None:
        self._taken = taken
        self._numbers: dict[str, count[int]] = {}

    def fill(self, node: ProcessNode) -> ProcessNode:
        id_ = node.id or self._next(node.name)
        children = tuple(self.fill(child) for child in node.children)
        return msgspec.structs.replace(node, id=id_, children=children)

    def _next(self, name: str) -> str:
        numbers = self._numbers.setdefault(name, count())
        return next(id_ for number in numbers if (id_ := f"{name}_{number}") not in self._taken)


def _texts(value: Value, what: str, limit: int) -> tuple[str, ...]:
    items = value.items()
    if value.is_list and not items:
        value.wrong(f"at least one {what}", "an empty list")
    return tuple(item.text(limit=limit) for item in items)
