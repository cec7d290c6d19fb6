"""Settings that are changed while running: over REST and in the console."""

from __future__ import annotations

from collections.abc import Callable

from quell.api.problem import Refusal
from quell.api.services import Services
from quell.controller.live_settings import Wanted
from quell.errors import SettingError, SettingFixed
from quell.model.audit import Actor


async def change(services: Services, wanted: Wanted, actor: Actor, expect: Callable[[], None]) -> None:
    """All of it or nothing. expect: Refusal if they are not at the version that the change was meant for.

    Refusal 409: set by file or environment, or only at the start; 422: what is wrong. StoreError.
    """
    live = services.controller.live
    async with live.lock:
        expect()
        try:
            await live.change(wanted, actor)
        except SettingError as error:
            raise _refusal(error) from error


def check(services: Services, wanted: Wanted) -> None:
    """The same refusals, and nothing is changed."""
    try:
        services.controller.live.check(wanted)
    except SettingError as error:
        raise _refusal(error) from error


def _refusal(error: SettingError) -> Refusal:
    if isinstance(error, SettingFixed):
        return Refusal(409, str(error))
    return Refusal(422, str(error), problems=error.problems)
