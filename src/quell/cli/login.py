"""login and logout."""

from __future__ import annotations

from typing import Annotated

import typer

from quell.cli import credentials, passwords
from quell.cli.connection import Connection, authority_of, connect
from quell.cli.credentials import Credential
from quell.cli.exits import Exit
from quell.cli.output import clock
from quell.errors import ApiError


def login(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Log in here as this user; the password is asked for, or read from stdin.")
    ] = None,
) -> None:
    """Log in as a user; without a name, print an address that logs a browser in once.

    The session is kept in ~/.config/quell/credentials.toml for this address and used by every command that is given no
    token.
    """
    if name is None:
        with connect(context) as client:
            print(client.accounts.login_link())
        return
    from quell.client import Client  # httpx: only who needs it pays for it

    connection = context.find_object(Connection) or Connection()
    with Client(connection.url, "", ca_file=authority_of(connection)) as client:
        opened = client.accounts.log_in(name, passwords.read(f"Password of {name}"))
    credentials.keep(connection.url, Credential(user=opened.user, token=opened.token, expires=opened.expires))
    print(f"logged in as {opened.user} ({opened.role}) until {clock(opened.expires)}")


def logout(context: typer.Context) -> None:
    """End the session of `quell login NAME` with this controller."""
    connection = context.find_object(Connection) or Connection()
    credential = credentials.find(connection.url)
    if credential is None:
        print(f"nobody is logged in to {connection.url} here")
        raise typer.Exit(Exit.OK)
    from quell.client import Client  # httpx: only who needs it pays for it

    try:
        with Client(connection.url, credential.token, ca_file=authority_of(connection)) as client:
            client.accounts.log_out()
    except ApiError as error:
        if error.status != 401:  # it has run out by itself
            raise
    credentials.drop(connection.url)
    print(f"logged out {credential.user}")
