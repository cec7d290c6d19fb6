"""What every command that saves a list as a file has: the options, and a bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.output import console

if TYPE_CHECKING:
    from quell.client.download import Progress


class FileFormat(StrEnum):
    CSV = "csv"
    NDJSON = "ndjson"


As = Annotated[
    FileFormat, typer.Option("--format", help="csv for spreadsheets; ndjson: a JSON object a line, everything.")
]
To = Annotated[Path, typer.Option("-o", "--output", help="A new file; - for standard output.", allow_dash=True)]


def write(file: Path, parts: Callable[[Progress], Iterable[bytes]]) -> None:
    """To a new file, or to standard output. parts: what comes, given who is told how far it is."""
    from quell.client.download import save

    with _progress() as told:
        if str(file) != "-":
            save(file, parts(told))
            return
        for part in parts(told):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal's standard error; nothing elsewhere. How much comes is known as a bound only."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    screen = console(error=True)
    columns = (TextColumn("exporting {task.fields[lines]:,}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        task = bars.add_task("exporting", total=None, lines=0)

        def told(size: int, lines: int, most: int) -> None:
            # Lines are nearly alike: so many bytes may come in all.
            total = size * max(most, lines) // lines if lines else None
            bars.update(task, completed=size, total=total, lines=lines)

        yield told
