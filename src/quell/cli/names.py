"""Names of events that a controller has seen, asked for when a document first names one that nobody else knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import typer

from quell.cli.connection import connect
from quell.errors import QuellError

if TYPE_CHECKING:
    from quell.client import Client


class SeenNames(Mapping[str, str]):
    """Without case -> as sent, as quell.documents.load takes it. Empty where no controller answers."""

    def __init__(self, context: typer.Context) -> None:
        self._context = context

    @cached_property
    def _names(self) -> dict[str, str]:
        try:
            with connect(self._context) as client:
                return _asked(client)
        except QuellError:
            # Whoever needs the controller for more than a hint is told then.
            return {}

    def __getitem__(self, name: str) -> str:
        return self._names[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _asked(client: Client) -> dict[str, str]:
    options = client.rules.options()
    seen = (each for option in options.categories for each in option.dynamic if each.origin == "seen")
    return {each.name.casefold(): each.name for each in seen}
