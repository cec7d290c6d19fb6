"""Pages that stay current, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.console.conftest import started
from tests.system.live import Live

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Of its own: a burst of events leaves nothing of what other pages show."""
    with started(tmp_path_factory.mktemp("live") / "s") as running:
        yield running


def test_an_event_appears_on_the_overview_by_itself(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("viewer")
    expect(page.locator(".live-word")).to_have_text("live")
    admin.post(
        "/v1/events", json={"name": "Appeared.By.Itself", "category": "event", "level": "Notice"}
    ).raise_for_status()
    expect(page.get_by_role("link", name="Appeared.By.Itself")).to_be_visible()
    page.get_by_role("link", name="Appeared.By.Itself").click()
    expect(page.locator("main h1")).to_have_text("Appeared.By.Itself")


def test_the_list_says_that_more_came(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("viewer")
    page.goto("/console/notifications/events")
    expect(page.locator(".live-word")).to_have_text("live")
    admin.post("/v1/events", json={"name": "Came.Later", "category": "event"}).raise_for_status()
    page.get_by_role("link", name=re.compile("Show .* new")).click()
    expect(page.get_by_role("link", name="Came.Later")).to_be_visible()


def test_a_burst_does_not_freeze_the_page_and_is_said_to_be_sampled(
    logged_in: Callable[[str], Page], admin: httpx.Client
) -> None:
    page = logged_in("viewer")
    expect(page.locator(".live-word")).to_have_text("live")
    page.evaluate(
        """() => { window.gaps = []; let last = performance.now();
          setInterval(() => { const now = performance.now(); window.gaps.push(now - last); last = now; }, 50); }"""
    )
    lines = b"\n".join([b'{"name":"Burst.Event","category":"event"}'] * 500)
    taken, due = 0, time.monotonic()
    for _ in range(60):  # 10,000 events a second for three seconds, where the machine is quick enough
        answer = admin.post("/v1/events", content=lines, headers={"content-type": "application/x-ndjson"})
        assert answer.status_code in (202, 429), answer.text
        taken += answer.status_code == 202
        due += 0.05
        time.sleep(max(0.0, due - time.monotonic()))
    assert taken > 40
    expect(page.locator(".sampled").first).to_contain_text("Showing the newest")
    assert page.evaluate("Math.max(...window.gaps)") < 5000, "the page stood still"
    # The page still answers to its user: it drew once a second, however much there was.
    page.get_by_role("link", name="6h").click()
    page.wait_for_url("**/console/overview?span=6h")


def test_who_may_not_look_gets_no_stream(server: Live) -> None:
    assert httpx.get(f"{server.url}/console/live/overview").status_code == 401
    ingest = {"Authorization": f"Bearer {server.token('ingest')}"}
    assert httpx.get(f"{server.url}/console/live/overview", headers=ingest).status_code == 403
    with server.client() as admin:
        assert admin.get("/console/live/nothing").status_code == 404


def test_viewers_share_what_is_drawn(server: Live) -> None:
    with (
        server.client() as one,
        server.client() as other,
        one.stream("GET", "/console/live/overview") as first,
        other.stream("GET", "/console/live/overview") as second,
    ):
        heard = [next(line for line in each.iter_lines() if line.startswith("data:")) for each in (first, second)]
    assert all('"tiles"' in line for line in heard)


def test_a_search_that_takes_long_goes_on_by_itself(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("viewer")
    admin.post(
        "/v1/events",
        json={"id": "needle-1", "name": "Needle", "category": "event", "details": {"message": "found at last"}},
    )
    for number in range(60):
        lines = b"\n".join(
            [b'{"name":"Hay","category":"event","details":{"message":"%d"}}' % (number * 500 + n) for n in range(500)]
        )
        admin.post("/v1/events", content=lines, headers={"content-type": "application/x-ndjson"})
    page.goto("/console/notifications/events?text=%22found+at+last%22")
    expect(page.get_by_role("link", name="Needle")).to_be_visible()
