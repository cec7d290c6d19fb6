"""Users: made, changed, deleted. Whatever takes rights away ends the user's sessions in the same transaction."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import unicodedata
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from quell.api.accounts.passwords import Passwords, objection
from quell.api.accounts.rules import Rules
from quell.api.accounts.told import Told
from quell.api.auth import Auth, Caller
from quell.api.problem import Refusal
from quell.api.roles import Role
from quell.clock import Clock
from quell.errors import Problem
from quell.model.audit import Actor, AuditEntry
from quell.secrets import HIDDEN
from quell.storage import audit, sessions, tokens, users
from quell.storage.store import Store
from quell.storage.users import User

T = TypeVar("T")

#: What a user may be called, in small letters.
NAME = r"^[a-z0-9][a-z0-9._@-]{0,63}$"
_NAME = re.compile(NAME)

#: Refusal if a user is not at the version that a change was meant for.
Expected = Callable[[User], None]


_NO_ROLE = "none of your groups has a role here; an admin of Quell says which groups have"


class Person(Struct, frozen=True, kw_only=True):
    """Whom a provider vouches for."""

    issuer: str
    #: What the provider knows them by, for ever.
    subject: str
    #: What they are called there, as a user's name is written; it may be none that is taken here.
    name: str
    #: None: none of the groups has one.
    role: Role | None


def folded(name: str) -> str:
    """The one spelling of a user's name: case does not count."""
    return unicodedata.normalize("NFKC", name).strip().lower()


def is_name(text: str) -> bool:
    """Whether a user may be called so."""
    return _NAME.fullmatch(text) is not None


class People:
    def __init__(self, store: Store, auth: Auth, passwords: Passwords, told: Told, rules: Rules, now: Clock) -> None:
        self._store = store
        self._auth = auth
        self._passwords = passwords
        self._told = told
        self._rules = rules
        self._now = now

    async def create(self, actor: Actor, name: str, role: Role, password: str, *, first: bool = False) -> User:
        """first: only if there is nobody yet. Refusal 400 or 422 for the name or password, 409 for one that is there."""
        name = folded(name)
        if not is_name(name) or role is Role.INGEST:
            raise Refusal(400, f'a user may not be called "{name[:64]}": 1 to 64 of a-z, 0-9 and . _ @ -')
        kept = await self._hashed(password, name)
        now = self._now()
        user = User(name=name, role=role.value, created=now, password_changed=now)
        entry = _entry(actor, "create", name, after=_facts(user))

        def write(connection: sqlite3.Connection) -> None:
            if first and users.has_any(connection):
                raise Refusal(409, "there are users already: log in as one of them")
            if not users.add(connection, user, kept):
                raise Refusal(409, f"there is a user {name} already")
            audit.append(connection, entry, now)

        await self._submit(write)
        return user

    async def provided(self, person: Person, address: str) -> User:
        """The user that a provider vouches for, made at the first login, with the role that the groups give now.

        Refusal 403 (no role, disabled), 409 (the name is another's), 422 (it is no name).
        """
        now = self._now()

        def write(connection: sqlite3.Connection) -> User | Refusal:
            before = users.of_subject(connection, person.issuer, person.subject)
            if before is None:
                return _added(connection, person, address, now)
            actor = Actor(kind="user", name=before.name, address=address)
            if before.disabled:
                return Refusal(403, f"the account {before.name} is disabled here; an admin of Quell can enable it")
            # Who may do nothing here any more keeps no session, and the tokens of theirs only look.
            role = Role.VIEWER if person.role is None else person.role
            ended = 0
            if role != before.role or person.role is None:
                ended = sessions.delete_of(connection, user=before.name)
            if role != before.role:
                users.change(connection, before.name, role=role.value, disabled=False)
                after = _user(connection, before.name)
                note = "; ".join(filter(None, ("by the provider's groups", _ended(ended))))
                audit.append(connection, _entry(actor, "change", before.name, _facts(before), _facts(after), note), now)
            return Refusal(403, _NO_ROLE) if person.role is None else _user(connection, before.name)

        found = await self._submit(write)
        self._auth.forget()
        if isinstance(found, Refusal):
            raise found
        return found

    async def change(
        self, actor: Actor, name: str, *, role: Role | None, disabled: bool | None, expected: Expected
    ) -> User:
        """None: as it is. Refusal 404, 409 (the last admin, a role that the provider's groups give)."""
        now = self._now()

        def write(connection: sqlite3.Connection) -> tuple[User, bool]:
            before = _user(connection, name)
            expected(before)
            wanted = (before.role if role is None else role.value, before.disabled if disabled is None else disabled)
            if wanted == (before.role, before.disabled):
                return before, False
            if wanted[0] != before.role and before.source != users.LOCAL:
                raise Refusal(409, f"the role of {name} comes from the provider's groups, anew with each login")
            users.change(connection, name, role=wanted[0], disabled=wanted[1])
            _keep_an_admin(connection, before)
            after = _user(connection, name)
            ended = sessions.delete_of(connection, user=name)
            entry = _entry(actor, "change", name, _facts(before), _facts(after), _ended(ended))
            audit.append(connection, entry, now)
            return after, True

        user, changed = await self._submit(write)
        if changed:
            self._auth.forget()
        return user

    async def delete(self, actor: Actor, name: str, expected: Expected) -> list[str]:
        """Its sessions and tokens go with it; names of the tokens for sending events that it made, which stay.

        Refusal 404, 409 (the last admin).
        """
        now = self._now()

        def write(connection: sqlite3.Connection) -> list[str]:
            before = _user(connection, name)
            expected(before)
            owned = tokens.owned_by(connection, f"user/{name}")
            users.delete(connection, name)
            _keep_an_admin(connection, before)
            gone = [token.name for token in owned if token.role != Role.INGEST]
            for token in gone:
                tokens.delete(connection, token)
                sessions.delete_of(connection, token=token)
            note = f"its tokens were withdrawn: {', '.join(gone)}" if gone else ""
            audit.append(connection, _entry(actor, "delete", name, _facts(before), note=note), now)
            return [token.name for token in owned if token.role == Role.INGEST]

        remaining = await self._submit(write)
        self._auth.forget()
        return remaining

    async def set_password(
        self, caller: Caller, name: str, password: str, old: str | None, *, expected: Expected
    ) -> None:
        """One's own takes the old one. Refusal 403 for a wrong old one, 404, 422."""
        now = self._now()
        before = await asyncio.to_thread(self._store.read, lambda connection: users.password_of(connection, name))
        if before is None:
            await asyncio.to_thread(self._store.read, lambda connection: _user(connection, name))
            raise Refusal(409, f"{name} logs in with the provider and has no password here")
        is_own = caller.kind == "user" and caller.name == name
        if is_own and (old is None or not await self._passwords.matches(before, old)):
            self._told.failed(name, caller.address)
            self._auth.failed(caller.address)
            raise Refusal(403, "old_password: expected the password that is in force")
        kept = await self._hashed(password, name)
        actor = caller.actor

        def write(connection: sqlite3.Connection) -> None:
            user = _user(connection, name)
            expected(user)
            if not is_own:
                caller.grant(Role(user.role).permissions)
            elif users.password_of(connection, name) != before:
                raise Refusal(409, "the password was changed in the meantime")
            users.set_password(connection, name, kept, now)
            ended = sessions.delete_of(connection, user=name)
            hidden = {"password": HIDDEN}
            audit.append(connection, _entry(actor, "change", name, hidden, hidden, _ended(ended)), now)

        await self._submit(write)
        self._auth.forget()
        self._told.event("User.Password.Reset", name, f"the password of {name} was changed by {actor}")

    async def unlock(self, actor: Actor, name: str) -> None:
        """Refusal 404."""
        now = self._now()

        def write(connection: sqlite3.Connection) -> bool:
            _user(connection, name)
            if not users.unlock(connection, name):
                return False
            audit.append(connection, _entry(actor, "unlock", name), now)
            return True

        if await self._submit(write):
            self._told.event("User.Login.Unblocked", name, f"{name} may log in again: unlocked by {actor}")

    async def _hashed(self, password: str, name: str) -> str:
        """Refusal 422 for what is no password."""
        wrong = objection(password, name, self._rules.password_min_length)
        if wrong:
            raise Refusal(422, f"password: {wrong}", problems=[Problem(file="", path="/password", message=wrong)])
        return await self._passwords.hash(password)

    async def _submit(self, write: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._store.submit(write))


