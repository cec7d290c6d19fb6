"""One response rule as plain values, as the REST API takes it: the fields of a document's spec, its name among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from quell.documents.load import OURS, load_values
from quell.documents.reader import NO_NAMES, Names
from quell.errors import DocumentError, Problem
from quell.model.rule import Rule, Source

#: Stands for the name of a rule that has none; no problem shows it.
_UNNAMED = "(unnamed)"


class Single(Struct, frozen=True):
    """The rule (name "": it has none), and what is doubtful about it; paths are those within its fields."""

    rule: Rule
    warnings: tuple[Problem, ...] = ()


def read_rule(fields: Mapping[str, Any], path: str = "", names: Names = NO_NAMES) -> Single:
    """path: what the places of problems begin with. names: of events, beside those that everybody knows. DocumentError."""
    spec = {field: value for field, value in fields.items() if field != "name"}
    given = fields.get("name", "")
    named = given != ""
    document = {
        "apiVersion": OURS,
        "kind": "ResponseRule",
        "metadata": {"name": given if named else _UNNAMED},
        "spec": spec,
    }
    try:
        read = load_values([document], "", names)
    except DocumentError as error:
        raise DocumentError([_placed(problem, path) for problem in error.problems]) from error
    [rule] = read.rules
    warnings = tuple(_placed(warning, path) for warning in read.warnings)
    return Single(msgspec.structs.replace(rule, name=rule.name if named else "", source=Source()), warnings)


def _placed(problem: Problem, path: str) -> Problem:
    inner = problem.path.removeprefix("metadata").removeprefix("spec").removeprefix(".")
    whole = f"{path}.{inner}" if path and inner and not inner.startswith("[") else f"{path}{inner}"
    return msgspec.structs.replace(problem, file="", line=0, column=0, path=whole)
