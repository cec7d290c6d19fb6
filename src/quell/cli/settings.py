"""settings list, get, set, unset and describe; pause, resume and status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, clock, print_data, print_rows

if TYPE_CHECKING:
    from quell.client.settings import Paused
    from quell.configuration import ShownSetting

app = typer.Typer(help="What the controller was told about itself.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Such as safety.budget_engine; `quell settings list` has all.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the audit log.")]


@app.command("list")
def list_(
    context: typer.Context,
    *,
    changed: Annotated[bool, typer.Option("--changed", help="Only those that are no default.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Every setting, its value, where that comes from, and whether it can be changed while running."""
    with connect(context) as client:
        found = [one for one in client.settings.all() if not changed or one.origin.value != "default"]
    print_rows(
        found,
        output,
        {
            "name": lambda one: one.name,
            "value": lambda one: _text(one.value),
            "from": lambda one: f"{one.origin} {one.where}".strip(),
            "changes": _when,
        },
        empty="every setting is the default",
    )


@app.command()
def get(context: typer.Context, name: Name, output: Output = Format.TABLE) -> None:
    """The value of one setting."""
    with connect(context) as client:
        found = client.settings.get(name)
    if output is Format.TABLE:
        print(_text(found.value))
    else:
        print_data(found, output)


@app.command("set")
def set_(
    context: typer.Context,
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="All are changed, or none.")],
    *,
    reason: Reason = "",
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="safety.protected_namespaces may become empty: nothing is protected.")
    ] = False,
) -> None:
    """Change settings of the running controller; they are in force at once and stay over restarts.

    What its file, environment or command line say stays as it is there.
    """
    wanted: dict[str, Any] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or name in wanted:
            raise typer.BadParameter(f'expected each NAME=VALUE once, got "{text}"')
        wanted[name.strip()] = value.strip()
    with connect(context) as client:
        for one in client.settings.change(wanted, reason=reason, allow_empty=allow_empty):
            print(f"{one.name} = {_text(one.value)}")


@app.command()
def unset(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="What was changed while running.")],
    *,
    reason: Reason = "",
) -> None:
    """Go back to the value that the controller was started with."""
    with connect(context) as client:
        for one in client.settings.change(unset=names, reason=reason):
            print(f"{one.name} = {_text(one.value)}")


@app.command()
def describe(name: Name, output: Output = Format.TABLE) -> None:
    """What a setting means, in which unit, why its default is what it is, and what a wrong value does. Asks nobody."""
    from quell.configuration import Origin, ShownSetting, unknown
    from quell.settings import SETTINGS

    one = SETTINGS.get(name)
    if one is None:
        print(f"quell: {unknown(name)}", file=sys.stderr)
        raise typer.Exit(Exit.FAILED)
    if output is not Format.TABLE:
        print_data(ShownSetting.of(one, one.default, Origin()), output)
        return
    print(f"{one.name}: {one.description}\n")
    told = {
        "default": _text(one.shown(one.default)),
        "expected": one.expected,
        "reason": one.reason,
        "risk": one.risk,
        "changes": "while running" if one.live else "at the next start",
        "file": f"[{one.group}] {one.field}",
        "variable": one.variable,
    }
    for word, text in told.items():
        print(f"  {word:9} {text}")


def pause(context: typer.Context, reason: Reason = "") -> None:
    """Stop everything destructive at once, here and on every machine; what would have been done is listed."""
    with connect(context) as client:
        print(_said(client.settings.pause(reason)))


def resume(context: typer.Context, reason: Reason = "") -> None:
    """End the pause."""
    with connect(context) as client:
        print(_said(client.settings.resume(reason)))


def status(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Whether the controller acts, on how many machines, and what it holds isolated."""
    with connect(context) as client:
        paused = client.settings.paused()
        agents = client.agents.all()
        told = {
            "version": client.version(),
            "paused": paused,
            "agents": len(agents),
            "connected": sum(bool(agent.get("connected")) for agent in agents),
            "quarantines": len(client.agents.quarantines()),
        }
    if output is not Format.TABLE:
        print_data(told, output)
        return
    print(f"Quell {told['version']}\n{_said(paused)}")
    print(f"{told['connected']} of {told['agents']} agents connected, {told['quarantines']} in quarantine")


def _said(paused: Paused) -> str:
    if not paused.paused:
        return "destructive actions are carried out"
    since = f" since {clock(paused.since)}" if paused.since is not None else ""
    by = f" by {paused.by}" if paused.by else ""
    return f"destructive actions are paused{since}{by}" + (f": {paused.reason}" if paused.reason else "")


def _when(one: ShownSetting) -> str:
    if one.pinned:
        return "there only"
    return "while running" if one.live else "at the next start"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)
