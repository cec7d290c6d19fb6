"""Values taken out of nodes: each says what it expected, what it found and where. Problems are collected, never raised.

After a problem a method returns a value of its type (empty, nought) or None, so that reading goes on and everything
wrong is told at once; what was read is thrown away if the report has problems.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from quell.catalogue.words import nearest
from quell.documents import nodes
from quell.durations import parse_duration
from quell.errors import Problem

Word = TypeVar("Word", bound=StrEnum)

_NO_HINTS: Mapping[str, str] = MappingProxyType({})
_WORDS_SHOWN = 24
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


#: Names of events that are known beside the catalogue's and the mappings': without case -> as somebody sent them.
Names = Mapping[str, str]
NO_NAMES: Names = MappingProxyType({})


class Report:
    """What is wrong with one file, and what is doubtful."""

    def __init__(self, file: str, names: Names = NO_NAMES) -> None:
        self.file = file
        self.names = names
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []


class Value:
    """One node of a document, and the way to it."""

    __slots__ = ("key", "label", "node", "parent", "report")

    def __init__(
        self,
        node: nodes.Node,
        report: Report,
        parent: Value | None = None,
        key: str | int = "",
        label: nodes.Node | None = None,
    ) -> None:
        self.node = node
        self.report = report
        self.parent = parent
        #: A field's name or an entry's position, in parent.
        self.key = key
        #: Where the field's name is written.
        self.label = label

    @property
    def path(self) -> str:
        """Such as spec.criteria[0].value; "" for a whole document."""
        if self.parent is None:
            return ""
        before = self.parent.path
        if isinstance(self.key, int):
            return f"{before}[{self.key}]"
        return f"{before}.{self.key}" if before else self.key

    @property
    def name_of_field(self) -> Value:
        """The field's name as a value, for a problem with the name itself."""
        if self.label is None or self.parent is None:
            return self
        return Value(self.label, self.report, self.parent.parent, self.parent.key)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.node, nodes.Mapping)

    @property
    def is_list(self) -> bool:
        return isinstance(self.node, nodes.Sequence)

    @property
    def is_empty(self) -> bool:
        """A mapping or list with nothing in it."""
        match self.node:
            case nodes.Mapping():
                return not self.node.pairs
            case nodes.Sequence():
                return not self.node.items
            case _:
                return False

    @property
    def is_null(self) -> bool:
        return isinstance(self.node, nodes.Scalar) and self.node.is_null

    @property
    def found(self) -> str:
        """What stands there, for a message."""
        if isinstance(self.node, nodes.Scalar):
            if self.node.is_null:
                return "nothing"
            text = self.node.text
            return f'"{text[:60]}..."' if len(text) > 64 else f'"{text}"'
        return "a mapping" if isinstance(self.node, nodes.Mapping) else "a list"

    # What to say.

    def problem(self, message: str, *, expected: str = "", got: str = "", near: str = "", path: str = "") -> None:
        self.report.problems.append(self._told(message, expected, got, near, path))

    def warn(self, message: str, *, expected: str = "", got: str = "", near: str = "", path: str = "") -> None:
        self.report.warnings.append(self._told(message, expected, got, near, path))

    def wrong(self, expected: str, got: str = "") -> None:
        """The plainest problem: something else was expected here."""
        got = got or self.found
        self.problem(f"expected {expected}, got {got}", expected=expected, got=got.strip('"'))

    def unknown(self, what: str, word: str, words: Iterable[str]) -> None:
        """A word that is none of a known set."""
        known = tuple(words)
        self.problem(f'unknown {what} "{word}"', expected=listed(known), got=word, near=nearest(word, known))

    # What to take.

    def fields(
        self, required: Collection[str] = (), optional: Collection[str] = (), hints: Mapping[str, str] = _NO_HINTS
    ) -> Fields:
        """The fields of a mapping. hints: what to do about a required field that is missing, or one that is unknown."""
        known = (*required, *optional)
        found = self.entries()
        for name in [name for name in found if name not in known]:
            key = found.pop(name).name_of_field
            if name in hints:
                key.problem(f'unknown field "{name}": {hints[name]}', expected=listed(known), got=name)
            else:
                key.unknown("field", name, known)
        if self.is_mapping:
            for name in required:
                if name not in found:
                    hint = f": {hints[name]}" if name in hints else ""
                    self.problem(f'missing field "{name}"{hint}', expected=name)
        return found

    def entries(self) -> Fields:
        """All fields of a mapping, whatever their names."""
        found = Fields()
        if not isinstance(self.node, nodes.Mapping):
            self.wrong("a mapping")
            return found
        for key, node in self.node.pairs:
            place = Value(key, self.report, self.parent, self.key)
            if not isinstance(key, nodes.Scalar):
                place.wrong("a field name")
            elif key.text in found:
                first = found[key.text].name_of_field.node.line
                place.problem(f'field "{key.text}" is given twice' + (f", first in line {first}" if first else ""))
            else:
                found[key.text] = Value(node, self.report, self, key.text, key)
        return found

    def items(self) -> list[Value]:
        """The entries of a list."""
        if not isinstance(self.node, nodes.Sequence):
            self.wrong("a list")
            return []
        return [Value(node, self.report, self, position) for position, node in enumerate(self.node.items)]

    def bounded(self, limit: int, what: str) -> list[Value]:
        """The entries of a list that may have that many; what: what to call them, such as ports."""
        items = self.items()
        if len(items) > limit:
            self.problem(f"more than {limit} {what}", expected=f"at most {limit} {what}", got=str(len(items)))
        return items[:limit]

    def text(self, *, empty: bool = False, limit: int | None = None) -> str:
        """The text as it is written. limit: the most characters it may have."""
        node = self.node
        if not isinstance(node, nodes.Scalar) or node.is_null:
            self.wrong("text")
            return ""
        if not node.text and not empty:
            self.wrong("text", "an empty text")
        if limit is not None and len(node.text) > limit:
            self.problem(
                f"too long: {len(node.text)} of at most {limit} characters",
                expected=f"at most {limit} characters",
                got=f"{len(node.text)} characters",
            )
        return node.text

    def texts(self, *, empty: bool = False) -> tuple[str, ...]:
        """A list of texts."""
        return tuple(item.text(empty=empty) for item in self.items())

    def name(self) -> str:
        """A text that people and records call a thing by: one line, no blanks around it, at most 253 characters."""
        text = self.text(limit=253)
        if text and (text != text.strip() or not text.isprintable()):
            self.wrong("a name in one line without blanks around it")
        return text

    def boolean(self) -> bool:
        """True, yes, on or false, no, off without quotes, as YAML has them."""
        node = self.node
        if isinstance(node, nodes.Scalar) and node.plain and node.text.lower() in _BOOLEANS:
            return _BOOLEANS[node.text.lower()]
        self.wrong("true or false")
        return False

    def integer(self, low: int, high: int, *, quoted: bool = False) -> int:
        """A whole number from low to high; quoted: it may stand in quotes."""
        node = self.node
        if isinstance(node, nodes.Scalar) and (node.plain or quoted):
            digits = node.text.removeprefix("-")
            if digits.isascii() and digits.isdigit() and len(digits) < 20 and low <= int(node.text) <= high:
                return int(node.text)
        self.wrong(f"a whole number from {low} to {high}")
        return low

    def duration(self) -> float:
        """Seconds, above 0; written as 30s, 5m, 2h, 1d or a plain number."""
        node = self.node
        if isinstance(node, nodes.Scalar) and not node.is_null:
            try:
                seconds = parse_duration(node.text)
            except ValueError:
                seconds = 0.0
            if 0 < seconds < float("inf"):
                return seconds
        self.wrong("a duration such as 30s, 5m, 2h or 1d")
        return 0.0

    def choice(self, words: type[Word], what: str) -> Word | None:
        """One word of an enumeration; what: what to call it, such as severity."""
        if not isinstance(self.node, nodes.Scalar) or self.node.is_null:
            self.wrong(listed(words))
            return None
        try:
            return words(self.node.text)
        except ValueError:
            self.unknown(what, self.node.text, tuple(words))
            return None

    def plain(self) -> object:
        """Everything below as plain values, for what is kept unread.

        Only null, true, false and whole numbers are more than their text.
        """
        node = self.node
        if isinstance(node, nodes.Sequence):
            return [item.plain() for item in self.items()]
        if isinstance(node, nodes.Mapping):
            return {name: value.plain() for name, value in self.entries().items()}
        if not node.plain:
            return node.text
        if node.is_null:
            return None
        if node.text in {"true", "false"}:
            return node.text == "true"
        digits = node.text.removeprefix("-")
        is_whole = digits.isascii() and digits.isdigit() and len(digits) < 19 and str(int(node.text)) == node.text
        return int(node.text) if is_whole else node.text

    def _told(self, message: str, expected: str, got: str, near: str, path: str) -> Problem:
        return Problem(
            file=self.report.file,
            line=self.node.line,
            column=self.node.column,
            path=path or self.path,
            message=message,
            expected=expected,
            got=got,
            nearest=near,
        )


class Fields(dict[str, Value]):
    """The fields of a mapping by name. The methods read one that may be missing, as the value that this means."""

    def text(self, name: str, *, limit: int | None = None) -> str:
        return self[name].text(empty=True, limit=limit) if name in self else ""

    def texts(self, name: str) -> tuple[str, ...]:
        return self[name].texts() if name in self else ()

    def boolean(self, name: str, *, default: bool = False) -> bool:
        return self[name].boolean() if name in self else default

    def duration(self, name: str) -> float | None:
        return self[name].duration() if name in self else None

    def choice(self, name: str, words: type[Word], default: Word) -> Word:
        return (self[name].choice(words, name) or default) if name in self else default


def listed(words: Iterable[str]) -> str:
    """Words as a message shows them: one of a, b, c."""
    shown = [str(word) for word in words]
    if len(shown) == 1:
        return shown[0]
    more = f" and {len(shown) - _WORDS_SHOWN} more" if len(shown) > _WORDS_SHOWN + 2 else ""
    return "one of " + ", ".join(shown[:_WORDS_SHOWN] if more else shown) + more