def _added(connection: sqlite3.Connection, person: Person, address: str, now: float) -> User | Refusal:
    if person.role is None:
        return Refusal(403, _NO_ROLE)
    if not is_name(person.name):
        return Refusal(422, "what the provider calls you is no name here: 1 to 64 of a-z, 0-9 and . _ @ -")
    user = User(name=person.name, role=person.role.value, created=now, password_changed=None, source=users.OIDC)
    if not users.add(connection, user, "", issuer=person.issuer, subject=person.subject):
        # Else whoever may choose a name at the provider would be whom they like here.
        return Refusal(409, f"there is another user {person.name} here, who does not come from the provider")
    actor = Actor(kind="user", name=user.name, address=address)
    note = f"vouched for by {person.issuer}"
    audit.append(connection, _entry(actor, "create", user.name, after=_facts(user), note=note), now)
    return user


def _user(connection: sqlite3.Connection, name: str) -> User:
    user = users.get(connection, name)
    if user is None:
        raise _nobody(name)
    return user


def _nobody(name: str) -> Refusal:
    return Refusal(404, f"no user {name}")


def _keep_an_admin(connection: sqlite3.Connection, before: User) -> None:
    """Refusal 409, which undoes the transaction, if nobody would be left who may change it back."""
    if before.role == Role.ADMIN and not before.disabled and not users.enabled(connection, Role.ADMIN):
        raise Refusal(409, f"{before.name} is the last admin who can log in; make another first")


def _facts(user: User) -> dict[str, object]:
    return {"role": user.role, "disabled": user.disabled} | (
        {} if user.source == users.LOCAL else {"source": user.source}
    )


def _ended(count: int) -> str:
    return f"sessions ended: {count}" if count else ""


def _entry(
    actor: Actor, verb: str, name: str, before: object = None, after: object = None, note: str = ""
) -> AuditEntry:
    return AuditEntry(actor=actor, verb=verb, kind="user", name=name, before=before, after=after, note=note)
