"""Logging in with OpenID Connect: a real controller, a real provider and a browser that goes from one to the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.oidc_place import ACCOUNTS, CALLBACK, SECRET, Browser, Provider, needs_provider, parameters, placed
from tests.system.running import Quell, wait_for

GOOD = "a slow green tin roof"

pytestmark = [pytest.mark.slow, needs_provider]

Place = tuple[Quell, Provider]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("oidc"), {"QUELL_OIDC_LABEL": "Log in with Shop"}) as (quell, provider):
        quell.ask("POST", "/v1/users", json={"name": "root", "role": "admin", "password": GOOD})
        yield quell, provider


@pytest.fixture
def quell(place: Place) -> Quell:
    return place[0]


@pytest.fixture
def provider(place: Place) -> Iterator[Provider]:
    yield place[1]
    place[1].has(ACCOUNTS)


@pytest.fixture
def browser(quell: Quell) -> Browser:
    return Browser(quell)


def notes(quell: Quell, verb: str) -> list[str]:
    """Of the audit log's entries, newest first: who, and what is said of it."""
    entries = quell.ask("GET", "/v1/audit", params={"limit": 200})["items"]
    return [
        f"{one['entry']['actor']['name']}: {one['entry'].get('note', '')}"
        for one in entries
        if one["entry"]["verb"] == verb
    ]


def refused(quell: Quell, answer: httpx.Response, status: int, words: str) -> None:
    """A page that says so, no session, and an entry in the audit log."""
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert "quell_session" not in answer.headers.get("set-cookie", "")
    assert "location" not in answer.headers


# ---- logins that are right


def test_a_login_makes_a_user_with_the_role_of_the_first_group(
    quell: Quell, provider: Provider, browser: Browser
) -> None:
    page = browser.http.get(f"{quell.url}/login").text
    assert "Log in with Shop" in page
    assert 'href="/login/oidc' in page
    assert 'name="password"' in page
    asked = parameters(browser.begin())
    assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
    assert asked["redirect_uri"] == f"{quell.url}{CALLBACK}"
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    answer = browser.log_in("id-of-ann")
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith("/")
    kept = answer.headers.get_list("set-cookie")
    assert any(one.startswith("quell_session=quell_s.") and "HttpOnly; SameSite=Lax" in one for one in kept)
    assert any(one.startswith("quell_login=;") and "Max-Age=0" in one for one in kept)
    myself = browser.myself()
    assert (myself["name"], myself["role"], myself["kind"]) == ("ann", "admin", "user")
    ann = quell.ask("GET", "/v1/users/ann")
    assert (ann["source"], ann["password_changed"], ann["disabled"]) == ("oidc", None, False)
    assert ann["last_login"] > time.time() - 600
    assert f"ann: vouched for by {provider.issuer}" in notes(quell, "create")
    assert "ann: " in notes(quell, "login")
    logins = [row for row in quell.ask("GET", "/v1/events?limit=1000")["items"] if row["name"] == "User.Login"]
    assert "ann" in {row["subject"]["user"] for row in logins}


def test_one_request_is_enough_for_a_login(quell: Quell, provider: Provider, browser: Browser) -> None:
    browser.log_in("id-of-bob")
    provider.asked()
    again = Browser(quell)
    assert again.log_in("id-of-bob").status_code == 303
    assert provider.asked() == ["/token"]
    assert again.myself()["role"] == "operator"


def test_the_role_is_what_the_groups_say_at_each_login(quell: Quell, provider: Provider, browser: Browser) -> None:
    carl = {"preferred_username": "carl", "groups": "auditors"}
    provider.has({"id-of-carl": carl})
    assert browser.log_in("id-of-carl").status_code == 303
    assert browser.myself()["role"] == "viewer"
    provider.has({"id-of-carl": {"preferred_username": "charles", "groups": ["sre"]}})
    later = Browser(quell)
    assert later.log_in("id-of-carl").status_code == 303
    # The name is the one of the first login: people are known by the provider's own id.
    assert (later.myself()["name"], later.myself()["role"]) == ("carl", "operator")
    assert browser.myself() == {}, "a session of the role before goes on"
    assert any(note.startswith("carl: by the provider's groups") for note in notes(quell, "change"))
    # Without a role there is neither a login nor a session any more.
    provider.has({"id-of-carl": {"preferred_username": "carl", "groups": ["everybody"]}})
    refused(quell, Browser(quell).log_in("id-of-carl"), 403, "none of your groups has a role here")
    assert later.myself() == {}
    assert quell.ask("GET", "/v1/users/carl")["role"] == "viewer"


