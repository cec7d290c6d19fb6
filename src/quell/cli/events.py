"""events send and list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
from quell.cli.filters import Filters, filter_of, follow, print_following, search, takes_filters
from quell.cli.output import Format, Output, clock, print_data, print_rows

app = typer.Typer(help="Send events and look at those taken.", no_args_is_help=True)


Files = Annotated[list[str] | None, typer.Argument(metavar="[FILE]...", help="Files to send; - is standard input.")]


def _detectors() -> list[str]:
    from quell.detectors import POSTED

    return sorted(POSTED)


From = Annotated[
    str,
    typer.Option(
        "--from",
        "--detector",
        metavar="NAME",
        help="Whose format it is: native, falco, trivy, ...",
        autocompletion=_detectors,
    ),
]


def _given(word: str, meaning: str) -> Any:
    # The words and meanings are those of quell.detectors.context, whose import `quell version` can do without.
    return typer.Option(f"--{word.replace('_', '-')}", help=f"What the file does not say: {meaning}.")


@app.command()
def send(
    context: typer.Context,
    files: Files = None,
    *,
    file: Annotated[
        list[str] | None, typer.Option("-f", "--file", help="JSON, an array of it or a line each; - for stdin.")
    ] = None,
    detector: From = "native",
    cluster: Annotated[str | None, _given("cluster", "name of the cluster")] = None,
    node: Annotated[str | None, _given("node", "name of the machine")] = None,
    machine_id: Annotated[str | None, _given("machine_id", "the machine's /etc/machine-id")] = None,
    namespace: Annotated[str | None, _given("namespace", "Kubernetes namespace")] = None,
    pod: Annotated[str | None, _given("pod", "name of the pod")] = None,
    pod_uid: Annotated[str | None, _given("pod_uid", "uid of the pod")] = None,
    container: Annotated[str | None, _given("container", "id of the container")] = None,
    container_name: Annotated[str | None, _given("container_name", "name of the container")] = None,
    image: Annotated[str | None, _given("image", "image of the container")] = None,
    service: Annotated[str | None, _given("service", "name of the workload")] = None,
    time: Annotated[str | None, _given("time", "when it was found (RFC 3339), if the document does not say")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Send events; prints their ids once they and their decisions are on disk.

    Without a file, what comes on standard input. A file that cannot be read as events is told on standard error, the
    others are sent nevertheless.
    """
    from quell.cli.sending import send_files
    from quell.detectors import POSTED, Divided

    if detector not in POSTED:
        raise typer.BadParameter(f"expected one of {', '.join(sorted(POSTED))}, got {detector}", param_hint="--from")
    said = {
        "cluster": cluster,
        "node": node,
        "machine_id": machine_id,
        "namespace": namespace,
        "pod": pod,
        "pod_uid": pod_uid,
        "container": container,
        "container_name": container_name,
        "image": image,
        "service": service,
        "time": time,
    }
    chosen = POSTED[detector]
    takes = chosen.takes if isinstance(chosen, Divided) else frozenset[str]()
    given = {word: value for word, value in said.items() if value is not None}
    if unknown := [f"--{word.replace('_', '-')}" for word in given if word not in takes]:
        there = ", ".join(f"--{word.replace('_', '-')}" for word in said if word in takes) or "none"
        raise typer.BadParameter(f"with --from {detector} there are {there}; got {', '.join(unknown)}")
    names = [*(files or ()), *(file or ())] or ["-"]
    with connect(context) as client:
        sent = send_files(client, names, detector=detector, context=given, quiet=output is not Format.TABLE)
    if output is not Format.TABLE:
        print_data(sent[0].receipt if len(sent) == 1 else sent, output)
    if any(each.receipt.rejected or each.refused for each in sent):
        raise typer.Exit(Exit.INPUT)


@app.command("list")
@takes_filters("include_suppressed")
def list_(
    context: typer.Context,
    wanted: Filters,
    *,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="At most so many; with --follow, so many to begin with.")
    ] = 20,
    before: Annotated[str | None, typer.Option("--before", help="Only those older than this event.")] = None,
    going_on: Annotated[bool, typer.Option("--follow", help="Go on with what comes, the newest last.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """The latest events, newest first, each with what was decided; those that a rule suppresses too."""
    if going_on and (before is not None or "until" in wanted):
        raise typer.BadParameter("--follow goes on for ever: neither --before nor --until fits")
    with connect(context) as client:
        ask = partial(client.events.page, filter_of(wanted))
        if going_on:
            columns = [(_WIDTHS.get(name, 0), show) for name, show in _COLUMNS.items()]
            print_following(follow(ask, limit), output, columns)
        else:
            begin = partial(ask, before=before)
            print_rows(search(ask, limit, begin=begin), output, _COLUMNS, empty="no events yet")


def decided(event: Mapping[str, Any]) -> str:
    """The decision in a few words: each action with its status."""
    decision = event.get("decision") or {}
    actions = [f"{action['action']['type']} {action['status']}" for action in decision.get("actions", ())]
    if decision.get("suppressed"):
        return f"suppressed: {', '.join(actions)}"
    return ", ".join(actions) or ("matched" if decision.get("matches") else "no rule")


_COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "received": lambda event: clock(event.get("received")),
    "level": lambda event: event.get("level"),
    "name": lambda event: event.get("name"),
    "source": lambda event: event.get("source"),
    "decision": decided,
    "id": lambda event: event.get("id"),
}
#: Of columns in lines that come one by one.
_WIDTHS = {"received": 24, "level": 9, "name": 32, "source": 8, "decision": 24}
