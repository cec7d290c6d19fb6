"""How an agent enrols: a join token, good once and for a short time, buys its key a place. DESIGN, trust."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from quell.channel.keys import public_key, public_text
from quell.channel.messages import Joined, JoinRequest
from quell.errors import LinkError
from quell.ids import uuid7
from quell.model.audit import Actor, AuditEntry
from quell.storage import agents, audit, join_tokens
from quell.storage.store import Store

#: Characters; a host's name has at most 253 (RFC 1035).
_LONGEST = 253

_log = structlog.get_logger(__name__)


async def join(
    store: Store,
    request: JoinRequest,
    *,
    controller_key: Ed25519PublicKey,
    now: float,
    address: str = "",
    withdrawn: Callable[[str], None] = lambda _agent: None,
) -> Joined:
    """Enrol an agent. The answer is given when agent and used-up token are on disk, in one transaction.

    A machine that enrols again (same machine id and node) takes the place of its former agent; withdrawn is told that
    one's id, so that its link can be ended. address: where the request came from. Raises LinkError for a token that is unknown, used or expired and for a
    request that makes no sense, StoreError if nothing can be written.
    """
    for word, value in (("name", request.name), ("node", request.node), ("machine_id", request.machine_id)):
        if not value or len(value) > _LONGEST or not value.isprintable():
            raise LinkError(f"{word}: expected 1 to {_LONGEST} printable characters")
    agent = agents.Agent(
        id=uuid7(now),
        name=request.name,
        public_key=public_key(request.public_key).public_bytes(Encoding.Raw, PublicFormat.Raw),
        node=request.node,
        machine_id=request.machine_id,
        enrolled=now,
    )

    def enrol(connection: sqlite3.Connection) -> list[str]:
        if not join_tokens.consume(connection, request.token, now):
            raise LinkError("the join token is unknown, used or expired")
        former = [
            other.id
            for other in agents.all_of(connection)
            if (other.machine_id, other.node) == (agent.machine_id, agent.node)
        ]
        for identifier in former:
            agents.delete(connection, identifier)
        agents.put(connection, agent)
        told = {"node": agent.node, "machine_id": agent.machine_id, "key": request.public_key}
        by = Actor(kind="agent", name=agent.id, address=address)
        note = f"in place of {', '.join(former)}" if former else ""
        audit.append(
            connection,
            AuditEntry(actor=by, verb="enrol", kind="agent", name=agent.name, after=told, note=note),
            now,
        )
        return former

    former = await asyncio.wrap_future(store.submit(enrol))
    for identifier in former:
        _log.warning("an agent takes another's place", agent=agent.id, former=identifier, node=agent.node)
        withdrawn(identifier)
    _log.info("agent enrolled", agent=agent.id, name=agent.name, node=agent.node)
    return Joined(agent=agent.id, controller_key=public_text(controller_key))


async def revoke(store: Store, identifier: str, actor: Actor, now: float) -> agents.Agent | None:
    """End an agent's enrolment. None: there is none. StoreError."""

    def take_out(connection: sqlite3.Connection) -> agents.Agent | None:
        known = agents.get(connection, identifier)
        if known is not None:
            agents.delete(connection, identifier)
            before = {"node": known.node, "machine_id": known.machine_id}
            entry = AuditEntry(actor=actor, verb="revoke", kind="agent", name=known.name, before=before)
            audit.append(connection, entry, now)
        return known

    known = await asyncio.wrap_future(store.submit(take_out))
    if known is not None:
        _log.warning("an agent's enrolment was withdrawn", agent=known.id, node=known.node, by=str(actor))
    return known
