"""backup and restore."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import Connection, connect, default_state
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, clock, console, print_data

if TYPE_CHECKING:
    from quell.storage.archive import Manifest, Progress

File = Annotated[Path, typer.Argument(help="The backup.")]

_DOING = {
    "prepare": "the controller makes the copy",
    "download": "fetching it",
    "check": "checking its hash",
    "unpack": "checking what is in it",
    "verify": "checking the database",
}


def backup(
    context: typer.Context,
    file: File,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Save everything a running controller needs to be the same again: journal, documents, accounts and keys.

    Whatever was acknowledged before is in it. The file holds secrets: the controller's key among them.
    """
    with connect(context) as client, _progress() as told:
        manifest = client.backups.save(file, force=force, told=told)
    _print(file, manifest, output, f"saved to {file}")


def restore(
    context: typer.Context,
    file: File,
    *,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="The state folder; default: /var/lib/quell, or ~/.local/state/quell."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the backup and restore nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Move what a controller left in the folder aside; nothing is deleted.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Put a backup back, on the machine of a controller that is stopped: all of it, or nothing is changed."""
    from quell.storage import restore as restoring  # the storage and what it stands on

    connection = context.find_object(Connection) or Connection()
    folder = state or connection.state or default_state()
    with _progress() as told:
        if check:
            done = restoring.check(file, time.time(), told)
        else:
            done = restoring.restore(file, folder, force=force, now=time.time(), told=told)
    migrated = f", migrated to {done.schema}" if done.schema != done.manifest.schema else ""
    aside = f"; what was there is in {done.aside}" if done.aside else ""
    sound = "can be restored" if done.findings else "is sound"
    words = f"{file} {sound}{migrated}" if check else f"restored to {folder}{migrated}{aside}"
    _print(file, done.manifest, output, words)
    for finding in done.findings:
        print(f"quell: its audit log, entry {finding.n}: {finding.fault}: {finding.detail}", file=sys.stderr)
    if check and done.findings:
        raise typer.Exit(Exit.FAILED)


def _print(file: Path, manifest: Manifest, form: Format, words: str) -> None:
    if form is not Format.TABLE:
        print_data(manifest, form)
        return
    size = sum(member.size for member in manifest.members)
    print(
        f"{words}\n{manifest.events} events up to {clock(manifest.time)}, store of version {manifest.schema}, "
        f"by Quell {manifest.quell}; {file.stat().st_size:,} bytes, {size:,} unpacked"
    )


@contextmanager
def _progress() -> Iterator[Progress]:
    """Bars on a terminal's standard error; nothing elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

    screen = console(error=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(_DOING[what])
            # Without a size, one that is not yet known or means nothing, the bar moves to and fro.
            bars.update(tasks[what], completed=done, total=total if total > 1 or done else None)

        yield told
