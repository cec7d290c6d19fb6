"""Quarantine in a real browser: a real namespace behind a real agent is isolated by hand and released."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.complaints import Complaints
from tests.console.conftest import started
from tests.console.real_agent import agent, session, start_ticks
from tests.system.live import Live
from tests.system.running import wait_for
from tests.system.workloads import joined_namespaces

pytestmark = pytest.mark.slow

HERE = "quarantine-node"
PORT = 8123


class Place:
    """A program that answers in a network namespace of its own, and somebody outside who asks it."""

    def __init__(self, near: str, far: str) -> None:
        words = ["-m", "http.server", str(PORT), "--bind", "10.77.0.1"]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", near, sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._far = far

    def answers(self) -> bool:
        asked = f"import socket; socket.create_connection(('10.77.0.1', {PORT}), 1)"
        words = ["ip", "netns", "exec", self._far, sys.executable, "-c", asked]
        return subprocess.run(words, capture_output=True, check=False, timeout=30).returncode == 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Of its own: in the end everything is released."""
    with started(tmp_path_factory.mktemp("quarantine") / "s") as running:
        yield running


@pytest.fixture(scope="module")
def admin(server: Live) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def place() -> Iterator[Place]:
    with joined_namespaces() as (near, far):
        made = Place(near, far)
        try:
            wait_for(made.answers, 60, "the program in the namespace")
            yield made
        finally:
            made.process.kill()
            made.process.wait()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for what a real agent does here")
def test_a_namespace_is_isolated_by_hand_and_released(
    logged_in: Callable[[str], Page], admin: httpx.Client, server: Live, tmp_path: Path, place: Place
) -> None:
    with agent(server, tmp_path / "agent", HERE):
        page = logged_in("operator")
        page.goto("/console/quarantine")
        page.get_by_role("link", name="Isolate").click()
        page.get_by_label("Process", exact=True).fill(str(place.process.pid))
        page.get_by_label("Start of the process").fill(str(start_ticks(place.process.pid)))
        page.get_by_label("Node").select_option(HERE)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("main h1")).to_have_text(f"Isolate pid {place.process.pid}?")
        expect(page.locator("main")).to_contain_text("All its network traffic is blocked")
        assert place.answers()
        page.get_by_label("For how long").select_option("8h")
        page.get_by_label("Why").fill("until the team has looked at it")
        page.get_by_role("button", name="Isolate it").click()
        page.wait_for_url("**/console/quarantine/of/**")
        expect(page.get_by_role("status")).to_contain_text("the agent does it now")
        wait_for(lambda: phases(admin, HERE) == ["isolated"], 60, "the quarantine")
        page.reload()
        expect(page.locator(".facts")).to_contain_text("isolated")
        expect(page.locator("main")).to_contain_text("user/operator")
        assert not place.answers()
        page.get_by_role("link", name="Release").click()
        asked = page.get_by_role("dialog")
        expect(asked).to_contain_text("network traffic flows again")
        expect(asked).to_contain_text("held by user/operator")
        asked.get_by_role("button", name="Release").click()
        expect(page.get_by_role("status")).to_contain_text("Released:")
        wait_for(lambda: phases(admin, HERE) == [], 60, "the release")
        assert place.answers()
        page.goto("/console/quarantine/history?text=" + HERE)
        for word in ("released", "isolated", "asked for by hand"):
            look_back(page, word)
        expect(page.get_by_role("region", name="What happened")).to_contain_text("until the team has looked at it")


def test_one_holder_lets_go_and_the_other_holds_on(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    wait_for(lambda: "uid-checkout" in held(admin), 60, "the example's quarantine")
    page = logged_in("operator")
    page.goto("/console/quarantine/new?pod=uid-checkout&node=edge-1")
    expect(page.locator("main")).to_contain_text("It is isolated already, held by rule/")
    page.get_by_role("button", name="Isolate it").click()
    page.wait_for_url("**/console/quarantine/of/uid-checkout")
    row = page.get_by_role("row").filter(has_text="user/operator")
    row.get_by_role("link", name="Let go").click()
    asked = page.get_by_role("dialog")
    expect(asked).to_contain_text("Others hold it still, so it stays isolated")
    asked.get_by_role("button", name="Let go").click()
    expect(page.get_by_role("status")).to_contain_text(re.compile("stays isolated, held by rule/"))
    assert held(admin)["uid-checkout"]
    assert "user/operator" not in held(admin)["uid-checkout"]


def test_filters_stand_in_the_address(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    wait_for(lambda: "uid-checkout" in held(admin), 60, "the example's quarantine")
    page = logged_in("viewer")
    page.goto("/console/quarantine")
    page.get_by_label("Name, key or node").fill("checkout")
    page.get_by_role("button", name="Filter").click()
    assert "text=checkout" in page.url
    expect(page.get_by_role("row").filter(has_text="checkout")).to_have_count(1)
    page.goto("/console/quarantine?text=nothing-is-called-so")
    expect(page.get_by_text("Nothing is found")).to_be_visible()


def test_what_cannot_be_isolated_is_told_before(logged_in: Callable[[str], Page], complaints: Complaints) -> None:
    page = logged_in("operator")
    page.goto("/console/quarantine/new?pid=1&start_ticks=1&node=edge-1")
    expect(page.locator("main")).to_contain_text("cannot be isolated")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_role("button", name="Isolate it")).to_have_count(0)
    complaints.expect("422")
    page.goto("/console/quarantine/new?pid=5")
    expect(page.get_by_role("alert")).to_contain_text("pid needs node")


@pytest.mark.parametrize("role", ["viewer", "author"])
def test_who_may_not_isolate_is_refused(logged_in: Callable[[str], Page], server: Live, role: str) -> None:
    page = logged_in(role)
    page.goto("/console/quarantine/of/uid-checkout")
    for name in ("Release", "Let go", "Isolate"):
        expect(page.locator("main").get_by_role("link", name=name, exact=True)).to_have_count(0)
    with session(server, role) as (client, csrf):
        form = {"csrf": csrf, "pod": "uid-checkout", "all": "true"}
        for path in ("new", "release", "release/uid-checkout"):
            assert client.post(f"/console/quarantine/{path}", data=form).status_code == 403
            assert client.get(f"/console/quarantine/{path}").status_code == 403


def test_everything_is_released_at_once(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    """The last of this file: it takes what the others look at."""
    page = logged_in("operator")
    page.goto("/console/quarantine")
    page.get_by_role("link", name="Release all").click()
    page.get_by_role("dialog").get_by_role("button", name="Release").click()
    expect(page.get_by_role("status")).to_contain_text("Released:")
    wait_for(lambda: held(admin) == {}, 60, "the releases")


def held(admin: httpx.Client) -> dict[str, list[str]]:
    """Holders of each quarantine."""
    found = admin.get("/v1/quarantines").raise_for_status().json()["items"]
    return {each["key"]: list(each["holders"]) for each in found}


def phases(admin: httpx.Client, node: str) -> list[str]:
    found = admin.get("/v1/quarantines", params={"node": node}).raise_for_status().json()["items"]
    return [each["phase"] for each in found]


def look_back(page: Page, word: str) -> None:
    """To the page of the history that has it: one that searched for its time alone goes on with the next."""
    told = page.get_by_role("region", name="What happened").get_by_text(word, exact=True).first
    older = page.get_by_role("link", name="Older")
    expect(told.or_(older).first).to_be_visible(timeout=60_000)
    while not told.count():
        older.click()
        expect(told.or_(older).first).to_be_visible(timeout=60_000)
