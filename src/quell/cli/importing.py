"""import: another system's rules as documents of ours, with what changes in meaning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.exits import Exit
from quell.cli.output import Format, Output, print_data

if TYPE_CHECKING:
    from quell.documents.neuvector_import import Imported

app = typer.Typer(help="Turn another system's rules into documents; nothing is applied.", no_args_is_help=True)


@app.command()
def neuvector(
    file: Annotated[
        str,
        typer.Argument(
            help="What GET /v1/response/rule or an export gave, as JSON or YAML, or custom resources; - for stdin."
        ),
    ] = "-",
    to: Annotated[Path | None, typer.Option("--to", help="Write the documents here; default: standard output.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """NeuVector's response rules. Says rule by rule what changes in meaning; exits with 3 if one cannot be written.

    With -o json or yaml the answer is a list of what became of each rule instead of the documents.
    """
    from quell.documents.neuvector_import import import_text
    from quell.documents.write import dump_yaml, to_document

    text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    found = import_text(text, "<stdin>" if file == "-" else file)
    documents = dump_yaml([one.thing for one in found if one.thing is not None])
    if to is not None:
        to.write_text(documents)
    if output is not Format.TABLE:
        print_data(
            [
                {
                    "origin": one.origin,
                    "document": None if one.thing is None else to_document(one.thing),
                    "changes": one.changes,
                    "problems": one.problems,
                }
                for one in found
            ],
            output,
        )
    else:
        if to is None:
            sys.stdout.write(documents)
        _tell(found)
    if any(one.thing is None for one in found):
        raise typer.Exit(Exit.INPUT)


def _tell(found: list[Imported]) -> None:
    """On standard error: what each rule became, what changes, and what has to be there before it is applied."""
    from quell.documents.group import LEARNED, RESERVED
    from quell.model.rule import Group, Rule

    for one in found:
        became = f"becomes {one.thing.name}" if one.thing is not None else "CANNOT BE WRITTEN"
        print(f"{one.origin} {became}", file=sys.stderr)
        for told in (*one.problems, *one.changes):
            print(f"  - {told}", file=sys.stderr)
    rules = [one.thing for one in found if isinstance(one.thing, Rule)]
    groups = {one.thing.name for one in found if isinstance(one.thing, Group)}
    needed = {
        "webhooks": dict.fromkeys(name for rule in rules for name in rule.webhooks),
        "groups": dict.fromkeys(
            rule.group
            for rule in rules
            if rule.group and rule.group not in (*RESERVED, *groups) and not rule.group.startswith(LEARNED)
        ),
    }
    for what, names in needed.items():
        if names:
            print(f"to be there before these are applied: {what} {', '.join(names)}", file=sys.stderr)
