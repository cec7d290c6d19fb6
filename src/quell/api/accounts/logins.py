"""Logging in and out: by name and password, by a link that works once, and the link of the very first start.

Whoever guesses learns nothing: an unknown name, a wrong password, a disabled and a locked account get the same answer
after the same work. NIST SP 800-63B, section 3.2.2.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import sqlite3
from collections.abc import Callable

import structlog
from msgspec import Struct

from quell import metrics
from quell.api.accounts.passwords import Passwords, objection
from quell.api.accounts.people import People, Person, folded
from quell.api.accounts.rules import Rules
from quell.api.accounts.throttle import Throttle
from quell.api.accounts.told import Told
from quell.api.auth import Auth, Caller
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role
from quell.clock import Clock
from quell.durations import format_duration
from quell.errors import StoreError
from quell.ids import uuid7
from quell.model.audit import QUELL, Actor, AuditEntry
from quell.storage import audit, sessions, users
from quell.storage.sessions import Session
from quell.storage.store import Store
from quell.storage.users import User

#: Seconds for which a login link works, and the link of the first start.
_LINK, _FIRST_LINK = 15 * 60.0, 3600.0
#: Sessions of one user or token; a further one ends the oldest.
_SESSIONS = 50
#: Failures of one account, and of one address, that cost no waiting.
_FREE_OF_ACCOUNT, _FREE_OF_ADDRESS = 5, 20
#: Characters of a client's name for itself that are kept.
_PROGRAM = 200

_WRONG = "the name or the password is wrong, or the account is locked or disabled"

_log = structlog.get_logger(__name__)


class Opened(Struct, frozen=True):
    """A new session, and its secret, which nobody else has."""

    secret: str
    session: Session


class Logins:
    """On the event loop's thread only."""

    def __init__(
        self, store: Store, auth: Auth, people: People, passwords: Passwords, told: Told, rules: Rules, now: Clock
    ) -> None:
        self._store = store
        self._auth = auth
        self._people = people
        self._passwords = passwords
        self._told = told
        self._rules = rules
        self._now = now
        self._of_account = Throttle(_FREE_OF_ACCOUNT)
        self._of_address = Throttle(_FREE_OF_ADDRESS)
        #: Hash of a link's code: until when it works, and who asked for it.
        self._codes: dict[bytes, tuple[float, Caller]] = {}
        self._first: tuple[bytes, float] = (b"", 0.0)
        self._counting: set[asyncio.Task[None]] = set()

    # ---- by password

    async def log_in(
        self, name: str, password: str, *, cookie: bool, address: str, program: str, first: bool = False
    ) -> Opened:
        """Refusal 401 for anything wrong, 403 where passwords open nothing, 429 for too many tries.

        cookie: the session is a browser's. first: of the first admin, whom nothing keeps out.
        """
        if not (first or self._rules.password_login):
            raise Refusal(403, "nobody logs in with a password here; use the provider's login in a browser")
        name = folded(name)
        self._wait_for(name, address)
        try:
            user, kept = await asyncio.to_thread(
                self._store.read, lambda connection: (users.get(connection, name), users.password_of(connection, name))
            )
            right = await self._passwords.matches(kept, password)
        except (Refusal, StoreError):
            self._refund(name, address)
            raise
        if user is None or kept is None or not right or user.disabled or user.is_locked(self._now()):
            raise self._wrong(user, address)
        opened = await self._open(user.name, kept, cookie=cookie, address=address, program=program)
        if opened is None:
            raise self._wrong(user, address)
        self._of_account.clear(name)
        self._of_address.refund(address)
        if objection(password, user.name, self._rules.password_min_length):
            self._told.doubtful(user.name)
        if self._passwords.is_outdated(kept):
            await self._hash_anew(user.name, kept, password)
        return opened

    def _wait_for(self, name: str, address: str) -> None:
        """Refusal 429 before anything is looked up, for names that there are and names that there are not."""
        now = self._now()
        wait = max(self._of_account.wait(name, now), self._of_address.wait(address, now))
        if wait > 0:
            raise Refusal(429, "too many failed logins; wait before the next", retry_after=wait)
        self._of_account.charge(name, now)
        self._of_address.charge(address, now)

    def _refund(self, name: str, address: str) -> None:
        self._of_account.refund(name)
        self._of_address.refund(address)

    def _wrong(self, user: User | None, address: str) -> Refusal:
        metrics.login_failed("password")
        self._told.failed("" if user is None else user.name, address)
        if user is not None and user.source == users.LOCAL:
            # Nobody waits for it: a name that there is would else be answered later than one that there is not.
            task = asyncio.get_running_loop().create_task(self._count(user.name, address))
            self._counting.add(task)
            task.add_done_callback(self._counting.discard)
        return Refusal(401, _WRONG)

    async def _count(self, name: str, address: str) -> None:
        now, rules = self._now(), self._rules
        actor = Actor(kind="user", name=name, address=address)

        def write(connection: sqlite3.Connection) -> bool:
            until = users.failed(
                connection, name, now, most=rules.lock_after, window=rules.lock_window, lock=rules.lock_time
            )
            if until is None:
                return False
            note = f"{rules.lock_after} failed logins; locked for {format_duration(rules.lock_time)}"
            entry = AuditEntry(actor=actor, verb="lock", kind="user", name=name, note=note)
            audit.append(connection, entry, now)
            return True

        try:
            locked = await asyncio.wrap_future(self._store.submit(write))
        except StoreError as error:
            _log.error("a failed login could not be counted", user=name, error=str(error))
            return
        if locked:
            message = f"{name} may not log in for {format_duration(rules.lock_time)}: {rules.lock_after} failed logins"
            self._told.event("User.Login.Blocked", name, f"{message}, the last from {address or 'nowhere known'}")

    async def _open(self, name: str, kept: str, *, cookie: bool, address: str, program: str) -> Opened | None:
        """None: in the meantime the account was locked, disabled or deleted, or its password changed."""
        now = self._now()

        def still_so(connection: sqlite3.Connection) -> bool:
            user = users.get(connection, name)
            fine = user is not None and not user.disabled and not user.is_locked(now)
            if not fine or users.password_of(connection, name) != kept:
                return False
            users.logged_in(connection, name, now)
            return True

        session = _session(now, user=name, cookie=cookie, address=address, program=program)
        return await self._put(session, Actor(kind="user", name=name, address=address), still_so)

    async def _hash_anew(self, name: str, kept: str, password: str) -> None:
        fresh = await self._passwords.hash(password)
        self._store.write(lambda connection: users.rehashed(connection, name, kept, fresh), lambda _error: None)

    # ---- by a provider

    async def by_provider(self, person: Person, *, address: str, program: str) -> Opened:
        """A browser's session for whom the provider vouches. Refusal as People.provided, and 403."""
        user = await self._people.provided(person, address)
        now = self._now()

        def still_so(connection: sqlite3.Connection) -> bool:
            found = users.of_subject(connection, person.issuer, person.subject)
            if found is None or found.disabled or found.name != user.name:
                return False
            users.logged_in(connection, user.name, now)
            return True

        session = _session(now, user=user.name, cookie=True, address=address, program=program)
        opened = await self._put(session, Actor(kind="user", name=user.name, address=address), still_so)
        if opened is None:
            raise Refusal(403, f"the account {user.name} was disabled or deleted in the meantime")
        return opened

    # ---- by links

    def link(self, caller: Caller) -> str:
        """A code for one login as this user; as a viewer, if the caller is an API token."""
        now = self._now()
        self._codes = {kept: (until, by) for kept, (until, by) in self._codes.items() if until > now}
        code = secrets.token_urlsafe(32)
        self._codes[_hash(code)] = (now + _LINK, caller)
        return code

    async def by_link(self, code: str, *, address: str, program: str) -> Opened:
        """A browser's session for the code, which is used up. Refusal 401 or 429."""
        until, by = self._codes.pop(_hash(code), (0.0, None))
        now = self._now()
        opened = None
        if by is not None and until > now:
            user, token = (by.name, None) if by.kind == "user" else (None, by.name)
            session = _session(now, user=user, token=token, cookie=True, address=address, program=program)

            def still_there(connection: sqlite3.Connection) -> bool:
                if user is None:
                    return True
                found = users.get(connection, user)
                return found is not None and not found.disabled

            actor = Actor(kind=by.kind, name=by.name, address=address)
            opened = await self._put(session, actor, still_there)
        if opened is None:
            metrics.login_failed("link")
            self._auth.failed(address)
            raise Refusal(401, "this login link was used before or has expired")
        return opened

    def first_link(self) -> str:
        """The code with which whoever has it makes the first admin; the one before works no more."""
        code = secrets.token_urlsafe(32)
        self._first = (_hash(code), self._now() + _FIRST_LINK)
        return code

    def is_first(self, code: str) -> bool:
        kept, until = self._first
        return bool(kept) and secrets.compare_digest(kept, _hash(code)) and until > self._now()

    async def first_admin(self, code: str, name: str, password: str, *, address: str, program: str) -> Opened:
        """Makes the first admin and logs in. Refusal 401 (the code), 400, 409 and 422 (name and password)."""
        if not self.is_first(code):
            metrics.login_failed("link")
            self._auth.failed(address)
            raise Refusal(401, "this link was used before or has expired")
        actor = Actor(kind="user", name=folded(name), address=address)
        await self._people.create(actor, name, Role.ADMIN, password, first=True)
        self._first = (b"", 0.0)
        return await self.log_in(name, password, cookie=True, address=address, program=program, first=True)

    # ---- sessions

    async def of(self, *, user: str | None = None, token: str | None = None) -> list[Session]:
        """Newest first."""
        after = self._oldest()
        return await asyncio.to_thread(
            self._store.read, lambda connection: sessions.all_of(connection, **after, user=user, token=token)
        )

    async def end(self, caller: Caller, identifier: str) -> None:
        """One's own, or as an admin anybody's. Refusal 404."""
        now, actor = self._now(), caller.actor

        def write(connection: sqlite3.Connection) -> Session:
            session = sessions.get(connection, identifier)
            if session is None or not (caller.may(Permission.ADMIN) or session.holder == str(actor)):
                raise Refusal(404, f"no session {identifier}")
            sessions.delete(connection, identifier)
            entry = AuditEntry(actor=actor, verb="logout", kind="session", name=session.holder, before=_facts(session))
            audit.append(connection, entry, now)
            return session

        session = await asyncio.wrap_future(self._store.submit(write))
        self._auth.forget()
        who = session.user or session.holder
        by = "" if session.holder == str(actor) else f", ended by {actor}"
        self._told.event("User.Logout", who, f"{who} logged out{by}", identifier=f"{session.id}/logout")

    async def sweep(self) -> None:
        """End what has run out: sessions and locks."""
        now, rules = self._now(), self._rules
        oldest, unused = now - rules.session_lifetime, now - rules.session_idle

        def write(connection: sqlite3.Connection) -> tuple[list[Session], list[str]]:
            over = sessions.run_out(connection, created_before=oldest, used_before=unused)
            for session in over:
                entry = AuditEntry(actor=QUELL, verb="timeout", kind="session", name=session.holder)
                audit.append(connection, entry, now)
            free = users.locks_over(connection, now)
            for name in free:
                audit.append(connection, AuditEntry(actor=QUELL, verb="unlock", kind="user", name=name), now)
            return over, free

        over, free = await asyncio.wrap_future(self._store.submit(write))
        if over:
            self._auth.forget()
        for session in over:
            who = session.user or session.holder
            why = "after its whole time" if session.created <= oldest else "unused"
            self._told.event(
                "User.Timeout", who, f"a session of {who} ran out {why}", identifier=f"{session.id}/timeout"
            )
        for name in free:
            self._told.event("User.Login.Unblocked", name, f"{name} may log in again: the time is over")

    async def _put(
        self, session: Session, actor: Actor, condition: Callable[[sqlite3.Connection], bool]
    ) -> Opened | None:
        secret, now = sessions.new_secret(), session.created
        entry = AuditEntry(actor=actor, verb="login", kind="session", name=session.holder, after=_facts(session))

        def write(connection: sqlite3.Connection) -> bool:
            if not condition(connection):
                return False
            sessions.put(connection, secret, session, _SESSIONS)
            audit.append(connection, entry, now)
            return True

        if not await asyncio.wrap_future(self._store.submit(write)):
            return None
        who = session.user or session.holder
        where = f" from {session.address}" if session.address else ""
        self._told.event("User.Login", who, f"{who} logged in{where}", identifier=f"{session.id}/login")
        return Opened(secret, session)

    def _oldest(self) -> dict[str, float]:
        now, rules = self._now(), self._rules
        return {"created_after": now - rules.session_lifetime, "used_after": now - rules.session_idle}


def _session(
    now: float, *, user: str | None = None, token: str | None = None, cookie: bool, address: str, program: str
) -> Session:
    return Session(
        id=uuid7(),
        user=user,
        token=token,
        cookie=cookie,
        created=now,
        last_used=now,
        address=address,
        program=program[:_PROGRAM],
    )


def _facts(session: Session) -> dict[str, object]:
    return {"id": session.id, "address": session.address, "program": session.program}


def _hash(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()
