"""agents list, join-token and revoke; rotate-key."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from quell.cli.connection import Connection, connect, default_state
from quell.cli.output import Format, Output, clock, print_data, print_rows, visible
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


@app.command()
def revoke(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(help="An agent's id, or the one agent on a node.")],
    output: Output = Format.TABLE,
) -> None:
    """Withdraw an agent's enrolment: its link is cut at once, and it gets no commands any more. It may enrol anew."""
    with connect(context) as client:
        known = client.agents.all()
        meant = [each for each in known if agent in (each["id"], each["node"])]
        if len(meant) != 1:
            found = ", ".join(f"{each['id']} on {each['node']}" for each in meant or known) or "none"
            raise typer.BadParameter(f"{agent}: expected one agent's id or node; there are: {found}")
        done = client.agents.revoke(str(meant[0]["id"]))
    if output is Format.TABLE:
        print(visible(f"agent {done['id']} on {done['node']} is no longer enrolled"))
    else:
        print_data(done, output)


def rotate_key(
    context: typer.Context,
    *,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="The state folder; default: /var/lib/quell, or ~/.local/state/quell."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Give a stopped controller a new key for signing commands; agents follow it when they link next.

    The old key says that the new one follows it, so that no agent has to enrol anew. Whoever had the old key can order
    only agents that have not linked since.
    """
    from quell.controller import key_rotation

    connection = context.find_object(Connection) or Connection()
    before, after = key_rotation.rotate(state or connection.state or default_state(), time.time())
    if output is Format.TABLE:
        print(f"commands are signed with {after} from the next start on, instead of {before}")
    else:
        print_data({"before": before, "after": after}, output)
