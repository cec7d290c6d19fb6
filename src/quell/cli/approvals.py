"""approvals list, show, approve, deny; breakers list, reset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_data, print_rows, visible

app = typer.Typer(help="Actions that wait for a person.", no_args_is_help=True)
breakers = typer.Typer(help="Rules that stopped for an owner of workloads.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="As `quell approvals list` shows it.")]
Note = Annotated[str, typer.Option("--note", help="Why; it is in the record and the audit log.")]


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """What waits, the oldest first."""
    with connect(context) as client:
        pending = client.approvals.pending()
    print_rows(
        pending,
        output,
        {
            "id": lambda each: each["id"],
            "action": lambda each: each["action"],
            "target": _target,
            "asked by": lambda each: each["asked_by"],
            "why": lambda each: each["reason"],
            "until": lambda each: clock(each["until"]),
        },
        empty="nothing waits for a person",
    )


@app.command()
def show(context: typer.Context, id: Id, output: Output = Format.TABLE) -> None:  # noqa: A002 - the word of the command
    """One action that waits, with all that is known of its target."""
    with connect(context) as client:
        each = client.approvals.one(id)
    if output is not Format.TABLE:
        print_data(each, output)
        return
    lines = {
        "id": each["id"],
        "action": each["action"],
        "target": _target(each),
        "agent": each["agent"],
        "asked by": ", ".join(each["asked_by"]),
        "why": f"{each['reason']}: {each['explanation']}",
        "since": clock(each["since"]),
        "until": clock(each["until"]),
        "event": each["event"],
    }
    for name, value in lines.items():
        print(f"{name:<10}{visible(str(value))}")


@app.command()
def approve(context: typer.Context, id: Id, note: Note = "", output: Output = Format.TABLE) -> None:  # noqa: A002
    """Have it done. What stands against it now is said, and it goes on waiting; budgets do not."""
    with connect(context) as client:
        judged = client.approvals.approve(id, note)
    _told(judged, output, "approved")


@app.command()
def deny(context: typer.Context, id: Id, note: Note = "", output: Output = Format.TABLE) -> None:  # noqa: A002
    """Have it not done."""
    with connect(context) as client:
        judged = client.approvals.deny(id, note)
    _told(judged, output, "denied")


@breakers.command("list")
def list_breakers(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Those that stand open: the rule does this no more to these workloads."""
    with connect(context) as client:
        found = client.approvals.breakers()
    print_rows(
        found,
        output,
        {
            "key": lambda each: each["key"],
            "by": lambda each: each["by"],
            "action": lambda each: each["action"],
            "owner": lambda each: each["owner"],
            "image": lambda each: each["image"],
            "since": lambda each: clock(each["since"]),
        },
        empty="no breaker stands open",
    )


@breakers.command()
def reset(
    context: typer.Context,
    key: Annotated[str, typer.Argument(help="As `quell breakers list` shows it.")],
    note: Note = "",
    output: Output = Format.TABLE,
) -> None:
    """Let the rule act on these workloads again."""
    with connect(context) as client:
        done = client.approvals.reset(key, note)
    if output is not Format.TABLE:
        print_data(done, output)
    else:
        print(visible(f"{done['by']} may do {done['action']} to {done['owner']} again"))


def _told(judged: Mapping[str, Any], output: Format, word: str) -> None:
    if output is not Format.TABLE:
        print_data(judged, output)
    else:
        print(visible(f"{word} {judged['id']}"))


def _target(each: Mapping[str, Any]) -> str:
    target = each["target"]
    process = target.get("process") or {}
    if target["type"] == "process":
        return f"{process.get('name') or 'process'} (pid {process.get('pid')}) on {target['node']}"
    if target["type"] == "pod":
        return f"pod {target.get('namespace')}/{target.get('name') or target.get('uid')}"
    return f"network of {(target.get('container_id') or target['key'])[:12]} on {target['node']}"
