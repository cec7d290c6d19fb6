"""dry-run: what would be done about an event, and what would be refused, as agents and clusters say."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, console, print_data


def dry_run(
    context: typer.Context,
    event_id: Annotated[
        str | None, typer.Argument(metavar="[EVENT]", help="An event the controller has taken.")
    ] = None,
    *,
    event: Annotated[
        str | None, typer.Option("--event", help="A file with one event in Quell's own form; - for standard input.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="As if the event had happened now.")] = False,
    action: Annotated[
        list[str] | None,
        typer.Option(
            "--action",
            "-a",
            help="As if you asked for this and no rule did: a word, word:parameter=value, or {word: {...}}.",
        ),
    ] = None,
    node: Annotated[str | None, typer.Option("--node", help="Without an event: the machine of the target.")] = None,
    pid: Annotated[int | None, typer.Option("--pid", min=1, help="Without an event: a process.")] = None,
    start_ticks: Annotated[
        int | None, typer.Option("--start-ticks", min=0, help="When it started: field 22 of /proc/PID/stat.")
    ] = None,
    container: Annotated[str | None, typer.Option("--container", help="Without an event: a container's id.")] = None,
    pod: Annotated[str | None, typer.Option("--pod", help="Without an event: a pod, NAMESPACE/NAME.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Say what would be done about an event now, and do nothing.

    The decision is made as it would be, and whoever would carry an action out looks at its target with every check that
    comes before the deed: an agent on its machine, a cluster's API by a dry run of its own.
    """
    from quell.cli.rule_words import action as read_action

    described = _described(node=node, pid=pid, start_ticks=start_ticks, container=container, pod=pod)
    given = [each for each in (event_id, event, described) if each is not None]
    if len(given) != 1:
        raise typer.BadParameter("give an EVENT, or --event FILE, or a target: --pid, --container or --pod")
    if described is not None and not action:
        raise typer.BadParameter("a target needs an --action")
    actions = [read_action(each) for each in action] if action else None
    document = described if event is None else _read(event)
    with connect(context) as client:
        explanation = client.events.dry_run(event_id=event_id, event=document, now=now, actions=actions)
    if output is not Format.TABLE:
        print_data(explanation, output)
        return
    from quell.cli.record import print_record

    print_record(console(), explanation, dry_run=True)


def _described(
    *, node: str | None, pid: int | None, start_ticks: int | None, container: str | None, pod: str | None
) -> dict[str, Any] | None:
    """An event about this target, of now. None: no target is given."""
    if start_ticks is not None and pid is None:
        raise typer.BadParameter("--start-ticks goes with --pid")
    if pid is None and container is None and pod is None:
        if node is not None:
            raise typer.BadParameter("--node goes with --pid, --container or --pod")
        return None
    subject: dict[str, Any] = {} if node is None else {"node": node}
    if pid is not None:
        subject["process"] = {"pid": pid} | ({} if start_ticks is None else {"start_ticks": start_ticks})
    if container is not None:
        subject["container"] = {"id": container}
    if pod is not None:
        namespace, slash, name = pod.partition("/")
        if not slash or not namespace or not name:
            raise typer.BadParameter(f"expected NAMESPACE/NAME, got {pod}", param_hint="--pod")
        subject |= {"namespace": namespace, "pod": {"name": name}}
    return {
        "name": "Dry.Run",
        "category": "security-event",
        "kind": "incident",
        "time": time.time(),
        "subject": subject,
    }


def _read(name: str) -> dict[str, Any]:
    """EventError: it is no JSON object."""
    import msgspec

    from quell.errors import EventError

    raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise EventError(f"expected one event, a JSON object: {error}") from error
