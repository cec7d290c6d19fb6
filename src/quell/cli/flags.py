"""flags list, show, ack, unack and export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.exporting import As, FileFormat, To, write
from quell.cli.filters import Filters, follow, moment, print_following, search, takes_filters
from quell.cli.notifications import about
from quell.cli.output import Format, Output, clock, console, print_data, print_rows, print_trimmed, visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from quell.model.flag import FlagFilter, FlagShown

app = typer.Typer(help="Findings that rules, policies and Quell itself raised.", no_args_is_help=True)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids, as `quell flags list` shows them.")]


def _options(
    *,
    since: Annotated[
        float | None,
        typer.Option("--since", parser=moment, metavar="TIME", help="Raised then or later: 2h ago, or a time."),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option("--until", parser=moment, metavar="TIME", help="Raised before then: 2h ago, or a time."),
    ] = None,
    flag_class: Annotated[
        list[str] | None, typer.Option("--class", help='red, ops, or a class such as "redflag/proc/*"; globs.')
    ] = None,
    severity: Annotated[
        list[str] | None, typer.Option("--severity", help='A severity, or ">=high" and the like.')
    ] = None,
    name: Annotated[list[str] | None, typer.Option("--name", help="Its name; no case; globs.")] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="Id or name of a rule or policy that asked for it.")
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option("--event", metavar="ID", help="The event it followed from.")
    ] = None,
    node: Annotated[list[str] | None, typer.Option("--node", help="A host's name; globs.")] = None,
    namespace: Annotated[list[str] | None, typer.Option("--namespace", help="A namespace; globs.")] = None,
    pod: Annotated[list[str] | None, typer.Option("--pod", help="A pod's name or uid; globs.")] = None,
    container: Annotated[
        list[str] | None,
        typer.Option("--container", help="The first digits of a container's id, or its name; globs."),
    ] = None,
    image: Annotated[list[str] | None, typer.Option("--image", help="An image; globs.")] = None,
    trace: Annotated[list[str] | None, typer.Option("--trace", metavar="ID", help="A trace that it is in.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help='Words that all stand in it; "in quotes" with blanks. No case.'),
    ] = None,
    acknowledged: Annotated[
        bool | None,
        typer.Option("--acknowledged/--open", help="Only those that somebody has acknowledged, or only others."),
    ] = None,
) -> None:
    """The filters. Each that takes a list can be given several times, and then means any of them."""


@app.command("list")
@takes_filters(of=_options)
def list_(
    context: typer.Context,
    wanted: Filters,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="At most so many; with --follow, so many to begin with.")
    ] = 20,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest.")] = False,
    going_on: Annotated[bool, typer.Option("--follow", help="Go on with what comes, the newest last.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Flags, newest first."""
    if going_on and (oldest_first or "until" in wanted):
        raise typer.BadParameter("--follow goes on for ever, the newest last: neither --oldest-first nor --until fits")
    searched = _filter(wanted)
    with connect(context) as client:
        ask = partial(client.flags.page, searched)
        if going_on:
            print_following(
                follow(ask, limit), output, [(_WIDTHS.get(word, 0), show) for word, show in _COLUMNS.items()]
            )
        else:
            print_rows(search(ask, limit, oldest_first=oldest_first), output, _COLUMNS, empty="no flags")


@app.command()
def show(
    context: typer.Context,
    flag: Annotated[str, typer.Argument(metavar="ID", help="Its id, as `quell flags list` shows it.")],
    output: Output = Format.TABLE,
) -> None:
    """One flag: what it says, whom it is about, who asked for it and who has seen to it."""
    with connect(context) as client:
        one = client.flags.get(flag)
    if output is not Format.TABLE:
        print_data(one, output)
        return
    print_trimmed(console(), *_drawn(one))


