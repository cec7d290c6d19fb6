"""Accounts over a real controller, on a clock that the test turns."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import msgspec
from argon2 import PasswordHasher
from msgspec import Struct

from quell.api.accounts import Accounts
from quell.api.auth import Caller
from quell.api.problem import Refusal
from quell.api.roles import Role
from quell.controller.controller import Controller
from quell.model.audit import QUELL, AuditEntry
from quell.settings import Settings
from quell.storage import audit

CHEAP = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
GOOD = "a slow green tin roof"
BETTER = "eleven quiet wooden boats"
WRONG = "not what it is at all"
ADMIN = Caller(name="root", role=Role.ADMIN, kind="user", address="10.0.0.9")


class Clock:
    """Epoch seconds, from now on: the journal forgets what is older than its retention."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


class Place(Struct):
    controller: Controller
    accounts: Accounts
    clock: Clock

    async def user(self, name: str = "alice", role: Role = Role.OPERATOR) -> None:
        await self.accounts.people.create(QUELL, name, role, GOOD)

    async def log_in(self, name: str = "alice", password: str = GOOD, address: str = "10.0.0.1") -> str:
        """The secret of a command line's session."""
        opened = await self.accounts.logins.log_in(name, password, cookie=False, address=address, program="test")
        return opened.secret

    async def refused(self, name: str = "alice", password: str = WRONG, address: str = "10.0.0.1") -> tuple[int, str]:
        """Status and detail of a login that must fail."""
        try:
            await self.log_in(name, password, address)
        except Refusal as refusal:
            await self.written()
            return refusal.status, refusal.detail
        raise AssertionError(f"{name} could log in")

    async def fail(self, times: int, name: str = "alice") -> None:
        """Wrong passwords, each as soon as the throttle lets it."""
        for _ in range(times):
            assert (await self.refused(name))[0] == 401
            self.clock.now += 61

    def caller(self, secret: str) -> Caller | None:
        """Who this token or session is now; None: nobody."""
        headers = [(b"authorization", f"Bearer {secret}".encode())]
        try:
            return self.accounts.auth.identify(
                {"type": "http", "method": "GET", "headers": headers, "client": ("10.0.0.1", 1)}
            )
        except Refusal:
            return None

    async def written(self) -> None:
        """Everything that was begun is on disk."""
        for _ in range(3):
            await asyncio.sleep(0)
            await asyncio.wrap_future(self.controller.store.submit(lambda _connection: None))

    async def events(self) -> list[tuple[str, str, str]]:
        """Name, user and message of each event that Quell told of users and requests, oldest first."""
        await self.written()
        found = []
        for stored in reversed(self.controller.store.recent(1000)):
            told = msgspec.json.decode(stored.raw)
            assert stored.source == "quell"
            if told["name"].startswith(("User.", "RESTful.")):
                found.append((told["name"], told["subject"].get("user", ""), told["details"]["message"]))
        return found

    async def audited(self) -> list[AuditEntry]:
        """Oldest first, without the default rules that the controller comes with."""
        await self.written()
        found = self.controller.store.read(lambda connection: audit.recent(connection, 1000))
        return [record.entry for record in reversed(found) if record.entry.kind != "ResponseRule"]


@contextlib.asynccontextmanager
async def place(folder: Path, clock: Clock | None = None) -> AsyncIterator[Place]:
    clock = clock or Clock()
    controller = Controller.open(folder, Settings())
    accounts = Accounts(controller, controller.settings.accounts, now=clock)
    # A tenth of a second for each login adds up; what the real cost is, test_accounts_passwords.py says.
    accounts._passwords._hasher = CHEAP
    try:
        controller.start()
        yield Place(controller, accounts, clock)
    finally:
        accounts.close()
        await controller.stop()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)