@pytest.mark.parametrize(
    ("algorithm", "more"),
    [
        ("ES256", {"told": "userinfo", "secret": ""}),
        ("PS256", {"method": "client_secret_post"}),
        ("EdDSA", {}),
    ],
)
def test_other_providers(algorithm: str, more: dict[str, str], tmp_path: Path) -> None:
    """Keys of other kinds, a public client, one that sends its secret in the form, claims that userinfo tells."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    given = {
        "QUELL_OIDC_CLIENT_SECRET": "",
        "QUELL_OIDC_CLIENT_SECRET_FILE": str(secret) if "secret" not in more else "",
    }
    with placed(tmp_path, given, algorithm=algorithm, **more) as (quell, provider):
        browser = Browser(quell)
        assert browser.log_in("id-of-bob").status_code == 303, quell.log()
        assert browser.myself()["role"] == "operator"
        assert ("/me" in provider.asked()) is (more.get("told") == "userinfo")
        assert SECRET not in quell.log()


# ---- answers that are none


def test_an_answer_for_another_browser_opens_nothing(quell: Quell, provider: Provider, browser: Browser) -> None:
    back = browser.way_back("id-of-bob")
    provider.asked()
    other = Browser(quell)
    refused(quell, other.http.get(back), 401, "not begun in this browser")
    other.begin()
    refused(quell, other.http.get(back), 401, "not begun in this browser")
    right = parameters(back)["state"]
    wrong = ("1" if right[0] == "0" else "0") + right[1:]
    refused(quell, browser.http.get(back.replace(right, wrong)), 401, "not begun in this browser")
    assert provider.asked() == [], "the code was shown to the provider"
    assert "(unknown): 1 login: its state is not this browser's" in notes(quell, "login-failed")
    # The browser has forgotten the login: it begins again.
    refused(quell, browser.http.get(back), 401, "not begun in this browser")
    assert other.myself() == browser.myself() == {}


def test_a_code_works_once(quell: Quell, browser: Browser) -> None:
    back = browser.way_back("id-of-bob")
    begun = browser.http.cookies["quell_login"]
    assert browser.http.get(back).status_code == 303
    refused(quell, browser.http.get(back), 401, "finished before")
    # And neither does it for whoever has the cookie as well.
    thief = Browser(quell)
    thief.http.cookies.set("quell_login", begun)
    refused(quell, thief.http.get(back), 401, "it was used before or has expired")


def test_another_providers_answer_is_refused(quell: Quell, browser: Browser) -> None:
    back = browser.way_back("id-of-bob")
    issuer = parameters(back)["iss"]
    refused(quell, browser.http.get(back.replace("&iss=", "&was=")), 401, "another provider")
    assert issuer.startswith("http://127.0.0.1:")


def test_what_the_provider_refuses_is_told_in_plain_words(quell: Quell, browser: Browser) -> None:
    issuer = parameters(browser.way_back("id-of-bob"))["iss"]
    state = parameters(browser.begin())["state"]
    answer = browser.http.get(
        f"{quell.url}{CALLBACK}", params={"error": "access_denied", "state": state, "iss": issuer}
    )
    refused(quell, answer, 401, "the provider did not let you in, or you cancelled")


SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "of another login": ({"claims": {"nonce": "of another"}}, "it is of another login"),
    "without a nonce": ({"claims": {"nonce": None}}, "it is of another login"),
    "expired": ({"claims": {"exp": 1_700_000_000}}, "it has expired"),
    "without an end": ({"claims": {"exp": None}}, "its claim exp is missing or wrong"),
    "of the future": ({"claims": {"iat": 4_000_000_000}}, "its claim iat is missing or wrong"),
    "of another provider": ({"claims": {"iss": "http://127.0.0.1:1"}}, "its claim iss is missing or wrong"),
    "for another program": ({"claims": {"aud": "other"}}, "its claim aud is missing or wrong"),
    "for two programs": ({"claims": {"aud": ["quell", "other"]}}, "for another program"),
    "for the other of two": ({"claims": {"aud": ["quell", "other"], "azp": "other"}}, "for another program"),
    "of nobody": ({"claims": {"sub": None}}, "its claim sub is missing or wrong"),
    "altered": ({"altered": True, "claims": {"groups": ["quell-admins"]}}, "its signature is wrong"),
    "signed by somebody else": ({"key": "other"}, "its signature is wrong"),
    "signed with an unknown key": ({"key": "other", "header": {"kid": "nobody's"}}, "does not publish"),
    "not signed": ({"header": {"alg": "none", "kid": None}}, "it is not signed with one of RS256"),
    "signed with the client's secret": ({"header": {"alg": "HS256"}}, "it is not signed with one of RS256"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_wrong_id_token_opens_nothing(case: str, quell: Quell, provider: Provider, browser: Browser) -> None:
    how, words = SPOILED[case]
    back = browser.way_back("id-of-eve")
    provider.spoil(**how)
    provider.asked()
    refused(quell, browser.http.get(back), 401, words)
    asked = provider.asked()
    assert asked.count("/token") == 1
    assert len(asked) <= 2
    assert browser.myself() == {}
    wait_for(lambda: any(words in note for note in notes(quell, "login-failed")), what="the audit log's entry")


def test_two_programs_may_share_a_token_if_it_is_made_for_this_one(
    quell: Quell, provider: Provider, browser: Browser
) -> None:
    back = browser.way_back("id-of-bob")
    provider.spoil(claims={"aud": ["quell", "other"], "azp": "quell"})
    assert browser.http.get(back).status_code == 303


# ---- people who are kept out


def test_who_is_in_no_group_stays_out(quell: Quell, browser: Browser) -> None:
    refused(quell, browser.log_in("id-of-eve"), 403, "none of your groups has a role here")
    assert [user for user in quell.ask("GET", "/v1/users")["items"] if user["name"] == "eve"] == []
    wait_for(lambda: any(note.startswith("eve: 1 login: none of") for note in notes(quell, "login-failed")))


def test_who_is_disabled_stays_out(quell: Quell, browser: Browser) -> None:
    assert browser.log_in("id-of-bob").status_code == 303
    quell.ask("PATCH", "/v1/users/bob", json={"disabled": True})
    assert browser.myself() == {}
    refused(quell, Browser(quell).log_in("id-of-bob"), 403, "the account bob is disabled here")
    quell.ask("PATCH", "/v1/users/bob", json={"disabled": False})
    again = Browser(quell)
    assert again.log_in("id-of-bob").status_code == 303
    assert again.myself()["name"] == "bob"


def test_a_name_at_the_provider_makes_nobody_a_local_user(quell: Quell, provider: Provider, browser: Browser) -> None:
    provider.has({"id-of-mallory": {"preferred_username": "ROOT", "groups": ["sre"]}})
    refused(quell, browser.log_in("id-of-mallory"), 409, "there is another user root here")
    assert quell.ask("GET", "/v1/users/root")["source"] == "local"
    provider.has({"id-of-mallory": {"preferred_username": "a/b", "groups": ["sre"]}})
    refused(quell, browser.log_in("id-of-mallory"), 422, "is no name here")
    provider.has({"id-of-mallory": {"groups": ["sre"]}})
    refused(quell, browser.log_in("id-of-mallory"), 422, "is no name here")


def test_a_user_of_the_provider_has_no_password_and_no_other_role(quell: Quell, browser: Browser) -> None:
    assert browser.log_in("id-of-bob").status_code == 303
    for request, words in (
        (("PUT", "/v1/users/bob/password", {"password": GOOD}), "has no password here"),
        (("PATCH", "/v1/users/bob", {"role": "admin"}), "comes from the provider's groups"),
    ):
        method, path, body = request
        with pytest.raises(httpx.HTTPStatusError) as caught:
            quell.ask(method, path, json=body)
        assert caught.value.response.status_code == 409
        assert words in caught.value.response.json()["detail"]
    for password in (GOOD, ""):
        answer = Browser(quell).http.post(f"{quell.url}/v1/sessions", json={"name": "bob", "password": password})
        assert answer.status_code == 401


def test_many_failures_of_one_address_have_to_wait(quell: Quell, provider: Provider, browser: Browser) -> None:
    provider.asked()
    answers = [browser.http.get(f"{quell.url}{CALLBACK}", params={"code": "x", "state": "y"}) for _ in range(25)]
    assert {answer.status_code for answer in answers} == {401, 429}
    assert "retry-after" in answers[-1].headers
    assert provider.asked() == []


# ---- the provider's troubles


def test_keys_that_change_are_fetched_once(quell: Quell, provider: Provider, browser: Browser) -> None:
    assert browser.log_in("id-of-bob").status_code == 303
    provider.stop()
    provider.start()
    later = Browser(quell)
    assert later.log_in("id-of-bob").status_code == 303
    assert provider.asked() == ["/token", "/jwks"]
    assert later.myself()["name"] == "bob"


def test_a_provider_that_is_down_is_told_and_a_password_still_works(quell: Quell, provider: Provider) -> None:
    browser = Browser(quell)
    back = browser.way_back("id-of-bob")
    provider.stop()
    try:
        refused(quell, browser.http.get(back), 502, f"the provider at {provider.issuer} cannot be reached")
        answer = browser.http.post(f"{quell.url}/login", data={"name": "root", "password": GOOD})
        assert answer.status_code == 303
        assert browser.myself()["name"] == "root"
    finally:
        provider.start()
    assert Browser(quell).log_in("id-of-bob").status_code == 303


def test_a_provider_that_hangs_is_given_up_on(tmp_path: Path) -> None:
    with placed(tmp_path, {"QUELL_OIDC_TIMEOUT": "1s"}) as (quell, provider):
        provider.freeze()
        try:
            answer = Browser(quell).http.get(f"{quell.url}/login/oidc")
            refused(quell, answer, 502, "did not answer within 1s")
        finally:
            provider.thaw()
        browser = Browser(quell)
        wait_for(lambda: browser.http.get(f"{quell.url}/login/oidc").status_code == 303, what="the provider's answer")
        back = browser.way_back("id-of-bob")
        provider.freeze()
        try:
            refused(quell, browser.http.get(back), 502, "did not answer within 1s")
        finally:
            provider.thaw()


# ---- around it


def test_the_secret_is_nowhere_to_be_seen(quell: Quell, browser: Browser) -> None:
    assert browser.log_in("id-of-ann").status_code == 303
    shown = browser.http.get(f"{quell.url}/v1/settings").text
    assert '"oidc.client_secret"' in shown
    assert SECRET not in shown
    log = (quell.folder / "controller.log").read_text()
    # The link of the first start has a code of its own.
    told = [line for line in log.splitlines() if "Make the first admin" not in line]
    assert [line for line in told if any(word in line for word in (SECRET, "eyJ", "code="))] == []


def test_logging_out_offers_the_providers_logout(quell: Quell, provider: Provider, browser: Browser) -> None:
    assert browser.log_in("id-of-bob").status_code == 303
    csrf = browser.myself()["csrf"]
    answer = browser.http.post(f"{quell.url}/logout", data={"csrf": csrf})
    assert answer.status_code == 303
    assert browser.myself() == {}
    page = browser.http.get(f"{quell.url}{answer.headers['location']}").text
    assert 'href="/login/oidc/logout"' in page
    left = browser.http.get(f"{quell.url}/login/oidc/logout")
    assert left.status_code == 303
    assert left.headers["location"] == f"{provider.issuer}/session/end?client_id=quell"


def test_no_address_leads_elsewhere(quell: Quell, browser: Browser) -> None:
    for path in (
        "/login/oidc?next=https://evil.example/",
        "/login/oidc?next=//evil.example",
        "/login/oidc?next=/%5Cevil",
    ):
        begun = browser.http.get(f"{quell.url}{path}")
        assert begun.status_code == 303
        answer = browser.http.get(browser.through(begun.headers["location"], "id-of-bob"))
        assert answer.status_code == 303
        assert "evil" not in answer.headers["location"]
    for path in ("/login/oidc", CALLBACK, "/login/oidc/logout"):
        for method in ("POST", "HEAD"):
            assert browser.http.request(method, f"{quell.url}{path}").status_code == 405


def test_passwords_can_be_turned_off_but_for_the_first_link(tmp_path: Path) -> None:
    with placed(tmp_path, {"QUELL_ACCOUNTS_PASSWORD_LOGIN": "false"}) as (quell, _):
        log = (quell.folder / "controller.log").read_text()
        link = next(word for word in log.split() if "/login?code=" in word)
        first = {"code": link.partition("code=")[2], "name": "root", "password": GOOD, "again": GOOD}
        admin = Browser(quell)
        assert admin.http.post(f"{quell.url}/login", data=first).status_code == 303
        assert admin.myself()["role"] == "admin"
        browser = Browser(quell)
        assert 'name="password"' not in browser.http.get(f"{quell.url}/login").text
        answer = browser.http.post(f"{quell.url}/login", data={"name": "root", "password": GOOD})
        refused(quell, answer, 403, "nobody logs in with a password here")
        answer = browser.http.post(f"{quell.url}/v1/sessions", json={"name": "root", "password": GOOD})
        assert answer.status_code == 403
        assert browser.log_in("id-of-ann").status_code == 303


def test_without_a_provider_there_is_no_such_login(tmp_path: Path) -> None:
    quell = Quell(tmp_path)
    try:
        quell.start_controller()
        browser = Browser(quell)
        assert "/login/oidc" not in browser.http.get(f"{quell.url}/login").text
        for path in ("/login/oidc", CALLBACK, "/login/oidc/logout"):
            assert browser.http.get(f"{quell.url}{path}").status_code == 404
    finally:
        quell.close()
