"""Every page of the registry in a real browser: it is drawn without a complaint, stands still, and everybody can use it."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from tests.console.addresses import addresses
from tests.console.complaints import Complaints

from quell.console.registry import LIVE, PAGES

pytestmark = pytest.mark.slow

AXE = Axe()
SERIOUS = ("serious", "critical")
#: Each colour and each width once.
LOOKS = [("light", 1366), ("dark", 390)]


def findings(page: Page) -> list[str]:
    """What axe-core finds that is serious or worse."""
    # Of what it finds to be right only a count is told, which is most of the work.
    found = AXE.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in SERIOUS
    ]


@pytest.mark.parametrize("address", addresses())
def test_a_page_has_no_serious_finding_of_axe(logged_in: Callable[[str], Page], address: str) -> None:
    page = logged_in("admin")
    for colours, width in LOOKS:
        page.emulate_media(color_scheme="dark" if colours == "dark" else "light")
        page.set_viewport_size({"width": width, "height": 860})
        page.goto(address)
        expect(page.locator("main h1").first).to_be_visible()
        assert findings(page) == [], (colours, width)
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"the page is wider than the window of {width}"


def test_nothing_jumps_on_a_page(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    """While it loads, and while what is live on it changes. The browser's own measure: 0.1 is where it is felt."""
    page = logged_in("admin")
    page.add_init_script(
        """window.shifted = 0;
        new PerformanceObserver((seen) => {
          for (const one of seen.getEntries()) if (!one.hadRecentInput) window.shifted += one.value;
        }).observe({type: "layout-shift", buffered: true});"""
    )
    found = {}
    for one in PAGES:
        page.goto(one.address)
        expect(page.locator("main h1").first).to_be_visible()
        if one.name in LIVE:
            expect(page.locator(".live[data-state=on]")).to_be_attached()
            for number in range(3):
                admin.post("/v1/events", json={"name": f"Jump.{number}", "category": "event"}).raise_for_status()
                match one.name:
                    case "overview":
                        expect(page.get_by_role("link", name=f"Jump.{number}")).to_be_visible(timeout=30_000)
                    case "notifications":
                        expect(page.get_by_role("link", name=re.compile("Show .* new"))).to_be_visible(timeout=30_000)
                    case _:
                        page.wait_for_timeout(1100)  # drawn once a second, but no event changes what is on it
        found[one.name] = page.evaluate("window.shifted")
    assert {name: shift for name, shift in found.items() if shift > 0.02} == {}


def test_a_viewer_sees_a_page_or_is_told_why_not(logged_in: Callable[[str], Page], complaints: Complaints) -> None:
    page = logged_in("viewer")
    complaints.expect("403")
    for address in addresses():
        page.goto(address)
        expect(page.locator("main h1").first, address).to_be_visible()
        # One's own password and sessions are everybody's to change.
        if address != "/console/account":
            expect(page.locator("main form[method=post]"), address).to_have_count(0)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("address", ["/login", "/console/nothing"])
def test_pages_beside_the_registry_have_no_serious_finding(
    logged_in: Callable[[str], Page], complaints: Complaints, address: str, colours: str
) -> None:
    page = logged_in("viewer")
    complaints.expect("404")
    page.emulate_media(color_scheme="dark" if colours == "dark" else "light")
    page.goto(address)
    expect(page.locator("main h1")).to_be_visible()
    assert findings(page) == []


@pytest.mark.parametrize("registered", PAGES, ids=lambda each: each.name)
def test_everything_on_a_page_is_reached_by_tab(logged_in: Callable[[str], Page], registered: object) -> None:
    page = logged_in("admin")
    page.goto(registered.address)  # type: ignore[attr-defined]
    # A live part that is drawn anew would move the focus of this test, not of a person: they hold what they are in.
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")]
          .filter(each => each.checkVisibility({visibilityProperty: true}) && !each.disabled && !each.closest("[data-part]")).length"""
    )
    reached = set()
    for _ in range(wanted * 3 + 80):
        page.keyboard.press("Tab")
        mark = page.evaluate(
            """() => { const each = document.activeElement; if (!each || each === document.body) return "";
              each.dataset.reached ??= String(Math.random()); return each.closest("[data-part]") ? "" : each.dataset.reached; }"""
        )
        if mark:
            reached.add(mark)
        if len(reached) >= wanted:
            break
    assert len(reached) == wanted


def test_a_letter_behind_g_leads_to_a_page_and_a_question_mark_helps(logged_in: Callable[[str], Page]) -> None:
    page = logged_in("viewer")
    page.keyboard.press("g")
    page.keyboard.press("n")
    page.wait_for_url("**/console/notifications")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.get_by_label("Words")).to_be_focused()


def test_the_scripts_of_a_page_are_small_and_kept(logged_in: Callable[[str], Page], admin: httpx.Client) -> None:
    page = logged_in("viewer")
    loaded = page.evaluate("[...document.scripts].map(each => each.src)")
    assert loaded
    size = 0
    for address in loaded:
        answer = httpx.get(address)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert httpx.get(address, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
        size += len(answer.content)
    assert size <= 150 * 1024
    assert page.evaluate("document.querySelectorAll('script:not([src]), style, [style], [onclick]').length") == 0
