"""Who is asking: tokens, users and sessions from the real store, on a clock that the test turns."""

from __future__ import annotations

import base64
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quell.api import cookies
from quell.api.auth import Auth
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role
from quell.storage import sessions, tokens, users
from quell.storage.sessions import Session
from quell.storage.store import Store
from quell.storage.tokens import Token
from quell.storage.users import User

SECRET = "quell_secret"
HOUR = 3600.0


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
    store: Store,
    clock: Clock,
    role: Role = Role.ADMIN,
    expires: float | None = None,
    secret: str = SECRET,
    **fields: Any,
) -> None:
    token = Token(name=f"the {role}", role=role.value, created=clock.now, expires=expires, **fields)
    store.submit(lambda connection: tokens.put(connection, secret, token)).result(10)


def add_user(store: Store, clock: Clock, role: Role = Role.ADMIN, name: str = "alice") -> None:
    user = User(name=name, role=role.value, created=clock.now, password_changed=clock.now)
    assert store.submit(lambda connection: users.add(connection, user, "$argon2id$")).result(10)


def open_session(store: Store, clock: Clock, *, cookie: bool, **holder: str) -> str:
    secret, now = sessions.new_secret(), clock.now
    session = Session(id=secret[-8:], cookie=cookie, created=now, last_used=now, **holder)
    store.submit(lambda connection: sessions.put(connection, secret, session, 50)).result(10)
    return secret


def scope(
    authorization: str | None = None, *, cookie: str = "", method: str = "GET", peer: str = "10.0.0.1", **more: str
) -> dict[str, Any]:
    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    if cookie:
        headers.append((b"cookie", f"other=1; quell_session={cookie}".encode()))
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
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


def test_no_token_is_taken_for_a_session(auth: Auth, store: Store, clock: Clock) -> None:
    """Each of the characters that base64 of URLs has may stand where a session's secret has its own."""
    add(store, clock, secret="quell_s_" + SECRET)
    assert auth.require(scope(f"Bearer quell_s_{SECRET}"), Permission.ADMIN).name == "the admin"
    assert not set(sessions.PREFIX.removeprefix("quell")) <= set(f"{string.ascii_letters}{string.digits}-_")


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


def test_a_session_is_its_users_with_all_rights_of_the_role(auth: Auth, store: Store, clock: Clock) -> None:
    add_user(store, clock, Role.OPERATOR)
    bearer, cookie = (open_session(store, clock, cookie=each, user="alice") for each in (False, True))
    for request in (scope(f"Bearer {bearer}"), scope(cookie=cookie)):
        caller = auth.identify(request)
        assert (caller.kind, caller.name, caller.role, caller.address) == ("user", "alice", Role.OPERATOR, "10.0.0.1")
        assert caller.rights == Role.OPERATOR.permissions
    # Each only in its own way, before and after it was found in the other.
    assert status(auth, scope(cookie=bearer)) == 401
    assert status(auth, scope(f"Bearer {cookie}")) == 401
    assert status(auth, scope(f"Bearer {bearer}")) == 200


def test_a_session_survives_a_restart(store: Store, clock: Clock) -> None:
    add_user(store, clock)
    cookie = open_session(store, clock, cookie=True, user="alice")
    assert status(Auth(store, now=clock), scope(cookie=cookie)) == 200


def test_a_session_ends_unused_and_in_any_case(auth: Auth, store: Store, clock: Clock) -> None:
    add_user(store, clock)
    idle, busy = (open_session(store, clock, cookie=True, user="alice") for _ in range(2))
    for _ in range(12 * 3 - 1):
        clock.now += HOUR / 3
        assert status(auth, scope(cookie=busy)) == 200
        # What was noted by now is on disk before the clock goes on.
        store.submit(lambda _connection: None).result(10)
    assert status(auth, scope(cookie=idle)) == 401
    clock.now += HOUR / 3
    assert status(auth, scope(cookie=busy)) == 401


