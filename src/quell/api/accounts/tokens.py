"""API tokens: made, rotated, withdrawn. Nobody makes one that may do more than they may themselves."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from quell.api.auth import Auth, Caller
from quell.api.ingest import ROUTES
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role
from quell.clock import Clock
from quell.errors import Problem
from quell.model.audit import Actor, AuditEntry
from quell.storage import audit, sessions, tokens
from quell.storage.store import Store
from quell.storage.tokens import Binding, Token


class Tokens:
    def __init__(self, store: Store, auth: Auth, now: Clock) -> None:
        self._store = store
        self._auth = auth
        self._now = now

    async def create(
        self,
        caller: Caller,
        name: str,
        role: Role,
        *,
        ttl: float | None = None,
        permissions: Sequence[Permission] | None = None,
        binding: Binding | None = None,
        replace: bool = False,
    ) -> tuple[str, Token]:
        """The secret and the token. Refusal 400 (contradictions), 403 (more than the caller), 409 (the name is taken)."""
        _check(role, permissions, binding)
        rights = role.permissions if permissions is None else frozenset(permissions)
        caller.grant(rights)
        secret, now = tokens.new_secret(), self._now()
        expires = None if ttl is None else now + ttl
        end = caller.expires if caller.kind == "token" and role is not Role.INGEST else None
        # Else a token for an hour would make itself one for ever.
        if end is not None and (expires is None or expires > end):
            raise Refusal(403, f"{caller.actor} expires, so what it makes expires no later: give a shorter ttl")
        token = Token(
            name=name,
            role=role.value,
            created=now,
            expires=expires,
            owner=caller.owner or str(caller.actor),
            permissions=None if permissions is None else tuple(sorted(right.value for right in rights)),
            binding=None if binding == Binding() else binding,
        )
        actor = caller.actor

        def write(connection: sqlite3.Connection) -> None:
            before = tokens.get(connection, name)
            if before is not None:
                if not replace:
                    raise Refusal(409, f"there is a token {name} already; replace it, rotate it, or take another name")
                sessions.delete_of(connection, token=name)
            tokens.put(connection, secret, token)
            audit.append(connection, _entry(actor, "create" if before is None else "replace", before, token), now)

        await asyncio.wrap_future(self._store.submit(write))
        self._auth.forget()
        return secret, token

    async def rotate(
        self, caller: Caller, name: str, grace: float, expect: Callable[[Token], None]
    ) -> tuple[str, Token]:
        """A new secret; the one before works for `grace` seconds more. expect: Refusal for another version than was
        meant. Refusal 403, 404.
        """
        secret, now = tokens.new_secret(), self._now()
        actor = caller.actor

        def write(connection: sqlite3.Connection) -> Token:
            before = _token(connection, name)
            expect(before)
            caller.grant(rights_of(before))
            tokens.rotate(connection, name, secret, now + grace if grace else None)
            after = _token(connection, name)
            audit.append(connection, _entry(actor, "rotate", before, after), now)
            return after

        token = await asyncio.wrap_future(self._store.submit(write))
        self._auth.forget()
        return secret, token

    async def delete(self, actor: Actor, name: str, expect: Callable[[Token], None]) -> None:
        """expect: as with rotate. Refusal 404."""
        now = self._now()

        def write(connection: sqlite3.Connection) -> None:
            before = _token(connection, name)
            expect(before)
            tokens.delete(connection, name)
            sessions.delete_of(connection, token=name)
            audit.append(connection, _entry(actor, "delete", before, None), now)

        await asyncio.wrap_future(self._store.submit(write))
        self._auth.forget()


def rights_of(token: Token) -> frozenset[Permission]:
    """What a token may do, unless its owner may do less."""
    return Role(token.role).permissions if token.permissions is None else frozenset(map(Permission, token.permissions))


def _check(role: Role, permissions: Sequence[Permission] | None, binding: Binding | None) -> None:
    if permissions is not None:
        rights = frozenset(permissions)
        if more := sorted(rights - role.permissions):
            raise _wrong("/permissions", f"role {role} does not have {', '.join(more)}")
        if role is not Role.INGEST and Permission.READ not in rights:
            raise _wrong("/permissions", f"expected {Permission.READ} among them: whoever may change may look")
        if not rights:
            raise _wrong("/permissions", "expected at least one")
    if binding is not None:
        if role is not Role.INGEST and binding != Binding():
            raise _wrong("/role", f"only role {Role.INGEST} is bound to detectors, clusters and nodes, got {role}")
        posted = sorted(detector.name for detector in ROUTES.values())
        if unknown := sorted(set(binding.detectors) - set(posted)):
            raise _wrong("/detectors", f"nobody sends as {', '.join(unknown)}: expected some of {', '.join(posted)}")


def _wrong(path: str, message: str) -> Refusal:
    return Refusal(400, message, problems=[Problem(file="", path=path, message=message)])


def _token(connection: sqlite3.Connection, name: str) -> Token:
    token = tokens.get(connection, name)
    if token is None:
        raise Refusal(404, f"no token {name}")
    return token


def _entry(actor: Actor, verb: str, before: Token | None, after: Token | None) -> AuditEntry:
    named = after or before
    assert named is not None  # noqa: S101 - one of the two is given
    return AuditEntry(actor=actor, verb=verb, kind="token", name=named.name, before=_facts(before), after=_facts(after))


def _facts(token: Token | None) -> dict[str, object] | None:
    if token is None:
        return None
    facts: dict[str, object] = msgspec.to_builtins(token)
    return {name: value for name, value in facts.items() if name not in ("name", "last_used") and value is not None}
