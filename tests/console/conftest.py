"""A controller with something to show, and a browser that fails a test for whatever it complains of."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from tests.console.complaints import Complaints
from tests.console.example_data import filled
from tests.system.live import Live, live

CHROMIUM = shutil.which("chromium")
PASSWORD = "a slow green tin roof"
ROLES = ("admin", "operator", "author", "viewer")


class Shared:
    """One controller for all modules of this folder, as long as tests of it follow each other.

    It runs in threads of this process; tests elsewhere are not to have them beside them.
    """

    def __init__(self) -> None:
        self._running: Live | None = None
        self._stack = contextlib.ExitStack()

    def get(self, tmp_path_factory: pytest.TempPathFactory) -> Live:
        if self._running is None:
            self._running = self._stack.enter_context(started(tmp_path_factory.mktemp("console") / "s"))
        return self._running

    def close(self) -> None:
        self._running = None
        self._stack.close()


_shared = Shared()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """After a module's own fixtures, which use it."""
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path.parent != Path(__file__).parent:
            _shared.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Live:
    return _shared.get(tmp_path_factory)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Live]:
    """A controller with users and example data: of its own for a module that ends what others look at."""
    with live(folder) as running, running.client() as admin:
        for role in ROLES:
            admin.post("/v1/users", json={"name": role, "role": role, "password": PASSWORD}).raise_for_status()
        with filled(admin):
            yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    """The API, with a token."""
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of a module alone: while it is there, an event loop runs in this thread, and tests elsewhere start their own."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser, server: Live) -> Iterator[BrowserContext]:
    """A browser of somebody who is not logged in."""
    made = browser.new_context(base_url=server.url, viewport={"width": 1366, "height": 860}, reduced_motion="reduce")
    made.set_default_timeout(30_000)
    yield made
    made.close()


@pytest.fixture
def complaints() -> Complaints:
    """What the browser complained of; a test that provokes something says so: complaints.expect(...)."""
    return Complaints()


@pytest.fixture
def page(context: BrowserContext, complaints: Complaints) -> Iterator[Page]:
    """A page of somebody who is not logged in. At the end nothing may have been complained of."""
    opened = context.new_page()
    complaints.watch(opened)
    yield opened
    assert complaints.unexpected() == []


@pytest.fixture(scope="session")
def remembered() -> dict[tuple[str, str], list[Any]]:
    """Sessions that were begun, by address and user: proving a password takes long on purpose."""
    return {}


@pytest.fixture
def logged_in(page: Page, server: Live, remembered: dict[tuple[str, str], list[Any]]) -> Callable[[str], Page]:
    """The page, as a user of this role, at the overview."""

    def log_in(role: str) -> Page:
        page.context.add_cookies(remembered.get((server.url, role), []))
        page.goto("/console/overview")
        if urlsplit(page.url).path == "/login":
            page.get_by_label("Name").fill(role)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()
            page.wait_for_url("**/console/overview")
            remembered[server.url, role] = [
                {"name": one["name"], "value": one["value"], "url": server.url}
                for one in page.context.cookies()
                if one["name"].endswith("session")
            ]
        return page

    return log_in
