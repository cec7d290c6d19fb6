"""tokens create, list and delete; login."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_data, print_rows
from quell.durations import parse_duration

app = typer.Typer(help="Tokens of people and detectors.", no_args_is_help=True)


class Role(StrEnum):
    ADMIN = "admin"
    VIEWER = "viewer"
    INGEST = "ingest"


@app.command()
def create(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(help="admin: everything. viewer: read. ingest: send events, nothing else.")],
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", parser=parse_duration, metavar="DURATION", help="When it expires; never if absent."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Make a token. It is shown this once; the controller keeps only its hash."""
    with connect(context) as client:
        issued = client.accounts.create_token(role.value, name, ttl)
    if output is Format.TABLE:
        print(issued.token)
    else:
        print_data(issued, output)


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Who has a token, and when it was last used."""
    with connect(context) as client:
        tokens = client.accounts.tokens()
    print_rows(
        tokens,
        output,
        {
            "name": lambda token: token.get("name"),
            "role": lambda token: token.get("role"),
            "expires": lambda token: clock(token.get("expires")),
            "last used": lambda token: clock(token.get("last_used")),
        },
        empty="no tokens",
    )


@app.command()
def delete(context: typer.Context, name: Annotated[str, typer.Argument(help="Whose token.")]) -> None:
    """Withdraw a token; it stops working within seconds."""
    with connect(context) as client:
        client.accounts.delete_token(name)
    print(f"deleted {name}")


def login(context: typer.Context) -> None:
    """Print an address that logs a browser in once, to look at the latest events."""
    with connect(context) as client:
        print(client.accounts.login_link())