def test_a_cookie_alone_changes_nothing(auth: Auth, store: Store, clock: Clock) -> None:
    add_user(store, clock)
    cookie = open_session(store, clock, cookie=True, user="alice")
    right = cookies.csrf_of(cookie.encode())
    other = cookies.csrf_of(open_session(store, clock, cookie=True, user="alice").encode())
    post = {"cookie": cookie, "method": "POST", "host": "quell.example"}
    assert status(auth, scope(**post)) == 401
    assert status(auth, scope(**post, x_quell_csrf=right), Permission.ADMIN) == 200
    assert status(auth, scope(**post, x_quell_csrf=other)) == 403
    assert status(auth, scope(**post, x_quell_csrf="")) == 403
    for site, expected in (("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)):
        assert status(auth, scope(**post, x_quell_csrf=right, sec_fetch_site=site)) == expected
    for origin, expected in (("https://quell.example", 200), ("https://evil.example", 403), ("null", 403)):
        assert status(auth, scope(**post, x_quell_csrf=right, origin=origin)) == expected


def test_under_tls_the_cookie_has_another_name_that_no_subdomain_can_set(
    auth: Auth, store: Store, clock: Clock
) -> None:
    add_user(store, clock)
    secret = open_session(store, clock, cookie=True, user="alice")
    plain, behind = scope(cookie=secret), scope(cookie=secret, x_forwarded_proto="https")
    assert [status(auth, request) for request in (plain, behind)] == [200, 401]
    hosted = scope(x_forwarded_proto="https")
    hosted["headers"].append((b"cookie", f"__Host-quell_session={secret}".encode()))
    assert status(auth, hosted) == 200
    assert cookies.to_keep(plain, "s", 60) == (
        "set-cookie",
        "quell_session=s; Path=/; HttpOnly; SameSite=Lax; Max-Age=60",
    )
    assert cookies.to_keep(hosted, "s", 60) == (
        "set-cookie",
        "__Host-quell_session=s; Path=/; HttpOnly; SameSite=Lax; Secure; Max-Age=60",
    )


def test_a_session_by_a_tokens_link_looks_and_ends_with_the_token(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock, expires=clock.now + HOUR / 4)
    cookie = open_session(store, clock, cookie=True, token="the admin")
    assert status(auth, scope(cookie=cookie)) == 200
    assert status(auth, scope(cookie=cookie), Permission.ADMIN) == 403
    clock.now += HOUR / 4
    assert status(auth, scope(cookie=cookie)) == 401


def change_user(store: Store, auth: Auth, *, role: Role, disabled: bool = False) -> None:
    store.submit(lambda connection: users.change(connection, "alice", role=role, disabled=disabled)).result(10)
    auth.forget()


def test_a_token_does_no_more_than_its_owner_may_now(auth: Auth, store: Store, clock: Clock) -> None:
    add_user(store, clock)
    add(store, clock, Role.OPERATOR, owner="user/alice")
    add(store, clock, Role.INGEST, owner="user/alice", secret="quell_ingest")
    shown, ingest = scope(f"Bearer {SECRET}"), scope("Bearer quell_ingest")
    assert status(auth, shown, Permission.OPERATE) == 200
    change_user(store, auth, role=Role.AUTHOR)
    assert status(auth, shown, Permission.RULES) == 200
    assert status(auth, shown, Permission.OPERATE) == 403
    assert status(auth, ingest, Permission.INGEST) == 200
    change_user(store, auth, role=Role.ADMIN, disabled=True)
    assert status(auth, shown) == 401
    assert status(auth, ingest, Permission.INGEST) == 200


def test_a_token_may_have_a_part_of_its_role(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock, Role.ADMIN, permissions=("read", "admin"))
    shown = scope(f"Bearer {SECRET}")
    assert status(auth, shown, Permission.ADMIN) == 200
    with pytest.raises(Refusal, match="made without the permission operate"):
        auth.require(shown, Permission.OPERATE)
    caller = auth.identify(shown)
    caller.grant(frozenset((Permission.READ,)))
    with pytest.raises(Refusal, match="operate is beyond token/the admin"):
        caller.grant(Role.OPERATOR.permissions - {Permission.RULES})


def test_after_a_rotation_the_old_secret_works_for_its_grace(auth: Auth, store: Store, clock: Clock) -> None:
    add(store, clock)
    old, new = scope(f"Bearer {SECRET}"), scope("Bearer quell_new")
    store.submit(lambda c: tokens.rotate(c, "the admin", "quell_new", clock.now + 60)).result(10)
    assert [status(auth, request) for request in (old, new)] == [200, 200]
    clock.now += 60
    assert [status(auth, request) for request in (old, new)] == [401, 200]
    store.submit(lambda c: tokens.rotate(c, "the admin", "quell_newest", None)).result(10)
    auth.forget()
    assert [status(auth, request) for request in (new, scope("Bearer quell_newest"))] == [401, 200]


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
