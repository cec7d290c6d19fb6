"""The very first login: a link that is printed once, or a password that whoever starts Quell hands over. No default one."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path

import structlog

from quell.api.accounts import Accounts
from quell.api.problem import Refusal
from quell.api.roles import Role
from quell.errors import SettingError
from quell.model.audit import QUELL
from quell.storage import users
from quell.storage.store import Store

#: Name of the admin whose password comes from the environment.
ADMIN = "admin"
PASSWORD, PASSWORD_FILE = "QUELL_ADMIN_PASSWORD", "QUELL_ADMIN_PASSWORD_FILE"

_log = structlog.get_logger(__name__)


async def first_login(accounts: Accounts, store: Store, environment: MutableMapping[str, str]) -> str:
    """The path of a link that makes the first admin, if there is no user; "": there is one now.

    A password in the environment makes the user admin instead; it is taken out, so that no child process gets it.
    SettingError for one that is not taken, and for a file that cannot be read.
    """
    given = environment.pop(PASSWORD, "")
    if await asyncio.to_thread(store.read, users.has_any):
        return ""
    password, source = (given, PASSWORD) if given else _of_file(environment.get(PASSWORD_FILE, ""))
    if not password:
        return f"/login?code={accounts.logins.first_link()}"
    try:
        await accounts.people.create(QUELL, ADMIN, Role.ADMIN, password, first=True)
    except Refusal as refused:
        raise SettingError(f"{source}: {refused.detail}") from refused
    _log.info("the first admin was made", user=ADMIN, source=source)
    return ""


def _of_file(file: str) -> tuple[str, str]:
    """The password, and where it came from."""
    if not file:
        return "", ""
    try:
        return Path(file).read_text("utf-8").rstrip("\r\n"), f"{PASSWORD_FILE}, {file}"
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise SettingError(f"{PASSWORD_FILE}: {file} cannot be read: {reason}") from error
