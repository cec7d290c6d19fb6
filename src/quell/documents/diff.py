"""What a change of a document is, as a unified diff of the form in which documents are written."""

from __future__ import annotations

from difflib import unified_diff
from typing import Any

from quell.documents import hidden
from quell.documents.load import Thing
from quell.documents.write import as_yaml, to_document
from quell.model.rule import Webhook
from quell.secrets import HIDDEN

#: What is shown for a secret that is another one than before.
_CHANGED = HIDDEN.replace(")", ", changed)")


def unified(before: Thing | None, after: Thing | None) -> str:
    """The diff, without secrets; None: there is no such document. "": it stays as it is."""
    shown = (None if before is None else to_document(before), None if after is None else to_document(after))
    if isinstance(before, Webhook) and isinstance(after, Webhook) and shown[1] is not None:
        _mark(shown[1]["spec"], hidden.changed(before, after))
    old, new = ([] if document is None else as_yaml(document).splitlines() for document in shown)
    named = [("/dev/null" if document is None else _name(document)) for document in shown]
    lines = unified_diff(old, new, named[0], named[1], lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _mark(spec: dict[str, Any], fields: list[str]) -> None:
    for field in fields:
        outer, _, inner = field.partition(".")
        if inner:
            spec[outer] = {**spec[outer], inner: _CHANGED}
        else:
            spec[outer] = spec[outer].replace(HIDDEN, _CHANGED)


def _name(document: dict[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"
