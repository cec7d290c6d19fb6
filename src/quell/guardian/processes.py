"""The tree of processes that a policy expects, compiled: where in it a process may be. SEMANTICS section 5.

A chain of processes is expected if some path of nodes fits it: a root for the first, then children. What forks need not
execute, so a process that equals its parent in name and executable may also stay on the parent's node. Several nodes may
fit at once; all of them are kept, as one state of an automaton, so that a chain costs a look-up a process however the
tree branches. States and moves are made when they are needed first, and remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from quell.catalogue.forms import is_glob
from quell.guardian.chain import Chain, Step, forked, maybe_forked
from quell.guardian.room import LONGEST, Room
from quell.guardian.values import Listed
from quell.matching.patterns import Matches, glob
from quell.model.policy import Ports, ProcessNode


class Place(NamedTuple):
    """Where a chain leads."""

    #: Numbers of the nodes that its last process may be on, or, if it is not expected, the last one that is; ascending.
    nodes: tuple[int, ...]
    #: How many of its processes are expected, from the first on.
    reached: int
    #: All of them are.
    is_expected: bool


class _State:
    __slots__ = ("moves", "nodes", "stays")

    def __init__(self, nodes: tuple[int, ...]) -> None:
        self.nodes: Final = nodes
        #: Step -> the state after it; for steps that are no copy of the one before them, and for those that may be.
        self.moves: dict[Step, _State] = {}
        self.stays: dict[Step, _State] = {}


class _Level:
    """Siblings, by name."""

    __slots__ = ("_globs", "_named", "all")

    def __init__(self, numbered: Sequence[tuple[int, str]]) -> None:
        """ValueError: a glob cannot be read."""
        self.all = tuple(number for number, _ in numbered)
        self._named: dict[str, list[int]] = {}
        self._globs: list[tuple[Matches, int]] = []
        for number, name in numbered:
            self._named.setdefault(name, []).append(number)
            if is_glob(name):
                self._globs.append((glob(name).matches, number))

    def called(self, name: str) -> Iterator[int]:
        yield from self._named.get(name, ())
        for matches, number in self._globs:
            if matches(name):
                yield number


_CHILDLESS = _Level(())


class _Node:
    __slots__ = ("_exe", "_name", "_users", "children", "depth", "id", "listening")

    def __init__(self, node: ProcessNode, users: tuple[str, ...], depth: int) -> None:
        """users: its own or those of the nearest node above that has some. ValueError: a glob cannot be read."""
        self.id = node.id
        self.depth = depth
        self._name = Listed((node.name,))
        self._exe = Listed(node.exe)
        self._users = Listed(users)
        self.listening = node.listening
        self.children = _CHILDLESS

    def takes(self, step: Step, *, unknown: bool) -> bool:
        """unknown: the answer about a fact that is missing."""
        name, exe, user = step
        return (
            (unknown if name is None else self._name.takes(name))
            and (self._exe.is_empty or (unknown if exe is None else self._exe.takes(exe)))
            and (self._users.is_empty or (unknown if user is None else self._users.takes(user)))
        )


class Tree:
    """A processPolicy."""

    def __init__(self, roots: Sequence[ProcessNode], room: Room) -> None:
        """ValueError: a glob cannot be read."""
        self._nodes: list[_Node] = []
        self._names: list[str] = []
        self._roots = self._level(roots, (), 1)
        self._numbers: dict[str, int] = {node.id: number for number, node in reversed([*enumerate(self._nodes)])}
        self._room = room
        self._strict = _Automaton(self._nodes, self._roots, self._roots, room, lenient=False)
        self._lenient: _Automaton | None = None

    def place(self, chain: Chain) -> Place:
        """Where it is proved to be: a fact that is missing fits nothing, and neither does a chain that is not whole."""
        return self._strict.place(chain) if chain.is_whole else Place((), 0, is_expected=False)

    def possible(self, chain: Chain) -> Place:
        """Where it could be: a fact that is missing fits everything, and a chain that is not whole begins anywhere."""
        if self._lenient is None:
            # Seldom asked: what is expected, as most is, needs no second look.
            anywhere = _Level([*enumerate(self._names)])
            self._lenient = _Automaton(self._nodes, self._roots, anywhere, self._room, lenient=True)
        return self._lenient.place(chain)

    def listens(self, nodes: Sequence[int], protocol: str, port: int) -> bool:
        """Whether one of these nodes lists the port."""
        return any(covers(ports, protocol, port) for number in nodes for ports in self._nodes[number].listening)

    def id(self, number: int) -> str:
        return self._nodes[number].id

    def depth(self, number: int) -> int:
        """A root's is 1."""
        return self._nodes[number].depth

    def number(self, identifier: str) -> int | None:
        return self._numbers.get(identifier)

    def has(self, identifier: str) -> bool:
        return identifier in self._numbers

    def _level(self, siblings: Sequence[ProcessNode], users: tuple[str, ...], depth: int) -> _Level:
        """Numbers them and all below them, in the order of writing."""
        numbered: list[tuple[int, str]] = []
        for written in siblings:
            own = written.euser or users
            node = _Node(written, own, depth)
            numbered.append((len(self._nodes), written.name))
            self._nodes.append(node)
            self._names.append(written.name)
            if written.children:
                node.children = self._level(written.children, own, depth + 1)
        return _Level(numbered)


