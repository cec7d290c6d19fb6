"""evidence list, show and export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, clock, milliseconds, print_data, print_rows, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quell.model.evidence import ProcessEvidence, StoredEvidence

app = typer.Typer(help="What was gathered before kills.", no_args_is_help=True)

EventId = Annotated[str, typer.Argument(metavar="EVENT", help="The event that led to the kill.")]
#: Lines of one list that are shown; -o json has all.
_LINES = 20


@app.command("list")
def list_(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    output: Output = Format.TABLE,
) -> None:
    """The latest evidence, newest first."""
    with connect(context) as client:
        found = client.evidence.recent(limit)
    print_rows(
        found,
        output,
        {
            "time": lambda each: clock(each.time),
            "event": lambda each: each.event,
            "action": lambda each: each.id.rpartition("/")[2],
            "agent": lambda each: each.agent,
            "bytes": lambda each: each.size,
        },
        empty="nothing was gathered yet: a rule asks for it with evidence: true",
    )


@app.command()
def show(context: typer.Context, event: EventId, output: Output = Format.TABLE) -> None:
    """What the processes were like right before they were killed; of long lists the first lines."""
    with connect(context) as client:
        found = client.evidence.of_event(event)
    if output is not Format.TABLE:
        print_data(found, output)
        return
    if not found:
        print("nothing was gathered for this event", file=sys.stderr)
        raise typer.Exit(Exit.FAILED)
    for each in found:
        for line in _lines(each):
            print(visible(line))


@app.command()
def export(
    context: typer.Context,
    event: EventId,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    *,
    executables: Annotated[
        bool,
        typer.Option("--executables/--no-executables", help="The copies of executables too. They may be malware."),
    ] = True,
) -> None:
    """Everything gathered for an event as files: evidence.json, and each executable named by its SHA-256, not executable."""
    import msgspec

    from quell.client.download import save

    with connect(context) as client:
        found = client.evidence.of_event(event)
        if not found:
            print("nothing was gathered for this event", file=sys.stderr)
            raise typer.Exit(Exit.FAILED)
        folder.mkdir(mode=0o700, parents=True)
        save(folder / "evidence.json", [msgspec.json.format(msgspec.json.encode(found), indent=2), b"\n"])
        print(f"{folder / 'evidence.json'}")
        for sha256 in dict.fromkeys(copy for each in found for copy in each.copies) if executables else ():
            save(folder / sha256, client.evidence.executable(sha256))
            print(f"{folder / sha256}")


def _lines(stored: StoredEvidence) -> Iterator[str]:
    gathered = stored.gathered
    yield f"{gathered.id}  {clock(gathered.time)}, the kill waited {milliseconds(gathered.seconds)}, by {stored.agent}"
    for part, reason in gathered.missing.items():
        yield f"  missing: {part}: {reason}"
    for process in gathered.processes:
        yield from _process(process, stored.copies)
    around = [
        f"{each.relation:<10} {each.pid} (parent {each.ppid}) {' '.join(each.arguments) or each.name}"
        for each in gathered.relatives
    ]
    yield from _few("processes around it", around)


def _process(process: ProcessEvidence, copies: tuple[str, ...]) -> Iterator[str]:
    yield f"  {process.name} (pid {process.pid}, parent {process.ppid}), started {clock(process.start_time)}"
    facts = {
        "executable": process.exe,
        "arguments": " ".join(process.arguments),
        "folder": process.cwd,
        "root": process.root if process.root != "/" else None,
        "users": process.status.get("Uid"),
        "capabilities": process.status.get("CapEff"),
        "container": process.container_id,
        "pod": process.pod_uid,
    }
    if process.executable is not None:
        one = process.executable
        kept = "a copy is kept" if one.sha256 in copies else "no copy"
        facts["content"] = f"{one.size} bytes, {one.content or 'on disk'}, SHA-256 {one.sha256 or 'not read'}, {kept}"
    for name, value in facts.items():
        if value:
            yield f"    {name:<13}{value}"
    yield from _few("environment", [f"{name}={value}" for name, value in process.environment.items()])
    yield from _few("open files", [f"{each.fd:>4} {each.access:<10} {each.path}" for each in process.files])
    sockets = [
        " ".join(filter(None, (f"{each.fd:>4}", each.protocol or "?", each.local or "-", each.remote, each.state)))
        for each in process.sockets
    ]
    yield from _few("sockets", sockets)


def _few(title: str, lines: list[str]) -> Iterator[str]:
    if lines:
        yield f"    {title}"
        yield from (f"      {line}" for line in lines[:_LINES])
        if len(lines) > _LINES:
            yield f"      and {len(lines) - _LINES} more: -o json has all"
