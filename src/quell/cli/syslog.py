"""syslog status and test."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_data, print_rows

app = typer.Typer(
    help="How it goes with the syslog receivers, which are documents of kind Syslog.", no_args_is_help=True
)


@app.command()
def status(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Each receiver: whether it is connected, what it has yet to be sent, and what last went wrong."""
    with connect(context) as client:
        rows = client.syslog.all()
    print_rows(
        rows,
        output,
        {
            "receiver": lambda row: row.get("name"),
            "address": lambda row: row.get("address"),
            "format": lambda row: row.get("format"),
            "state": lambda row: row.get("state"),
            "lag": lambda row: f"{row.get('lag_events', 0)} ({row.get('lag_seconds', 0):.0f} s)",
            "sent": lambda row: row.get("sent"),
            "last sent": lambda row: clock(row.get("last_sent")),
            "failures": lambda row: row.get("failures"),
            "lost": lambda row: row.get("lost"),
            "last error": lambda row: row.get("last_error"),
        },
        empty="no syslog receivers",
    )


@app.command("test")
def send_test(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The receiver's name.")],
    output: Output = Format.TABLE,
) -> None:
    """Send one test message to a receiver, also to a disabled one. Ends with 1 if it did not go."""
    with connect(context) as client:
        done = client.syslog.test(name)
    if output is not Format.TABLE:
        print_data(done, output)
    elif done["acknowledged"]:
        print(f"sent {done['id']} to {done['address']}, which acknowledged it")
    else:
        print(f"sent {done['id']} to {done['address']}; nobody says whether a datagram arrives")
