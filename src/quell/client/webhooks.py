from __future__ import annotations

from typing import Any
from urllib.parse import quote

from quell.client.session import Session


class Webhooks:
    """What was delivered, and what was given up."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def deliveries(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/webhooks/deliveries", limit)

    def dead_letters(self, limit: int = 50) -> list[dict[str, Any]]:
        return self._session.items(dict[str, Any], "/v1/webhooks/dead-letters", limit)

    def replay(self, delivery_id: str) -> None:
        self._session.do("POST", f"/v1/webhooks/dead-letters/{quote(delivery_id, safe='')}/replay")
