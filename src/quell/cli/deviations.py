"""deviations list and show."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli import completion
from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_data, print_rows, visible
from quell.moments import parse_moment

if TYPE_CHECKING:
    from quell.client import Client
    from quell.client.policies import ListedDeviation

app = typer.Typer(help="What policies do not allow, and how often it came.", no_args_is_help=True)

#: Digits of a checksum that are shown; as many find it.
DIGITS = 12


class What(StrEnum):
    PROCESS = "process"
    INGRESS = "ingress"
    EGRESS = "egress"
    CONTAINER = "container"


class Standing(StrEnum):
    OPEN = "open"
    MERGED = "merged"
    IRRELEVANT = "irrelevant"


def _moment(text: str) -> float:
    try:
        return parse_moment(text, time.time())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


OfPolicy = Annotated[
    list[str] | None, typer.Option("--policy", "-p", help="Only of this policy.", autocompletion=completion.policies)
]
OfWhat = Annotated[list[What] | None, typer.Option("--what", help="Only deviations of this.")]
InStatus = Annotated[
    list[Standing] | None,
    typer.Option("--status", help="Only those of this status; several: any of them. Default: open."),
]
Since = Annotated[
    float | None,
    typer.Option("--since", parser=_moment, metavar="TIME", help="Seen then or later: 2h ago, or a time."),
]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    policy: OfPolicy = None,
    what: OfWhat = None,
    status: InStatus = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that were merged or are allowed by now.")
    ] = False,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """Deviations, each once however often it came; the one first seen last comes first."""
    statuses = [] if everything else [each.value for each in status or [Standing.OPEN]]
    with connect(context) as client:
        found = client.deviations.all(
            limit, policy=policy or (), what=[each.value for each in what or ()], status=statuses, since=since
        )
    print_deviations(found, output)


@app.command()
def show(
    context: typer.Context,
    checksum: Annotated[
        str, typer.Argument(help="As `quell deviations list` shows it.", autocompletion=completion.deviations)
    ],
    policy: Annotated[
        str | None,
        typer.Option("--policy", "-p", help="Of this policy, where two have it.", autocompletion=completion.policies),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """One deviation: whose it is, the last process or container it came from, and what would allow it."""
    with connect(context) as client:
        found = one(client, checksum, policy)
    if output is not Format.TABLE:
        print_data(found, output)
        return
    omitted = f", {found.omitted} more left out" if found.omitted else ""
    rows: dict[str, Any] = {
        "deviation": found.checksum,
        "policy": f"{found.policy}{f' ({found.mode} when it was found)' if found.mode else ''}",
        "what": f"{found.what}  {found.name}",
        "": found.message,
        "status": found.status,
        "seen": f"{found.count} times, from {clock(found.first)} to {clock(found.last)}",
        "events": f"{found.events}{omitted}" + (f", the last {found.event_id}" if found.event_id else ""),
        "unproven": found.unproven,
        "last": _place(found.subject),
        "denied by": "; ".join(f"{target}: {', '.join(each)}" for target, each in found.matched.items()),
    }
    for name, value in rows.items():
        if value:
            print(f"{name:12} {visible(str(value))}")
    if found.addition:
        from quell.documents.write import as_yaml

        print("\nwhat would allow it:")
        print(as_yaml(found.addition), end="")


def print_deviations(found: Sequence[ListedDeviation], output: Format, *, policies: bool = True) -> None:
    """policies: say of which policy each is."""
    columns = {
        "checksum": lambda one: one.checksum[:DIGITS],
        "policy": lambda one: one.policy,
        "what": lambda one: one.what,
        "count": lambda one: one.count,
        "last seen": lambda one: clock(one.last),
        "status": lambda one: one.status,
        "deviation": lambda one: one.message,
    }
    if not policies:
        del columns["policy"]
    print_rows(found, output, columns, empty="no deviations")


def one(client: Client, checksum: str, policy: str | None = None) -> ListedDeviation:
    """By its checksum or at least the first 4 digits of it. typer.BadParameter: there is none, or more than one."""
    among = client.deviations.all(policy=[policy] if policy else (), checksum=[checksum]) if len(checksum) >= 4 else []
    found = [each for each in among if each.checksum == checksum] or among
    if len(found) == 1:
        return found[0]
    where = f" of policy {policy}" if policy else ""
    if not found:
        raise typer.BadParameter(f"there is no deviation {checksum}{where}")
    told = ", ".join(f"{each.checksum[:DIGITS]} of {each.policy}" for each in found[:5])
    raise typer.BadParameter(f"{checksum} is the beginning of several: {told}; give more of it, or --policy")


def _place(subject: dict[str, Any]) -> str:
    process, container = subject.get("process") or {}, subject.get("container") or {}
    told = [
        f"{process.get('name') or 'process'} ({process['pid']})" if process.get("pid") else process.get("name"),
        process.get("cmdline"),
        f"container {container.get('name') or container['id'][:DIGITS]}" if container else subject.get("service"),
        subject.get("image"),
        f"on {subject['node']}" if subject.get("node") else None,
    ]
    return ", ".join(str(each) for each in told if each)
