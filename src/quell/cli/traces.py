"""traces list, show, close, reopen and suppress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.filters import Filters, moment, search, takes_filters
from quell.cli.notifications import about
from quell.cli.output import Format, Output, clock, console, print_data, print_rows, visible

if TYPE_CHECKING:
    from quell.model.trace_view import TraceShown, TraceSummary

app = typer.Typer(help="Red flags on one causal chain of processes, scored.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, as `quell traces list` shows it.")]
Note = Annotated[str, typer.Option("--note", help="Why; it is kept with the trace and in the audit log.")]


def _options(
    *,
    since: Annotated[
        float | None,
        typer.Option("--since", parser=moment, metavar="TIME", help="With flags of then or later: 2h ago, or a time."),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option("--until", parser=moment, metavar="TIME", help="With flags of before then: 2h ago, or a time."),
    ] = None,
    priority: Annotated[list[str] | None, typer.Option("--priority", help="Critical, High or Low.")] = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="open, closed or merged; default: open and closed.")
    ] = None,
    user: Annotated[list[str] | None, typer.Option("--user", help="A user of its processes; globs.")] = None,
    node: Annotated[list[str] | None, typer.Option("--node", help="A host's name; globs.")] = None,
    namespace: Annotated[list[str] | None, typer.Option("--namespace", help="A namespace; globs.")] = None,
    pod: Annotated[list[str] | None, typer.Option("--pod", help="A pod's name or uid; globs.")] = None,
    container: Annotated[
        list[str] | None,
        typer.Option("--container", help="The first digits of a container's id, or its name; globs."),
    ] = None,
    image: Annotated[list[str] | None, typer.Option("--image", help="An image; globs.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help='Words that all stand in it; "in quotes" with blanks. No case.'),
    ] = None,
    suppressed: Annotated[bool, typer.Option("--suppressed", help="Also those that a policy hides.")] = False,
) -> None:
    """The filters. Each that takes a list can be given several times, and then means any of them."""


@app.command("list")
@takes_filters(of=_options)
def list_(
    context: typer.Context,
    wanted: Filters,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest.")] = False,
    by_score: Annotated[bool, typer.Option("--by-score", help="Begin with the highest score.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Traces, those that began last first."""
    if by_score and oldest_first:
        raise typer.BadParameter("--by-score and --oldest-first say two things of the order")
    from quell.model.trace_view import TraceFilter

    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in wanted.items()}
    with connect(context) as client:
        ask = partial(client.traces.page, TraceFilter(**given), by_score=by_score)
        print_rows(search(ask, limit, oldest_first=oldest_first), output, _COLUMNS, empty="no traces")


@app.command()
def show(context: typer.Context, trace: Id, output: Output = Format.TABLE) -> None:
    """One trace: the tree of its processes, with the flags of each."""
    with connect(context) as client:
        one = client.traces.get(trace)
    _print(one, output)


@app.command()
def close(context: typer.Context, trace: Id, *, note: Note = "", output: Output = Format.TABLE) -> None:
    """Say that a trace is dealt with: what comes later on its chains opens another."""
    with connect(context) as client:
        one = client.traces.close(trace, note)
    if output is not Format.TABLE:
        print_data(one, output)
    else:
        print(f"closed {one.id}")


@app.command()
def reopen(context: typer.Context, trace: Id, *, note: Note = "", output: Output = Format.TABLE) -> None:
    """Let flags join a closed trace again."""
    with connect(context) as client:
        one = client.traces.reopen(trace, note)
    if output is not Format.TABLE:
        print_data(one, output)
    else:
        print(f"{one.id} is open")


@app.command()
def suppress(
    context: typer.Context,
    trace: Id,
    *,
    name: Annotated[
        str | None, typer.Option("--name", help="Of the policy; default: made of what the trace began with.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply it as well: the trace is hidden.")] = False,
) -> None:
    """Make a policy that hides a trace and those like it, and print it. `quell policies disable` shows them again."""
    with connect(context) as client:
        made = client.traces.policy(trace, name)
        from quell.documents.write import as_yaml

        text = as_yaml(made.document)
        if apply:
            client.documents.apply(text.encode())
            print(visible(f"Policy {made.document['metadata']['name']} created; it hides {_number(len(made.hides))}"))
            return
    print(f"# hides {_number(len(made.hides))}")
    print(text, end="")


def _number(traces: int) -> str:
    return f"{traces} open trace{'s' if traces != 1 else ''}"


def _print(one: TraceShown, output: Format) -> None:
    if output is not Format.TABLE:
        print_data(one, output)
        return
    from quell.cli.trace_tree import print_trace

    print_trace(console(), one)


def _status(one: TraceSummary) -> str:
    return f"{one.status}, suppressed" if one.suppressed_by else one.status


_COLUMNS: Mapping[str, Callable[[TraceSummary], object]] = {
    "last": lambda one: clock(one.last),
    "priority": lambda one: one.priority,
    "score": lambda one: f"{one.score:g}",
    "status": _status,
    "root": lambda one: one.root_name,
    "trigger": lambda one: one.trigger_name,
    "about": lambda one: about(one.subject),
    "flags": lambda one: one.flag_count,
    "depth": lambda one: one.depth,
    "id": lambda one: one.id,
}