class _Automaton:
    def __init__(self, nodes: list[_Node], roots: _Level, anywhere: _Level, room: Room, *, lenient: bool) -> None:
        """anywhere: where a chain begins that is not whole. lenient: a fact that is missing fits everything."""
        self._nodes = nodes
        self._roots = roots
        self._anywhere = anywhere
        self._lenient = lenient
        self._forked = maybe_forked if lenient else forked
        self._room = room
        room.share(self._forget)
        self._forget()

    def _forget(self) -> None:
        self._states: dict[tuple[int, ...], _State] = {}
        self._start, self._middle = _State(()), _State(())

    def place(self, chain: Chain) -> Place:
        steps, is_whole = chain
        first = steps[0]
        state = self._start if is_whole else self._middle
        after = state.moves.get(first)
        if after is None:
            began = self._taking(self._roots if is_whole else self._anywhere, first)
            after = self._after(began, first, state.moves)
        if not after.nodes:
            return Place((), 0, is_expected=False)
        state, before = after, first
        for reached in range(1, len(steps)):
            step = steps[reached]
            is_copy = self._forked(before, step)
            moves = state.stays if is_copy else state.moves
            after = moves.get(step)
            if after is None:
                after = self._after(self._went_on(state, step, is_copy=is_copy), step, moves)
            if not after.nodes:
                return Place(state.nodes, reached, is_expected=False)
            state, before = after, step
        return Place(state.nodes, len(steps), is_expected=True)

    def _after(self, nodes: set[int], step: Step, moves: dict[Step, _State]) -> _State:
        """The state of these nodes, which moves is to have for the step."""
        key = tuple(sorted(nodes))
        after = self._states.get(key)
        if after is None:
            self._room.take()
            after = self._states.setdefault(key, _State(key))
        if all(text is None or len(text) <= LONGEST for text in step):
            self._room.take()
            moves[step] = after
        return after

    def _went_on(self, state: _State, step: Step, *, is_copy: bool) -> set[int]:
        found: set[int] = set()
        for number in state.nodes:
            node = self._nodes[number]
            if is_copy and node.takes(step, unknown=self._lenient):
                found.add(number)
            found |= self._taking(node.children, step)
        return found

    def _taking(self, level: _Level, step: Step) -> set[int]:
        name = step[0]
        numbers = level.called(name) if name is not None else level.all if self._lenient else ()
        return {number for number in numbers if self._nodes[number].takes(step, unknown=self._lenient)}


def covers(ports: Ports, protocol: str, port: int) -> bool:
    return ports.protocol == protocol and ports.port <= port <= (ports.port if ports.end is None else ports.end)
