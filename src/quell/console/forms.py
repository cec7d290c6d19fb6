"""What was filled in, and what is wrong with it, told at the field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import parse_qs

from quell.api.asgi import Receive, Scope
from quell.api.problem import Refusal
from quell.api.unpack import read_body
from quell.console.page import Query
from quell.errors import Problem

#: Bytes of a form, and its fields: a document is edited as text.
_SIZE, _FIELDS = 1 << 20, 2000


async def read_form(scope: Scope, receive: Receive, size: int = _SIZE) -> Query:
    """Refusal 400, 413; Disconnected."""
    body = await read_body(scope, receive, size)
    try:
        return Query(parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS))
    except ValueError as error:
        raise Refusal(400, "this is no form that was filled in") from error


def by_field(problems: Iterable[Problem], fields: Iterable[str]) -> tuple[dict[str, str], list[Problem]]:
    """The problems of the form's fields, each with its message, and those that are of none of them.

    A problem is of a field if its path ends in the field's name, or in an item of it: spec.name, query.level[0].
    """
    known, found, rest = set(fields), dict[str, str](), list[Problem]()
    for problem in problems:
        name = problem.path.rpartition(".")[2].partition("[")[0]
        if name not in known:
            rest.append(problem)
            continue
        told = problem.message
        if problem.nearest:
            told += f"; did you mean {problem.nearest}?"
        found[name] = f"{found[name]}; {told}" if name in found else told
    return found, rest


def text(form: Query, name: str, most: int = 1000) -> str:
    """What was typed there, without blanks around it. Refusal 422: it is longer than that."""
    found = form.one(name).strip()
    if len(found) > most:
        raise Refusal(422, f"{name}: expected at most {most} characters, got {len(found)}")
    return found


def with_value(options: Sequence[tuple[str, str]], value: str) -> list[tuple[str, str]]:
    """Options of a filter: a value that came in the address and is none of them is one too."""
    return [*options, *([] if value in dict(options) else [(value, value)])]
