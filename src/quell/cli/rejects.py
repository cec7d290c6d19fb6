"""rejects list."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_rows

app = typer.Typer(help="Lines that were sent as events and are none.", no_args_is_help=True)


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """The latest rejects, newest first, each with the reason."""
    with connect(context) as client:
        rejects = client.events.rejects(limit)
    print_rows(
        rejects,
        output,
        {
            "time": lambda reject: clock(reject.get("time")),
            "source": lambda reject: reject.get("source"),
            "line": lambda reject: reject.get("line"),
            "position": lambda reject: reject.get("position"),
            "reason": lambda reject: reject.get("reason"),
            "text": lambda reject: str(reject.get("raw", ""))[:60],
        },
        empty="nothing was rejected",
    )
