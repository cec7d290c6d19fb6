"""The fields of a rule as the command line and files write them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from quell.errors import DocumentError, Problem

#: What documents that hold nothing but rules have.
_OF_RULES = ("rules", "warnings", "places")
_PARAMETER = re.compile(r"(^|,)\s*([a-z_A-Z]+)=")


def plain(text: str, file: str) -> list[Any]:
    """The YAML documents of a text as plain values, read as documents are. DocumentError."""
    from quell.documents.nodes import compose
    from quell.documents.reader import Report, Value

    nodes, problems = compose(text, file)
    report = Report(file)
    values = [Value(node, report).plain() for node in nodes]
    if problems or report.problems:
        raise DocumentError([*problems, *report.problems])
    return values


def criterion(text: str) -> Any:
    """type:value as it is, or {type: [value, value]}: any of them. DocumentError."""
    return _flow(text, "--criterion") if text.startswith("{") else text


def action(text: str) -> Any:
    """A word, word:parameter=value,parameter=value, or {word: {parameter: value}}. DocumentError."""
    if text.startswith("{"):
        return _flow(text, "--action")
    word, colon, rest = text.partition(":")
    if not colon:
        return word
    return {word: _flow(f"{{{_PARAMETER.sub(_colon, rest)}}}", "--action")}


def rules_in(name: str) -> list[dict[str, Any]]:
    """The rules of a file: documents of kind ResponseRule, or the fields of rules. -: standard input. DocumentError."""
    file = "standard input" if name == "-" else name
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    values = plain(text, file)
    if any(isinstance(value, dict) and "apiVersion" in value for value in values):
        return _documents(text, file)
    found = [each for value in values for each in (value if isinstance(value, list) else [value])]
    if not found or not all(isinstance(each, dict) for each in found):
        told = "expected rules: documents of kind ResponseRule, or the fields of one (event, criteria, actions, ...)"
        raise DocumentError([Problem(file=file, message=told)])
    return found


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What makes the one of the other: fields that are new or others, and None for those that are gone."""
    gone = dict.fromkeys(name for name in before if name not in after)
    return {**{name: value for name, value in after.items() if before.get(name) != value}, **gone}


def given(
    criteria: Sequence[str] | None, actions: Sequence[str] | None, webhooks: Sequence[str] | None, **fields: Any
) -> dict[str, Any]:
    """The fields that are said; None: one is not."""
    lists: Iterable[tuple[str, list[Any] | None]] = (
        ("criteria", None if criteria is None else [criterion(text) for text in criteria]),
        ("actions", None if actions is None else [action(text) for text in actions]),
        ("webhooks", None if webhooks is None else list(webhooks)),
    )
    return {name: value for name, value in (*fields.items(), *lists) if value is not None}


def _documents(text: str, file: str) -> list[dict[str, Any]]:
    from quell.documents.load import load_text
    from quell.documents.write import to_document

    read = load_text(text, file)
    if any(getattr(read, field) for field in read.__struct_fields__ if field not in _OF_RULES):
        told = "only rules can be inserted: use quell apply for documents of other kinds"
        raise DocumentError([Problem(file=file, message=told)])
    return [{"name": rule.name, **to_document(rule)["spec"]} for rule in read.rules]


def _flow(text: str, option: str) -> Any:
    [*found] = plain(text, option)
    if len(found) != 1:
        raise DocumentError([Problem(file=option, message=f"expected one value, got {len(found)}")])
    return found[0]


def _colon(match: re.Match[str]) -> str:
    return f"{match[1]} {match[2]}: "
