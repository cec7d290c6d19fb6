from __future__ import annotations

from typing import Any
from urllib.parse import quote

from quell.client.session import Session


class SyslogReceivers:
    """Where events and flags go as syslog messages, and how it goes with each."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/syslog")

    def test(self, name: str) -> dict[str, Any]:
        """Send one test message. ApiError 502: it did not go, and why."""
        return self._session.ask(dict[str, Any], "POST", f"/v1/syslog/{quote(name, safe='')}/test")
