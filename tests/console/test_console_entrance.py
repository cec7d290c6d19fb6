"""Login, logout and who may do what, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.console.conftest import PASSWORD
from tests.system.live import NO_TLS, Live

pytestmark = pytest.mark.slow


def test_who_is_not_logged_in_comes_to_the_form_and_from_there_to_what_was_asked_for(page: Page) -> None:
    page.goto("/console/agents?state=up")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.get_by_label("Name").fill("viewer")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/agents?state=up")
    expect(page.locator("main h1")).to_have_text("Agents")


@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "/console/\\evil.example", "/v1/events"]
)
def test_a_link_to_the_login_leads_nowhere_else(page: Page, server: Live, elsewhere: str) -> None:
    page.goto(f"/login?{httpx.QueryParams({'next': elsewhere})}")
    page.get_by_label("Name").fill("viewer")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/console/overview")
    assert urlsplit(page.url).netloc == urlsplit(server.url).netloc


def test_a_wrong_password_is_told(page: Page, complaints: Complaints) -> None:
    complaints.expect("401")
    page.goto("/login")
    page.get_by_label("Name").fill("nobody")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_contain_text("the name or the password is wrong")
    expect(page.get_by_label("Name")).to_have_value("nobody")


def test_who_logs_out_is_out(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("viewer")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto("/console/notifications")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_colours_are_chosen_and_kept(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("viewer")
    page.get_by_role("button", name="Colours: auto").click()
    page.wait_for_url("**/console/overview")
    assert page.locator("html").get_attribute("data-theme") == "light"
    page.get_by_role("button", name="Colours: light").click()
    page.goto("/console/agents")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_a_viewer_is_offered_nothing_to_change_and_would_be_refused(
    logged_in: Callable[[str], Page], complaints: Complaints
) -> None:
    page = logged_in("viewer")
    page.goto("/console/agents")
    expect(page.get_by_text("Add an agent")).to_have_count(0)
    expect(page.get_by_text("Withdraw")).to_have_count(0)
    complaints.expect("403")
    page.goto("/console/agents/join")
    expect(page.locator("main h1")).to_have_text("Forbidden")


def test_an_agent_is_withdrawn_after_a_question(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("admin")
    page.goto("/console/agents")
    row = page.get_by_role("row").filter(has_text="build-7")
    row.get_by_role("link", name="Withdraw").click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("Its link is cut at once")
    asked.get_by_role("link", name="Cancel").click()
    expect(asked).to_have_count(0)
    row.get_by_role("link", name="Withdraw").click()
    page.get_by_role("dialog").get_by_role("button", name="Withdraw it").click()
    expect(page.get_by_role("status")).to_contain_text("The agent on build-7 was withdrawn")
    assert "build-7" not in [agent["node"] for agent in admin.get("/v1/agents").json()["items"]]


def test_a_form_without_the_sessions_mark_changes_nothing(server: Live, admin: httpx.Client) -> None:
    with httpx.Client(base_url=server.url, timeout=20, verify=NO_TLS) as browser:
        browser.post("/login", data={"name": "admin", "password": PASSWORD})
        for form in ({}, {"csrf": "guess"}):
            assert browser.post("/console/agents/join", data=form).status_code == 403
        foreign = {"Origin": "https://evil.example"}
        assert browser.post("/console/theme", data={"theme": "dark"}, headers=foreign).status_code == 403
