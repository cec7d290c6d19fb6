"""webhooks status, test, deliveries, dead-letters, replay and discard."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, clock, milliseconds, print_data, print_rows

app = typer.Typer(help="Webhook endpoints: how it goes with them, and what was delivered.", no_args_is_help=True)

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")]
OfEndpoint = Annotated[str | None, typer.Option("--endpoint", metavar="NAME", help="Only those to this endpoint.")]
Letter = Annotated[
    str | None, typer.Argument(help="The id that `quell webhooks dead-letters` shows.", show_default=False)
]
AllOf = Annotated[
    str | None, typer.Option("--endpoint", metavar="NAME", help="All of this endpoint, instead of a single one.")
]


class Outcome(StrEnum):
    DELIVERED = "delivered"
    FAILED = "failed"


@app.command()
def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Only this endpoint.", show_default=False)] = None,
    output: Output = Format.TABLE,
) -> None:
    """How it goes with each endpoint: idle, delivering, failing, disabled, or deleted while something is left of it."""
    with connect(context) as client:
        found = client.webhooks.all() if name is None else [client.webhooks.status(name)]
    print_rows(
        found,
        output,
        {
            "name": lambda one: one.name,
            "type": lambda one: one.type,
            "state": lambda one: one.state,
            "default": lambda one: one.default,
            "waiting": lambda one: one.waiting,
            "dead letters": lambda one: one.dead_letters,
            "last delivered": lambda one: clock(one.last_delivered),
            "failing since": lambda one: clock(one.failing_since),
            "failures": lambda one: one.failures,
            "next attempt": lambda one: clock(one.next_attempt),
            "last error": lambda one: one.last_error,
        },
        empty="there is no webhook endpoint",
    )


@app.command("test")
def try_out(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The endpoint, enabled or not.")],
    output: Output = Format.TABLE,
) -> None:
    """Send a signed test of the endpoint's type now, once, past what waits. Exit code 1: it was not delivered."""
    with connect(context) as client:
        tested = client.webhooks.test(name)
    if output is Format.TABLE:
        answer = "no answer" if tested.status is None else f"HTTP {tested.status}"
        told = f": {tested.explanation}" if tested.explanation not in ("", answer) else ""
        print(
            f"{'delivered' if tested.delivered else 'not delivered'} ({answer}, {milliseconds(tested.duration)}){told}"
        )
    else:
        print_data(tested, output)
    if not tested.delivered:
        raise typer.Exit(Exit.FAILED)


@app.command()
def deliveries(
    context: typer.Context,
    *,
    endpoint: OfEndpoint = None,
    event: Annotated[
        str | None, typer.Option("--event", metavar="ID", help="Only those about this event, and flags that followed.")
    ] = None,
    outcome: Annotated[Outcome | None, typer.Option("--outcome", help="Only attempts that came to this.")] = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """The latest attempts, newest first."""
    with connect(context) as client:
        rows = client.webhooks.deliveries(
            limit, endpoint=endpoint, event=event, outcome=None if outcome is None else outcome.value
        )
    print_rows(
        rows,
        output,
        {
            "time": lambda row: clock(row.get("time")),
            "endpoint": lambda row: row.get("endpoint"),
            "delivered": lambda row: row.get("delivered", False),
            "status": lambda row: row.get("status"),
            "attempt": lambda row: row.get("attempt"),
            "took": lambda row: milliseconds(row.get("duration", 0.0)),
            "id": lambda row: row.get("id"),
            "explanation": lambda row: row.get("explanation"),
        },
        empty="nothing was delivered yet",
    )


@app.command("dead-letters")
def dead_letters(
    context: typer.Context,
    *,
    endpoint: OfEndpoint = None,
    limit: Limit = 20,
    output: Output = Format.TABLE,
) -> None:
    """What was given up, and why."""
    with connect(context) as client:
        rows = client.webhooks.dead_letters(limit, endpoint=endpoint)
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
def replay(context: typer.Context, delivery: Letter = None, endpoint: AllOf = None) -> None:
    """Send a dead letter again, under its old id, or all of an endpoint in the order they were given up in."""
    with connect(context) as client:
        if _one(delivery, endpoint):
            client.webhooks.replay(delivery or "")
            print(f"queued {delivery}")
        else:
            print(f"queued {_letters(client.webhooks.replay_all(endpoint or ''))} of {endpoint}")


@app.command()
def discard(context: typer.Context, delivery: Letter = None, endpoint: AllOf = None) -> None:
    """Forget a dead letter, or all of an endpoint. It cannot be undone; the audit log says who did it."""
    with connect(context) as client:
        if _one(delivery, endpoint):
            client.webhooks.discard(delivery or "")
            print(f"discarded {delivery}")
        else:
            print(f"discarded {_letters(client.webhooks.discard_all(endpoint or ''))} of {endpoint}")


def _one(delivery: str | None, endpoint: str | None) -> bool:
    """True: a single one. Exactly one of the two must be given."""
    if (delivery is None) is (endpoint is None):
        raise typer.BadParameter("give the id of a dead letter, or --endpoint NAME for all of an endpoint")
    return delivery is not None


def _letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"
