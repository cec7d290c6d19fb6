"""webhooks deliveries, dead-letters and replay."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_rows

app = typer.Typer(help="What was delivered to webhook endpoints, and what was not.", no_args_is_help=True)


@app.command()
def deliveries(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """The latest attempts, newest first."""
    with connect(context) as client:
        rows = client.webhooks.deliveries(limit)
    print_rows(
        rows,
        output,
        {
            "time": lambda row: clock(row.get("time")),
            "endpoint": lambda row: row.get("endpoint"),
            "delivered": lambda row: row.get("delivered"),
            "status": lambda row: row.get("status"),
            "attempt": lambda row: row.get("attempt"),
            "id": lambda row: row.get("id"),
            "explanation": lambda row: row.get("explanation"),
        },
        empty="nothing was delivered yet",
    )


@app.command("dead-letters")
def dead_letters(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """What was given up, and why."""
    with connect(context) as client:
        rows = client.webhooks.dead_letters(limit)
    print_rows(
        rows,
        output,
        {
            "id": lambda row: row.get("id"),
            "endpoint": lambda row: row.get("endpoint"),
            "time": lambda row: clock(row.get("time")),
            "attempts": lambda row: row.get("attempts"),
            "explanation": lambda row: row.get("explanation"),
        },
        empty="no dead letters",
    )


@app.command()
def replay(
    context: typer.Context,
    delivery: Annotated[str, typer.Argument(help="The id that `quell webhooks dead-letters` shows.")],
) -> None:
    """Send a dead letter again, under its old id."""
    with connect(context) as client:
        client.webhooks.replay(delivery)
    print(f"queued {delivery}")
