"""overview."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, print_data, visible

Span = Annotated[str, typer.Option("--span", help="How far back: 1h, 6h or 24h.")]


def overview(context: typer.Context, span: Span = "1h", output: Output = Format.TABLE) -> None:
    """What goes on at a glance: events, outcomes, the busiest rules, and what waits for somebody."""
    with connect(context) as client:
        told = client.overview(span)
    if output is not Format.TABLE:
        print_data(told, output)
        return
    bars = told["bars"]
    outcomes: dict[str, int] = {}
    for bar in bars:
        for status, count in bar["outcomes"].items():
            outcomes[status] = outcomes.get(status, 0) + count
    lines = {
        "events": f"{sum(bar['events'] for bar in bars)} in {told['span']}, {sum(bar['answered'] for bar in bars)} answered",
        "outcomes": ", ".join(f"{count} {status}" for status, count in sorted(outcomes.items())) or "none",
        "agents": f"{told['connected']} of {told['agents']} connected",
        "quarantined": str(told["quarantined"]),
        "approvals": str(told["approvals"]),
        "breakers": str(told["breakers"]),
        "traces": ", ".join(f"{count} {priority}" for priority, count in told["traces"].items()),
        "paused": "yes" if told["paused"] else "no",
    }
    for name, value in lines.items():
        print(f"{name:<13}{value}")
    for rule in told["rules"]:
        print(
            f"{'':<13}{rule['matched']:>5} of {told['rules_of']} matched {visible(rule['ref'])} {visible(rule['name'])}"
        )
