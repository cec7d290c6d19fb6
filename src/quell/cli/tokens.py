"""tokens: create, list, rotate and delete."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import connect
from quell.cli.output import Format, Output, clock, print_data, print_rows
from quell.durations import parse_duration

if TYPE_CHECKING:
    from quell.client.accounts import IssuedToken

app = typer.Typer(help="Tokens of programs and detectors.", no_args_is_help=True)


class Role(StrEnum):
    ADMIN = "admin"
    OPERATOR = "operator"
    AUTHOR = "author"
    VIEWER = "viewer"
    INGEST = "ingest"


class Permission(StrEnum):
    READ = "read"
    RULES = "rules"
    OPERATE = "operate"
    ADMIN = "admin"
    INGEST = "ingest"


_ROLES = (
    "admin: everything. operator: documents, quarantine, approvals, pause. author: documents, destructive rules stay"
    " disabled. viewer: read. ingest: send events, nothing else."
)
Name = Annotated[str, typer.Argument(help="Who or what it is for.")]


@app.command()
def create(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(help=_ROLES)],
    name: Name,
    *,
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", parser=parse_duration, metavar="DURATION", help="When it expires; never if absent."),
    ] = None,
    permission: Annotated[
        list[Permission] | None,
        typer.Option("--permission", help="Only this of the role; may be repeated. All if absent."),
    ] = None,
    detector: Annotated[
        list[str] | None, typer.Option("--detector", help="Role ingest: only as this detector; may be repeated.")
    ] = None,
    cluster: Annotated[
        list[str] | None, typer.Option("--cluster", help="Role ingest: only about this cluster; may be a glob.")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", help="Role ingest: only about this node; may be a glob.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of a token of that name.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Make a token. It is shown this once; the controller keeps only its hash."""
    with connect(context) as client:
        issued = client.accounts.create_token(
            role.value,
            name,
            ttl,
            permissions=None if permission is None else [right.value for right in permission],
            detectors=detector or (),
            clusters=cluster or (),
            nodes=node or (),
            replace=replace,
        )
    _print(issued, output)


@app.command()
def rotate(
    context: typer.Context,
    name: Name,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            parser=parse_duration,
            metavar="DURATION",
            show_default="0s",
            help="How long the one before works as well.",
        ),
    ] = 0.0,
    output: Output = Format.TABLE,
) -> None:
    """Give a token a new secret, with everything else as it was. It is shown this once."""
    with connect(context) as client:
        issued = client.accounts.rotate_token(name, grace)
    _print(issued, output)
    if issued.old_until is not None:
        typer.echo(f"the one before works until {clock(issued.old_until)}", err=True)


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Who has a token, what it may do, and when it was last used."""
    with connect(context) as client:
        tokens = client.accounts.tokens()
    print_rows(
        tokens,
        output,
        {
            "name": lambda token: token.get("name"),
            "role": lambda token: token.get("role"),
            "only": lambda token: token.get("permissions"),
            "bound to": lambda token: [
                f"{word.removesuffix('s')} {named}"
                for word, names in (token.get("binding") or {}).items()
                for named in names
            ],
            "made by": lambda token: token.get("owner"),
            "expires": lambda token: clock(token.get("expires")),
            "last used": lambda token: clock(token.get("last_used")),
        },
        empty="no tokens",
    )


@app.command()
def delete(context: typer.Context, name: Annotated[str, typer.Argument(help="Whose token.")]) -> None:
    """Withdraw a token; it stops working at once."""
    with connect(context) as client:
        client.accounts.delete_token(name)
    print(f"deleted {name}")


def _print(issued: IssuedToken, output: Format) -> None:
    if output is Format.TABLE:
        print(issued.token)
    else:
        print_data(issued, output)
