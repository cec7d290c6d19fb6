"""Logging in with a provider, and out again, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from tests.console.complaints import Complaints
from tests.system.oidc_place import Provider, needs_provider, placed
from tests.system.running import Quell

pytestmark = [pytest.mark.slow, needs_provider]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Quell, Provider]]:
    folder: Path = tmp_path_factory.mktemp("console-oidc")
    with placed(folder, {"QUELL_OIDC_LABEL": "Log in with Shop"}) as both:
        yield both


@pytest.fixture
def page(browser: Browser, place: tuple[Quell, Provider], complaints: Complaints) -> Iterator[Page]:
    context: BrowserContext = browser.new_context(base_url=place[0].url, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    # The provider's own pages would load letters from elsewhere.
    context.route(re.compile("^https:"), lambda route: route.fulfill(status=200, content_type="text/css", body=""))
    opened = context.new_page()
    complaints.watch(opened)
    yield opened
    context.close()
    assert complaints.unexpected() == []


def log_in(page: Page, account: str) -> None:
    """By the button, and on the provider's pages."""
    page.get_by_role("link", name="Log in with Shop").click()
    page.get_by_placeholder("Enter any login").fill(account)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


def test_somebody_logs_in_at_the_provider_and_out_again(page: Page, place: tuple[Quell, Provider]) -> None:
    _, provider = place
    page.goto("/console/agents")
    log_in(page, "id-of-bob")
    page.wait_for_url("**/console/agents")
    expect(page.locator("main h1")).to_have_text("Agents")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login?left=1")
    page.get_by_role("link", name="Log out there as well").click()
    page.wait_for_url(f"{provider.issuer}/session/end*")


def test_who_is_kept_out_is_told_on_the_login_page(page: Page, complaints: Complaints) -> None:
    complaints.expect("403")
    page.goto("/login")
    log_in(page, "id-of-eve")
    expect(page.get_by_role("alert")).to_contain_text("none of your groups has a role here")
    expect(page.get_by_label("Password")).to_be_visible()
    expect(page.get_by_role("link", name="Log in with Shop")).to_be_visible()
