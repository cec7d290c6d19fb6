"""YAML text, or plain values, as nodes that know where they were written. Nothing is guessed: a scalar is its text.

Made from libyaml's events, not its node tree: that one is built recursively, so that a deeply nested text would end the
process, and its scalars already carry a guess (no, 1.10, 2001-01-01) that the field's own type must make.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from typing import Any

import yaml
from msgspec import Struct

from quell.errors import Problem

#: Mappings and lists within each other; a document needs about ten.
MAX_DEPTH = 64
#: Nodes of one document after its aliases are expanded, against a small text that expands to millions.
MAX_NODES = 1_000_000


class Scalar(Struct, gc=False):
    text: str
    #: Written without quotes: the text may also stand for a number, true, false or nothing.
    plain: bool
    line: int = 0
    column: int = 0

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in {"", "~", "null", "Null", "NULL"}


class Sequence(Struct):
    items: list[Node]
    line: int = 0
    column: int = 0


class Mapping(Struct):
    pairs: list[tuple[Node, Node]]
    line: int = 0
    column: int = 0


Node = Scalar | Sequence | Mapping


class _Frame(Struct):
    """A mapping or list that is still open. size and height count its nodes and levels, aliases expanded."""

    node: Sequence | Mapping
    anchor: str | None
    key: Node | None = None
    size: int = 1
    height: int = 0


class _Fault(Exception):
    def __init__(self, message: str, mark: yaml.Mark) -> None:
        super().__init__(message)
        self.mark = mark


def compose(source: str | bytes, file: str) -> tuple[list[Node], list[Problem]]:
    """The documents of a text, empty ones left out, and what is wrong with it as YAML: at most one problem.

    The documents before the problem are given all the same, so that their problems can be told as well.
    """
    if isinstance(source, bytes):
        try:
            text = source.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            good = source[: error.start].decode()
            return [], [_problem(file, "not UTF-8", good.count("\n"), len(good) - good.rfind("\n") - 1)]
    else:
        text = source
    documents: list[Node] = []
    try:
        parser = yaml.CSafeLoader(text)
        while parser.check_event(yaml.StreamStartEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent):
            if isinstance(parser.get_event(), yaml.DocumentStartEvent):
                document = _document(parser)
                if not (isinstance(document, Scalar) and document.is_null):
                    documents.append(document)
    except _Fault as fault:
        return documents, [_problem(file, str(fault), fault.mark.line, fault.mark.column)]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        line, column = (mark.line, mark.column) if mark else (-1, -1)
        return documents, [_problem(file, f"not YAML: {error.problem}{context}", line, column)]
    except yaml.reader.ReaderError as error:
        good = text[: error.position]
        column = len(good) - good.rfind("\n") - 1
        return documents, [_problem(file, f"not YAML: {error.reason}", good.count("\n"), column)]
    return documents, []


def from_value(value: object, depth: int = 0) -> Node:
    """Plain values, as json.loads gives them, as nodes without a place. ValueError: no such value, or nested too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    match value:
        case str():
            return Scalar(text=str(value), plain=False)
        case None:
            return Scalar(text="null", plain=True)
        case bool():
            return Scalar(text="true" if value else "false", plain=True)
        case int() | float():
            return Scalar(text=repr(value), plain=True)
        case MappingType():
            return Mapping(
                pairs=[(from_value(key, depth + 1), from_value(item, depth + 1)) for key, item in value.items()]
            )
        case list() | tuple():
            return Sequence(items=[from_value(item, depth + 1) for item in value])
    raise ValueError(f"{type(value).__name__} is no value of a document")


def _document(parser: yaml.CSafeLoader) -> Node:
    """The nodes of one document, up to its end. _Fault: something that a document cannot have."""
    frames: list[_Frame] = []
    #: Complete nodes that aliases may name, with their size and height; None while they are open.
    anchors: dict[str, tuple[Node, int, int] | None] = {}
    while True:
        event: Any = parser.get_event()
        mark = event.start_mark
        line, column = mark.line + 1, mark.column + 1
        size, height, anchor = 1, 0, None
        node: Node
        match event:
            case yaml.ScalarEvent():
                _refuse_tag(event)
                node = Scalar(event.value, event.style is None or event.style == "", line, column)
                anchor = event.anchor
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                _refuse_tag(event)
                if len(frames) == MAX_DEPTH:
                    raise _Fault(f"nested deeper than {MAX_DEPTH} levels", mark)
                open_node = Mapping([], line, column) if isinstance(event, yaml.MappingStartEvent) else None
                frames.append(_Frame(open_node or Sequence([], line, column), event.anchor))
                if event.anchor:
                    anchors[event.anchor] = None
                continue
            case yaml.AliasEvent():
                known = anchors.get(event.anchor or "")
                if known is None:
                    told = "stands inside what it names" if event.anchor in anchors else "names nothing before it"
                    raise _Fault(f"the alias *{event.anchor} {told}", mark)
                node, size, height = known
            case _:  # the end of a mapping or list
                frame = frames.pop()
                node, size, height, anchor = frame.node, frame.size, frame.height + 1, frame.anchor
        if anchor:
            anchors[anchor] = (node, size, height)
        if not frames:
            return node
        parent = frames[-1]
        parent.size += size
        parent.height = max(parent.height, height)
        if parent.size > MAX_NODES or len(frames) + height > MAX_DEPTH:
            raise _Fault("too large once its aliases are expanded", mark)
        if isinstance(parent.node, Sequence):
            parent.node.items.append(node)
        elif parent.key is None:
            parent.key = node
        else:
            parent.node.pairs.append((parent.key, node))
            parent.key = None


def _refuse_tag(event: Any) -> None:
    if event.tag is not None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        raise _Fault(f"the tag {tag} has no meaning here: write the plain value", event.start_mark)


def _problem(file: str, message: str, line: int, column: int) -> Problem:
    """Line and column count from 0, as YAML marks do."""
    return Problem(file=file, line=line + 1, column=column + 1, message=message)
