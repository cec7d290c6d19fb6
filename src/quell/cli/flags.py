"""flags list."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_rows

app = typer.Typer(help="Findings that rules and Quell itself raised.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """The latest flags, newest first."""
    with connect(context) as client:
        flags = client.events.flags(limit)
    print_rows(
        flags,
        output,
        {
            "time": lambda flag: clock(flag.time),
            "class": lambda flag: flag.flag_class.value,
            "severity": lambda flag: flag.severity.value,
            "name": lambda flag: flag.name,
            "count": lambda flag: flag.count,
            "by": lambda flag: flag.asked_by,
            "event": lambda flag: flag.event_id,
        },
        empty="no flags",
    )
