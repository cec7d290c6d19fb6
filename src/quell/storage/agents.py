"""The agents that were enrolled, with the keys they prove themselves by. Functions over a connection: see quell.storage."""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct


class Agent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    #: Ed25519, 32 bytes.
    public_key: bytes
    node: str
    machine_id: str = ""
    enrolled: float
    #: When it was last connected; None: never.
    seen: float | None = None
    version: str = ""
    boot_id: str = ""
    boot_time: float | None = None
    #: Action words it can do, and what it cannot do and why.
    capabilities: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    host_netns: int | None = None
    #: Of its process, new at each start.
    instance: str = ""
    #: What was last told of its presence (quell.controller.attendance.Told), and how often something was.
    told: str = ""
    tellings: int = 0


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Agent).decode


def put(connection: sqlite3.Connection, agent: Agent) -> None:
    """Creates it or replaces what is known of it."""
    connection.execute(
        "INSERT OR REPLACE INTO agents (id, name, body) VALUES (?, ?, ?)", (agent.id, agent.name, _encode(agent))
    )


def get(connection: sqlite3.Connection, agent_id: str) -> Agent | None:
    row = connection.execute("SELECT body FROM agents WHERE id = ?", (agent_id,)).fetchone()
    return None if row is None else _decode(row[0])


def delete(connection: sqlite3.Connection, agent_id: str) -> bool:
    """False: there was none."""
    return connection.execute("DELETE FROM agents WHERE id = ?", (agent_id,)).rowcount > 0


def count(connection: sqlite3.Connection) -> int:
    (found,) = connection.execute("SELECT count(*) FROM agents").fetchone()
    return int(found)


def all_of(connection: sqlite3.Connection) -> list[Agent]:
    """By name."""
    return [_decode(body) for (body,) in connection.execute("SELECT body FROM agents ORDER BY name, id")]
