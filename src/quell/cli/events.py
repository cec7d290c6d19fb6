"""events send and list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
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
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most so many.")] = 20,
    before: Annotated[str | None, typer.Option("--before", help="Only those older than this event.")] = None,
    *,
    only_decided: Annotated[bool, typer.Option("--decided", help="Only those that a rule or policy matched.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """The latest events, newest first, each with what was decided."""
    with connect(context) as client:
        events = client.events.recent(limit, before, decided=only_decided)
    print_rows(
        events,
        output,
        {
            "received": lambda event: clock(event.get("received")),
            "level": lambda event: event.get("level"),
            "name": lambda event: event.get("name"),
            "source": lambda event: event.get("source"),
            "decision": decided,
            "id": lambda event: event.get("id"),
        },
        empty="no events yet",
    )


def decided(event: Mapping[str, Any]) -> str:
    """The decision in a few words: each action with its status."""
    decision = event.get("decision") or {}
    actions = [f"{action['action']['type']} {action['status']}" for action in decision.get("actions", ())]
    return ", ".join(actions) or ("matched" if decision.get("matches") else "no rule")
