"""explain: the decision record of an event, past or imagined."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, console, print_data

if TYPE_CHECKING:
    from quell.model.explanation import Explanation

Rules = Annotated[
    list[str] | None, typer.Option("-f", "--file", help="Documents to judge the event by: a YAML file or folder.")
]
EventFile = Annotated[str | None, typer.Option("--event", help="A file with one event, or - for standard input.")]


def explain(
    context: typer.Context,
    event_id: Annotated[str | None, typer.Argument(help="An event the controller has taken.")] = None,
    *,
    file: Rules = None,
    event: EventFile = None,
    detector: Annotated[str, typer.Option("--detector", help="Whose format the event file has.")] = "native",
    near_misses: Annotated[
        bool, typer.Option("--near-misses", help="Also the rules that did not match, and on what they failed.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Say why something was done, or what would be.

    With an event's id: the record of what the controller decided, and what came of it.
    With -f and --event: what these documents would decide, without a controller. The event counts as received when it
    happened, by a fresh engine whose agent on that machine can do everything.
    """
    offline = file is not None or event is not None
    if (event_id is None) is not offline or (file is None) is not (event is None):
        raise typer.BadParameter("give an event's id, or both -f DOCUMENTS and --event FILE")
    if event_id is not None:
        with connect(context) as client:
            explanation = client.explanation(event_id, near_misses=near_misses)
    else:
        assert file is not None and event is not None  # noqa: PT018, S101 - just checked
        explanation = _imagine(file, event, detector, near_misses=near_misses)
    if output is not Format.TABLE:
        print_data(explanation, output)
        return
    from quell.cli.record import print_record

    print_record(console(), explanation, near_misses=near_misses, pending="" if offline else "no outcome yet")
