"""Accounts: users, their logins and sessions, API tokens, and what is told of all that. DESIGN, trust."""

from __future__ import annotations

import asyncio
import time

import structlog

from quell.api.accounts.logins import Logins
from quell.api.accounts.oidc import OpenId
from quell.api.accounts.passwords import Passwords
from quell.api.accounts.people import People
from quell.api.accounts.rules import Rules
from quell.api.accounts.tokens import Tokens
from quell.api.accounts.told import Controller, Told
from quell.api.auth import Auth
from quell.clock import Clock
from quell.errors import StoreError
from quell.oidc_settings import OidcSettings
from quell.settings import Accounts as Settings

#: Seconds between two looks at what has run out.
_TICK = 15.0

_log = structlog.get_logger(__name__)


class Accounts:
    """All of it for one controller; on the event loop's thread."""

    def __init__(
        self,
        controller: Controller,
        settings: Settings,
        *,
        oidc: OidcSettings = OidcSettings(),  # noqa: B008 - it is frozen
        now: Clock = time.time,
    ) -> None:
        """SettingError: a file that the settings name cannot be read."""
        rules = Rules.of(settings)
        store = controller.store
        self.auth = Auth(store, now=now, lifetime=rules.session_lifetime, idle=rules.session_idle)
        self.told = Told(controller, now)
        self._passwords = Passwords()
        self.people = People(store, self.auth, self._passwords, self.told, rules, now)
        self.logins = Logins(store, self.auth, self.people, self._passwords, self.told, rules, now)
        self.tokens = Tokens(store, self.auth, now)
        #: None: there is no provider of logins.
        self.oidc = (
            OpenId(oidc, store, self.logins, self.told, now, passwords=rules.password_login) if oidc.enabled else None
        )
        #: Whether a password opens anything.
        self.password_login = rules.password_login
        #: Seconds that a browser is told to keep its cookie.
        self.session_lifetime = rules.session_lifetime

    async def run(self) -> None:
        """End what runs out and tell what was counted, for ever."""
        while True:
            await asyncio.sleep(_TICK)
            await self.tick()

    async def tick(self) -> None:
        self.told.due()
        try:
            await self.logins.sweep()
        except StoreError as error:
            _log.error("sessions that ran out could not be ended yet", error=str(error))

    def close(self) -> None:
        self._passwords.close()
