from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from quell.client.session import Session
from quell.configuration import ShownSetting


class Paused(Struct, frozen=True, kw_only=True):
    """Whether destructive actions are paused, and by whom, why and since when (epoch seconds) where that is known."""

    paused: bool
    by: str = ""
    reason: str = ""
    since: float | None = None


class ControllerSettings:
    """The settings that a controller runs with."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def all(self) -> list[ShownSetting]:
        return self._session.items(ShownSetting, "/v1/settings")

    def get(self, name: str) -> ShownSetting:
        return self._session.ask(ShownSetting, "GET", f"/v1/settings/{quote(name, safe='')}")

    def change(
        self,
        values: Mapping[str, Any] | None = None,
        unset: Sequence[str] = (),
        *,
        reason: str = "",
        allow_empty: bool = False,
    ) -> list[ShownSetting]:
        """Set and unset while running, all or none; ApiError.problems lists what is wrong. The settings as they are then.

        allow_empty: protected_namespaces may become empty.
        """
        body = {"set": dict(values or {}), "unset": list(unset), "reason": reason, "allow_empty": allow_empty}
        return self._session.ask(list[ShownSetting], "PATCH", "/v1/settings", json=body)

    def paused(self) -> Paused:
        return self._session.ask(Paused, "GET", "/v1/pause")

    def pause(self, reason: str = "") -> Paused:
        """Nothing destructive is done from now on."""
        return self._session.ask(Paused, "PUT", "/v1/pause", json={"paused": True, "reason": reason})

    def resume(self, reason: str = "") -> Paused:
        return self._session.ask(Paused, "PUT", "/v1/pause", json={"paused": False, "reason": reason})
