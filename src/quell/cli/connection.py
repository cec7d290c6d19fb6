"""Which controller a command talks to, and with which token."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from msgspec import Struct

from quell.cli import credentials

if TYPE_CHECKING:
    from quell.client import Client

DEFAULT_URL = "http://127.0.0.1:7341"


class Connection(Struct, frozen=True, kw_only=True):
    """The global options. token "": the session of `quell login NAME`; without one the admin.token of the state folder,
    where this user may read it.
    """

    url: str = DEFAULT_URL
    token: str = ""
    state: Path | None = None
    #: PEM: whom to trust for https; None: the ca.crt of the state folder where this user may read it, else the system's.
    ca_file: Path | None = None


def default_state() -> Path:
    """Where a controller of this user keeps its state unless told otherwise."""
    return Path("/var/lib/quell") if os.geteuid() == 0 else Path.home() / ".local/state/quell"


def connect(context: typer.Context) -> Client:
    """A client for the global options of this call; whoever uses it closes it."""
    from quell.client import Client  # httpx costs 150 ms that `quell version` and shell completion can do without

    connection = context.find_object(Connection) or Connection()
    return Client(connection.url, token_of(connection), ca_file=authority_of(connection))


def token_of(connection: Connection) -> str:
    """The token a command shows; "": there is none."""
    return connection.token or _session_with(connection.url) or _admin_token(connection.state)


def authority_of(connection: Connection) -> Path | None:
    """Whom to trust for https, beside whom the system trusts; None: nobody."""
    if connection.ca_file is not None or not connection.url.startswith("https:"):
        return connection.ca_file
    return next((file for folder in _folders(connection.state) if (file := folder / "ca.crt").is_file()), None)


def _folders(state: Path | None) -> list[Path]:
    return [state] if state is not None else [Path(".state"), default_state()]


def _session_with(url: str) -> str:
    credential = credentials.find(url)
    return "" if credential is None else credential.token


def _admin_token(state: Path | None) -> str:
    for folder in _folders(state):
        try:
            return (folder / "admin.token").read_text().strip()
        except OSError:
            continue  # not there or not ours to read: the controller says what is missing
    return ""
