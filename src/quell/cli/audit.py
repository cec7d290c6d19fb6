"""audit list, verify and export."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import connect
from quell.cli.exits import Exit
from quell.cli.output import Format, Output, clock, console, print_data, print_rows, visible
from quell.durations import parse_duration

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from quell.model.audit import Verification

app = typer.Typer(help="Who did what, chained by hash so that no entry can be changed unseen.", no_args_is_help=True)

Progress = Callable[[int, int], object]


def _moment(text: str) -> float:
    """Epoch seconds of a time (ISO 8601, UTC if it says nothing else) or of so long ago."""
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f'expected 2h, 7d or a time such as 2026-11-22T15:40, got "{text}"') from None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


@app.command("list")
def list_(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 20,
    since: Annotated[
        float | None, typer.Option("--since", parser=_moment, metavar="TIME", help="From then on: 2h, or a time.")
    ] = None,
    until: Annotated[
        float | None, typer.Option("--until", parser=_moment, metavar="TIME", help="Before then: 2h ago, or a time.")
    ] = None,
    actor: Annotated[str | None, typer.Option("--actor", help="By whom, such as user/alice or token/ci.")] = None,
    verb: Annotated[str | None, typer.Option("--verb", help="What was done, such as change or release.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="To what, such as setting, token or action.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="What it is called.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Changes and actions, newest first. JSON and YAML show what was there before and after."""
    with connect(context) as client:
        found = client.audit.entries(limit, since=since, until=until, actor=actor, verb=verb, kind=kind, name=name)
    print_rows(
        found,
        output,
        {
            "n": lambda record: record.n,
            "time": lambda record: clock(record.time),
            "actor": lambda record: record.entry.actor,
            "verb": lambda record: record.entry.verb,
            "kind": lambda record: record.entry.kind,
            "name": lambda record: record.entry.name,
            "from": lambda record: record.entry.actor.address,
            "note": lambda record: record.entry.note or _outcome(record.entry.after),
        },
        empty="no entries",
    )


@app.command()
def verify(
    context: typer.Context,
    *,
    state: Annotated[
        Path | None,
        typer.Option("--state", help="Check the log in this state folder, without asking a controller."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Check an export instead.")] = None,
    key: Annotated[
        str,
        typer.Option("--key", help="The controller's public key, ed25519:...; else the folder's or the file's own."),
    ] = "",
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="A hash that was noted earlier: the log must still pass through it."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Check that no entry was altered, removed, moved or cut off. Exit code 1 if one was.

    Without --state and --file the controller checks its own log; --state and --file trust no controller.
    """
    if state is not None and file is not None:
        raise typer.BadParameter("give --state or --file, not both")
    noted = tuple(head or ())
    if any(len(one) != 64 or set(one) - set("0123456789abcdef") for one in noted):
        raise typer.BadParameter("a hash has 64 hexadecimal digits", param_hint="--head")
    if (key or noted) and state is None and file is None:
        raise typer.BadParameter("--key and --head go with --state or --file: a controller that lies would say yes")
    with _progress() as told:
        if file is not None:
            found = _verify_file(file, key, noted, told)
        elif state is not None:
            found = _verify_state(state, key, noted, told)
        else:
            with connect(context) as client:
                found = client.audit.verification(told)
    if output is Format.TABLE:
        _print(found, named=file is not None and not key)
    else:
        print_data(found, output)
    raise typer.Exit(Exit.FAILED if found.findings else Exit.OK)


@app.command()
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; - for standard output.", allow_dash=True)],
) -> None:
    """Save the whole log as lines of JSON. Keep it elsewhere: `quell audit verify --file` checks it there.

    That there was an export is an entry of the log itself.
    """
    with connect(context) as client:
        if str(file) == "-":
            for part in client.audit.export():
                sys.stdout.buffer.write(part)
            return
        client.audit.save(file)
    found = _verify_file(file, "", (), lambda _entries, _of: None)
    _print(found, named=True)
    raise typer.Exit(Exit.FAILED if found.findings else Exit.OK)


def _verify_file(file: Path, key: str, noted: tuple[str, ...], told: Progress) -> Verification:
    from quell.channel.keys import public_key
    from quell.storage.audit_export import verify_file

    return verify_file(file, lambda named: public_key(key or named), noted=noted, progress=told)


def _verify_state(folder: Path, key: str, noted: tuple[str, ...], told: Progress) -> Verification:
    import sqlite3

    from quell.errors import StoreError
    from quell.storage import audit, schema

    path = folder / "quell.db"
    path.stat()  # SQLite would make the file
    signed_by = _key_of(folder, key)
    try:
        with closing(schema.connect(path, read_only=True)) as connection:
            ends = audit.ends(connection)
            total = ends.last - ends.base.n
            return audit.verify(connection, signed_by, noted=noted, progress=lambda entries: told(entries, total))
    except sqlite3.Error as error:
        raise StoreError(f"cannot read the audit log in {path}: {error}") from error


def _key_of(folder: Path, key: str) -> Ed25519PublicKey:
    from quell.channel.keys import load_or_create_key, public_key
    from quell.errors import LinkError

    if key:
        return public_key(key)
    path = folder / "controller.key"
    if not path.exists():
        raise LinkError(f"{path} is not there: give the controller's public key with --key")
    return load_or_create_key(path).public_key()


def _print(found: Verification, *, named: bool) -> None:
    if found.findings:
        for finding in found.findings:
            print(f"entry {finding.n}: {finding.fault}: {visible(finding.detail)}")
        print(f"{found.entries:,} entries before that hold")
        return
    if found.head is None:
        print("the audit log is empty")
        return
    signed = "signed with the key that the file names" if named else "signed by the controller"
    print(f"{found.entries:,} entries hold; the log ends with entry {found.head.n}, {signed}\n{found.head.hash}")


def _outcome(after: object) -> object:
    return after.get("status") if isinstance(after, dict) else None


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal's standard error; nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(error=True)
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        task = bars.add_task("checking", total=None)
        yield lambda entries, of: bars.update(task, completed=entries, total=of)
