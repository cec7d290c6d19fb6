"""What a sender says beside a document, as parameters of the query (quell.detectors.context)."""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from quell.api.problem import Refusal
from quell.catalogue.words import nearest
from quell.detectors.context import Context
from quell.errors import Problem


def given(query: bytes, takes: frozenset[str], ignored: frozenset[str] = frozenset()) -> Context:
    """The parameters of a query. takes: the words there are. ignored: those that the sender adds without a meaning here.

    Refusal 400 for others, one given twice, or a wrong value.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise Refusal(400, "the query cannot be read: expected name=value, percent-encoded UTF-8") from error
    said: dict[str, str] = {}
    for word, value in pairs:
        if word in ignored:
            continue
        if word not in takes:
            there = f"there are {', '.join(sorted(takes))}" if takes else "there are none here"
            problem = Problem(
                file="",
                path=f"/{word}",
                message=f'unknown parameter "{word}"',
                got=word,
                nearest=nearest(word, sorted(takes)) or "",
            )
            raise Refusal(400, f'unknown parameter "{word}": {there}', problems=[problem])
        if word in said:
            raise Refusal(400, f'the parameter "{word}" is given twice')
        if not value.isprintable():
            raise Refusal(400, f'parameter "{word}": expected printable characters')
        said[word] = value
    try:
        return msgspec.convert(said, Context)
    except msgspec.ValidationError as error:
        raise Refusal(400, f"a parameter is wrong: {error}") from error
