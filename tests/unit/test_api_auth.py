"""Who is asking: tokens from the real store, sessions and login codes, on a clock that the test turns."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quell.api.auth import SESSION_SECONDS, Auth
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role
from quell.storage import tokens
from quell.storage.store import Store

SECRET = "quell_secret"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "quell.db") as opened:
        yield opened


@pytest.fixture
def auth(store: Store, clock: Clock) -> Auth:
    return Auth(store, now=clock)


def add(
    store: Store, clock: Clock, role: Role = Role.ADMIN, expires: float | None = None, secret: str = SECRET
) -> None:
    token = tokens.Token(name=f"the {role}", role=role.value, created=clock.now, expires=expires)
    store.submit(lambda connection: tokens.put(connection, secret, token)).result(10)


def scope(
    authorization: str | None = None, *, cookie: str = "", method: str = "GET", peer: str = "10.0.0.1"
) -> dict[str, Any]:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    if cookie:
        headers.append((b"cookie", f"other=1; quell_session={cookie}".encode()))
    return {"type": "http", "method": method, "headers": headers, "client": (peer, 40_000)}


def status(auth: Auth, request: dict[str, Any], permission: Permission = Permission.READ) -> int:
    try:
        auth.require(request, permission)
    except Refusal as refused:
        return refused.status
    return 200


def test_a_bearer_token_is_known_by_its_hash(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock)
    assert auth.require(scope(f"Bearer {SECRET}"), Permission.ADMIN).name == "the admin"
    assert status(auth, scope(f"bearer  {SECRET} ")) == 200
    assert [status(auth, scope(text)) for text in ("Bearer nope", f"Basic {SECRET}", "Bearer", SECRET)] == [401] * 4
    assert status(auth, scope()) == 401


def test_a_role_opens_what_it_is_for(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock, Role.INGEST)
    assert status(auth, scope(f"Bearer {SECRET}")) == 403
    assert status(auth, scope(f"Bearer {SECRET}"), Permission.INGEST) == 200


def test_a_token_expires_although_it_was_just_used(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock, expires=clock.now + 2)
    assert status(auth, scope(f"Bearer {SECRET}")) == 200
    clock.now += 2
    assert status(auth, scope(f"Bearer {SECRET}")) == 401


def test_a_withdrawn_token_ends_at_once_here_and_soon_everywhere(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock)
    assert status(auth, scope(f"Bearer {SECRET}")) == 200
    store.submit(lambda connection: tokens.delete(connection, "the admin")).result(10)
    clock.now += 5
    assert status(auth, scope(f"Bearer {SECRET}")) == 401
    add(store, clock)
    assert status(auth, scope(f"Bearer {SECRET}")) == 200
    store.submit(lambda connection: tokens.delete(connection, "the admin")).result(10)
    auth.forget()
    assert status(auth, scope(f"Bearer {SECRET}")) == 401


def test_a_login_code_works_once_and_not_late(auth: Auth, clock: Clock) -> None:
    code = auth.login_code()
    session = auth.log_in(scope(), code)
    assert status(auth, scope(cookie=session)) == 200
    with pytest.raises(Refusal, match="used before"):
        auth.log_in(scope(), code)
    late = auth.login_code(ttl=60)
    clock.now += 60
    with pytest.raises(Refusal, match="expired"):
        auth.log_in(scope(), late)


def test_a_session_reads_only_and_ends(auth: Auth, clock: Clock) -> None:
    session = auth.log_in(scope(), auth.login_code())
    assert status(auth, scope(cookie=session, method="POST"), Permission.READ) == 401
    assert status(auth, scope(cookie=session), Permission.ADMIN) == 403
    assert status(auth, scope(cookie="wrong")) == 401
    clock.now += SESSION_SECONDS
    assert status(auth, scope(cookie=session)) == 401


def test_failures_are_throttled_by_address_for_a_minute(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock)
    assert [status(auth, scope("Bearer guess")) for _ in range(21)] == [401] * 20 + [429]
    assert status(auth, scope("Bearer guess", peer="10.0.0.2")) == 401
    assert status(auth, scope(f"Bearer {SECRET}")) == 200
    clock.now += 60
    assert status(auth, scope("Bearer guess")) == 401


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_falco_shows_its_token_as_a_password(auth: Auth, store: Store, clock: Clock) -> None:
    """Its http_output sets no header of its own, but libcurl sends an address's user and password."""
    add(store, clock, Role.INGEST)
    add(store, clock, Role.ADMIN, secret="quell_admin")
    assert status(auth, scope(basic("falco", SECRET), method="POST"), Permission.INGEST) == 200
    assert status(auth, scope(basic("", SECRET), method="POST"), Permission.INGEST) == 200
    assert status(auth, scope(basic(SECRET, ""), method="POST"), Permission.INGEST) == 401
    assert status(auth, scope(basic("falco", "quell_admin"), method="POST"), Permission.INGEST) == 401
    assert status(auth, scope("Basic !", method="POST"), Permission.INGEST) == 401