@app.command()
def ack(
    context: typer.Context,
    flags: Ids,
    *,
    note: Annotated[str, typer.Option("--note", help="What was found; it is kept with the flag.")] = "",
) -> None:
    """Say that you have seen to flags. What somebody else has acknowledged stays theirs."""
    with connect(context) as client:
        answer = client.flags.acknowledge(flags, note)
    changed = set(answer.changed)
    for one in answer.flags:
        before = one.acknowledged
        if one.id in changed or before is None:
            print(visible(f"acknowledged {one.id}"))
        else:
            print(visible(f"{one.id} was acknowledged by {before.by} at {clock(before.time)}"))


@app.command()
def unack(
    context: typer.Context,
    flags: Ids,
    *,
    note: Annotated[str, typer.Option("--note", help="Why; it is in the audit log.")] = "",
) -> None:
    """Take back that flags were acknowledged."""
    with connect(context) as client:
        answer = client.flags.unacknowledge(flags, note)
    changed = set(answer.changed)
    for one in answer.flags:
        print(visible(f"{one.id} is open again" if one.id in changed else f"{one.id} was not acknowledged"))


@app.command()
@takes_filters(of=_options)
def export(
    context: typer.Context,
    wanted: Filters,
    *,
    format: As = FileFormat.NDJSON,  # noqa: A002 - the word of the option
    file: To = Path("-"),
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest.")] = False,
) -> None:
    """Save every flag that a search finds. docs/flags.md describes the columns."""
    searched = _filter(wanted)
    with connect(context) as client:
        write(file, lambda told: client.flags.export(format.value, searched, oldest_first=oldest_first, told=told))


def _filter(wanted: Filters) -> FlagFilter:
    from quell.model.flag import FlagFilter

    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in wanted.items()}
    return FlagFilter(**given)


def _times(one: FlagShown) -> int:
    return one.count + one.repeats


_COLUMNS: Mapping[str, Callable[[FlagShown], object]] = {
    "time": lambda one: clock(one.time),
    "class": lambda one: one.flag_class,
    "severity": lambda one: one.severity,
    "name": lambda one: one.name,
    "about": lambda one: about(one.subject),
    "times": _times,
    "by": lambda one: one.asked_by,
    "seen to": lambda one: "" if one.acknowledged is None else one.acknowledged.by,
    "trace": lambda one: one.trace,
    "id": lambda one: one.id,
}
#: Of columns in lines that come one by one.
_WIDTHS = {
    "time": 24,
    "class": 5,
    "severity": 8,
    "name": 28,
    "about": 24,
    "times": 5,
    "by": 16,
    "seen to": 12,
    "trace": 16,
}


def _drawn(one: FlagShown) -> list[RenderableType]:
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    from quell.cli.markdown import SafeMarkdown

    process = one.subject.process
    facts = {
        "flag": f"{one.flag_class} {one.severity}",
        "name": one.name,
        "says": one.description,
        "impact": one.impact,
        "time": clock(one.time),
        "times": f"{_times(one)}, last {clock(one.last)}" if one.repeats else str(one.count),
        "about": about(one.subject),
        "node": one.subject.node or "",
        "process": ""
        if process is None
        else f"{process.name or process.exe} (pid {process.pid}) {process.cmdline or ''}",
        "class": one.class_path,
        "by": ", ".join(one.asked_by),
        "event": one.event_id,
        "trace": one.trace or "",
        "seen to": "nobody yet"
        if one.acknowledged is None
        else f"{one.acknowledged.by}, {clock(one.acknowledged.time)}",
        "note": "" if one.acknowledged is None else one.acknowledged.note,
        "told": "nobody: its event is suppressed" if one.silent else "",
        "id": one.id,
    }
    table = Table.grid(padding=(0, 3, 0, 0))
    for word, value in facts.items():
        if value:
            table.add_row(Text(word, "bold"), Text(visible(value)))
    return [table, Rule(style="dim"), SafeMarkdown(one.content)] if one.content else [table]
