"""rulesets list and show."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli import completion
from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_data, print_rows, visible

app = typer.Typer(help="Rulesets: what policies that share them allow and deny.", no_args_is_help=True)


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """The rulesets, and the policies that go by each."""
    with connect(context) as client:
        found = client.rulesets.all()
    print_rows(
        found,
        output,
        {
            "name": lambda ruleset: ruleset.name,
            "type": lambda ruleset: ruleset.type,
            "rules": lambda ruleset: len(ruleset.rules),
            "policies": lambda ruleset: ruleset.policies,
            "source": lambda ruleset: ruleset.source,
        },
        empty="no rulesets",
    )


@app.command()
def show(
    context: typer.Context,
    ruleset: Annotated[str, typer.Argument(help="A ruleset's name.", autocompletion=completion.rulesets)],
    output: Output = Format.TABLE,
) -> None:
    """One ruleset: the policies that go by it, and its rules."""
    with connect(context) as client:
        found = client.rulesets.one(ruleset)
    if output is not Format.TABLE:
        print_data(found, output)
        return
    rows = {
        "ruleset": f"{found.name}  ({found.type})",
        "policies": ", ".join(found.policies) or "none",
        "source": found.source,
        "changed": f"{clock(found.changed)} by {found.changed_by}" if found.changed else None,
    }
    for name, value in rows.items():
        if value:
            print(f"{name:12} {visible(value)}")
    print()
    from quell.documents.write import as_yaml

    print(as_yaml({"rules": found.rules}), end="")
