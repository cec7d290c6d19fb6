"""What becomes of REST requests, for the RESTful.* events. Ingest and the agents' link do not pass here."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from quell.api import cookies
from quell.api.accounts.told import Told
from quell.api.asgi import Message, Scope, Send, header


def watched(scope: Scope, send: Send, told: Told) -> Send:
    """A send that tells, before the answer leaves, what a known caller read, changed or was refused."""

    async def noted(message: Message) -> None:
        caller: Any = scope.get("state", {}).get("caller")
        if message["type"] == "http.response.start" and caller is not None:
            method, path, status = scope["method"], scope["path"], message["status"]
            if status == 403:
                told.denied(caller.actor, caller.role.value, method, path)
            elif status < 400 and method in cookies.SAFE:
                told.read(caller.actor)
            elif status < 400:
                told.wrote(caller.actor, method, path, _delivery(scope))
        await send(message)

    return noted


def _delivery(scope: Scope) -> str:
    """The id that a webhook's request carries (quell.controller.signatures)."""
    return unquote((header(scope, b"webhook-id") or b"").decode("latin-1"))
