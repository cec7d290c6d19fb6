"""Users, tokens and one's own account, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.console.conftest import PASSWORD
from tests.console.real_agent import session
from tests.system.live import NO_TLS, Live

pytestmark = pytest.mark.slow

OTHER = "nine brown paper kites"


def make(admin: httpx.Client, name: str, role: str = "viewer") -> None:
    admin.post("/v1/users", json={"name": name, "role": role, "password": PASSWORD}).raise_for_status()


def test_a_token_is_shown_once_and_nowhere_afterwards(
    logged_in: Callable[[str], Page], admin: httpx.Client, server: Live, complaints: Complaints
) -> None:
    page = logged_in("admin")
    page.goto("/console/tokens/new")
    complaints.expect("422")
    page.get_by_label("Name").fill("/no name")
    page.get_by_role("button", name="Make the token").click()
    expect(page.get_by_role("alert")).to_contain_text("name: expected")
    page.get_by_label("Name").fill("edge detector")
    page.get_by_label("Role").select_option("ingest")
    page.get_by_text("What its events may be about").click()
    page.get_by_label("falco").check()
    page.get_by_role("button", name="Make the token").click()
    secret = page.get_by_role("region", name="Secret").inner_text().strip()
    assert secret.startswith("quell_")
    assert page.content().count(secret) == 1
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {secret}"}, timeout=20, verify=NO_TLS
    ) as program:
        assert program.post("/v1/events", json={"name": "X"}).status_code == 403
    page.goto("/console/tokens")
    row = page.get_by_role("row").filter(has_text="edge detector")
    expect(row).to_contain_text("falco")
    for address in (
        "/console/tokens",
        "/console/tokens/rotate/edge%20detector",
        "/console/audit?kind=token",
        "/console/overview",
    ):
        page.goto(address)
        assert secret not in page.content()
    for path in ("/v1/tokens", "/v1/audit", "/v1/audit/export"):
        assert secret not in admin.get(path).text
    page.go_back()
    assert secret not in page.content()

    page.goto("/console/tokens")
    row.get_by_role("link", name="Rotate").click()
    page.get_by_role("dialog").get_by_role("button", name="Make a new secret").click()
    fresh = page.get_by_role("region", name="Secret").inner_text().strip()
    assert fresh not in ("", secret)
    expect(page.get_by_text("works no more")).to_be_visible()

    page.goto("/console/tokens")
    row.get_by_role("link", name="Withdraw").click()
    expect(page.get_by_role("dialog")).to_contain_text("what this detector finds does not arrive any more")
    page.get_by_role("dialog").get_by_role("button", name="Withdraw it").click()
    expect(page.get_by_role("status")).to_contain_text("was withdrawn")
    assert "edge detector" not in [each["name"] for each in admin.get("/v1/tokens").json()["items"]]


def test_a_user_from_first_to_last(
    logged_in: Callable[[str], Page], admin: httpx.Client, server: Live, complaints: Complaints
) -> None:
    page = logged_in("admin")
    page.goto("/console/users")
    page.get_by_role("link", name="New user").click()
    complaints.expect("422", "409")
    page.get_by_label("Name").fill("dora")
    page.get_by_label("First password").fill("short")
    page.get_by_label("The same again").fill("short")
    page.get_by_role("button", name="Make the user").click()
    expect(page.get_by_role("alert")).to_contain_text("expected at least")
    page.get_by_label("Role").select_option("operator")
    page.get_by_label("First password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the user").click()
    page.wait_for_url("**/console/users/of/dora")
    expect(page.get_by_role("status")).to_contain_text("dora can log in as operator")

    with session(server, "dora") as (client, _):
        assert client.get("/console/overview").url.path == "/console/overview"
        page.reload()
        expect(page.get_by_role("region", name="Sessions").locator("tbody tr")).to_have_count(1)
        page.get_by_role("button", name="End all of them").click()
        expect(page.get_by_role("status")).to_contain_text("ended: 1")
        assert client.get("/console/overview").url.path == "/login"

    page.get_by_label("What they may do").select_option("author")
    page.get_by_role("button", name="Change the role").click()
    expect(page.get_by_role("status")).to_contain_text("dora is author")
    page.get_by_role("link", name="Disable").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(page.locator(".facts")).to_contain_text("disabled")
    assert admin.get("/v1/users/dora").json()["disabled"] is True
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/console/users")
    assert admin.get("/v1/users/dora").status_code == 404
    # The last admin stays.
    page.goto("/console/users/disable/admin")
    page.get_by_role("button", name="Disable").click()
    expect(page.get_by_role("alert")).to_contain_text("the last admin")


def test_a_password_is_changed_by_its_owner(
    server: Live, admin: httpx.Client, page: Page, complaints: Complaints
) -> None:
    make(admin, "emil")
    log_in(page, "emil", PASSWORD)
    page.locator(".who").click()
    page.wait_for_url("**/console/account")
    complaints.expect("403", "401")
    fill(page, "wrong", OTHER)
    expect(page.get_by_role("alert")).to_contain_text("expected the password that is in force")
    # What answered the form is no page to come back to: a change of colours leads to the page that had the form.
    page.get_by_role("button", name="Colours: auto").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    assert page.url.endswith("/console/account")
    fill(page, PASSWORD, OTHER)
    page.wait_for_url("**/login")
    log_in(page, "emil", OTHER)
    page.goto("/console/account")
    with session(server, "emil", OTHER):
        page.reload()
        expect(page.get_by_role("region", name="Sessions").locator("tbody tr")).to_have_count(2)
        page.get_by_role("button", name="End all others").click()
        expect(page.get_by_role("status")).to_contain_text("ended: 1")


@pytest.mark.parametrize("role", ["viewer", "author", "operator"])
def test_who_is_no_admin_sees_and_does_nothing_of_it(logged_in: Callable[[str], Page], server: Live, role: str) -> None:
    page = logged_in(role)
    for name in ("Users", "Tokens"):
        expect(page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True)).to_have_count(0)
    with session(server, role) as (client, csrf):
        for path in ("users", "users/new", "users/of/admin", "tokens", "tokens/new", "audit/verification"):
            assert client.get(f"/console/{path}").status_code == 403, path
        for path in (
            "users/new",
            "users/of/admin",
            "users/password/admin",
            "users/sessions/admin",
            "users/delete/viewer",
            "tokens/new",
            "tokens/rotate/first-admin",
            "tokens/withdraw/first-admin",
            "settings/edit/safety.breaker",
        ):
            assert client.post(f"/console/{path}", data={"csrf": csrf}).status_code == 403, path


def fill(page: Page, old: str, new: str) -> None:
    page.get_by_label("The one in force").fill(old)
    page.get_by_label("New password").fill(new)
    page.get_by_label("The same again").fill(new)
    page.get_by_role("button", name="Change it").click()


def log_in(page: Page, name: str, password: str) -> None:
    page.goto("/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/console/overview")
