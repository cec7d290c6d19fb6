"""What all forms of cases share: reading fields without ignoring any, documents as text, and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from quell.documents.load import Documents, load_text
from quell.documents.references import check

#: When every case takes place: epoch seconds.
NOW = 1_790_000_000.0
NODE = "node-1"

Case = Mapping[str, Any]
#: What was expected and came out differently, one sentence each.
Judge = Callable[[Case], list[str]]


class Unreadable(Exception):
    """The case uses a word that the runner does not know."""


class Fields:
    """A mapping of a case, of which every key must be asked for."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = dict(values)
        self._where = where

    def take(self, key: str, default: Any = None) -> Any:
        return self._values.pop(key, default)

    def done(self) -> None:
        """Unreadable: something was not asked for."""
        if self._values:
            raise Unreadable(f"unknown in {self._where}: {', '.join(sorted(self._values))}")


class Form(Struct, frozen=True):
    """A form of cases: the keys by which it is known, and what judges one."""

    keys: frozenset[str]
    judge: Judge


def read(documents: Sequence[Mapping[str, Any]]) -> Documents:
    """Through text, as a user's file is read. DocumentError: one of them is refused."""
    text = "\n---\n".join(msgspec.json.encode(document).decode() for document in documents)
    read = load_text(text)
    check(read)
    return read


def ours(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "quell.dev/v1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def differs(what: str, expected: object, got: object) -> list[str]:
    return [] if expected == got else [f"{what}: expected {expected}, got {got}"]
