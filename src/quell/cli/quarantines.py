"""quarantines list and release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_rows

app = typer.Typer(help="What is cut off from the network, and by whom.", no_args_is_help=True)


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Every quarantine with its holders: it ends when the last lets go."""
    with connect(context) as client:
        quarantines = client.agents.quarantines()
    print_rows(
        quarantines,
        output,
        {
            "key": lambda quarantine: quarantine.get("key"),
            "node": lambda quarantine: quarantine["target"].get("node"),
            "since": lambda quarantine: clock(quarantine.get("since")),
            "in effect": lambda quarantine: quarantine.get("confirmed"),
            "holders": _holders,
        },
        empty="nothing is in quarantine",
    )


@app.command()
def release(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="As `quell quarantines list` shows it.")],
) -> None:
    """End a quarantine, whoever holds it."""
    with connect(context) as client:
        client.agents.release(key)
    print(f"released {key}")


def _holders(quarantine: Mapping[str, Any]) -> list[str]:
    return [
        holder if until is None else f"{holder} until {clock(until)}" for holder, until in quarantine["holders"].items()
    ]
