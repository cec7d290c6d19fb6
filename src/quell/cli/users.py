"""users: list, create, change, delete, disable, enable, unlock, password; and their sessions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from quell.cli import credentials, passwords
from quell.cli.connection import Connection, connect
from quell.cli.output import Format, Output, clock, print_data, print_rows

app = typer.Typer(help="People who may log in.", no_args_is_help=True)


class Role(StrEnum):
    ADMIN = "admin"
    OPERATOR = "operator"
    AUTHOR = "author"
    VIEWER = "viewer"


Name = Annotated[str, typer.Argument(help="The user.")]
_ROLES = (
    "admin: everything. operator: documents, quarantine, approvals, pause. author: documents, destructive rules stay"
    " disabled. viewer: read."
)


@app.command("list")
def list_(context: typer.Context, output: Output = Format.TABLE) -> None:
    """Who may log in, and when they last did."""
    with connect(context) as client:
        users = client.accounts.users()
    print_rows(
        users,
        output,
        {
            "name": lambda user: user.name,
            "role": lambda user: user.role,
            "state": lambda user: "disabled" if user.disabled else "locked" if user.locked else "enabled",
            "last login": lambda user: clock(user.last_login),
            "source": lambda user: user.source,
            "password of": lambda user: clock(user.password_changed),
        },
        empty="no users: the first start's link makes one, or quell users create",
    )


@app.command()
def create(
    context: typer.Context,
    name: Name,
    role: Annotated[Role, typer.Option("--role", help=_ROLES)] = Role.VIEWER,
    output: Output = Format.TABLE,
) -> None:
    """Make a user; the password is asked for, or read from stdin. Some unrelated words make a good one."""
    password = passwords.choose()
    with connect(context) as client:
        user = client.accounts.create_user(name, role.value, password)
    if output is Format.TABLE:
        print(f"created {user.name} ({user.role})")
    else:
        print_data(user, output)


@app.command()
def change(context: typer.Context, name: Name, role: Annotated[Role, typer.Option("--role", help=_ROLES)]) -> None:
    """Give a user another role; ends the user's sessions."""
    with connect(context) as client:
        user = client.accounts.change_user(name, role=role.value)
    print(f"{user.name} is now {user.role}")


@app.command()
def disable(context: typer.Context, name: Name) -> None:
    """Keep a user from logging in; sessions end, and the user's tokens stop working but for those of role ingest."""
    with connect(context) as client:
        user = client.accounts.change_user(name, disabled=True)
    print(f"disabled {user.name}")


@app.command()
def enable(context: typer.Context, name: Name) -> None:
    """Let a disabled user log in again."""
    with connect(context) as client:
        user = client.accounts.change_user(name, disabled=False)
    print(f"enabled {user.name}")


@app.command()
def delete(context: typer.Context, name: Name) -> None:
    """Delete a user with sessions and tokens; tokens of role ingest stay, and are told."""
    with connect(context) as client:
        remaining = client.accounts.delete_user(name)
    print(f"deleted {name}")
    for token in remaining:
        print(f"token {token} still sends events; withdraw it with: quell tokens delete {token!r}")


@app.command()
def unlock(context: typer.Context, name: Name) -> None:
    """Let a user log in again that was locked after too many failures."""
    with connect(context) as client:
        client.accounts.unlock_user(name)
    print(f"unlocked {name}")


@app.command()
def password(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The user; without one, whoever is logged in here.")] = None,
) -> None:
    """Set a password, asked for or read from stdin; one's own takes the old one first. Ends the user's sessions."""
    with connect(context) as client:
        myself = client.accounts.myself()
        user = name or myself["name"]
        is_own = (myself["kind"], myself["name"]) == ("user", user.lower())
        if name is None and not is_own:
            raise typer.BadParameter("nobody is logged in here: say whose password", param_hint="NAME")
        old = passwords.read("The password in force") if is_own else None
        client.accounts.set_password(user, passwords.choose(f"New password of {user}"), old)
    if is_own:
        credentials.drop((context.find_object(Connection) or Connection()).url)
    print(f"changed the password of {user}" + ("; log in again" if is_own else ""))


@app.command()
def sessions(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Of this user, as an admin; otherwise one's own.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """The sessions that last, newest first."""
    with connect(context) as client:
        found = client.accounts.sessions(name)
    print_rows(
        found,
        output,
        {
            "id": lambda session: session.id,
            "by": lambda session: "browser" if session.cookie else "command line",
            "from": lambda session: session.address,
            "since": lambda session: clock(session.created),
            "last used": lambda session: clock(session.last_used),
            "program": lambda session: session.program,
        },
        empty="no sessions",
    )


@app.command("end-session")
def end_session(
    context: typer.Context, identifier: Annotated[str, typer.Argument(metavar="ID", help="As users sessions tells.")]
) -> None:
    """End a session: one's own, or as an admin anybody's."""
    with connect(context) as client:
        client.accounts.end_session(identifier)
    print(f"ended {identifier}")
