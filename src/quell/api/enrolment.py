"""Agents that may enrol, and those that may be obeyed no more: asked for over REST and in the console."""

from __future__ import annotations

import asyncio
import sqlite3
import time

from quell.api.problem import Refusal
from quell.api.services import Services
from quell.controller.joining import revoke
from quell.model.audit import Actor, AuditEntry
from quell.storage import agents, audit, join_tokens, tokens


async def offer(services: Services, actor: Actor, ttl: float) -> tuple[str, float]:
    """A token with which one agent may enrol, as it is shown, and when it runs out. ttl in seconds. StoreError."""
    secret, now = tokens.new_secret(), time.time()
    expires = now + ttl
    entry = AuditEntry(actor=actor, verb="create", kind="join-token", name="api", after={"expires": expires})

    def put(connection: sqlite3.Connection) -> None:
        join_tokens.put(connection, secret, "api", now, expires)
        audit.append(connection, entry, now)

    await asyncio.wrap_future(services.controller.store.submit(put))
    return join_tokens.shown(secret, services.links.fingerprint), expires


async def withdraw(services: Services, identifier: str, actor: Actor) -> agents.Agent:
    """Its link is cut at once, and it is obeyed and ordered no more. Refusal 404, StoreError."""
    known = await revoke(services.controller.store, identifier, actor, time.time())
    if known is None:
        raise Refusal(404, f"no agent {identifier[:200]} is enrolled")
    services.links.close(identifier, "its enrolment was withdrawn")
    services.controller.agent_withdrawn(identifier, f"its enrolment was withdrawn by {actor}")
    return known
