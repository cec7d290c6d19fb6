"""events send and list."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, clock, print_data, print_rows

app = typer.Typer(help="Send events and look at those taken.", no_args_is_help=True)


@app.command()
def send(
    context: typer.Context,
    file: Annotated[str, typer.Option("-f", "--file", help="JSON, an array of it or a line each; - for stdin.")] = "-",
    detector: Annotated[str, typer.Option("--detector", help="Whose format it is: native or falco.")] = "native",
    output: Output = Format.TABLE,
) -> None:
    """Send events; prints their ids once they and their decisions are on disk."""
    body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    with connect(context) as client:
        receipt = client.events.send(body, detector=detector)
    if output is Format.TABLE:
        for event_id in receipt.ids:
            print(event_id)
        for reject in receipt.rejected:
            print(f"line {reject.line}: {reject.reason}", file=sys.stderr)
    else:
        print_data(receipt, output)
    if receipt.rejected:
        raise typer.Exit(Exit.INPUT)


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    before: Annotated[str | None, typer.Option("--before", help="Only those older than this event.")] = None,
    *,
    only_decided: Annotated[bool, typer.Option("--decided", help="Only those that a rule or policy matched.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """The latest events, newest first, each with what was decided."""
    with connect(context) as client:
        events = client.events.recent(limit, before, decided=only_decided)
    print_rows(
        events,
        output,
        {
            "received": lambda event: clock(event.get("received")),
            "level": lambda event: event.get("level"),
            "name": lambda event: event.get("name"),
            "source": lambda event: event.get("source"),
            "decision": decided,
            "id": lambda event: event.get("id"),
        },
        empty="no events yet",
    )


def decided(event: Mapping[str, Any]) -> str:
    """The decision in a few words: each action with its status."""
    decision = event.get("decision") or {}
    actions = [f"{action['action']['type']} {action['status']}" for action in decision.get("actions", ())]
    return ", ".join(actions) or ("matched" if decision.get("matches") else "no rule")
