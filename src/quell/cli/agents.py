"""agents list and join-token."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_data, print_rows
from quell.durations import parse_duration

app = typer.Typer(help="The agents that act on machines.", no_args_is_help=True)


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Every enrolled agent, whether it is connected, and what it cannot do."""
    with connect(context) as client:
        agents = client.agents.all()
    print_rows(
        agents,
        output,
        {
            "id": lambda agent: agent.get("id"),
            "node": lambda agent: agent.get("node"),
            "connected": lambda agent: agent.get("connected"),
            "version": lambda agent: agent.get("version"),
            "can": lambda agent: agent.get("capabilities"),
            "cannot": lambda agent: agent.get("limits"),
        },
        empty="no agent has enrolled",
    )


@app.command("join-token")
def join_token(
    context: typer.Context,
    ttl: Annotated[
        float,
        typer.Option(
            "--ttl", parser=parse_duration, metavar="DURATION", show_default="15m", help="How long it may be used."
        ),
    ] = 900.0,
    output: Output = Format.TABLE,
) -> None:
    """A token with which one agent may enrol: QUELL_JOIN_TOKEN=TOKEN quell agent --url URL, on its machine."""
    with connect(context) as client:
        answer = client.agents.join_token(ttl)
    if output is Format.TABLE:
        print(answer.token)
        typer.echo(f"valid until {clock(answer.expires)}", err=True)
    else:
        print_data(answer, output)
