"""How long a login lasts, and when an account is locked: the settings of the group accounts, in seconds."""

from __future__ import annotations

from msgspec import Struct

from quell.durations import parse_duration
from quell.settings import Accounts


class Rules(Struct, frozen=True, kw_only=True):
    session_lifetime: float
    session_idle: float
    password_min_length: int
    lock_after: int
    lock_time: float
    #: Whether a password opens anything.
    password_login: bool = True
    #: Failures further apart than this are not counted together.
    lock_window: float = 900.0

    @classmethod
    def of(cls, settings: Accounts) -> Rules:
        return cls(
            session_lifetime=parse_duration(settings.session_lifetime),
            session_idle=parse_duration(settings.session_idle),
            password_min_length=settings.password_min_length,
            lock_after=settings.lock_after,
            lock_time=parse_duration(settings.lock_time),
            password_login=settings.password_login,
        )
