"""tokens create."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, print_data
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
        issued = client.create_token(role.value, name, ttl)
    if output is Format.TABLE:
        print(issued.token)
    else:
        print_data(issued, output)
