"""How answers are printed: a table for people, JSON or YAML for programs. Nothing but the answer goes to stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Row = TypeVar("Row")

#: Columns where the output is no terminal: what a file or a pipe gets must not depend on who runs the command.
WIDTH = 100


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("-o", "--output", help="How to print the answer.")]


def console(*, error: bool = False) -> Console:
    """Colours and the terminal's width on a terminal; plain text, WIDTH columns wide, everywhere else."""
    from rich.console import Console  # 70 ms that JSON output can do without

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDTH, highlight=False)


def print_data(value: Any, form: Format) -> None:
    """A value of structs and plain data as JSON or YAML."""
    import msgspec

    plain = msgspec.to_builtins(value)
    if form is Format.JSON:
        print(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())
    else:
        import yaml

        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")


def print_rows(
    rows: Sequence[Row], form: Format, columns: Mapping[str, Callable[[Row], object]], *, empty: str
) -> None:
    """A list: a line a row with these columns, or all the data. empty: what a person is told if there is none."""
    if form is not Format.TABLE:
        print_data(rows, form)
        return
    if not rows:
        print(empty, file=sys.stderr)
        return
    from rich.table import Table
    from rich.text import Text

    screen = console()
    if not screen.is_terminal:
        screen.width = 10_000  # a line a row, however long, for grep and awk
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(_cell(value(row)))) for value in columns.values()))
    print_trimmed(screen, table)


def print_trimmed(screen: Console, *drawn: RenderableType) -> None:
    """Print without the blanks that tables fill their cells with: nobody wants them in a file or a copied text."""
    with screen.capture() as capture:
        for part in drawn:
            screen.print(part)
    screen.file.write(re.sub(r" +$", "", capture.get(), flags=re.MULTILINE))


def visible(text: str) -> str:
    """The text with everything escaped that would move the cursor, colour or hide: events say what attackers choose."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(item) for item in value) or "-"
    return str(value)


def clock(time: float | None) -> str:
    """Epoch seconds as 2026-11-22 15:40:11.204Z."""
    if time is None:
        return "-"
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00") + "Z"


def milliseconds(seconds: float) -> str:
    """A duration for people: 0.42 ms, 18 ms, 3.1 s."""
    thousandths = seconds * 1000
    if thousandths >= 1000:
        return f"{seconds:.1f} s"
    return f"{thousandths:.0f} ms" if thousandths >= 10 else f"{thousandths:.2g} ms"
